"Committed tables and figures hold what the committed evidence gives; whatever is tampered with, or missing, is found, in one line each."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointwssis.cli import main
from pointwssis.core import DataError, read_json, write_json
from pointwssis.matches import Detections, Matches, Overlaps, Record
from pointwssis.page import write_page
from pointwssis.plan import plan
from pointwssis.report import write_report
from pointwssis.tables import markdown, sheet
from pointwssis.verify import Stale, verify

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
    write_json(runs / run / "split/metrics.json", {"strong_masks": 10, "points": 20, "strong_images": 2, "weak_images": 18})
    write_json(runs / run / "evaluate/params.json", {"parameters": {"seed": seed}, "git_commit": "abc", "inputs": {"split/a_s.json": "12"}})
    history = {"step": [20, 40], "loss": [2.5, 1.25 + seed]}
    write_json(runs / run / "teacher/metrics.json", {"history": history})


def photographs(root, run="toys/10p/s0"):
    "What the stage report leaves of a run: its manifest, and pictures that say what they show."
    dataset, split, seed = run.split("/")
    asked = {"dataset": dataset, "split": split, "seed": int(seed[1:])}
    write_json(root / "runs" / run / "report/params.json", {"parameters": asked, "inputs": {"split/a_s.json": "12", "pseudo/a_sw.json": "34"}})
    for shows, images in (("story", [7]), ("rough", [0, 6, 19]), ("student", [0, 19])):
        write_json(root / "figures" / f"{dataset}_{split}_{shows}.json", {"shows": shows, **asked, "images": images})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    for seed in (0, 1): evaluated(root / "runs", f"toys/10p/s{seed}", seed, (.3, .4, .5, .6))
    evaluated(root / "runs", "toys/10p-level_1/s0", 2, (.3, .3, .4))
    write_report(root / "runs", root / "figures")
    photographs(root)
    plan(root / "runs", "toys", .3, figures=root / "figures")
    return root


@pytest.fixture
def report(made, tmp_path):
    "Runs and figures that may be spoiled."
    for name in ("runs", "figures"): shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def test_runs_and_figures_are_of_every_sort(made):
    told = {path.stem: read_json(path).get("shows") for path in (made / "figures").glob("*.json")}
    assert {"ap_by_split", "ap_by_hours", "curves", "proposals"} & {*told.values()} >= {"ap_by_split", "ap_by_hours", "curves"}
    assert {"ablation_levels", "plan", "story", "rough", "student"} <= {*told.values()}


def edit(path, change):
    value = read_json(path)
    change(value)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def wrong(report, message):
    with pytest.raises(DataError, match=message) as e: verify(report / "runs", report / "figures")
    assert "\n" not in str(e.value) and "Find out why, then run `pointwssis report`." in str(e.value)


def refused(report, message, cure):
    "Something beside a figure is wrong: one line with the file, the key and the cure."
    with pytest.raises(DataError, match=message) as e: verify(report / "runs", report / "figures")
    assert "\n" not in str(e.value) and str(e.value).endswith(cure) and str(report / "figures") in str(e.value)


def test_the_committed_tables_are_what_the_committed_evidence_gives():
    "In a process of its own, which must not need torch."
    code = ("import sys; from pointwssis.cli import main; code = main(['report', '--verify', '--runs', 'runs']);"
            "sys.exit(code or 3 * any(m.split('.')[0] in ('torch', 'torchvision') for m in sys.modules))")
    command, env = [sys.executable, "-W", "error", "-c", code], os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    words = done.stdout.split()
    assert int(words[0]) > 200 and words[1:3] == ["numbers", "in"] and int(words[3]) >= 10 and done.stdout.count("\n") == 1


def test_what_was_just_made_is_right(report):
    found = verify(report / "runs", report / "figures")
    assert found.records == 3 and found.tables == len([*(report / "figures").glob("*.csv")]) and found.numbers > 60
    assert found.figures == len([*(report / "figures").glob("*.png")]) and found.photographs == 3 and found.drawn > 50
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


