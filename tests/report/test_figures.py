"Figures from metrics alone: what is drawn is what was measured, in one look, and nothing is drawn from nothing."
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pointwssis.core import write_json
from pointwssis.data.show import save_picture, show_grid, style
from pointwssis.method.ablations import ABLATIONS
from pointwssis.report.comparisons_ablations import SECOND
from pointwssis.report.figures import compared, figures_of, of_main_split, over_seeds, seeds_caption, write_figures
from pointwssis.report.figures_details import curves_figure, gains, gains_figure, proposals, proposals_figure
from pointwssis.report.comparisons import SUPERVISED
from pointwssis.report.figures_scores import SERIES, ablation_figure, ap_figure
from pointwssis.report.results import CONTROLS
from pointwssis.report.matches import Detections, Matches, Overlaps, Record
from pointwssis.report.provenance import write_sums

ROUGH, REFINED = "pseudo_sw_miou_percent", "pseudo_sw_refined_miou_percent"


def row(dataset="toys", split="10p", seed=0, *values, variant="", **more):
    return {"dataset": dataset, "split": split, "variant": variant, "seed": seed, "metrics": dict(zip(SERIES, values)) | more}


def model(ap, classes=("a", "b"), **more):
    sizes = {"aps_percent": ap - 5, "apm_percent": ap + 5, "apl_percent": None}
    return {"ap_percent": ap, **sizes, "per_class": {name: ap + 2 * i for i, name in enumerate(classes)}} | more


@pytest.fixture
def coco(): return [row("coco", split, 0, *values) for split, values in (
    ("5p", (20.0, 30.0, 32.26, 38.0)), ("10p", (22.0, 31.5, 36.0, 38.0)), ("12.5p", (21.0, 31.0, 34.0, 38.0)))]


@pytest.fixture
def toys(): return [row("toys", "10p", seed, 20.0 + seed, 25.0, 30.0, 35.0) for seed in (0, 1, 10)]


def legend_of(figure): return [text.get_text() for text in figure.legends[0].texts]


# the look

def seen_by(matrix, colours): return [np.array(matrix) @ to_rgb(c) for c in colours]


def test_colours_stay_apart_for_everybody():
    "Machado 2009, severity 1, and grey; the five that series use, and the two of an ablation."
    with style(): colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    sights = {"all": np.eye(3), "deuteranopia": [[.367, .861, -.228], [.280, .673, .047], [-.012, .043, .969]],
              "protanopia": [[.152, 1.053, -.205], [.115, .786, .099], [-.004, -.048, 1.052]]}
    for matrix in sights.values():
        for a, b in combinations(seen_by(matrix, colours[:5]), 2): assert np.linalg.norm(a - b) > .15
    light, dark = (np.dot(to_rgb(c), [.21, .72, .07]) for c in (colours[9], colours[0]))
    assert light - dark > .2


def test_the_look_is_for_one_column_and_stays_local():
    before = dict(plt.rcParams)
    with style():
        assert plt.rcParams["figure.figsize"][0] == 3.3 and plt.rcParams["pdf.fonttype"] == 42
        assert min(plt.rcParams[f"{what}.labelsize"] for what in ("axes", "xtick", "ytick")) >= 7 and not plt.rcParams["axes.spines.top"]
    assert dict(plt.rcParams) == before


def test_every_figure_is_one_column_wide_and_labelled(coco, toys, tmp_path):
    runs = evidence(tmp_path)
    for variant in ("", "prompt_none"): keep_record(runs, variant, 0, [.9, .3, 0], 3)
    rows = [r | {"metrics": r["metrics"] | {"models": {"teacher": model(20), "student_sw_refined": model(30)}}} for r in toys] + variants()
    found = {name: drawing for name, (drawing, _) in figures_of(runs, [*rows, *coco]).items()}
    names = ("ap_by_split", "ap_by_hours", "gains", "curves", "proposals", "ablation_weak_labels")
    assert {f"{name}_toys" for name in names} | {"ap_by_split_coco"} == set(found)
    for name, drawing in found.items():
        assert drawing.figure.get_figwidth() == 3.3, name
        labels = [ax.get_xlabel() for ax in drawing.figure.axes if ax.get_xlabel()] + [ax.get_ylabel() for ax in drawing.figure.axes if ax.get_ylabel()]
        assert labels and all(any(unit in label for unit in ("(%)", "(hours", "per 100", "step", "loss", "%")) for label in labels), labels
        small = [text.get_fontsize() for text in drawing.figure.findobj(plt.Text) if text.get_text()]
        assert min(small) >= 6.5, name
        assert "seed" in drawing.caption, drawing.caption


