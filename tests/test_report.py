"Tables and figures from metrics alone: what is published, what is ours, and what is not known."
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointwssis.core import DataError, StageError, write_json
from pointwssis.plots import ap_figure
from pointwssis.report import write_report
from pointwssis.results import COCO_STUDENT, RESULTS, collect, lines
from pointwssis.tables import table

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


def test_published_numbers_are_the_known_ones():
    assert COCO_STUDENT == {"1p": 24.0, "2p": 25.3, "5p": 33.7, "10p": 35.8, "20p": 37.1, "30p": 38.0, "40p": 38.3, "50p": 38.8}


def test_coco_table_compares(runs):
    md, _, _ = table(of(runs, "coco"))
    assert "| 5% | student sw_refined, AP | 33.7 | 32.3 | -1.4 | 1 |" in md
    assert "| 10% | student sw_refined, AP | 35.8 | 36.0 | +0.2 | 1 |" in md
    assert "| 5% | supervised, AP | 39.7 | 38.0 | -1.7 | 1 |" in md
    assert "| 12.5% | student sw_refined, AP | —¹ | 34.0 | —¹ | 1 |" in md
    assert "| 5% | teacher, AP | —¹ | 20.0 | —¹ | 1 |" in md
    assert "test-dev" in md and "not the paper's numbers" not in md and "\n¹ no published number" in md


def test_small_data_is_never_compared(runs):
    md, _, js = table(of(runs, "shapes"))
    assert "Same method, other data: these are not the paper's numbers" in md.splitlines()[0]
    assert all(line["published"] is None and line["difference"] is None for line in json.loads(js)["lines"])
    assert "35.8" not in md and "39.7" not in md


def test_seeds_become_mean_and_deviation(runs):
    md, _, _ = table(of(runs, "shapes"))
    assert "| 10% | teacher, AP | —¹ | 23.7 ± 5.5 | —¹ | 3 |" in md
    assert "| 10% | student sw, AP | —¹ | 25.0 ± 0.0 | —¹ | 3 |" in md


def test_missing_and_undefined_results(runs):
    put(runs, "coco", "1p", 0, 10.0, None, 20.0)
    md, _, js = table(of(runs, "coco"))
    assert "| 1% | student sw, AP | —¹ | —² | —² | 0 |" in md and "\n² not run" in md
    assert "| 1% | supervised, AP | 39.7 | —² | —² | 0 |" in md
    assert "NaN" not in js
    ap_figure(of(runs, "coco"))
    assert "² not run" not in table(of(runs, "shapes"))[0]


def test_markdown_is_one_well_formed_table_each(runs):
    md, _, _ = table(of(runs, "coco"))
    blocks = [b.splitlines() for b in md.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 2
    for block in blocks: assert len({row.count("|") for row in block}) == 1 and set(block[1]) <= set("| -")
    assert len(blocks[0]) == 2 + 3 * len(RESULTS)
    assert blocks[1][0] == "| masks | seed | teacher | student | device |"
    assert blocks[1][2] == "| 5% | 0 | 1.5 | 10.0 | CPU, 2 threads; GPU X |"


def test_csv_and_json_hold_full_precision(runs):
    rows = of(runs, "coco")
    _, sheet, js = table(rows)
    read = list(csv.DictReader(io.StringIO(sheet)))
    assert len(read) == len(lines(rows)) == len(json.loads(js)["lines"])
    refined = next(r for r in read if r["split"] == "5p" and r["result"] == "student_sw_refined_ap_percent")
    assert float(refined["here"]) == 32.26 and float(refined["difference"]) == pytest.approx(-1.44) and refined["sd"] == ""
    assert json.loads(js)["runs"] == rows


def test_report_writes_all_files_the_same_twice(runs, tmp_path):
    files = write_report(runs, tmp_path / "figures")
    assert {f.name for f in files} == {f"{kind}_{d}.{s}" for d in ("coco", "shapes") for kind, suffixes in
                                       (("results", ("md", "csv", "json")), ("ap_by_split", ("png", "pdf", "json"))) for s in suffixes}
    assert {f.name for f in (tmp_path / "figures").iterdir()} == {f.name for f in files}
    before = {f: f.read_bytes() for f in files}
    write_report(runs, tmp_path / "figures")
    assert before == {f: f.read_bytes() for f in files}
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert before[tmp_path / f"figures/ap_by_split_coco.{suffix}"].startswith(magic)
    shown = json.loads(before[tmp_path / "figures/ap_by_split_shapes.json"])
    assert {p["result"] for p in shown} == set(AP) and shown[0]["here"] == pytest.approx(71 / 3)


def test_report_never_imports_torch(runs, tmp_path):
    code = ("import sys; from pointwssis.report import write_report; write_report(*sys.argv[1:]);"
            "sys.exit(any(m.split('.')[0] in ('torch', 'torchvision') for m in sys.modules))")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(runs), str(tmp_path / "f")], cwd=Path(__file__).parent.parent,
                          env=os.environ | {"MPLBACKEND": "agg"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f/results_coco.md").exists() and done.stdout == ""


def judge(runs, dataset, split, **scores):
    place = runs / dataset / split / "published"
    place.mkdir(parents=True)
    write_json(place / "metrics.json", scores)


def test_published_checkpoints_have_a_column_of_their_own(runs):
    assert "evaluated here" not in table(of(runs, "coco"))[0]
    judge(runs, "coco", "5p", teacher_ap_percent=21.04, student_sw_refined_ap_percent=33.5, pseudo_sw_miou_percent=71.0)
    md, sheet, _ = table(of(runs, "coco"))
    assert "| masks | result | published | published checkpoint, evaluated here | here | difference | seeds |" in md
    assert "| 5% | student sw_refined, AP | 33.7 | 33.5 | 32.3 | -1.4 | 1 |" in md and "| 5% | teacher, AP | —¹ | 21.0 | 20.0 | —¹ | 1 |" in md
    assert "| 10% | teacher, AP | —¹ | —² | 22.0 | —¹ | 1 |" in md and "| 5% | pseudo masks sw, mIoU | —¹ | 71.0³ | 60.0 | —¹ | 1 |" in md
    assert "\n³ the published pseudo masks" in md and len({row.count("|") for row in md.split("\n\n")[1].splitlines()}) == 1
    refined = next(r for r in csv.DictReader(io.StringIO(sheet)) if r["split"] == "5p" and r["result"] == "teacher_ap_percent")
    assert (refined["checkpoint"], refined["here"], refined["seeds"]) == ("21.04", "20.0", "1")


def test_published_checkpoints_alone_make_a_table_and_no_figure(tmp_path):
    judge(tmp_path / "runs", "coco", "40p", student_sw_refined_ap_percent=38.0)
    files = write_report(tmp_path / "runs", tmp_path / "figures")
    assert {f.name for f in files} == {"results_coco.md", "results_coco.csv", "results_coco.json"}
    md = files[0].read_text()
    assert "| 40% | student sw_refined, AP | 38.3 | 38.0 | —² | —² | 0 |" in md and "Wall time" not in md and "³" not in md
