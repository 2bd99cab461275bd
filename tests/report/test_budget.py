"Plans for hours of annotation: costs by hand, what lies between measurements, and no advice where nothing was measured."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointwssis.core import ConfigError, DataError, StageError, write_json
from pointwssis.report.budget import advise, hours_figure, option, plan, rising
from pointwssis.report.results import Measured, collect, folder_of, hours_of, measured, stage_metrics
from pointwssis.runs.cli import main


def put(runs, split, seed, masks, *aps, dataset="toys", points=1000, images=300, supervised_images=300):
    place = runs / dataset / split / f"s{seed}"
    keys = ("teacher_ap_percent", "student_sw_refined_ap_percent", "supervised_ap_percent")
    write_json(place / "evaluate/metrics.json", {key: ap for key, ap in zip(keys, aps) if ap is not None})
    labels = {"strong_images": images // 10, "weak_images": images - images // 10, "strong_masks": masks, "points": points - masks}
    write_json(place / "split/metrics.json", labels)
    if supervised_images: write_json(place / "supervised/metrics.json", {"images": supervised_images})


@pytest.fixture
def runs(tmp_path) -> Path:
    for seed, ap in ((0, 20.0), (1, 24.0)): put(tmp_path / "outputs/runs", "10p", seed, 100, ap - 10, ap, 30.0 + 2 * seed)
    put(tmp_path / "outputs/runs", "30p", 0, 300, 16.0, 26.0, 30.0)
    return tmp_path / "outputs/runs"


def found_in(runs, *prices, dataset="toys"): return measured(runs, [r for r in collect(runs) if r["dataset"] == dataset], *prices)


def test_costs_by_hand():
    assert hours_of(100, 0, 72, 10) == 2 and hours_of(100, 900, 72, 8) == 4
    for bad in ((10, 10), (10, 11), (10, 0), (10, -1), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(ConfigError, match="below that of a mask"): hours_of(1, 1, *bad)


def test_measurements_by_hand(runs):
    found = {(m.arm, m.share): m for m in found_in(runs, 72, 7.2)}
    assert len(found) == 6
    ten = found["points", 10]
    assert (ten.masks, ten.points, ten.ap, ten.seeds) == (100, 900, 22, 2) and ten.hours == pytest.approx(3.8) and ten.sd == pytest.approx(8 ** .5)
    assert found["masks", 30].hours == 6 and found["masks", 30].points == 0 and found["masks", 30].sd is None
    whole = found["points", 100]
    assert (whole.masks, whole.points, whole.hours, whole.ap, whole.seeds) == (1000, 0, 20, 31, 2)     # once a seed, not once a split
    assert found["masks", 100] == Measured("masks", *list(vars(whole).values())[1:])


def test_what_is_missing_is_left_out(runs):
    put(runs, "5p", 0, 50, 8.0, None, 30.0)
    put(runs, "1p", 0, 10, None, 15.0, supervised_images=0)
    put(runs, "10p-level_0", 0, 100, 99.0, 99.0)
    put(runs, "20p", 0, 200, 99.0, 99.0)
    (runs / "toys/20p/s0/split/metrics.json").unlink()
    found = found_in(runs)
    assert [m.share for m in found if m.arm == "masks"] == [5, 10, 30, 100] and [m.share for m in found if m.arm == "points"] == [1, 10, 30, 100]
    assert max(m.ap for m in found) < 99


def test_a_second_weak_set_has_no_end(runs):
    put(runs, "10p", 0, 100, 10.0, 20.0, 40.0, dataset="roads", supervised_images=200)
    assert [(m.arm, m.share) for m in found_in(runs, dataset="roads")] == [("masks", 10), ("points", 10)]


def test_rising_is_the_nearest_that_never_falls():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, weights = rng.normal(size=7), rng.integers(1, 4, 7).astype(float)
        line = rising(values, weights)
        assert len(line) == 7 and (np.diff(line) >= 0).all() and np.average(line, weights=weights) == pytest.approx(np.average(values, weights=weights))
        for _ in range(20):
            other = np.sort(line + rng.normal(size=7) * .1)
            assert weights @ (values - line) ** 2 <= weights @ (values - other) ** 2 + 1e-12
    assert rising([1, 2, 3], [1, 1, 1]).tolist() == [1, 2, 3]


def test_more_hours_never_promise_less(runs):
    put(runs, "20p", 0, 200, 9.0, 19.0, 30.0)         # worse than 10p
    found = found_in(runs)
    for arm in ("points", "masks"):
        known = [m for m in found if m.arm == arm]
        promised = [option(found, arm, h) for h in np.linspace(known[0].hours, known[-1].hours, 60)]
        assert (np.diff([o.ap for o in promised]) >= 0).all() and (np.diff([o.masks for o in promised]) > 0).all()
        for o, h in zip(promised, np.linspace(known[0].hours, known[-1].hours, 60)): assert hours_of(o.masks, o.points) == pytest.approx(h)


def test_a_known_plan(runs):
    "Half way, by logarithm, between 3.8 h and 7.4 h; the labels are those that the hours pay for."
    found = found_in(runs, 72, 7.2)
    hours = (3.8 * 7.4) ** .5
    text, best = advise(found, hours)
    masks = (hours * 3600 - 1000 * 7.2) / (72 - 7.2)
    assert best.arm == "points" and best.ap == pytest.approx(24) and best.masks == pytest.approx(masks) and best.points == pytest.approx(1000 - masks)
    assert [m.share for m in best.between] == [10, 30]
    assert f"best spent on {masks:.0f} masks (18% of the objects) and {1000 - masks:.0f} points: mask AP of the student about 24.0%" in text
    assert "AP 22.0% ± 2.8 over 2 seeds" in text and "AP 26.0%, one seed" in text and "The same hours on 265 masks" in text


def test_masks_alone_are_advised_where_they_did_better(runs):
    put(runs, "10p", 0, 100, 25.0, 15.0, 30.0, dataset="odd")
    put(runs, "30p", 0, 300, 28.0, 16.0, 30.0, dataset="odd")
    assert advise(found_in(runs, dataset="odd"), 5)[1].arm == "masks"


def test_no_advice_beyond_the_measurements(runs):
    found = found_in(runs, 72, 7.2)
    for hours, says in ((1.9, "2.0 h are 100 masks, the least that was measured"), (20.1, "20.0 h are 1000 masks, every object of this pool")):
        text, best = advise(found, hours)
        assert best is None and text.startswith(f"No plan for {hours} h") and says in text
    bounded = [m for m in found if m.share < 100]
    assert "7.4 h are 300 masks (30% of the objects) and 700 points, the most that was measured" in advise(bounded, 8)[0]
    text, best = advise(found, 3)
    assert best.arm == "masks" and "best" not in text and "with 100 masks, AP would lie between 12.0% and 22.0%" in text
    assert option(found, "points", 3.79) is None and option(found, "points", 3.81) is not None


def test_the_figure_shows_what_was_measured_and_the_plan(runs):
    found = found_in(runs, 72, 7.2)
    _, best = advise(found, 5)
    figure = hours_figure(found, "toys", 5, best)
    ax = figure.axes[0]
    drawn = {h.get_label(): h.lines[0].get_xydata() for h in ax.containers}
    assert drawn["masks and points (student)"] == pytest.approx(np.array([[3.8, 22], [7.4, 26]]))
    assert drawn["masks alone (teacher)"] == pytest.approx(np.array([[2, 12], [6, 16]])) and drawn["full supervision"] == pytest.approx(np.array([[20, 31]]))
    star = next(line for line in ax.lines if line.get_label() == "plan")
    assert star.get_xydata().tolist() == [[5, best.ap]] and "(hours" in ax.get_xlabel() and "(%)" in ax.get_ylabel()
    assert "standard deviation over seeds" in figure.legends[0].get_title().get_text()
    single = [m for m in found if m.sd is None]
    assert hours_figure(single).legends[0].get_title().get_text() == "hollow: n = 1"


def test_the_plan_is_written_and_says_its_assumption(runs, tmp_path):
    said = plan(runs, "toys", 5, figures=tmp_path / "f")
    assert "79.2 s a mask, 7 s a point (assumed" in said and "assumed" not in plan(runs, "toys", 5, 79.2, 7.0, tmp_path / "g")
    names = [f"plan_toys.{suffix}" for suffix in ("json", "pdf", "png")]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["SHA256SUMS", *names, "report.html", "report.md"]
    assert "![plan_toys]" in (tmp_path / "f/report.md").read_text()
    drawn = [np.asarray(Image.open(tmp_path / folder / "plan_toys.png")) for folder in ("f", "g")]
    assert np.array_equal(*drawn)
    written = json.loads((tmp_path / "g/plan_toys.json").read_text())
    assert written["hours"] == 5 and len(written["values"]) == 6 and written["caption"] == plan(runs, "toys", 5, 79.2, 7.0, tmp_path / "g").replace("\n", " ")
    assert "not the paper's numbers" in written["note"]


def test_bad_questions(runs, tmp_path):
    for hours in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="positive"): plan(runs, "toys", hours)
    with pytest.raises(ConfigError, match="takes 0 s"): plan(runs, "toys", 1, 79.2, 0.0)
    with pytest.raises(DataError, match="no evaluated run of 'toy'. Did you mean 'toys'"): plan(runs, "toy", 1)
    with pytest.raises(StageError, match="no evaluated run"): plan(tmp_path / "none", "toys", 1)
    (runs / "bare/10p/s0/evaluate").mkdir(parents=True)
    write_json(runs / "bare/10p/s0/evaluate/metrics.json", {"teacher_ap_percent": 3.0})
    with pytest.raises(DataError, match="split/metrics.json"): plan(runs, "bare", 1)


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--dataset", "toys", "--hours", "5", "--seconds-per-mask", "72", "--seconds-per-point", "7.2"]) == 0
    said = capsys.readouterr().out
    assert "5 h are best spent on" in said and "outputs/figures/plan_toys.png" in said and (tmp_path / "outputs/figures/plan_toys.png").is_file()
    for argv, says in ((["--dataset", "shapes", "--hours", "5"], "no evaluated run of 'shapes'"), (["--dataset", "toys", "--hours", "-5"], "positive"),
                       (["--dataset", "toys", "--hours", "5", "--runs", "nowhere"], "nowhere: no evaluated run"),
                       (["--dataset", "toys", "--hours", "5", "--seconds-per-point", "80"], "below that of a mask")):
        assert main(["plan", *argv]) == 2
        said = capsys.readouterr().err
        assert says in said and said.startswith("error: ") and said.count("\n") == 1


def test_planning_needs_no_torch():
    code = "import sys, pointwssis.report.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_evidence_of_a_row(runs):
    put(runs, "10p-level_0", 3, 100, 1.0)
    write_json(runs / "toys/30p/published/metrics.json", {"teacher_ap_percent": 1.0})
    assert {folder_of(row) for row in collect(runs)} == {"toys/10p/s0", "toys/10p/s1", "toys/30p/s0", "toys/10p-level_0/s3", "toys/30p/published"}
    assert all((runs / folder_of(row)).is_dir() for row in collect(runs))
    assert stage_metrics(runs, collect(runs)[0], "split")["strong_masks"] == 100 and stage_metrics(runs, collect(runs)[0], "teacher") == {}
