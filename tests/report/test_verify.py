"Committed tables and figures hold what the committed evidence gives; whatever is tampered with, or missing, is found, in one line each."
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from pointwssis.core import DataError, read_json, write_json
from pointwssis.data.show import save_picture
from pointwssis.report.budget import plan
from pointwssis.report.evidence import Evidence
from pointwssis.report.html import write_page
from pointwssis.report.manifests import FIRST, READS, STAGE_NAMES, check_manifests
from pointwssis.report.matches import Detections, Matches, Overlaps, Record
from pointwssis.report.report import write_report
from pointwssis.report.provenance import check_sums, hashes_of, write_sums
from pointwssis.report.results import collect
from pointwssis.report.tables import markdown, spreadsheet
from pointwssis.report.verify import verify
from pointwssis.report.verify_figures import check_figures
from pointwssis.report.verify_tables import Stale
from pointwssis.runs.cli import main
from pointwssis.runs.stage_graph import STAGES

ROOT = Path(__file__).parents[2]
MODELS = ("teacher", "student_sw", "student_sw_refined", "supervised")


def network(random, skill):
    right = (random.random(60) < skill) & (np.arange(10)[:, None] < random.integers(1, 10, 60))
    return Detections(np.arange(60) % 20, np.zeros(60, int), right, right & False)


def finish(runs, folder, metrics, **more):
    "A stage as the pipeline leaves it: metrics, the notebook that printed them, and the manifest."
    dataset, split, seed, stage = folder.split("/")
    place, (split, _, variant) = runs / folder, split.partition("-")
    write_json(place / "metrics.json", metrics, indent=1)
    printed = nbformat.v4.new_output("execute_result", {"text/plain": repr(read_json(place / "metrics.json"))})
    cells = [nbformat.v4.new_markdown_cell("As of step 40.", id="words"), nbformat.v4.new_code_cell("metrics", outputs=[printed], id="number")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), place / "notebook.ipynb")
    asked = {"dataset": dataset, "split": split, "seed": int(seed[1:]), "overrides": {"variant": variant} if variant else {}}
    facts = {"stage": stage, "parameters": asked, "fingerprint": sha256(folder.encode()).hexdigest(), "inputs": {}, "git_commit": "abc",
             "device": "CPU", "status": "done", "wall_s": 60.0}
    write_json(place / "params.json", facts | more | {"files": hashes_of(place)}, indent=1)


LAST = "last.safetensors"
TRAINED = dict(zip(MODELS, ("teacher", "student", "student_refined", "supervised")))


def inputs_of(run, *names):
    "Hashes of what earlier stages left; those of the split and of one pseudo label are short."
    short = {"split/a_s.json": "12", "pseudo/a_sw.json": "34"}
    return {name: short.get(name) or sha256(f"{run}/{name}".encode()).hexdigest() for name in names}