# AP by split

def test_lines_over_splits_with_published_values(coco):
    ax = ap_figure(coco).axes[0]
    drawn = {h.get_label(): h.lines[0] for h in ax.containers}
    assert sorted(drawn) == sorted(["published student (test-dev)", *(name for key, (_, _, name) in SERIES.items() if key not in {*CONTROLS, SUPERVISED})])
    assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "full supervision"] and len(ax.patches) == 1     # a band
    assert drawn["student of refined masks"].get_xydata().tolist() == [[5, 32.26], [10, 36], [12.5, 34]]
    assert drawn["published student (test-dev)"].get_xydata().tolist() == [[5, 33.7], [10, 35.8]]
    ours = [line for name, line in drawn.items() if "published" not in name]
    assert len({line.get_color() for line in ours}) == len({line.get_marker() for line in ours}) == 3
    assert [t.get_text() for t in ax.get_xticklabels()] == ["5", "10", "12.5"] and "paper's" not in ax.get_title()


def test_bars_for_one_split_name_their_error_bars(toys):
    ax = ap_figure(toys).axes[0]
    assert [p.get_width() for p in ax.patches] == pytest.approx([71 / 3, 25, 30, 35])
    assert [t.get_text() for t in ax.get_yticklabels()] == [fill(name, 18) for _, _, name in SERIES.values()][:4]
    assert "other data" in ax.get_title("right") and {t.get_text() for t in ax.texts} >= {"23.7", "30.0"}
    assert "standard deviation over seeds" in ax.get_xlabel() and "standard deviation" not in ap_figure(toys[:1]).axes[0].get_xlabel()


def test_a_series_of_fewer_seeds_is_named(toys, coco):
    "One share has no axis on which a reader could see it; several have markers."
    fewer = toys[:-1] + [toys[-1] | {"metrics": {k: v for k, v in toys[-1]["metrics"].items() if not k.startswith("student_sw_ap")}}]
    captions = [figures_of("", rows)["ap_by_split_toys"][0].caption for rows in (fewer, toys)]
    assert " Fewer seeds: student of teacher's masks 2." in captions[0] and "Fewer seeds" not in captions[1]


def test_error_bars_are_the_spread_over_seeds(toys, coco):
    figure = ap_figure([*toys, row("toys", "20p", 0, 25.0, 30.0, 33.0, 35.0)])
    teacher = next(h for h in figure.axes[0].containers if h.get_label() == "teacher")
    ends = teacher.lines[2][0].get_segments()
    assert np.ptp(ends[0][:, 1]) == pytest.approx(2 * np.std([20, 21, 30], ddof=1)) and np.ptp(ends[1][:, 1]) == 0
    assert "standard deviation over seeds" in figure.legends[0].get_title().get_text()
    assert ap_figure(coco).legends[0].get_title().get_text() == "hollow: n = 1"


def test_undefined_results_are_gaps(coco):
    ax = ap_figure([*coco, row("coco", "1p", 0, 10.0, None, 20.0)]).axes[0]
    drawn = {h.get_label(): h.lines[0].get_xydata().tolist() for h in ax.containers}
    assert sorted(x for x, _ in drawn["teacher"]) == [1, 5, 10, 12.5]
    assert len(drawn["student of teacher's masks"]) == 3
    ap_figure([row("toys", "5p", 0, 3.0)])


# the main split, and comparisons