def lacking(report):
    with pytest.raises(Stale) as e: verify(report / "runs", report / "figures")
    return dict(line.removeprefix(f"{report / 'figures'}/").split(": ", 1) for line in str(e.value).splitlines())


def test_new_seeds_are_missed_by_every_table_that_would_tell_of_them(report):
    evaluated(report / "runs", "toys/10p/s7", 7, (.3, .4, .5, .6))
    evaluated(report / "runs", "toys/10p/s8", 8, (.3, .4, .5, .6))
    said = lacking(report)
    assert {f"{name}_toys.json" for name in ("results", "table_gains", "table_budget", "table_times", "table_levels")} == set(said)
    assert set(said.values()) == {"lacks toys/10p/s7, toys/10p/s8. Run `pointwssis report`."}
    write_report(report / "runs", report / "figures")
    refused(report, "plan_toys.json: values.* is written, the evidence gives", "Run `pointwssis plan --dataset toys --hours H` again.")
    plan(report / "runs", "toys", .3, figures=report / "figures")
    assert verify(report / "runs", report / "figures").records == 5


def test_new_splits_variants_and_data_sets_are_missed(report):
    evaluated(report / "runs", "toys/20p/s0", 3, (.3, .4, .5, .6))
    evaluated(report / "runs", "toys/10p-prompt_none/s1", 4, (.3, .3, .4))
    evaluated(report / "runs", "bricks/5p/s0", 5, (.3, .4, .5))
    said = lacking(report)
    assert said["results_toys.json"] == "lacks toys/20p/s0. Run `pointwssis report`."
    assert said["table_weak_labels_toys.json"].startswith("is missing, it would tell of toys/10p-prompt_none/s1, toys/10p/s1")
    assert said["results_bricks.json"] == "is missing, it would tell of bricks/5p/s0. Run `pointwssis report`."
    assert "table_levels_toys.json" not in said and "results_coco.json" not in said


def test_a_row_that_was_cut_out_or_renamed_is_missed(report):
    edit(report / "figures/table_gains_toys.json", lambda t: t["rows"].pop(1))
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0].__setitem__(1, "student sw, AP"))
    for name in ("table_gains_toys", "results_toys"): respell(report / f"figures/{name}.json")
    now = "is not what the runs give now. Run `pointwssis report`."
    assert lacking(report) == {"table_gains_toys.json": f"row 2 {now}", "results_toys.json": f"row 1 {now}"}


def respell(path):
    "Markdown and CSV of a table as its JSON has them."
    table = read_json(path)
    for suffix, spell in ((".md", markdown), (".csv", sheet)): path.with_suffix(suffix).write_text(spell(table), encoding="utf-8")


@pytest.mark.parametrize("name, change, says", [
    ("ap_by_split_toys", lambda f: f["values"][0].update(here=99.0), r"values\[0\].here 99.0 is written, the evidence gives \d"),
    ("ap_by_split_toys", lambda f: f["values"][0].update(result="supervised_ap_percent"), r"values\[0\].result supervised_ap_percent is written"),
    ("ap_by_split_toys", lambda f: f["values"][0].update(sd=None), r"values\[0\].sd None is written"),
    ("ap_by_split_toys", lambda f: f["values"].append({"here": 31.5}), r"values\[4\].here 31.5 has no evidence"),
    ("ap_by_split_toys", lambda f: f["values"].pop(), r"values\[3\].\w+ is not written, the evidence gives"),
    ("ap_by_split_toys", lambda f: f.update(caption=f["caption"].replace("2 seeds", "3 seeds")), r"caption\[0\] 3 is written, the evidence gives 2"),
    ("ap_by_hours_toys", lambda f: f["values"][1].update(hours="0.3"), r"values\[1\].hours 0.3 is written"),
    ("curves_toys", lambda f: f["values"][0]["loss"].__setitem__(1, 1.0), r"values\[0\].loss\[1\] 1.0 is written, the evidence gives 1.25"),
    ("ablation_levels_toys", lambda f: f["values"][0].update(mean=1.5), r"values\[0\].mean 1.5 is written"),
    ("ablation_levels_toys", lambda f: f.clear(), r"values\[0\].\w+ is not written|shows is not written")])