def evaluated(runs, run, seed, skills):
    "An evaluation with its record, and the stages around it."
    random = np.random.default_rng(seed)
    val = Matches(np.arange(20), ("toy",), np.full((1, 20), 3), {name: network(random, skill) for name, skill in zip(MODELS, skills)})
    weak = Matches(np.arange(20), ("toy",), np.full((1, 20), 3), {name: network(random, .5) for name in ("sw", "sw_refined")})
    overlaps = {name: Overlaps(np.arange(20), random.integers(0, 100, 20) / 100) for name in weak.networks}
    each = {name: val.precision(name)[..., 0] for name in val.networks}
    detail = {name: {"ap_percent": ap.mean(), "ap50_percent": ap[:, 0].mean(), "ap75_percent": ap[:, 5].mean(), "aps_percent": None,
                     "per_class": {"toy": ap.mean()}} for name, ap in each.items()}
    metrics = {f"{name}_ap_percent": val.ap(name)[0] for name in val.networks} | {"models": detail}
    metrics |= {f"pseudo_{name}_ap_percent": weak.ap(name)[0] for name in overlaps}
    metrics |= {f"pseudo_{name}_miou_percent": 100 * o.iou.mean() for name, o in overlaps.items()}
    metrics |= {f"pseudo_{name}_miou_found_percent": 100 * o.iou[o.iou > 0].mean() for name, o in overlaps.items()}
    metrics |= {"points": 20, "points_without_mask": int((overlaps["sw_refined"].iou == 0).sum())}
    matches = {"val": Record(val, {}).packed(), "weak": Record(weak, overlaps).packed()}
    write_json(runs / run / "evaluate/matches.json", matches)
    trained = [TRAINED[name] for name in val.networks]
    of = {stage: inputs_of(run, f"{stage}/{LAST}") for stage in (*trained, "refiner")}
    labels, split = inputs_of(run, "pseudo/a_sw.json"), inputs_of(run, "split/a_s.json")
    def left(files): return {name.partition("/")[2]: digest for name, digest in files.items()}
    counts = {"strong_masks": 10, "points": 20, "strong_images": 2, "weak_images": 18}
    finish(runs, f"{run}/split", counts, outputs=left(split), inputs={"teacher.weights": "56"})
    curve = {"final_loss": 1.25 + seed, "steps": 40, "history": {"step": [20, 40], "loss": [2.5, 1.25 + seed]}}
    read = {"teacher": split, "student": of["teacher"] | labels, "student_refined": of["teacher"] | labels, "supervised": {}}
    for stage in trained: finish(runs, f"{run}/{stage}", curve if stage == "teacher" else {}, outputs=left(of[stage]), inputs=read[stage])
    finish(runs, f"{run}/refiner", {}, outputs=left(of["refiner"]), inputs=split | of["teacher"])
    found = {"points": 20, "points_without_mask": 3, "by_class": {"toy": [20, 3]}}
    finish(runs, f"{run}/pseudo", found, outputs=left(labels), inputs=split | of["teacher"] | of["refiner"])
    networks = {name: digest for stage in trained for name, digest in of[stage].items()}
    times = {"teacher": {"wall_s": 60.0, "device": "CPU"}}
    finish(runs, f"{run}/evaluate", metrics | {"stages": times}, inputs=split | labels | networks)


def photographs(root, run="toys/10p/s0"):
    "The manifest of the stage report, and pictures with their claims."
    dataset, split, seed = run.split("/")
    asked = {"dataset": dataset, "split": split, "seed": int(seed[1:])}
    read = inputs_of(run, "split/a_s.json", "pseudo/a_sw.json", f"student_refined/{LAST}")
    finish(root / "runs", f"{run}/report", {"files": []}, inputs=read)
    for shows, images in (("overview", [7]), ("labels", [0, 6, 19]), ("networks", [0, 19])):
        stem = root / "figures" / f"{dataset}_{split}_{shows}"
        save_picture(Figure(figsize=(1, 1)), stem, photograph=True, shows=shows, **asked, images=images)


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
    assert {"ablation_levels", "plan", "overview", "labels", "networks"} <= {*told.values()}


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
    code = ("import sys; from pointwssis.runs.cli import main; code = main(['report', '--verify', '--runs', 'runs']);"
            "sys.exit(code or 3 * any(m.split('.')[0] in ('torch', 'torchvision') for m in sys.modules))")
    command, env = [sys.executable, "-W", "error", "-c", code], os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    words = done.stdout.split()
    assert int(words[0]) > 200 and words[1:3] == ["numbers", "in"] and int(words[3]) >= 10 and done.stdout.count("\n") == 1


def test_what_was_just_made_is_right(report):
    found = verify(report / "runs", report / "figures")
    assert found.records == 3 and found.tables == len([*(report / "figures").glob("*.csv")]) and found.numbers > 60
    assert found.figures == len([*(report / "figures").glob("*.pdf")]) and found.photographs == 3 and found.drawn > 50
    gains = read_json(report / "figures/table_gains_toys.json")
    assert all(row[2]["numbers"]["low"] < row[2]["numbers"]["high"] for row in gains["rows"])


def test_networks_that_find_nothing_are_no_trouble(tmp_path, recwarn):
    evaluated(tmp_path / "runs", "toys/10p/s0", 0, (0, 0, 0, 0))
    write_report(tmp_path / "runs", tmp_path / "figures")
    share = next(row for row in read_json(tmp_path / "figures/table_gains_toys.json")["rows"] if row[3])
    assert share[3]["numbers"] == {"value": None, "reference": 0, "n": 1, "low": None, "high": None} and not recwarn.list
    assert verify(tmp_path / "runs", tmp_path / "figures").records == 1


def test_a_mended_number_is_found(report):
    path = report / "figures/results_toys.json"
    edit(path, lambda t: t["rows"][0][3]["numbers"].update(value=99.0))
    wrong(report, r"results_toys.json: row 1, reproduced: value 99.0 is written, the evidence gives \d")


