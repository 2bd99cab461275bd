"Tables and figures from metrics alone: what is published, what is ours, and what is not known."
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pointwssis.core import DataError, StageError, write_json
from pointwssis.method.ablations import ABLATIONS, VARIANTS
from pointwssis.report.comparisons import results_by_split, tables_of, without_points
from pointwssis.report.comparisons_ablations import ablation
from pointwssis.report.comparisons_costs import cost_by_split, times
from pointwssis.report.comparisons_main import main_table as recipes_table
from pointwssis.report.comparisons_main import summary_of
from pointwssis.report.evidence import Evidence
from pointwssis.report.figures_scores import ap_figure
from pointwssis.report.matches import Detections, Matches, Record
from pointwssis.report.report import FEW, write_report
from pointwssis.report.results import COCO_STUDENT, CONTROLS, RESULTS, UNMATCHED, collect
from pointwssis.report.tables import markdown, spreadsheet
from pointwssis.runs.cli import main

PLAIN = {key: name for key, name in RESULTS.items() if key not in CONTROLS and not re.search("matched|found", key)}   # of runs without more
AP = ("teacher_ap_percent", "student_sw_ap_percent", "student_sw_refined_ap_percent", "supervised_ap_percent")
STAGES = {"teacher": {"wall_s": 90.0, "device": "CPU, 2 threads"}, "student": {"wall_s": 600.0, "device": "GPU X"}}


def put(runs, dataset, split, seed, *values, **more):
    place = runs / dataset / split / f"s{seed}" / "evaluate"
    place.mkdir(parents=True)
    base = {"pseudo_sw_miou_percent": 60.04, "pseudo_sw_refined_miou_percent": 70.06, "points_without_mask": 3, "stages": STAGES}
    write_json(place / "metrics.json", dict(zip(AP, values)) | base | more)


@pytest.fixture
def runs(tmp_path):
    put(tmp_path / "runs", "coco", "5p", 0, 20.0, 30.0, 32.26, 38.0)
    put(tmp_path / "runs", "coco", "12.5p", 0, 21.0, 31.0, 34.0, 38.0)
    put(tmp_path / "runs", "coco", "10p", 0, 22.0, 31.5, 36.0, 38.0)
    for seed in (0, 1, 10): put(tmp_path / "runs", "shapes", "10p", seed, 20.0 + seed, 25.0, 30.0, 35.0)
    return tmp_path / "runs"


def of(runs, dataset): return [r for r in collect(runs) if r["dataset"] == dataset]


def test_collect_orders_by_share_and_seed(runs):
    assert [(r["dataset"], r["split"], r["seed"]) for r in collect(runs)] == [
        ("coco", "5p", 0), ("coco", "10p", 0), ("coco", "12.5p", 0), ("shapes", "10p", 0), ("shapes", "10p", 1), ("shapes", "10p", 10)]
    assert collect(runs)[0]["metrics"]["student_sw_refined_ap_percent"] == 32.26


def test_collect_ignores_what_is_unfinished_and_names_what_is_broken(runs, tmp_path):
    (runs / "coco/5p/s0/failed").mkdir()
    (runs / "coco/5p/s1/evaluate").mkdir(parents=True)
    assert len(collect(runs)) == 6
    with pytest.raises(StageError, match="Run the stage evaluate first"): collect(tmp_path / "none")
    (runs / "coco/5p/s1/evaluate/metrics.json").write_text("{,")
    with pytest.raises(DataError, match="metrics.json"): collect(runs)