def test_a_number_mended_beside_a_figure_is_found(report, name, change, says):
    edit(report / f"figures/{name}.json", change)
    refused(report, f"{name}.json: {says}", "Find out why, then run `pointwssis report`.")


def test_words_of_a_caption_are_free(report):
    edit(report / "figures/curves_toys.json", lambda f: f.update(caption=f["caption"].replace("losses", "curves")))
    verify(report / "runs", report / "figures")


def test_a_figure_that_was_lost_is_found(report):
    (report / "figures/curves_toys.json").unlink()
    refused(report, "curves_toys.json: is missing, though the evidence draws it", "Run `pointwssis report`.")


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_page_that_says_something_else_is_found(report, name):
    path = report / "figures" / name
    told, value = path.read_text(), f"{read_json(report / 'figures/results_toys.json')['rows'][0][3]['numbers']['value']:.1f}"
    path.write_text(re.sub(rf"(?<![\d.]){re.escape(value)}(?!\d)", "99.9", told, count=1))
    refused(report, f"{name}: 99.9 is written where tables and figures beside it give {value}", "Run `pointwssis report`.")
    path.write_text(told + "<p>AP 41</p>")
    refused(report, f"{name}: 41 is written where tables and figures beside it give nothing", "Run `pointwssis report`.")
    path.unlink()
    refused(report, f"{name}: nothing is written where tables and figures beside it give", "Run `pointwssis report`.")
    write_page(report / "runs", report / "figures")
    verify(report / "runs", report / "figures")


@pytest.mark.parametrize("text", ['{"shows": "gains", "dataset": "toys", "values": [{"gain": 9.5}]}', '{"shows": 3}', "[]", '{"note": "40.1"}'])
def test_a_figure_without_evidence_is_found(report, text):
    (report / "figures/gains_toys.json").write_text(text)
    refused(report, "gains_toys.json: shows .* has no evidence: no run gives that", "Delete it, or bring its runs back.")


def test_evidence_that_a_figure_lost_is_found(report):
    for seed in (0, 1): (report / f"runs/toys/10p/s{seed}/teacher/metrics.json").unlink()
    (report / "runs/toys/10p-level_1/s0/teacher/metrics.json").unlink()
    refused(report, "curves_toys.json: shows curves has no evidence", "Delete it, or bring its runs back.")


@pytest.mark.parametrize("change, says", [
    (lambda f: f["values"][0].update(ap=40.0), r"values\[0\].ap 40.0 is written"),
    (lambda f: f.update(seconds_per_point=6.0), r"seconds_per_point 6.0 is written, the evidence gives 7.0|more are wrong"),
    (lambda f: f.update(hours=.29), "caption.* is written, the evidence gives"),
    (lambda f: f.update(hours="many"), "is of no hours, seconds_per_mask, seconds_per_point"),
    (lambda f: f.update(hours=-1), "has no evidence: -1 hours cannot be spent"),
    (lambda f: f.update(dataset="toy"), "has no evidence: .*no evaluated run of 'toy'")])
def test_a_mended_plan_is_found(report, change, says):
    edit(report / "figures/plan_toys.json", change)
    refused(report, f"plan_toys.json: {says}", "--hours H` again.")


def test_a_plan_at_other_prices_is_right(report):
    plan(report / "runs", "toys", .3, seconds_per_mask=60.0, seconds_per_point=7.0, figures=report / "figures")
    verify(report / "runs", report / "figures")