@pytest.mark.parametrize("name, value", [("low", 0.5), ("high", None)])
def test_a_mended_interval_is_found(report, name, value):
    edit(report / "figures/table_gains_toys.json", lambda t: t["rows"][0][2]["numbers"].update({name: value}))
    wrong(report, f"row 1, gain: {name} {value} is written")


@pytest.mark.parametrize("suffix", ["md", "csv"])
def test_another_spelling_is_found(report, suffix):
    path = report / f"figures/results_toys.{suffix}"
    path.write_text(path.read_text().replace("10%", "11%", 1))
    wrong(report, f"results_toys.{suffix}: differs from results_toys.json")
    path.unlink()
    wrong(report, f"results_toys.{suffix}: differs from")


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
    wrong(report, r"results_toys.json: row 1, reproduced: value .* more faults")
    write_report(report / "runs", report / "figures")
    wrong(report, "runs/toys/10p/s1/evaluate/matches.json: teacher_ap is .*, in metrics.json")


def test_a_changed_record_is_found(report):
    def forget(record): record["weak"]["overlaps"]["sw"]["iou"] = record["weak"]["overlaps"]["sw_refined"]["iou"]
    edit(report / "runs/toys/10p/s0/evaluate/matches.json", forget)
    wrong(report, "pseudo_sw_miou is|row 5, gain: low")


@pytest.mark.parametrize("name", ["evaluate/metrics.json", "evaluate/matches.json", "split/metrics.json"])
def test_lost_evidence_is_found(report, name):
    (report / "runs/toys/10p/s0" / name).unlink()
    wrong(report, r"no such file|low .* is written, the evidence gives None")


def test_a_manifest_that_says_something_else_is_found(report):
    edit(report / "runs/toys/10p/s0/evaluate/params.json", lambda m: m.update(git_commit="def"))
    wrong(report, "toys/10p/s0/evaluate/params.json has other facts")


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
    assert {f"{name}_toys.json" for name in ("results", "table_main", "table_gains", "table_budget", "table_times", "table_levels")} == set(said)
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
    assert said["table_weak_labels_toys.json"].startswith("is missing, it would show toys/10p-prompt_none/s1, toys/10p/s1")
    assert said["results_bricks.json"] == "is missing, it would show bricks/5p/s0. Run `pointwssis report`."
    assert "table_levels_toys.json" not in said and "results_coco.json" not in said


def test_a_row_that_was_cut_out_or_renamed_is_missed(report):
    edit(report / "figures/table_gains_toys.json", lambda t: t["rows"].pop(1))
    edit(report / "figures/results_toys.json", lambda t: t["rows"][0].__setitem__(1, "student of teacher's masks, AP"))
    for name in ("table_gains_toys", "results_toys"): respell(report / f"figures/{name}.json")
    now = "differs from that of the runs. Run `pointwssis report`."
    assert lacking(report) == {"table_gains_toys.json": f"row 2 {now}", "results_toys.json": f"row 1 {now}"}


def respell(path):
    "Markdown and CSV of a table as its JSON has them."
    table = read_json(path)
    for suffix, spell in ((".md", markdown), (".csv", spreadsheet)): path.with_suffix(suffix).write_text(spell(table), encoding="utf-8")


@pytest.mark.parametrize("name, change, says", [
    ("ap_by_split_toys", lambda f: f["values"][0].update(here=99.0), r"values\[0\].here 99.0 is written, the evidence gives \d"),
    ("ap_by_split_toys", lambda f: f["values"][0].update(result="supervised_ap_percent"), r"values\[0\].result supervised_ap_percent is written"),
    ("ap_by_split_toys", lambda f: f["values"][0].update(sd=None), r"values\[0\].sd None is written"),
    ("ap_by_split_toys", lambda f: f["values"].append({"here": 31.5}), r"values\[4\].here 31.5 has no evidence"),
    ("ap_by_split_toys", lambda f: f["values"].pop(), r"values\[3\].\w+ is not written, the evidence gives"),
    ("ap_by_split_toys", lambda f: f.update(caption=f["caption"].replace("2 seeds", "3 seeds")), "caption 3 seeds.* is written, the evidence gives 2 seeds"),
    ("ap_by_hours_toys", lambda f: f["values"][1].update(hours="0.3"), r"values\[1\].hours 0.3 is written"),
    ("curves_toys", lambda f: f["values"][0]["loss"].__setitem__(1, 1.0), r"values\[0\].loss\[1\] 1.0 is written, the evidence gives 1.25"),
    ("ablation_levels_toys", lambda f: f["values"][0].update(mean=1.5), r"values\[0\].mean 1.5 is written"),
    ("ablation_levels_toys", lambda f: f.clear(), r"values\[0\].\w+ is not written|shows is not written")])
