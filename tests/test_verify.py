"Committed tables hold what the committed evidence gives; whatever is tampered with is found, in one line."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointwssis.cli import main
from pointwssis.core import DataError, read_json, write_json
from pointwssis.matches import Detections, Matches, Overlaps, Record
from pointwssis.report import write_report
from pointwssis.verify import verify

ROOT = Path(__file__).parent.parent
MODELS = ("teacher", "student_sw", "student_sw_refined", "supervised")


def network(random, skill):
    right = (random.random(60) < skill) & (np.arange(10)[:, None] < random.integers(1, 10, 60))
    return Detections(np.arange(60) % 20, np.zeros(60, int), right, right & False)


def evaluated(runs, run, seed, skills):
    "An evaluation with its record, and the stages around it."
    random = np.random.default_rng(seed)
    val = Matches(np.arange(20), ("toy",), np.full((1, 20), 3), {name: network(random, skill) for name, skill in zip(MODELS, skills)})
    weak = Matches(np.arange(20), ("toy",), np.full((1, 20), 3), {name: network(random, .5) for name in ("sw", "sw_refined")})
    overlaps = {name: Overlaps(np.arange(20), random.integers(0, 100, 20) / 100) for name in weak.networks}
    metrics = {f"{name}_ap_percent": val.ap(name)[0] for name in val.networks}
    metrics |= {f"pseudo_{name}_ap_percent": weak.ap(name)[0] for name in overlaps}
    metrics |= {f"pseudo_{name}_miou_percent": 100 * o.iou.mean() for name, o in overlaps.items()}
    write_json(runs / run / "evaluate/metrics.json", metrics | {"stages": {"teacher": {"wall_s": 60.0, "device": "CPU"}}})
    write_json(runs / run / "evaluate/matches.json", {"val": Record(val, {}).packed(), "weak": Record(weak, overlaps).packed()})
    write_json(runs / run / "split/metrics.json", {"strong_masks": 10, "points": 90, "strong_images": 2, "weak_images": 18})
    write_json(runs / run / "evaluate/params.json", {"parameters": {"seed": seed}, "git_commit": "abc", "inputs": {"split/a_s.json": "12"}})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    for seed in (0, 1): evaluated(root / "runs", f"toys/10p/s{seed}", seed, (.3, .4, .5, .6))
    evaluated(root / "runs", "toys/10p-level_1/s0", 2, (.3, .3, .4))
    write_report(root / "runs", root / "figures")
    return root


@pytest.fixture
def report(made, tmp_path):
    "Runs and figures that may be spoiled."
    for name in ("runs", "figures"): shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def edit(path, change):
    value = read_json(path)
    change(value)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def wrong(report, message):
    with pytest.raises(DataError, match=message) as e: verify(report / "runs", report / "figures")
    assert "\n" not in str(e.value) and "Find out why, then run `pointwssis report`." in str(e.value)


def test_the_committed_tables_are_what_the_committed_evidence_gives():
    "In a process of its own, which must not need torch."
    code = ("import sys; from pointwssis.cli import main; code = main(['report', '--verify']);"
            "sys.exit(code or 3 * any(m.split('.')[0] in ('torch', 'torchvision') for m in sys.modules))")
    command, env = [sys.executable, "-W", "error", "-c", code], os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    words = done.stdout.split()
    assert int(words[0]) > 200 and words[1:3] == ["numbers", "in"] and int(words[3]) >= 10 and done.stdout.count("\n") == 1


def test_what_was_just_made_is_right(report):
    found = verify(report / "runs", report / "figures")
    assert found.records == 3 and found.tables == len([*(report / "figures").glob("*.csv")]) and found.numbers > 60
    gains = read_json(report / "figures/table_gains_toys.json")
    assert all(row[2]["numbers"]["low"] < row[2]["numbers"]["high"] for row in gains["rows"])


def test_networks_that_find_nothing_are_no_trouble(tmp_path, recwarn):
    evaluated(tmp_path / "runs", "toys/10p/s0", 0, (0, 0, 0, 0))
    write_report(tmp_path / "runs", tmp_path / "figures")
    share = next(row for row in read_json(tmp_path / "figures/table_gains_toys.json")["rows"] if row[2]["how"] == "share")
    assert share[2]["numbers"] == {"value": None, "low": None, "high": None} and not recwarn.list
    assert verify(tmp_path / "runs", tmp_path / "figures").records == 1