def test_the_main_split_has_most_seeds_then_is_nearest_to_a_tenth():
    rows = [row(split=s, seed=n) for s, n in (("5p", 0), ("5p", 1), ("20p", 0), ("20p", 1), ("1p", 0), ("10p", None))]
    assert {r["split"] for r in of_main_split(rows)} == {"5p"} and {r["split"] for r in of_main_split([*rows, row(split="20p", seed=2)])} == {"20p"}
    assert of_main_split([row(variant="level_0")]) == [] and of_main_split([]) == []


def test_comparisons_share_split_and_seeds():
    rows = [row(seed=0), row(seed=1), row(seed=2), row(split="5p", seed=5)]
    rows += [row(seed=n, variant="level_0") for n in (1, 2)] + [row(seed=n, variant="level_1") for n in (2, 3)] + [row(split="5p", seed=5, variant="level_0")]
    found = compared(rows, ABLATIONS["levels"].rows)
    assert {name: [(r["split"], r["seed"]) for r in kept] for name, kept in found.items()} == dict.fromkeys(
        ("always 1 of 5", "always 2 of 5", "adaptive"), [("10p", 2)])
    assert compared(rows[:4], ABLATIONS["levels"].rows) == {} and compared([row(variant="level_0", seed=None)], ABLATIONS["levels"].rows) == {}
    assert compared([row(seed=0), row(seed=1, variant="level_0")], ABLATIONS["levels"].rows) == {}


def test_words_for_seeds():
    assert "no error bars" in seeds_caption([3]) and "3 seeds" in seeds_caption([0, 1, 2, 2])
    assert over_seeds([]) == (None, None) and over_seeds([4, None]) == (4, None) and over_seeds([1, 2, 3]) == (2, 1)


# gains

def judged(seed, teacher, student): return row(seed=seed, models={"teacher": teacher, "student_sw_refined": student})


def test_gains_by_hand():
    found = gains([judged(0, model(10), model(20)), judged(1, model(12), model(20, per_class={"a": 25.0, "b": None}))])
    assert [(g["kind"], g["name"], g["teacher"], g["student"], g["gain"], g["sd"]) for g in found] == [
        ("class", "a", 11, 22.5, 11.5, pytest.approx(np.std([10, 13], ddof=1))), ("class", "b", 12, 22, 10, None),
        ("size", "small objects", 6, 15, 9, pytest.approx(2**.5)), ("size", "medium objects", 16, 25, 9, pytest.approx(2**.5))]


def test_gains_are_drawn_from_teacher_to_student():
    drawing = gains_figure("", [judged(0, model(10), model(7)), judged(1, model(12), model(9))])
    ax = drawing.figure.axes[0]
    dots = {line.get_label(): line.get_xydata()[:, 0].tolist() for line in ax.lines}
    assert dots["teacher"] == [11, 13, 6, 16] and dots["student of refined masks"] == [8, 10, 3, 13]
    assert [t.get_text() for t in ax.texts] == ["-3.0 ± 0.0"] * 4 and [t.get_text() for t in ax.get_yticklabels()][:2] == ["a", "b"]
    assert gains_figure("", [row("toys", "10p", 0, 1.0)]) is None and gains_figure("", []) is None


def test_many_classes_are_cut_and_said_to_be():
    names = [f"class {i}" for i in range(40)]
    high = model(30) | {"per_class": {name: 20.0 + i for i, name in enumerate(names)}}
    drawing = gains_figure("", [judged(0, model(20) | {"per_class": dict.fromkeys(names, 20.0)}, high)])
    shown = [t.get_text() for t in drawing.figure.axes[0].get_yticklabels()]
    assert shown[:16] == [f"class {i}" for i in (*range(39, 31, -1), *range(7, -1, -1))] and "of 40" in drawing.caption and len(drawing.values) == 42
    assert drawing.figure.axes[0].texts[15].get_text() == "+0.0"


# curves