def test_a_number_mended_beside_a_figure_is_found(report, name, change, says):
    edit(report / f"figures/{name}.json", change)
    refused(report, f"{name}.json: {says}", "Find out why, then run `pointwssis report`.")


def test_words_of_a_caption_count(report):
    edit(report / "figures/curves_toys.json", lambda f: f.update(caption=f["caption"].replace("loss", "gain")))
    refused(report, "curves_toys.json: caption .*gain.* is written", "Find out why, then run `pointwssis report`.")


def test_a_figure_that_was_lost_is_found(report):
    (report / "figures/curves_toys.json").unlink()
    refused(report, "curves_toys.json: is missing, though the evidence gives it", "Run `pointwssis report`.")


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_page_that_says_something_else_is_found(report, name):
    path = report / "figures" / name
    told, value = path.read_text(), f"{read_json(report / 'figures/results_toys.json')['rows'][0][3]['numbers']['value']:.1f}"
    path.write_text(re.sub(rf"(?<![\d.]){re.escape(value)}(?!\d)", "99.9", told, count=1))
    refused(report, f"{name}: '.*99.9.*' is written where tables and figures beside it give '.*{value}", "Run `pointwssis report`.")
    path.write_text(told + "<p>AP 41</p>")
    refused(report, f"{name}: '.*41.*' is written where tables and figures beside it give 'nothing'", "Run `pointwssis report`.")
    path.unlink()
    refused(report, f"{name}: 'nothing' is written where tables and figures beside it give", "Run `pointwssis report`.")
    write_page(report / "runs", report / "figures")
    verify(report / "runs", report / "figures")


@pytest.mark.parametrize("text", ['{"shows": "gains", "dataset": "toys", "values": [{"gain": 9.5}]}', '{"shows": 3}', "[]", '{"note": "40.1"}'])
def test_a_figure_without_evidence_is_found(report, text):
    (report / "figures/other_toys.json").write_text(text)
    refused(report, "other_toys.json: shows .* has no evidence: no run, no loaded plug-in gives that", "Delete it, or bring its runs back.")


def test_evidence_that_a_figure_lost_is_found(report):
    for seed in (0, 1): (report / f"runs/toys/10p/s{seed}/teacher/metrics.json").unlink()
    (report / "runs/toys/10p-level_1/s0/teacher/metrics.json").unlink()
    refused(report, "json: caption .* is written", "Find out why, then run `pointwssis report`.")       # the teacher's steps are in captions
    path, evidence = report / "figures/curves_toys.json", Evidence(report / "runs", report / "figures")
    fault = f"{path}: shows curves has no evidence: no run, no loaded plug-in gives that", "Delete it, or bring its runs back."
    assert fault in [*check_figures(evidence, collect(report / "runs"), {path: read_json(path)})]


@pytest.mark.parametrize("change, says", [
    (lambda f: f["values"][0].update(ap=40.0), r"values\[0\].ap 40.0 is written"),
    (lambda f: f.update(seconds_per_point=6.0), r"seconds_per_point 6.0 is written, the evidence gives 7.0|more are wrong"),
    (lambda f: f.update(hours=.29), "caption.* is written, the evidence gives"),
    (lambda f: f.update(hours="many"), "has no hours, seconds_per_mask, seconds_per_point"),
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
    ("overview", lambda f: f.update(seed=5), "seed 5 has no evidence: toys/10p/s5/report/params.json is missing", AGAIN.replace("seed 0", "seed 5")),
    ("overview", lambda f: f["images"].append(99), r"images\[1\] 99 is no image that toys/10p/s0/evaluate evaluated", AGAIN),
    ("networks", lambda f: f["images"].append(99), r"images\[2\] 99 is no image that", AGAIN),
    ("networks", lambda f: f.update(student="7" * 64), "was drawn with another student than that of toys/10p/s0/evaluate", AGAIN),
    ("labels", lambda f: f.update(shows="overview"), "shows overview is written, so its name should be toys_10p_overview", "Delete it."),
    ("labels", lambda f: f.pop("images"), "images None has no evidence", "Run the stage report again, or delete it.")])
