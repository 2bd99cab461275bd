"A table and a figure of a user: one file outside the package, which every report then shows."
import subprocess
import sys
from pathlib import Path

import pytest

from pointwssis.core import read_json, write_json

ROOT = Path(__file__).parents[2]
PLUGIN = '''
from functools import partial

from matplotlib.figure import Figure

from pointwssis.registry import FIGURES, TABLES
from pointwssis.report.evidence import cell
from pointwssis.report.figures import Drawing
from pointwssis.report.tables import make_table, references


@TABLES.register("matched")
def matched(evidence, dataset, rows):
    "Points without a mask, over the seeds."
    counted = [r for r in rows if r["metrics"].get("points_without_mask") is not None]
    if not counted: return None
    number = cell(evidence, "mean", references(counted, "points_without_mask"))
    return make_table(evidence, dataset, "Points without a mask.", ["masks", "points without mask"], [["10%", number]])


def draw(values):
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().bar(range(len(values)), values)
    return figure


@FIGURES.register("points_by_seed")
def points_by_seed(runs, rows):
    values = [r["metrics"]["points_without_mask"] for r in rows if "points_without_mask" in r["metrics"]]
    return Drawing(partial(draw, values), "Points without a mask by seed.", [{"points": v} for v in values]) if values else None
'''


@pytest.fixture
def place(tmp_path) -> Path:
    "Two runs of a made-up data set, and a plug-in file beside them."
    for seed in (0, 1):
        metrics = {"teacher_ap_percent": 20.0 + seed, "points_without_mask": 3 + seed}
        write_json(tmp_path / f"runs/toys/10p/s{seed}/evaluate/metrics.json", metrics)
    (tmp_path / "matched.py").write_text(PLUGIN)
    return tmp_path


def report(place, *words, plugin=True):
    "Output of the command, started as a user starts it."
    more = ["--plugin", str(place / "matched.py")] if plugin else []
    command = [sys.executable, "-m", "pointwssis.runs.cli", "report", "--runs", str(place / "runs"), *more, *words]
    code = "import sys; from pointwssis.runs.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command[3:]], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_table_and_a_figure_of_a_plug_in_are_in_every_report(place):
    assert report(place)[0] == 0
    table = read_json(place / "figures/table_matched_toys.json")
    assert table["rows"][0][1]["numbers"] == {"value": 3.5, "sd": pytest.approx(.5**.5)}
    assert "| 10% | 3.5 ± 0.7 |" in (place / "figures/table_matched_toys.md").read_text()
    for page in ("report.md", "report.html"):
        text = (place / "figures" / page).read_text()
        assert "Points without a mask." in text and "Points without a mask by seed." in text
    assert (place / "figures/points_by_seed_toys.png").is_file() and (place / "figures/points_by_seed_toys.pdf").is_file()
    code, said = report(place, "--verify")
    assert code == 0 and "agree with the evidence" in said


def test_without_its_plug_in_a_table_has_no_evidence(place):
    report(place)
    code, said = report(place, "--verify", plugin=False)
    assert code == 2 and "table_matched_toys.json: has no evidence: no run and no loaded plug-in gives that table" in said