def evidence(folder):
    for seed in (0, 1):
        for n, stage in enumerate(("teacher", "refiner", "student", "student_refined", "supervised")):
            history = {"step": [10, 20], "loss": [2.0 + n, 1.0 + n + seed]}
            write_json(folder / f"toys/10p/s{seed}" / stage / "metrics.json", {"final_loss": 1.0, "history": history})
        labels = {"strong_images": 1, "weak_images": 9, "strong_masks": 10, "points": 90}
        write_json(folder / f"toys/10p/s{seed}/split/metrics.json", labels)
    return folder


def test_curves_are_those_of_the_runs(tmp_path):
    drawing = curves_figure(evidence(tmp_path), [row(seed=0), row(seed=1), row(split="5p")])
    losses, refiner = drawing.figure.axes
    assert len(losses.lines) == 8 and len(refiner.lines) == 2 and len(legend_of(drawing.figure)) == 5
    assert sorted(line.get_ydata().tolist() for line in refiner.lines) == [[3, 2], [3, 3]] and "2 seeds" in drawing.caption
    assert {v["stage"] for v in drawing.values} == {"teacher", "refiner", "student", "student_refined", "supervised"}


def test_runs_without_curves_have_no_figure(tmp_path):
    write_json(tmp_path / "toys/10p/s0/teacher/metrics.json", {"final_loss": 1.0})
    assert curves_figure(tmp_path, [row()]) is None and curves_figure(tmp_path, []) is None
    write_json(tmp_path / "toys/10p/s0/teacher/metrics.json", {"history": {"step": [1], "loss": [1.0]}})
    assert len(curves_figure(tmp_path, [row()]).figure.axes) == 1
    write_json(tmp_path / "toys/10p/s0/teacher/metrics.json", {})
    write_json(tmp_path / "toys/20p/s3/teacher/metrics.json", {"history": {"step": [1], "loss": [1.0]}})
    assert curves_figure(tmp_path, [row(), row(seed=1), row(split="20p", seed=3)]).values[0]["seed"] == 3      # of a split that has some


# proposals and ablations

def variants(seeds=(0, 1)):
    kinds = {"": 50.0, "prompt_none": 20.0, "prompt_category": 25.0}
    return [row(seed=seed, variant=variant, **{ROUGH: miou + seed, REFINED: miou + 10}) for variant, miou in kinds.items() for seed in seeds]


def keep_record(runs, variant, seed, iou, masks):
    "Files of an evaluation beside its metrics: IoU of every object with its mask, and so many masks."
    none, at = np.zeros((10, masks), bool), np.zeros(masks, int)
    matches = Matches(np.arange(1), ("a",), np.array([[len(iou)]]), {"sw": Detections(at, at, none, none)})
    record = Record(matches, {"sw": Overlaps(np.zeros(len(iou), int), np.array(iou))})
    folder = f"toys/10p{'-' if variant else ''}{variant}/s{seed}/evaluate"
    write_json(runs / folder / "matches.json", {"weak": record.packed()})


@pytest.fixture
def asked(tmp_path):
    for seed in (0, 1):
        keep_record(tmp_path, "prompt_none", seed, [.9] * (4 + 2 * seed) + [.3] + [.05] * (5 - 2 * seed), 5)
        keep_record(tmp_path, "", seed, [.5] * 8 + [.1, 0], 9)
    return tmp_path


def test_misses_and_false_masks_by_hand(asked):
    rows = variants()
    for r in rows:
        if r["variant"]: r["metrics"]["pseudo_sw_masks"] = 10
    found = {p["label"]: p for p in proposals(asked, rows)}
    assert list(found) == ["none", "point"] and found["none"]["seeds"] == 2
    assert [found["none"][key] for key in ("covered", "partly", "missed", "false")] == [50, 10, 40, 40]      # 10 masks, of which 5 and 7 belong to objects
    assert [found["point"][key] for key in ("covered", "partly", "missed", "false")] == [80, 10, 10, 0]      # as many masks as the record has
    assert proposals(asked, rows[:2]) == [] and proposals(asked / "none", rows) == []