def test_a_photograph_that_claims_too_much_is_found(report, name, change, says, cure):
    edit(report / f"figures/toys_10p_{name}.json", change)
    refused(report, f"toys_10p_{name}.json: {says}", cure)


def test_photographs_of_another_run_are_found(report):
    manifest = report / "runs/toys/10p/s0/report/params.json"
    edit(manifest, lambda m: m["parameters"].update(seed=3))
    refused(report, "seed 0 is written, toys/10p/s0/report/params.json gives 3", AGAIN)
    edit(manifest, lambda m: m.update(parameters={"dataset": "toys", "split": "10p", "seed": 0}, inputs={"split/a_s.json": "99"}))
    refused(report, "seed 0: was drawn from another split/a_s.json than that of toys/10p/s0/evaluate. 2 more faults", AGAIN)


@pytest.mark.parametrize("points, found", [(20, True), (90, False)])
def test_weak_images_without_truth_may_be_photographed(report, points, found):
    "20 objects were judged. If there are more points, as in a second weak set, some images could not be judged."
    split = report / "runs/toys/10p/s0/split"
    finish(report / "runs", "toys/10p/s0/split", read_json(split / "metrics.json") | {"points": points}, outputs={"a_s.json": "12"})
    write_report(report / "runs", report / "figures")
    plan(report / "runs", "toys", .3, figures=report / "figures")
    about = read_json(report / "figures/toys_10p_labels.json")
    again = about | {"images": [*about["images"], 99]}
    save_picture(Figure(figsize=(1, 1)), report / "figures/toys_10p_labels", photograph=True, **again)
    write_page(report / "runs", report / "figures")
    write_sums(report / "runs", report / "figures")
    if found: refused(report, r"labels.json: images\[3\] 99 is no image", AGAIN)
    else: verify(report / "runs", report / "figures")


def test_the_data_set_with_a_second_weak_set_is_verified_too(tmp_path):
    for split, seed in (("10p", 0), ("10p", 1), ("20p", 0)):
        evaluated(tmp_path / "runs", f"bdd100k/{split}/s{seed}", seed, (.3, .4, .5, .6))
    write_report(tmp_path / "runs", tmp_path / "figures")
    assert verify(tmp_path / "runs", tmp_path / "figures").records == 3


def test_the_command_ends_with_one_line(report, capsys):
    places = ["--runs", str(report / "runs"), "--figures", str(report / "figures")]
    assert main(["report", "--verify", *places]) == 0 and "agree with the evidence" in capsys.readouterr().out
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
    assert len(said) == 6 and all(line.startswith("error: ") and line.endswith("Run `pointwssis report`.") for line in said)
    shutil.rmtree(report / "figures")
    assert main(["report", "--verify", *places]) == 2 and "no tables. Run `pointwssis report` first" in capsys.readouterr().err


RUN = "runs/toys/10p/s0"

def text(old, new, count=1):
    "A change of words; the old ones must be there."
    def change(path):
        told = path.read_text(encoding="utf-8")
        assert old in told, f"{path} has no {old}"
        path.write_text(told.replace(old, new, count), encoding="utf-8")
    return change


def value(*place, to):
    "A change of one JSON value; `to` may be a function of the old one."
    def change(path):
        def replace(told):
            for key in place[:-1]: told = told[key]
            told[place[-1]] = to(told[place[-1]]) if callable(to) else to
        edit(path, replace)
    return change


def bytes_from(other):
    def change(path): path.write_bytes((path.parent / other).read_bytes())
    return change


def flipped(path):
    "The sign of the first gain, which the pages write as +4.0 or -1.5."
    told = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"([+-])(\d+\.\d)", lambda m: "+-"[m[1] == "+"] + m[2], told, count=1), encoding="utf-8")


def repacked(path):
    "Another picture inside the page."
    picture = base64.b64encode(b"another picture").decode()
    path.write_text(re.sub(r"(src=\"data:image/\w+;base64,)[^\"]*", rf"\g<1>{picture}", path.read_text(), count=1))


def removed(path): path.unlink()
def added(path): path.write_text("{}")
def zeros(inputs): return dict.fromkeys(inputs, "0" * 64)
def more(number): return number + 1


