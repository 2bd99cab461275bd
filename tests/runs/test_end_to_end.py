"One command, every stage by papermill: numbers, pictures and evidence are there, and a second call has nothing left to do."
import json
import math
import shutil
from pathlib import Path

import nbformat
import pytest

from pointwssis.core import write_json
from pointwssis.runs import timing
from pointwssis.runs.cli import main
from pointwssis.runs.stage_graph import STAGES
from pointwssis.runs.fingerprints import is_done
from pointwssis.runs.summary import summary
from chain import TINY

SCORES = ("teacher_ap_percent", "student_sw_ap_percent", "student_sw_refined_ap_percent", "supervised_ap_percent",
          "pseudo_sw_miou_percent", "pseudo_sw_refined_miou_percent")
PICTURES = ("overview", "labels", "levels", "misses", "networks")


@pytest.fixture(scope="module")
def done(tmp_path_factory, drawn, warm_module):
    "A finished run: its folder, what was said, and the command."
    patch, place = pytest.MonkeyPatch(), tmp_path_factory.mktemp("run")
    shutil.copytree(drawn, place / "data")
    options = [part for key, value in TINY.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = ["reproduce", "--dataset", "shapes", "--split", "25p", "--seed", "1", "--data-root", "data", *options]
    with patch.context() as p:
        p.chdir(place)
        p.setattr(timing, "WARM", (1, 1))
        assert main(command) == 0
        yield place, command


def metrics(place: Path, stage: str) -> dict: return json.loads((place / "outputs/runs/shapes/25p/s1" / stage / "metrics.json").read_text())


def test_every_stage_has_finished(done):
    folder = done[0] / "outputs/runs/shapes/25p/s1"
    assert sorted(path.name for path in folder.iterdir()) == sorted(STAGES) and all(is_done(folder / stage) for stage in STAGES)


def test_a_run_and_its_figures_lie_in_outputs_alone(done):
    assert sorted(path.name for path in done[0].iterdir()) == ["data", "outputs"]
    assert sorted(path.name for path in (done[0] / "outputs").iterdir()) == ["figures", "runs"]


def test_the_evaluation_holds_every_promised_number(done):
    found = metrics(done[0], "evaluate")
    assert all(isinstance(found[key], float) and math.isfinite(found[key]) for key in SCORES)     # how good they are: test_learning
    assert isinstance(found["points_without_mask"], int) and found["points"] == metrics(done[0], "split")["points"]
    before = [name for name in STAGES if name not in ("evaluate", "report")]
    assert sorted(found["stages"]) == sorted(before)
    assert all(times["wall_s"] > 0 and times["device"] for times in found["stages"].values())


def test_the_table_and_the_pictures_are_there(done):
    figures = done[0] / "outputs/figures"
    stems = [f"shapes_25p_{name}" for name in PICTURES]
    assert (figures / "ap_by_split_shapes.png").read_bytes()[:4] == b"\x89PNG"
    for stem in stems: assert (figures / f"{stem}.webp").read_bytes()[8:12] == b"WEBP"
    assert [path.name for path in figures.glob("*shapes*.pdf") if path.read_bytes()[:4] != b"%PDF"] == []
    assert (figures / "ap_by_split_shapes.pdf").is_file() and not list(figures.glob("shapes_25p_*.pdf"))
    assert json.loads((figures / "shapes_25p_labels.json").read_text())["split"] == "25p"
    rows = json.loads((figures / "results_shapes.json").read_text())
    assert f"{metrics(done[0], 'evaluate')['pseudo_sw_miou_percent']:.1f}" in (figures / "results_shapes.md").read_text()
    assert "25p" in json.dumps(rows) and (figures / "results_shapes.csv").is_file()
    assert {f"{stem}.webp" for stem in stems} <= set(metrics(done[0], "report")["files"])


@pytest.mark.parametrize("stage", STAGES)
def test_the_notebook_shows_what_came_out(done, stage):
    nb = nbformat.read(done[0] / "outputs/runs/shapes/25p/s1" / stage / "notebook.ipynb", 4)
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert "Warning" not in said and "Traceback" not in said
    pictures = [output for output in outputs if {"image/png", "image/jpeg"} & set(output.get("data", {}))]
    assert pictures or stage == "report"
    assert str(done[0]) not in nbformat.writes(nb)


def test_a_second_call_skips_every_stage(done, capsys):
    place, command = done
    before = {path: path.stat().st_mtime_ns for path in place.glob("outputs/runs/shapes/25p/s1/*/params.json")}
    assert main(command) == 0
    said = capsys.readouterr().out
    skipped = [stage for stage in STAGES if f"{stage} up to date" in said]
    assert skipped == [stage for stage in STAGES if stage != "report"]           # the report reads all runs, so it is always made
    assert {path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time} == {"report"}
    assert said.endswith(f"{summary(Path('outputs/runs/shapes/25p/s1'))}\n")


def test_the_summary_is_of_this_run_alone(done, tmp_path):
    "A second seed lies beside it, whose numbers must not be mixed in."
    shutil.copytree(done[0] / "outputs/runs", tmp_path / "runs")
    shutil.copytree(tmp_path / "runs/shapes/25p/s1", tmp_path / "runs/shapes/25p/s0")
    path = tmp_path / "runs/shapes/25p/s0/evaluate/metrics.json"
    write_json(path, dict.fromkeys(json.loads(path.read_text()), 77.7))
    said, own = summary(tmp_path / "runs/shapes/25p/s1").splitlines(), metrics(done[0], "evaluate")
    assert said[0] == "shapes, 25% of the images with masks, seed 1" and "77.7" not in str(said) and "±" not in str(said)
    rows = {line[:28].strip(): line[28:].split() for line in said[2:10]}
    keys = ("teacher_ap_percent", "student_sw_ap_percent", "student_sw_refined_ap_percent", "supervised_ap_percent")
    names = ("teacher", "student", "student with refined masks", "supervised")
    assert {name: rows[name] for name in names} == {name: [f"{own[key]:.1f}"] for name, key in zip(names, keys)}
    matched = 100 - 100 * own["points_without_mask"] / own["points"]
    assert rows["pseudo masks, refined"] == [f"{own['pseudo_sw_refined_miou_percent']:.1f}", f"{matched:.1f}%"]
    assert all(f"{stage} " in said[10] for stage in STAGES) and "figures/report.html" in said[11] and "notebook.ipynb" in said[12]