def test_misses_and_false_masks_as_bars(asked):
    drawing = proposals_figure(asked, variants((0,)))
    bars = {c.get_label(): [(p.get_x(), p.get_width()) for p in c] for c in drawing.figure.axes[0].containers}
    assert bars == {"false masks": [(0, 0), (0, 0)], "covered": [(0, 40), (0, 80)], "partly covered": [(40, 10), (80, 10)], "missed": [(50, 50), (90, 10)]}
    assert drawing.figure.axes[0].yaxis_inverted() and "One seed" in drawing.caption
    assert proposals_figure(asked, variants()[:2]) is None


def test_records_of_other_things_are_left_out(asked):
    write_json(asked / "toys/10p-prompt_category/s0/evaluate/matches.json", {})
    keep_record(asked, "prompt_point_with_size", 0, [], 0)
    rows = [*variants((0,)), row(variant="prompt_point_with_size")]
    assert [p["label"] for p in proposals(asked, rows)] == ["none", "point"]


def test_ablations_have_a_bar_for_each_finished_row():
    drawing = ablation_figure("", variants(), "weak_labels")
    assert [ax.get_xlabel() for ax in drawing.figure.axes] == ["pseudo masks, mIoU (%)"] and "inflates IoU" in drawing.caption
    ax = drawing.figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["point", "classes of the image", "none"]
    assert sorted(p.get_width() for p in ax.patches) == [30, 35, 60] and len({p.get_facecolor() for p in ax.patches}) == 2
    rings = next(line for line in ax.lines if line.get_label() == "teacher's masks")
    assert sorted(rings.get_xdata().tolist()) == [20.5, 25.5, 50.5]
    trained = [r | {"metrics": r["metrics"] | {"student_sw_refined_ap_percent": 20.0 + len(r["variant"])}} for r in variants()]
    assert len(ablation_figure("", trained, "weak_labels").figure.axes) == 2
    assert len(ablation_figure("", [*trained[:2], *variants()[2:]], "weak_labels").figure.axes) == 1      # one student has nothing beside it
    assert ablation_figure("", variants(), "levels") is None and ablation_figure("", [], "levels") is None


@pytest.mark.parametrize("table", ABLATIONS)
def test_names_of_an_ablation_lie_inside_its_picture(table, tmp_path):
    "With two panels, beside which the least room is left; letters are wider in a picture than on a screen."
    rows = [row(variant=name, **{ROUGH: 50.0, REFINED: 60.0 + i, "student_sw_refined_ap_percent": 30.0 + i})
            for i, name in enumerate(ABLATIONS[table].rows.values())]
    figure = ablation_figure("", rows, table).figure
    save_picture(figure, tmp_path / table, dpi=220)
    figure.set_dpi(220)
    with style(): figure.draw_without_rendering()
    shown = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(figure.axes) == 2 and len(shown) == len(ABLATIONS[table].rows) and min(box.x0 for box in shown) >= 0
    assert not any(a.overlaps(b) for a, b in combinations(shown, 2))


@pytest.mark.parametrize("table", ["additions", "recipe"])
def test_labels_of_three_panels_lie_side_by_side(table):
    "A third one is there where a supervised network has a row's setting."
    more = {ROUGH: 50.0, "student_sw_refined_ap_percent": 30.0, "supervised_ap_percent": 40.0}
    rows = [row(variant=name, **more | {REFINED: 60.0 + i}) for i, name in enumerate(ABLATIONS[table].rows.values())]
    for i, r in enumerate(rows): r["metrics"] |= {key: r["metrics"][key] + i for key in ("student_sw_refined_ap_percent", "supervised_ap_percent")}
    figure = ablation_figure("", rows, table).figure
    figure.set_dpi(220)
    with style(): figure.draw_without_rendering()
    shown = [ax.xaxis.label.get_window_extent() for ax in figure.axes]
    names = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == 3 and max(box.x1 for box in shown) <= figure.bbox.x1 and min(box.x0 for box in names) >= 0
    assert not any(a.overlaps(b) for a, b in [*combinations(shown, 2), *combinations(names, 2)])