TAMPERINGS = {   # name: file, change, the file that is named if it is another one
    "a digit in a notebook's prose": (f"{RUN}/teacher/notebook.ipynb", text("As of step 40", "As of step 41")),
    "a digit that a notebook printed": (f"{RUN}/pseudo/notebook.ipynb", text("'points': 20", "'points': 21"), "pseudo/metrics.json"),
    "a notebook lost": (f"{RUN}/student/notebook.ipynb", removed),
    "a notebook of another stage": (f"{RUN}/student/notebook.ipynb", bytes_from("../teacher/notebook.ipynb")),
    "a file slipped into a run": (f"{RUN}/student/notes.json", added),
    "a manifest lost": (f"{RUN}/student/params.json", removed),
    "a manifest that is no JSON object": (f"{RUN}/student/params.json", lambda path: path.write_text("[]")),
    "the commit": (f"{RUN}/student/params.json", value("git_commit", to="def")),
    "the device": (f"{RUN}/teacher/params.json", value("device", to="GPU"), "teacher/params.json"),
    "the time": (f"{RUN}/student/params.json", value("wall_s", to=9.5)),
    "an endless time": (f"{RUN}/student/params.json", value("wall_s", to=-1)),
    "a failed stage": (f"{RUN}/student/params.json", value("status", to="failed")),
    "the fingerprint": (f"{RUN}/student/params.json", value("fingerprint", to="0" * 64)),
    "the split": (f"{RUN}/student/params.json", value("parameters", "split", to="20p")),
    "the seed": (f"{RUN}/student/params.json", value("parameters", "seed", to=1)),
    "the data set": (f"{RUN}/student/params.json", value("parameters", "dataset", to="bricks")),
    "the variant": (f"{RUN}/student/params.json", value("parameters", "overrides", to={"variant": "level_1"})),
    "the stage": (f"{RUN}/student/params.json", value("stage", to="teacher")),
    "the manifest of another seed": (f"{RUN}/student/params.json", bytes_from("../../s1/student/params.json")),
    "the manifest of another variant": (f"{RUN}/student/params.json", bytes_from("../../../10p-level_1/s0/student/params.json")),
    "the manifest of another stage": (f"{RUN}/student/params.json", bytes_from("../student_refined/params.json")),
    "inputs of zeros": (f"{RUN}/evaluate/params.json", value("inputs", to=zeros), "evaluate/params.json"),
    "no inputs": (f"{RUN}/student/params.json", value("inputs", to={})),
    "weights of another training": (f"{RUN}/evaluate/params.json", value("inputs", f"student/{LAST}", to="7" * 64)),
    "what a stage left": (f"{RUN}/student/params.json", value("outputs", LAST, to="7" * 64), "evaluate/params.json"),
    "pretrained weights of zeros": (f"{RUN}/split/params.json", value("inputs", "teacher.weights", to="0" * 64), "split/params.json"),
    "pretrained weights of one run": ("runs/toys/10p/s1/split/params.json", value("inputs", "teacher.weights", to="57"), "split/params.json"),
    "an AP": (f"{RUN}/evaluate/metrics.json", value("teacher_ap_percent", to=50.0), "results_toys.json"),
    "the AP among the models": (f"{RUN}/evaluate/metrics.json", value("models", "teacher", "ap_percent", to=more)),
    "AP50": (f"{RUN}/evaluate/metrics.json", value("models", "teacher", "ap50_percent", to=more)),
    "AP75": (f"{RUN}/evaluate/metrics.json", value("models", "student_sw", "ap75_percent", to=more)),
    "the AP of small objects": (f"{RUN}/evaluate/metrics.json", value("models", "teacher", "aps_percent", to=5.0)),
    "the AP of a class": (f"{RUN}/evaluate/metrics.json", value("models", "supervised", "per_class", "toy", to=more)),
    "the name of a class": (f"{RUN}/evaluate/metrics.json", value("models", "teacher", "per_class", to={"boy": 3.0}), "gains_toys.json"),
    "points without a mask": (f"{RUN}/evaluate/metrics.json", value("points_without_mask", to=more)),
    "points without a mask among the labels": (f"{RUN}/pseudo/metrics.json", value("points_without_mask", to=more)),
    "points of a class": (f"{RUN}/pseudo/metrics.json", value("by_class", "toy", to=[21, 3])),
    "the points that were judged": (f"{RUN}/evaluate/metrics.json", value("points", to=more)),
    "mean IoU of what was found": (f"{RUN}/evaluate/metrics.json", value("pseudo_sw_refined_miou_found_percent", to=more), "results_toys.json"),
    "the time of a stage": (f"{RUN}/evaluate/metrics.json", value("stages", "teacher", "wall_s", to=30.0), "table_times_toys.json"),
    "the final loss": (f"{RUN}/teacher/metrics.json", value("final_loss", to=.5)),
    "the steps": (f"{RUN}/teacher/metrics.json", value("steps", to=4000), "results_toys.json"),
    "the curve": (f"{RUN}/teacher/metrics.json", value("history", "loss", 0, to=9.5), "curves_toys.json"),
    "metrics lost": (f"{RUN}/refiner/metrics.json", removed),
    "a plot replaced as PNG": ("figures/curves_toys.png", bytes_from("ap_by_split_toys.png")),
    "a plot replaced as PDF": ("figures/curves_toys.pdf", bytes_from("ap_by_split_toys.pdf")),
    "a byte of a PNG": ("figures/curves_toys.png", lambda path: path.write_bytes(path.read_bytes()[:-30] + bytes(30))),
    "a byte of a PDF": ("figures/curves_toys.pdf", lambda path: path.write_bytes(path.read_bytes() + b" ")),
    "a photograph replaced": ("figures/toys_10p_overview.webp", bytes_from("toys_10p_labels.webp")),
    "a PDF lost": ("figures/curves_toys.pdf", removed),
    "a number of the summary": ("figures/summary.json", value("toys", "10p", "paper", "teacher_ap_percent", to=more)),
    "a metric added to the summary": ("figures/summary.json", value("toys", "10p", "paper", "wonder_percent", to=99.0)),
    "a recipe added to the summary": ("figures/summary.json", value("toys", "10p", "ours", to={"student_sw_refined_ap_percent": 99.0})),
    "the summary lost": ("figures/summary.json", removed),
    "a file slipped into the figures": ("figures/more.txt", added),
    "a sign in report.md": ("figures/report.md", flipped),
    "a sign in report.html": ("figures/report.html", flipped),
    "a name in report.md": ("figures/report.md", text("| teacher, AP |", "| supervised, AP |")),
    "a name in report.html": ("figures/report.html", text(">teacher, AP<", ">supervised, AP<")),
    "a picture in report.html": ("figures/report.html", repacked),
    "a link in report.md": ("figures/report.md", text("s0/evaluate/notebook.ipynb", "s1/evaluate/notebook.ipynb")),
    "a name in a table": ("figures/table_budget_toys.md", text("teacher", "supervised"), "table_budget_toys.md"),
    "a sign in a table": ("figures/table_gains_toys.md", flipped),
    "the caption of a table": ("figures/results_toys.json", value("caption", to=lambda told: told + " On test-dev."), "results_toys"),
    "a column of a table": ("figures/results_toys.json", value("columns", 3, to="published"), "results_toys"),
    "a note of a table": ("figures/results_toys.json", value("notes", to=[]), "results_toys"),
    "a name in a caption": ("figures/curves_toys.json", value("caption", to=lambda told: f"supervised {told}")),
    "the name of a line": ("figures/ap_by_split_toys.json", value("values", 0, "result", to="supervised_ap_percent")),
    "the sums lost": ("figures/SHA256SUMS", removed),
    "a sum": ("figures/SHA256SUMS", text("a", "b"), ""),
}
MANY = 40