def test_a_mended_number_is_found(report):
    path = report / "figures/results_toys.json"
    edit(path, lambda t: t["rows"][0][3]["numbers"].update(value=99.0))
    wrong(report, r"results_toys.json: row 1, reproduced: value 99.0 is written, the evidence gives \d")


@pytest.mark.parametrize("name, value", [("low", 0.5), ("high", None)])
def test_a_mended_interval_is_found(report, name, value):
    edit(report / "figures/table_gains_toys.json", lambda t: t["rows"][0][2]["numbers"].update({name: value}))
    wrong(report, f"row 1, difference or share: {name} {value} is written")


@pytest.mark.parametrize("suffix", ["md", "csv"])
def test_another_spelling_is_found(report, suffix):
    path = report / f"figures/results_toys.{suffix}"
    path.write_text(path.read_text().replace("10%", "11%", 1))
    wrong(report, f"results_toys.{suffix}: is not what results_toys.json says")
    path.unlink()
    wrong(report, f"results_toys.{suffix}: is not what")


@pytest.mark.parametrize("entry", ["23.4", "+0.5", "12.1 ± 0.3", "**+4.0** [1.0, 2.0]", 23.4, {"value": 3}, None])
def test_a_number_without_a_recipe_is_found(report, entry):
    edit(report / "figures/results_toys.json", lambda t: t["rows"][2].__setitem__(3, entry))
    wrong(report, "row 3, reproduced: .* has no evidence")


def test_a_recipe_that_leads_nowhere_is_found(report):
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0][3].update(of=["toys/10p/s0/evaluate/metrics.json#nonsense"]))
    wrong(report, "row 1, reproduced: has no evidence: .*nonsense is no number")


@pytest.mark.parametrize("how", ["guess", "difference"])
def test_a_recipe_that_gives_something_else_is_found(report, how):
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0][3].update(how=how))
    wrong(report, "row 1, reproduced: ")


def test_changed_metrics_are_found_by_table_and_record(report):
    edit(report / "runs/toys/10p/s1/evaluate/metrics.json", lambda m: m.update(teacher_ap_percent=m["teacher_ap_percent"] + 1e-3))
    wrong(report, r"results_toys.json: row 1, reproduced: value .* more are wrong")
    write_report(report / "runs", report / "figures")
    wrong(report, "runs/toys/10p/s1/evaluate/matches.json: teacher_ap is .*, metrics.json says")


def test_a_changed_record_is_found(report):
    def forget(record): record["weak"]["overlaps"]["sw"]["iou"] = record["weak"]["overlaps"]["sw_refined"]["iou"]
    edit(report / "runs/toys/10p/s0/evaluate/matches.json", forget)
    wrong(report, "pseudo_sw_miou is|row 6, difference or share: low")


@pytest.mark.parametrize("name", ["evaluate/metrics.json", "evaluate/matches.json", "split/metrics.json"])
def test_lost_evidence_is_found(report, name):
    (report / "runs/toys/10p/s0" / name).unlink()
    wrong(report, r"no such file|low .* is written, the evidence gives None")


def test_a_manifest_that_says_something_else_is_found(report):
    edit(report / "runs/toys/10p/s0/evaluate/params.json", lambda m: m.update(git_commit="def"))
    wrong(report, "toys/10p/s0/evaluate/params.json says something else")


@pytest.mark.parametrize("text", ["{}", "[]", '{"rows": []}'])
def test_an_emptied_table_is_found(report, text):
    (report / "figures/table_gains_toys.json").write_text(text)
    wrong(report, "table_gains_toys.json: is no table")


def test_a_new_run_does_not_make_old_tables_wrong(report):
    evaluated(report / "runs", "toys/10p/s7", 7, (.3, .4, .5, .6))
    assert verify(report / "runs", report / "figures").records == 4


def test_the_command_ends_with_one_line(report, capsys):
    places = ["--runs", str(report / "runs"), "--figures", str(report / "figures")]
    assert main(["report", "--verify", *places]) == 0 and "are what the evidence gives" in capsys.readouterr().out
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0][3]["numbers"].update(value=99.0))
    assert main(["report", "--verify", *places]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    shutil.rmtree(report / "figures")
    assert main(["report", "--verify", *places]) == 2 and "no tables. Run `pointwssis report` first" in capsys.readouterr().err