def test_a_panel_that_says_nothing_is_left_out():
    "The masks are the same under every schedule of the students, and the supervised network has that schedule, too."
    rows = [row(variant=name, **{ROUGH: 50.0, REFINED: 60.0, "student_sw_refined_ap_percent": 30.0 + i, "supervised_ap_percent": 40.0 + i})
            for i, name in enumerate(("", "steps_250", "steps_1600"))]
    drawing = ablation_figure("", rows, "steps")
    assert [ax.get_xlabel() for ax in drawing.figure.axes] == ["student,\nmask AP (%)", "supervised,\nmask AP (%)"]
    assert [sorted(p.get_width() for p in ax.patches) for ax in drawing.figure.axes] == [[30, 31, 32], [40, 41, 42]]
    assert not drawing.figure.legends        # bars and rings are of masks, of which there are none here
    del rows[0]["metrics"]["supervised_ap_percent"]
    assert len(ablation_figure("", rows, "steps").figure.axes) == 1
    both = {ROUGH: 50.0, "student_sw_refined_ap_percent": 30.0, "supervised_ap_percent": 40.0}
    levels = ablation_figure("", [row(variant=name, **{**both, REFINED: 60.0 + i}) for i, name in enumerate(("", "level_0"))], "levels")
    assert "supervised_ap_percent" not in {v["result"] for v in levels.values}       # it is the same network, of which a level changes nothing
    alike = [r | {"metrics": {ROUGH: 50.0, REFINED: 60.0}} for r in rows]
    assert len(ablation_figure("", alike, "steps").figure.axes) == 1


def test_a_row_of_other_seeds_is_named_and_not_drawn():
    rows = [row(seed=seed, variant=name, **{ROUGH: 50.0, REFINED: 60.0 + i})
            for i, (name, seeds) in enumerate((("", (0, 1, 2)), ("level_0", (0,)), ("level_1", (0, 1)), ("level_2", (2,)))) for seed in seeds]
    drawing = ablation_figure("", rows, "levels")
    assert {v["row"] for v in drawing.values} == {"always 1 of 5", "always 2 of 5", "adaptive"}
    assert drawing.caption.endswith("Not drawn, as of other seeds: always 3 of 5.")
    assert "Not drawn" not in ablation_figure("", [r for r in rows if r["variant"] != "level_2"], "levels").caption


def test_the_caption_says_whose_masks_a_second_round_has():
    rows = [row(variant=name, **{ROUGH: 50.0, REFINED: 60.0}) for name in ("recipe_competition", "ours_copy_paste", "ours_second_round")]
    with_it, without = (ablation_figure("", some, "additions").caption for some in (rows, rows[:2]))
    assert SECOND in with_it and SECOND not in without


def test_students_of_one_seed_stand_beside_that_seed_of_the_method():
    rows = [r | {"metrics": r["metrics"] | ({"student_sw_refined_ap_percent": 20.0 + 5 * r["seed"]} if not r["variant"] or r["seed"] == 1 else {})}
            for r in variants()]
    drawing = ablation_figure("", rows, "weak_labels")
    shown = {v["row"]: (v["mean"], v["sd"], v["seeds"]) for v in drawing.values if v["result"] == "student_sw_refined_ap_percent"}
    assert shown == dict.fromkeys(("none", "classes of the image", "point"), (25.0, None, 1)) and drawing.caption.endswith("Students: 1 of these seeds.")
    assert all(v["seeds"] == 2 for v in drawing.values if v["result"] == ROUGH)


def test_a_row_may_lack_what_others_have():
    rows = variants()
    for r in rows:
        if r["variant"] == "prompt_none": del r["metrics"][REFINED]
    drawing = ablation_figure("", rows, "weak_labels")
    assert len(drawing.figure.axes[0].patches) == 2 and {v["row"] for v in drawing.values if v["result"] == ROUGH} == {"none", "classes of the image", "point"}


# all of them