def test_the_manifest_of_every_stage_is_checked():
    "A stage that the check did not know would pass as a file from outside."
    assert STAGE_NAMES == set(STAGES) and all(set(needs) <= set(STAGES[name].needs) for name, needs in READS.items())


def test_the_student_of_a_first_round_is_looked_for_in_its_own_run(tmp_path):
    "Whatever the seed; weights that no run has left are named."
    for seed, left in ((0, "11"), (1, "22")):
        first, second = f"toys/10p-recipe_competition/s{seed}", f"toys/10p-ours_second_round/s{seed}"
        finish(tmp_path, f"{first}/student_refined", {}, outputs={LAST: left})
        reads = {f"first_student_refined/{LAST}": "11"}
        finish(tmp_path, f"{second}/pseudo", {}, inputs=reads, config={"first_round": "recipe_competition"})
    faults = [fault for fault in check_manifests(Evidence(tmp_path)) if "first_student_refined" in fault]
    assert len(faults) == 1 and "s1/pseudo/params.json: input first_student_refined/last.safetensors is 11, toys/10p-recipe_competition/s1/student_refined" in faults[0]
    assert {f"first_{name}": name for stage in STAGES.values() for name in stage.first} == FIRST


def test_there_are_many_tamperings():
    assert len(TAMPERINGS) >= MANY