def test_reproduce_ends_with_the_rows_of_its_own_split(runs, monkeypatch, capsys, half_a_second):
    put(runs, "shapes", "1p", 0, 3.0, 8.0, 9.0, 35.0)
    write_report(runs, runs.parent / "figures")
    done = SimpleNamespace(folder=runs / "shapes/1p/s0/report")
    monkeypatch.setattr("pointwssis.runs.runner.reproduce", lambda *args, **more: [done])
    assert main(["reproduce", "--split", "1%", "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "shapes, 1% of the images with masks, seed 0" in said and re.search(r"student with refined masks +9\.0\n", said)
    assert "10%" not in said and f"Notebooks: {runs / 'shapes/1p/s0'}/STAGE/notebook.ipynb" in said


def test_published_numbers_are_the_known_ones():
    assert COCO_STUDENT == {"1p": 24.0, "2p": 25.3, "5p": 33.7, "10p": 35.8, "20p": 37.1, "30p": 38.0, "40p": 38.3, "50p": 38.8}


def main_table(runs, dataset): return results_by_split(Evidence(runs), dataset, of(runs, dataset))
def line_of(md, start): return next((row for row in md.splitlines() if row.startswith(start)), "")
def link(*seeds, run="shapes/10p"): return ", ".join(f"[{s}](../runs/{run}/s{s}/evaluate/notebook.ipynb)" for s in seeds)


def test_coco_table_compares(runs):
    md = markdown(main_table(runs, "coco"))
    assert f"| 5% | student of refined masks, AP | 33.7 | 32.3 | -1.4 | {link(0, run='coco/5p')} |" in md
    assert "| 10% | student of refined masks, AP | 35.8 | 36.0 | +0.2 |" in md
    assert "| all | supervised, AP | 39.7 | 38.0 | -1.7 |" in md and md.count("supervised, AP") == 1
    assert "| 12.5% | student of refined masks, AP | —¹ | 34.0 | —¹ |" in md
    assert "| 5% | teacher, AP | —¹ | 20.0 | —¹ |" in md
    assert "| 50% | student of refined masks, AP | 38.8 | —² | —² | —² |" in md and not line_of(md, "| 50% | teacher")
    assert "test-dev" in md and "not the paper's numbers" not in md and "\n¹ no published number" in md


def test_small_data_is_never_compared(runs):
    made = main_table(runs, "shapes")
    assert "Same method, other data: these are not the paper's numbers" in markdown(made).splitlines()[0]
    cells = [entry for row in made["rows"] for entry in row if isinstance(entry, dict)]
    assert all(c["numbers"]["value"] is None for c in cells if c["how"] == "difference")
    assert not [c for c in cells if "published#" in str(c)]
    assert "35.8" not in markdown(made) and "39.7" not in markdown(made)


def test_bdd100k_table_has_the_form_of_cocos_and_dashes_for_what_is_not_published(runs):
    "Its published numbers are not in our sources: every such place is a dash with its footnote, and nothing is compared."
    for seed, teacher in ((0, 14.0), (1, 15.0)): put(runs, "bdd100k", "10p", seed, teacher, 18.0, 19.5, 25.0)
    put(runs, "bdd100k", "5p", 0, 10.0, None, 16.25)
    tables = tables_of(Evidence(runs), "bdd100k", of(runs, "bdd100k"))
    made, coco = tables["results_bdd100k"], main_table(runs, "coco")
    assert made["columns"] == coco["columns"] == ["masks", "result", "published", "reproduced", "difference", "seeds"]
    assert [row[:2] for row in made["rows"]] == [[split, name] for split in ("5%", "10%") for name in PLAIN.values()
                                                  if name != "supervised, AP"] + [["all", "supervised, AP"]]
    md, ten = markdown(made), link(0, 1, run="bdd100k/10p")
    for name, value in (("teacher, AP", "14.5 ± 0.7"), ("student of teacher's masks, AP", "18.0 ± 0.0"), ("student of refined masks, AP", "19.5 ± 0.0"),
                        ("refined masks, mIoU of all points", "70.1 ± 0.0")):
        assert f"| 10% | {name} | —¹ | {value} | —¹ | {ten} |" in md
    assert f"| 5% | student of refined masks, AP | —¹ | 16.2 | —¹ | {link(0, run='bdd100k/5p')} |" in md
    assert "| 5% | student of teacher's masks, AP | —¹ | —² | —² | —² |" in md and f"| all | supervised, AP | —¹ | 25.0 ± 0.0 | —¹ | {ten} |" in md
    assert "\n¹ no published number in our sources" in md and "\n² not run" in md
    assert md.startswith("**bdd100k.** The paper's numbers for this set are not in our sources") and "not the paper's numbers" not in md
    assert "published#" not in json.dumps(tables) and "none can stand beside" in markdown(tables["table_without_points_bdd100k"])


def test_bdd100k_has_every_other_table_and_its_own_words_in_figures(runs):
    put(runs, "bdd100k", "10p", 0, 14.0, 18.0, 19.5, 25.0)
    counted = {"strong_masks": 100, "points": 900, "strong_images": 5, "weak_images": 95}
    write_json(runs / "bdd100k/10p/s0/split/metrics.json", counted)
    write_json(runs / "bdd100k/10p/s0/supervised/metrics.json", {"images": 50})      # the second weak set has no masks to learn from
    tables = tables_of(Evidence(runs), "bdd100k", of(runs, "bdd100k"))
    assert set(tables) == {"results_bdd100k", *(f"table_{name}_bdd100k" for name in ("main", "gains", "budget", "times", "without_points"))}
    hours = markdown(tables["table_budget_bdd100k"])
    assert "| all | supervised | —⁵ | none | —⁵ | 25.0 |" in hours and "| 10% | student of refined masks | 100 | 900 | 4.0 | 19.5 |" in hours
    left = "| 10% | left to gain: supervised over student of refined masks, AP | +5.5⁴ from 19.5, n = 1 | 78.0%⁴, n = 1 |"
    assert left in markdown(tables["table_gains_bdd100k"])
    assert ap_figure(of(runs, "bdd100k")).axes[0].get_title("right") == "bdd100k"


def test_seeds_become_mean_and_deviation(runs):
    md = markdown(main_table(runs, "shapes"))
    assert f"| 10% | teacher, AP | —¹ | 23.7 ± 5.5 | —¹ | {link(0, 1, 10)} |" in md
    assert "| 10% | student of teacher's masks, AP | —¹ | 25.0 ± 0.0 | —¹ |" in md


def test_missing_and_undefined_results(runs):
    put(runs, "coco", "1p", 0, 10.0, None, 20.0)
    made = main_table(runs, "coco")
    assert "| 1% | student of teacher's masks, AP | —¹ | —² | —² | —² |" in markdown(made) and "\n² not run" in markdown(made)
    assert "| all | supervised, AP | 39.7 | 38.0 | -1.7 |" in markdown(made)
    assert "NaN" not in json.dumps(made)
    ap_figure(of(runs, "coco"))


def test_a_difference_stands_beside_its_reference_on_the_same_seeds(runs):
    "The method's mean is over three seeds, the variant has one: value = reference + difference, and n says over how many."
    for seed, ap in enumerate((28.4, 26.2, 25.5)): put(runs, "toys", "10p", seed, 20.0, 25.0, ap, 35.0)
    put(runs, "toys", "10p-published", 0, 20.0, 25.0, 25.6, 35.0)
    rows = {row[0]: row for row in ablation(Evidence(runs), "toys", of(runs, "toys"), "behaviour")["rows"]}
    value, gain = (entry["numbers"] for entry in rows["published"][-3:-1])
    assert rows["fixed"][-3]["numbers"]["value"] == pytest.approx(26.7) and value["value"] == 25.6
    assert gain["reference"] == 28.4 and gain["n"] == 1 and gain["reference"] + gain["value"] == pytest.approx(value["value"])
    text = markdown(ablation(Evidence(runs), "toys", of(runs, "toys"), "behaviour"))
    assert "| 25.6 | -2.8⁴ from 28.4, n = 1 |" in text


def test_both_recipes_are_shown_with_the_seeds_that_both_have(runs):
    "Also those of the controls and of full supervision; a split with one recipe keeps all."
    for share in ("5p", "10p"):
        for seed in (0, 1, 2): put(runs, "toys", share, seed, 20.0 + seed, 25.0, 26.0 + seed, 34.0 + seed)
    made = recipes_table(Evidence(runs), "toys", of(runs, "toys"))
    assert [row[-1]["numbers"]["value"] for row in made["rows"]] == [3, 3, 3] and "both recipes" not in made["caption"]
    for seed, *own in ((1, 50.0), (2,)): put(runs, "toys", "10p-ours", seed, 20.0, 25.0, 30.0 + seed, *own)     # one with a supervised network of its setting
    evidence = Evidence(runs)
    made = recipes_table(evidence, "toys", of(runs, "toys"))
    five, ten, whole = made["rows"]
    assert "Only seeds that both recipes have." in made["caption"]      # another split has all seeds
    assert ten[0] == "10%" and [entry["numbers"]["value"] for entry in ten[1:]] == [21.5, 27.5, 31.5, 4.0, 2] and five[-1]["numbers"]["value"] == 3
    found = summary_of(evidence, of(runs, "toys"))["toys"]
    assert [found["10p"][name]["seeds"] for name in ("paper", "ours")] == [2, 2] and {of["supervised_ap_percent"] for of in found["10p"].values()} == {35.5} and found["5p"]["paper"]["seeds"] == 3
    for seed in (0, 1, 2): shutil.rmtree(runs / f"toys/5p/s{seed}")
    made = recipes_table(Evidence(runs), "toys", of(runs, "toys"))
    assert "Only seeds that both recipes have." in made["caption"] and made["rows"][-1][-1]["numbers"]["value"] == 2


def test_additions_to_a_variant_are_compared_with_that_variant(runs):
    for variant, ap in (("", 25.0), ("-recipe_competition", 28.0), ("-ours_average_weights", 29.5)): put(runs, "toys", f"10p{variant}", 0, 20.0, 25.0, ap)
    rows = {row[0]: row for row in ablation(Evidence(runs), "toys", of(runs, "toys"), "additions")["rows"]}
    assert rows["none"][-2] == "the method" and rows["average of the student's weights"][-2]["numbers"]["reference"] == 28.0
    put(runs, "dolls", "10p-recipe_competition", 0, 20.0, 25.0, 28.0, 35.0)
    assert ablation(Evidence(runs), "dolls", of(runs, "dolls"), "additions") is None      # a reference alone has nothing to be compared with


def test_variants_that_nobody_ran_are_named_in_the_caption(runs):
    "A row of dashes would say no more."
    for variant in ("", "-recipe_competition", "-ours_average_weights"): put(runs, "toys", f"10p{variant}", 0, 20.0, 25.0, 28.0)
    put(runs, "toys", "5p-recipe_competition", 0, 20.0, 25.0, 28.0)
    put(runs, "toys", "5p-ours_label_score", 0, 20.0, 25.0, 28.0)
    made = ablation(Evidence(runs), "toys", of(runs, "toys"), "additions")
    assert [row[:2] for row in made["rows"]] == [[name, share] for share in ("5%", "10%") for name in ("none", "average of the student's weights", "labels weighted by score")]
    absent = [row for row, variant in ABLATIONS["additions"].rows.items() if variant not in ("recipe_competition", "ours_average_weights", "ours_label_score")]
    assert f" Not run: {'; '.join(absent)}. " in made["caption"] + " "
    assert "Not run" not in ablation(Evidence(runs), "toys", [*of(runs, "toys"), *({**of(runs, "toys")[0], "variant": v} for v in VARIANTS)], "additions")["caption"]


def test_a_training_setting_stands_beside_the_same_setting_under_full_supervision(runs):
    "The reference is the supervised network of the main run. The caption of a second round says that there are two."
    for variant, *aps in (("", 25.0, 35.0), ("-recipe_competition", 28.0, None), ("-ours_copy_paste", 29.5, 36.5), ("-ours_second_round", 31.0, None)):
        put(runs, "toys", f"10p{variant}", 0, 20.0, 25.0, *[ap for ap in aps if ap])
    made = ablation(Evidence(runs), "toys", of(runs, "toys"), "additions")
    assert made["columns"][-3] == "supervised with this setting, AP" and "second student learns from them" in made["caption"]
    rows = {row[0]: row for row in made["rows"]}
    assert rows["none"][-3]["numbers"]["value"] == 35.0 and rows["none"][-2] == "the method"
    value, gain = (entry["numbers"] for entry in rows["outlined objects pasted"][-3:-1])
    assert value["value"] == 36.5 and gain["reference"] == 35.0 and gain["value"] == 1.5
    assert "numbers" not in rows["second round"][-3] or rows["second round"][-3]["numbers"].get("value") is None
    assert "supervised with this setting, AP" not in ablation(Evidence(runs), "toys", [r for r in of(runs, "toys") if "paste" not in r["variant"]], "additions")["columns"]


def test_matched_points_and_both_means_of_iou_stand_together(runs):
    "An object without a mask counts 0 in the mean of all, and every table that has the mean says so."
    found = {"pseudo_sw_miou_found_percent": 75.05, "pseudo_sw_refined_miou_found_percent": 87.575}
    for name in ("10p", "10p-level_0"): put(runs, "toys", name, 0, 20.0, 25.0, 30.0, 35.0, **found)
    text = markdown(main_table(runs, "toys"))
    for line in ("teacher's masks, matched points in % | —¹ | 80.0 |", "teacher's masks, mIoU of matched points | —¹ | 75.0 |",
                 "teacher's masks, mIoU of all points | —¹ | 60.0 |", "refined masks, matched points in % | —¹ | 80.0 |"):
        assert f"| 10% | {line}" in text, line
    varied = ablation(Evidence(runs), "toys", of(runs, "toys"), "levels")
    assert {"refined masks, matched points in %", "refined, mIoU of matched", "refined, mIoU of all"} < set(varied["columns"])
    assert all(UNMATCHED in markdown(made) for made in (main_table(runs, "toys"), varied))
    assert "matched points" not in markdown(main_table(runs, "shapes"))         # no run tells, so no row is empty


def test_controls_have_rows_only_where_a_run_has_them(runs):
    for made in tables_of(Evidence(runs), "shapes", of(runs, "shapes")).values():
        assert "student's schedule" not in markdown(made) and "without points" not in markdown(made).partition("\n")[2].lower()
    controls = {"teacher_long_ap_percent": 23.0, "student_without_points_ap_percent": 24.0}
    write_json(runs / "toys/10p/s0/split/metrics.json", {"strong_masks": 100, "points": 900, "strong_images": 5, "weak_images": 95})
    put(runs, "toys", "10p", 0, 20.0, 25.0, 30.0, 35.0, **controls)
    text = {name: markdown(made) for name, made in tables_of(Evidence(runs), "toys", of(runs, "toys")).items()}
    assert "| 10% | teacher with the student's schedule, AP | —¹ | 23.0 |" in text["results_toys"]
    assert "| 10% | student without points, AP | —¹ | 24.0 |" in text["results_toys"]
    assert "| 10% | steps alone: teacher with the student's schedule over teacher, AP | +3.0⁴ from 20.0, n = 1 |" in text["table_gains_toys"]
    assert "over student without points, AP | +6.0⁴ from 24.0, n = 1 |" in text["table_gains_toys"]
    assert "| 10% | student without points | 100 | none | 2.2 | 24.0 |" in text["table_budget_toys"]


def test_captions_say_steps_and_first_weights(runs):
    "Of students and supervised networks alike; a warning where they differ."
    write_json(runs / "toys/10p/s0/split/metrics.json", {"strong_masks": 100, "points": 900, "strong_images": 5, "weak_images": 95})
    for name in ("10p", "10p-level_0"): put(runs, "toys", name, 0, 20.0, 25.0, 30.0, 35.0)
    for stage in ("student_refined", "supervised"):
        write_json(runs / f"toys/10p/s0/{stage}/metrics.json", {"steps": 800, "start": "backbone", "images": 100})
    def captions():
        made = tables_of(Evidence(runs), "toys", of(runs, "toys"))
        return [made[f"{name}_toys"]["caption"] for name in ("results", "table_gains", "table_budget", "table_levels")]
    said = "Training: students, supervised 800 steps from the backbone's weights."
    assert all(caption.endswith(said) for caption in captions())
    write_json(runs / "toys/10p/s0/student_refined/metrics.json", {"steps": 800, "start": "teacher"})
    assert all("students 800 steps from the teacher's weights; supervised 800 steps from the backbone's" in caption
               and "not due to labels alone" in caption for caption in captions())


def test_markdown_is_one_well_formed_table_each(runs):
    results, took = main_table(runs, "coco"), times(Evidence(runs), "coco", of(runs, "coco"))
    for made in (results, took):
        block = [row for row in markdown(made).splitlines() if row.startswith("|")]
        assert len({row.count("|") for row in block}) == 1 and set(block[1]) <= set("| -") and len(block) == 2 + len(made["rows"])
    not_run = len({*COCO_STUDENT} - {"5p", "10p"})
    assert len(results["rows"]) == 3 * (len(PLAIN) - 1) + not_run + 1     # supervised: one row
    assert took["columns"] == ["masks", "teacher", "student", "device", "seed"]
    assert markdown(took).splitlines()[4] == f"| 5% | 1.5 | 10.0 | CPU, 2 threads; GPU X | {link(0, run='coco/5p')} |"


def test_csv_and_json_hold_full_precision(runs):
    made = main_table(runs, "coco")
    read = list(csv.DictReader(io.StringIO(spreadsheet(made))))
    assert len(read) == len(made["rows"])
    refined = next(r for r in read if r["masks"] == "5%" and r["result"] == "student of refined masks, AP")
    assert float(refined["reproduced"]) == 32.26 and refined["reproduced, sd"] == ""
    assert float(refined["difference"]) == pytest.approx(-1.44)
    cell = next(row for row in made["rows"] if row[:2] == ["5%", "student of refined masks, AP"])[3]
    assert cell["numbers"]["value"] == 32.26 and cell["of"] == ("coco/5p/s0/evaluate/metrics.json#student_sw_refined_ap_percent",)


def test_every_number_leads_to_the_runs_behind_it(runs):
    manifest = {"parameters": {"seed": 0, "split": "5p"}, "git_commit": "abc", "device": "GPU X", "wall_s": 5.0, "versions": {"torch": "2"},
                "inputs": {"annotations/a.json": "1f", "split/x_s.json": "2e", "pseudo/x_sw.json": "3d", "teacher/last.safetensors": "4c"}}
    for stage in ("evaluate", "student_refined"):
        write_json(runs / "coco/5p/s0" / stage / "params.json", manifest | {"wall_s": 5.0 + len(stage)})
    made = main_table(runs, "coco")
    cell = next(row for row in made["rows"] if row[:2] == ["5%", "student of refined masks, AP"])[3]
    assert cell["runs"] == ["coco/5p/s0/evaluate", "coco/5p/s0/student_refined"]
    told = made["runs"]["coco/5p/s0/student_refined"]
    assert told == {"path": "coco/5p/s0/student_refined", "git_commit": "abc", "parameters": manifest["parameters"], "device": "GPU X",
                    "seed": 0, "versions": {"torch": "2"}, "wall_s": 20.0, "data": {"annotations/a.json": "1f", "split/x_s.json": "2e"}}
    assert made["runs"]["coco/10p/s0/evaluate"]["git_commit"] == "—"
    for row in made["rows"]:
        for entry in row[2:]: assert isinstance(entry, dict) and set(entry["runs"]) <= set(made["runs"])


def test_report_writes_all_files_the_same_twice(runs, tmp_path):
    files = write_report(runs, tmp_path / "figures")
    names = {f.name for f in files}
    kinds = ("results", "table_times", "table_gains", "table_without_points")
    tables = {f"{kind}_{dataset}" for kind in kinds for dataset in ("coco", "shapes")}
    assert {f"{stem}.{suffix}" for stem in tables for suffix in ("md", "csv", "json")} <= names and "ap_by_split_coco.pdf" in names
    assert {f.name for f in (tmp_path / "figures").iterdir()} == names
    before = {f: f.read_bytes() for f in files}
    killed = f"import os; from pathlib import Path; from pointwssis.core import atomic_path\natomic_path(Path({str(files[0])!r})).__enter__().touch()\nos._exit(9)"
    assert subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[2]).returncode == 9
    write_report(runs, tmp_path / "figures")
    assert {f.name for f in (tmp_path / "figures").iterdir()} == names       # nothing is left of a report that was killed
    assert before == {f: f.read_bytes() for f in files}
    assert "](../runs/shapes/10p/s0/evaluate/notebook.ipynb)" in before[tmp_path / "figures/results_shapes.md"].decode()


def test_numbers_of_methods_without_points_are_quoted_with_what_they_depend_on(runs):
    made = without_points(Evidence(runs), "coco", of(runs, "coco"))
    rows = {row[0]: [entry if isinstance(entry, str) else entry["numbers"]["value"] for entry in row[1:]] for row in made["rows"]}
    at = made["columns"].index("5%") - 1
    assert {name: row[at] for name, row in rows.items()} == {
        "best semi-supervised method at the paper's time": 24.9, "Polite Teacher": 26.5, "Guided Distillation": 29.9, "S4M": 32.0,
        "PL-DC": 34.0,
        "this method, published": 33.7, "this method, reproduced": 32.26}
    assert rows["PL-DC"][:4] == ["masks", "Mask2Former, ResNet-50", "val", "its README"] and rows["this method, published"][2] == "test-dev"
    assert "a difference between rows is not due to the method alone" in made["caption"]
    assert without_points(Evidence(runs), "shapes", of(runs, "shapes"))["rows"] == []


def test_a_number_of_only_some_of_a_rows_runs_says_so(runs):
    "Labels of three seeds, a student of one."
    for seed in (0, 1, 10): put(runs, "shapes", "10p-unanswered_background", seed, 20.0, 25.0, *([28.0] if seed == 1 else []))
    md = markdown(ablation(Evidence(runs), "shapes", of(runs, "shapes"), "unmatched_points"))
    background = next(line for line in md.splitlines() if line.startswith("| background"))
    assert "| 70.1 ± 0.0 |" in background and "| 28.0⁶ | -2.0⁴ from 30.0, n = 1 |" in background and "⁶ of fewer runs than the row names" in md
    assert "⁶" not in markdown(main_table(runs, "shapes")) + markdown(main_table(runs, "coco"))


def test_an_ablation_has_a_row_for_each_variant_that_was_run(runs):
    for seed in (0, 1): put(runs, "shapes", "10p-level_0", seed, 20.0 + seed, 25.0, 26.0 + seed, 35.0, pseudo_sw_refined_miou_percent=50.0)
    put(runs, "shapes", "10p-prompt_none", 0, pseudo_sw_miou_percent=31.0)
    made = markdown(ablation(Evidence(runs), "shapes", of(runs, "shapes"), "levels"))
    ours = link(0, 1, run="shapes/10p-level_0")
    assert f"| always 1 of 5 | 10% | 60.0 ± 0.0 | 50.0 ± 0.0 | -20.1⁴ from 70.1, n = 2 | —² | —² | 26.5 ± 0.7 | -3.5⁴ from 30.0, n = 2 | {ours} |" in made
    assert "| always 2 of 5 |" not in made and "Not run: always 2 of 5; always 3 of 5; always 4 of 5; always 5 of 5; by true size (oracle)." in made
    method = "60.0 ± 0.0 | 70.1 ± 0.0 | the method | —² | the method | 30.0 ± 0.0 | the method"
    assert f"| adaptive | 10% | {method} | {link(0, 1, 10)} |" in made
    kinds = ablation(Evidence(runs), "shapes", of(runs, "shapes"), "weak_labels")
    assert line_of(markdown(kinds), "| none | 10% | 31.0³ |") and "\n³ these masks keep no link" in markdown(kinds)
    assert ablation(Evidence(runs), "shapes", of(runs, "shapes"), "points") is None
    names = set(tables_of(Evidence(runs), "shapes", of(runs, "shapes")))
    assert {"table_levels_shapes", "table_weak_labels_shapes"} <= names and "table_points_shapes" not in names


def test_hours_count_outlines_and_clicks(runs):
    for seed in (0, 1):
        counted = {"strong_masks": 100 + seed, "points": 900, "strong_images": 5, "weak_images": 45}
        write_json(runs / f"shapes/10p/s{seed}/split/metrics.json", counted)
        write_json(runs / f"shapes/10p/s{seed}/supervised/metrics.json", {"images": 50 if seed else 49})
    made = cost_by_split(Evidence(runs), "shapes", of(runs, "shapes"))
    rows = {row[1]: [e if isinstance(e, str) else e["numbers"]["value"] for e in row[2:6]] for row in made["rows"]}
    assert rows["teacher"] == [100.5, "none", pytest.approx(100.5 * 79.2 / 3600), pytest.approx(71 / 3)]
    assert rows["student of refined masks"] == [100.5, 900, pytest.approx((100.5 * 79.2 + 900 * 7) / 3600), 30]
    assert rows["supervised"] == [1001, "none", pytest.approx(1001 * 79.2 / 3600), 35]
    assert "| 5% | teacher | —² | —² | —² | 20.0 |" in markdown(cost_by_split(Evidence(runs), "coco", of(runs, "coco"))).replace("none", "—²")


def test_report_never_imports_torch(runs, tmp_path):
    code = ("import sys; from pointwssis.report.report import write_report; write_report(*sys.argv[1:]);"
            "sys.exit(any(m.split('.')[0] in ('torch', 'torchvision') for m in sys.modules))")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(runs), str(tmp_path / "f")], cwd=Path(__file__).parents[2],
                          env=os.environ | {"MPLBACKEND": "agg"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f/results_coco.md").exists() and done.stdout == ""


def judge(runs, dataset, split, **scores):
    place = runs / dataset / split / "published"
    place.mkdir(parents=True)
    write_json(place / "metrics.json", scores)


def test_published_checkpoints_have_a_column_of_their_own(runs):
    assert "evaluated here" not in markdown(main_table(runs, "coco"))
    judge(runs, "coco", "5p", teacher_ap_percent=21.04, student_sw_refined_ap_percent=33.5, pseudo_sw_miou_percent=71.0)
    made = main_table(runs, "coco")
    md = markdown(made)
    assert "| masks | result | published | published checkpoint, evaluated here | reproduced | difference | seeds |" in md
    assert "| 5% | student of refined masks, AP | 33.7 | 33.5 | 32.3 | -1.4 |" in md and "| 5% | teacher, AP | —¹ | 21.0 | 20.0 | —¹ |" in md
    assert "| 10% | teacher, AP | —¹ | —² | 22.0 | —¹ |" in md and "| 5% | teacher's masks, mIoU of all points | —¹ | 71.0³ | 60.0 | —¹ |" in md
    assert "\n³ these masks keep no link" in md
    judged = next(r for r in csv.DictReader(io.StringIO(spreadsheet(made))) if r["masks"] == "5%" and r["result"] == "teacher, AP")
    assert (judged["published checkpoint, evaluated here"], judged["reproduced"], judged["seeds"]) == ("21.04", "20.0", "1")


def test_published_checkpoints_alone_make_a_table_and_no_figure(tmp_path):
    judge(tmp_path / "runs", "coco", "40p", student_sw_refined_ap_percent=38.0)
    files = write_report(tmp_path / "runs", tmp_path / "figures")
    assert {f.stem for f in files} == {"results_coco", "table_without_points_coco", "summary", "report", "SHA256SUMS"}
    md = files[0].read_text()
    assert "| 40% | student of refined masks, AP | 38.3 | 38.0 | —² | —² | —² |" in md and "³" not in md


def record(folder, seed):
    "A record of 40 objects on 20 images, found by three networks."
    random, none = np.random.default_rng(seed), np.zeros((10, 40), bool)
    def found(skill): return Detections(np.arange(40) % 20, np.zeros(40, int), none | (random.random(40) < skill), none)
    networks = {name: found(skill) for name, skill in (("teacher", .4), ("student_sw", .6), ("student_sw_refined", .8), ("supervised", .9))}
    write_json(folder / "evaluate/matches.json", {"val": Record(Matches(np.arange(20), ("a",), np.full((1, 20), 2), networks), {}).packed()})


@pytest.fixture
def drawn(tmp_path):
    "As many evaluations with records as other processes are started for."
    for seed in range(FEW):
        put(tmp_path / "runs", "toys", "10p", seed, 20.0, 25.0, 30.0, 35.0)
        record(tmp_path / f"runs/toys/10p/s{seed}", seed)
    return tmp_path / "runs"


def test_a_report_of_two_processes_has_the_same_bytes(drawn):
    alone, shared = ({f.name: f.read_bytes() for f in write_report(drawn, drawn.parent / name, n)} for name, n in (("one", 1), ("two", 2)))
    assert alone == shared and b"Brackets" in alone["table_gains_toys.md"]


def test_a_broken_record_is_said_in_the_same_line_whoever_reads_it(drawn):
    (drawn / "toys/10p/s3/evaluate/matches.json").write_text('{"val": {"images": 3}}')
    for processes in (1, 2):
        with pytest.raises(DataError, match="s3/evaluate/matches.json: no record of matches"): write_report(drawn, drawn.parent / "figures", processes)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b", "[x](javascript:alert(1))", "$\\frac{x$", "`a` <b> *c*"])
def test_names_from_data_are_text_in_tables(tmp_path, name):
    row = {"dataset": name, "split": "10p", "variant": "", "seed": 0, "metrics": {"stages": {"teacher": {"wall_s": 60.0, "device": name}}}}
    text = markdown(times(Evidence(tmp_path), name, [row]))
    bare = re.sub(r"\\[\\`*\[\]<>|$]", "", text)
    assert "<" not in bare and "`" not in bare and "$" not in bare and "](javascript" not in bare
    assert {line.count("|") for line in bare.splitlines() if line.startswith("|")} == {5}
