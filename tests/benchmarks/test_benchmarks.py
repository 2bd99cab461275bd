"The benchmarks: each plain loop gives what the suite gives, rows say what they mean, and both files are written. No time is judged here."
import importlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torchvision.ops import masks_to_boxes

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import loops, usual                                                                             # noqa: E402
from benchmarks.__main__ import main                                                                     # noqa: E402
from benchmarks.harness import RUNS, Row, alternate, compare, markdown, peak_mib, processor_time, record, timed   # noqa: E402
from benchmarks.points import SMALL                                                                      # noqa: E402
from benchmarks.scenes import blobs, clicks, objects, with_discs                                         # noqa: E402
from pointwssis.detector.solov2 import SOLOv2, SOLOv2Config                                              # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("suite", ["targets", "nms", "points", "refiner", "around"])
def test_both_sides_agree_on_tiny_sizes(suite):
    found = importlib.import_module(f"benchmarks.{suite}").rows(CPU, quick=True)
    assert found and all(row.ours > 0 and row.other > 0 for row in found) and len({row.name for row in found}) == len(found)
    assert any(row.target for row in found)


def test_sides_that_differ_are_no_benchmark():
    with pytest.raises(AssertionError, match="sum: the two sides"): compare("sum", lambda: 1, lambda: 2, lambda a, b: a == b, CPU)


def test_sides_take_turns():
    calls = []
    ours, other = alternate(lambda: calls.append("a"), lambda: calls.append("b"), CPU, runs=3)
    assert calls == ["a", "b"] * 3 and ours > 0 and other > 0


def test_processor_time_leaves_waiting_out():
    with processor_time(CPU): seconds, _ = timed(lambda: time.sleep(.3), CPU)
    assert seconds < .1 and time.perf_counter is not time.process_time


def test_ratios_and_targets():
    assert Row("x", 2., 40., target=20).met and not Row("x", 2., 39., target=20).met
    share = Row("x", 1., 10., share=True, target=.15)
    assert share.ratio == .1 and share.met and not Row("x", 2., 10., share=True, target=.15).met
    assert Row("x", 1., 2.).met is None
    assert not Row("x", 1., 40., target=20, peak_mib=9., peak_limit_mib=8).met and Row("x", 1., 2., peak_mib=7., peak_limit_mib=8).met


def test_peak_memory_is_that_of_the_work_alone():
    before, during, after = (peak_mib(work, CPU) for work in (lambda: None, lambda: float(torch.ones(2**27).sum()), lambda: None))
    assert 500 < during - before < 600 and abs(after - before) < 100


def test_files_hold_every_suite_and_the_newest_rows(tmp_path):
    record(tmp_path, "one", [Row("old", 1., 2.)], CPU)
    record(tmp_path, "two", [Row("share", 1., 8., "features", .15, share=True, note="tiny")], CPU)
    record(tmp_path, "one", [Row("new", .001, .5, target=20, peak_mib=3., peak_limit_mib=8)], CPU)
    results, text = json.loads((tmp_path / "results.json").read_text()), (tmp_path / "results.md").read_text()
    assert list(results) == ["one, cpu", "two, cpu"] and results["one, cpu"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [(r["name"], r["ratio"], r["met"], r["runs"]) for r in results["one, cpu"]["rows"]] == [("new", 500., True, RUNS)] and RUNS >= 5
    assert "| new | 1 ms | 0.5 s (plain loop) | 500 x | 3 MiB | at least 20 x, 8 MiB | yes |" in text and "old" not in text
    assert "| share | 1 s | 8 s (features) | 12.5% |  | at most 15% | yes |" in text and markdown(results) == text


def test_scenes_are_seeded_and_inside_the_image():
    a, b = objects(6, 40, 60, 3, 1), objects(6, 40, 60, 3, 1)
    assert torch.equal(a.masks, b.masks) and not torch.equal(blobs(4, 40, 60, (5, 20), 1), blobs(4, 40, 60, (5, 20), 2))
    for mask, (x0, y0, x1, y1) in zip(a.masks.bool(), a.boxes.int().tolist()):
        assert mask[y0:y1, x0:x1].sum() == mask.sum() and mask[y0].any() and mask[:, x1 - 1].any()
    assert all(0 <= p.x < 60 and 0 <= p.y < 40 for p in clicks(20, 40, 60, 3))


def test_a_network_is_made_to_draw_discs():
    "Noise over the whole image would take longer than masks of objects do."
    torch.manual_seed(0)
    plain = SOLOv2(SOLOv2Config("timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0, num_classes=3)).eval()
    images, size, points = torch.randn(1, 3, 96, 128), (96, 128), clicks(8, 96, 128, 3)
    def fullness(model: SOLOv2) -> torch.Tensor:
        masks = model.predict(images, [size], [size], [points], "point")[0].masks
        boxes = masks_to_boxes(masks)
        return masks.sum((1, 2)) / ((boxes[:, 2:] - boxes[:, :2] + 1).prod(1))
    found = fullness(with_discs(plain))
    assert len(found) == len(points) and found.min() > .75 and fullness(plain).mean() < .6


def test_loops_know_the_rules():
    line = torch.zeros(4, 1, 12, dtype=torch.bool)
    for i in range(4): line[i, 0, 2 * i:2 * i + 5] = True                # each covers the next by 3 of 7 pixels
    assert loops.mask_nms(line, torch.zeros(4), .4) == [0, 2] and loops.mask_nms(line, torch.arange(4), .4) == [0, 1, 2, 3]
    lowered = loops.matrix_nms(line, torch.ones(4), torch.zeros(4), 2.)
    assert lowered[0] == 1 and lowered[1] < lowered[2] < lowered[0]      # the third's rival is itself covered


def test_the_usual_way_gives_what_the_loops_give():
    masks, classes = blobs(15, 24, 40, (4, 24), 3), torch.arange(15) % 2
    scores = torch.linspace(1, .1, 15)
    assert usual.mask_nms(masks, classes, .3) == loops.mask_nms(masks, classes, .3) and len(loops.mask_nms(masks, classes, .3)) < 15
    assert torch.allclose(usual.matrix_nms(masks, scores, classes, 2.), loops.matrix_nms(masks, scores, classes, 2.), rtol=1e-4)


def test_a_row_without_an_opponent_says_so():
    row, fair = Row("reading", 1., 2., "limit", 1, share=True, opponent=False), Row("sorting", 1., 2., "numpy")
    text = markdown({"one, cpu": {"device": "d", "processor": "p", "versions": {}, "quick": False,
                                  "rows": [asdict(r) | {"ratio": r.ratio, "met": r.met} for r in (row, fair)]}})
    assert "| reading | 1 s | 2 s (limit, no opponent) |" in text and "| sorting | 1 s | 2 s (numpy) |" in text


@pytest.mark.parametrize("row", [row for suite in json.loads((ROOT / "benchmarks/results.json").read_text()).values() for row in suite["rows"]],
                         ids=lambda row: row["name"])
def test_the_recorded_rows_name_what_they_compare_with(row):
    assert row["opponent"] == (row["against"] not in ("limit", "linear", "features", "network", "training on it"))


def test_the_command_runs_named_suites_and_refuses_others(tmp_path, capsys):
    options = ["--quick", "--device", "cpu", "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    main(["nms", *options])
    assert (tmp_path / "results.md").exists() and list(json.loads((tmp_path / "results.json").read_text())) == ["nms, cpu"]
    assert "nms: Matrix NMS of 20 masks: ratio" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"): main(["mns", *options])
    assert "Did you mean 'nms'?" in capsys.readouterr().err