def complaint(root):
    with pytest.raises(DataError) as e: verify(root / "runs", root / "figures")
    return str(e.value)


@pytest.fixture(scope="module")
def spoiled(made, tmp_path_factory):
    "A copy of everything, whose files are put back after each change."
    root = tmp_path_factory.mktemp("spoiled")
    for name in ("runs", "figures"): shutil.copytree(made / name, root / name)
    write_page(root / "runs", root / "figures")
    write_sums(root / "runs", root / "figures")
    verify(root / "runs", root / "figures")
    return root


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(spoiled, name):
    file, change, *other = TAMPERINGS[name]
    path = spoiled / file
    before = path.read_bytes() if path.is_file() else None
    try:
        change(path)
        said = complaint(spoiled)
    finally:
        if before is None: path.unlink()
        else: path.write_bytes(before)
    assert (other or [file.partition("/")[2]])[0] in said and "\n" not in said


SEALED = [name for name, (file, *_) in TAMPERINGS.items() if "SHA256SUMS" not in file and name not in {   # nothing else knows of these
    "a digit in a notebook's prose", "a file slipped into a run", "a file slipped into the figures", "the commit", "the time",
    "the fingerprint", "a byte of a PNG", "a byte of a PDF", "a picture in report.html", "a notebook of another stage"}]


@pytest.mark.parametrize("name", SEALED)
def test_tampering_is_found_though_every_hash_was_made_again(spoiled, name):
    file, change, *_ = TAMPERINGS[name]
    path, sums = spoiled / file, spoiled / "figures/SHA256SUMS"
    manifest = path.with_name("params.json")
    before = {place: place.read_bytes() for place in {path, sums, manifest} if place.is_file()}
    try:
        change(path)
        if path != manifest and manifest.is_file(): edit(manifest, lambda m: m.update(files=hashes_of(path.parent)))
        write_sums(spoiled / "runs", spoiled / "figures")
        assert "\n" not in complaint(spoiled)
    finally:
        for place, content in before.items(): place.write_bytes(content)


COMMITTED = [
    ("runs/shapes/10p/s0/student/notebook.ipynb", text("0.87", "0.77")), ("runs/shapes/1p/s2/teacher/params.json", value("git_commit", to="0" * 12)),
    ("runs/animals7/20p/s0/pseudo/notebook.ipynb", removed), ("figures/gains_shapes.pdf", bytes_from("gains_animals7.pdf"))]


@pytest.mark.parametrize("file, change", COMMITTED)
def test_tampering_with_the_committed_evidence_is_found(tmp_path, file, change):
    "By the sums and the manifests alone, which need seconds."
    (tmp_path / "runs").symlink_to(ROOT / "runs", target_is_directory=True) if file.startswith("figures") else shutil.copytree(ROOT / "runs", tmp_path / "runs")
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    change(tmp_path / file)
    found = [*check_manifests(Evidence(tmp_path / "runs")), *check_sums(tmp_path / "runs", tmp_path / "figures")]
    assert found and all(file in line for line in found)


def test_all_runs_under_a_name_may_move_to_another_one_together(report):
    runs = report / "runs"
    (runs / "toys").rename(runs / "blocks")
    assert [*check_manifests(Evidence(runs))] == []
    edit(runs / "blocks/10p/s0/teacher/params.json", lambda m: m["parameters"].update(dataset="others"))
    found = [*check_manifests(Evidence(runs))]
    assert any("blocks/10p/s0/evaluate/params.json: is the manifest of toys/10p/s0/evaluate" in fault for fault in found)


def test_a_copy_of_runs_under_another_name_is_no_evidence(report):
    runs = report / "runs"
    shutil.copytree(runs / "toys", runs / "blocks")
    found = [*check_manifests(Evidence(runs))]
    assert f"{runs}/blocks/10p/s0/teacher/params.json: is a copy of toys/10p/s0/teacher" in found
    assert not any(fault.startswith(f"{runs}/toys/") for fault in found)