AGAIN = "Run `pointwssis run report --force --dataset toys --split 10p --seed 0`, or delete it."

@pytest.mark.parametrize("name, change, says, cure", [
    ("story", lambda f: f.update(seed=5), "seed 5 has no evidence: toys/10p/s5/report/params.json is missing", AGAIN.replace("seed 0", "seed 5")),
    ("story", lambda f: f["images"].append(99), r"images\[1\] 99 is no image that toys/10p/s0/evaluate judged", AGAIN),
    ("student", lambda f: f["images"].append(99), r"images\[2\] 99 is no image that", AGAIN),
    ("rough", lambda f: f.update(shows="story"), "shows story is written, so its name should be toys_10p_story", "Delete it."),
    ("rough", lambda f: f.pop("images"), "images None has no evidence", "Run the stage report again, or delete it.")])
def test_a_photograph_that_claims_too_much_is_found(report, name, change, says, cure):
    edit(report / f"figures/toys_10p_{name}.json", change)
    refused(report, f"toys_10p_{name}.json: {says}", cure)


def test_photographs_of_another_run_are_found(report):
    manifest = report / "runs/toys/10p/s0/report/params.json"
    edit(manifest, lambda m: m["parameters"].update(seed=3))
    refused(report, "seed 0 is written, toys/10p/s0/report/params.json gives 3", AGAIN)
    edit(manifest, lambda m: m.update(parameters={"dataset": "toys", "split": "10p", "seed": 0}, inputs={"split/a_s.json": "99"}))
    refused(report, "seed 0: was drawn from another split/a_s.json than toys/10p/s0/evaluate judged. 2 more are wrong", AGAIN)


@pytest.mark.parametrize("points, found", [(20, True), (90, False)])
def test_weak_images_without_truth_may_be_photographed(report, points, found):
    "20 objects were judged. If there are more points, as in a second weak set, some images could not be judged."
    edit(report / "runs/toys/10p/s0/split/metrics.json", lambda m: m.update(points=points))
    write_report(report / "runs", report / "figures")
    plan(report / "runs", "toys", .3, figures=report / "figures")
    edit(report / "figures/toys_10p_rough.json", lambda f: f["images"].append(99))
    if found: refused(report, r"rough.json: images\[3\] 99 is no image", AGAIN)
    else: verify(report / "runs", report / "figures")


def test_the_data_set_with_a_second_weak_set_is_verified_too(tmp_path):
    for split, seed in (("10p", 0), ("10p", 1), ("20p", 0)):
        evaluated(tmp_path / "runs", f"bdd100k/{split}/s{seed}", seed, (.3, .4, .5, .6))
    write_report(tmp_path / "runs", tmp_path / "figures")
    assert verify(tmp_path / "runs", tmp_path / "figures").records == 3


def test_the_command_ends_with_one_line(report, capsys):
    places = ["--runs", str(report / "runs"), "--figures", str(report / "figures")]
    assert main(["report", "--verify", *places]) == 0 and "are what the evidence gives" in capsys.readouterr().out
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0][3]["numbers"].update(value=99.0))
    assert main(["report", "--verify", *places]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    write_report(report / "runs", report / "figures")
    evaluated(report / "runs", "toys/10p-level_1/s1", 7, (.3, .4, .5))
    assert main(["report", "--verify", *places]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"error: {report / 'figures/table_levels_toys.json'}: lacks toys/10p-level_1/s1. Run `pointwssis report`.\n"
    evaluated(report / "runs", "toys/10p/s7", 7, (.3, .4, .5, .6))
    assert main(["report", "--verify", *places]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5 and all(line.startswith("error: ") and line.endswith("Run `pointwssis report`.") for line in said)
    shutil.rmtree(report / "figures")
    assert main(["report", "--verify", *places]) == 2 and "no tables. Run `pointwssis report` first" in capsys.readouterr().err