def test_files_are_whole_named_and_the_same_twice(coco, toys, tmp_path):
    runs, rows = evidence(tmp_path / "runs"), [*coco, *toys, *variants()[2:]]
    files = write_figures(runs, rows, tmp_path / "figures")
    assert {f.name for f in files} == {f"{name}.{suffix}" for suffix in ("png", "pdf", "json") for name in
                                       ("ap_by_split_coco", "ap_by_split_toys", "ap_by_hours_toys", "curves_toys", "ablation_weak_labels_toys")}
    before = {f: f.read_bytes() for f in files}
    write_figures(runs, rows, tmp_path / "figures")
    assert before == {f: f.read_bytes() for f in files}
    for name, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")): assert all(c.startswith(magic) for f, c in before.items() if f.suffix == f".{name}")
    shown = json.loads((tmp_path / "figures/ap_by_split_toys.json").read_text())
    assert shown["dataset"] == "toys" and shown["shows"] == "ap_by_split" and "not the paper's numbers" in shown["note"]
    assert {p["result"] for p in shown["values"]} == set(SERIES) - CONTROLS and shown["values"][0]["here"] == pytest.approx(71 / 3)
    assert "test-dev" in json.loads((tmp_path / "figures/ap_by_split_coco.json").read_text())["note"]


def test_published_checkpoints_alone_make_no_figure(tmp_path):
    assert write_figures(tmp_path, [row("coco", "40p", None, 20.0)], tmp_path / "figures") == []


def test_drawing_needs_no_torch():
    code = "import sys, pointwssis.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_names_from_data_are_text_in_figures():
    "A class or data set may be called as a formula that matplotlib cannot read, or by a whole page."
    names = {"$\\frac{x$": 20.0, "<script>": 10.0, "a" * 3000: 5.0}
    rows = [judged(0, model(10) | {"per_class": names}, model(20) | {"per_class": names})]
    rows[0]["dataset"] = "$\\sqrt{$"
    figure = gains_figure("", rows).figure
    figure.draw_without_rendering()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "$\\frac{x$" in shown and max(map(len, shown)) <= 40
    show_grid([{"image": np.zeros((8, 9, 3), np.uint8), "title": "$\\frac{x$"}]).draw_without_rendering()


def test_a_figure_is_drawn_when_it_is_asked_for(coco, tmp_path, monkeypatch):
    made = figures_of(tmp_path, coco)
    for module in ("figures_scores", "figures_details", "budget"):
        monkeypatch.setattr(f"pointwssis.report.{module}.Figure", lambda *args, **more: pytest.fail("was drawn"))
    assert set(figures_of(tmp_path, coco)) == set(made) and made["ap_by_split_coco"][1]["values"]


def redrawn(tmp_path, rows):
    "The names of pictures that a report draws."
    before = {path: path.stat().st_ino for path in (tmp_path / "figures").glob("*.p*")}
    for path in write_figures(tmp_path / "runs", rows, tmp_path / "figures"): assert path.is_file()
    write_sums(tmp_path / "runs", tmp_path / "figures")
    return sorted(path.name for path in (tmp_path / "figures").glob("*.p*") if path.stat().st_ino != before.get(path))


def test_a_picture_is_drawn_again_only_if_numbers_code_or_file_changed(coco, toys, tmp_path, monkeypatch):
    both, drawn = [*coco, *toys], ["ap_by_split_toys.pdf", "ap_by_split_toys.png"]
    assert len(redrawn(tmp_path, both)) == 4 and redrawn(tmp_path, both) == []
    toys[0]["metrics"]["teacher_ap_percent"] += 1
    assert redrawn(tmp_path, both) == drawn
    png = tmp_path / "figures/ap_by_split_toys.png"
    png.write_bytes(png.read_bytes() + b" ")
    assert redrawn(tmp_path, both) == drawn
    png.unlink()
    assert redrawn(tmp_path, both) == drawn
    (tmp_path / "figures/SHA256SUMS").unlink()
    assert len(redrawn(tmp_path, both)) == 4
    monkeypatch.setattr("pointwssis.report.figures.drawing_code", lambda: "12ab")
    assert len(redrawn(tmp_path, both)) == 4 and redrawn(tmp_path, both) == []
