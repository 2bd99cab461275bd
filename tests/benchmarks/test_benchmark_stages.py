"COCO's size through the stages, in small; and the table of its work."
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import coco_stages, scale_table                            # noqa: E402
from pointwssis.data import coco                                            # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("stand_in") / "data"
    with patch.object(coco_stages, "FILES", 20): coco_stages.write_stand_in(place, 60, 200, 6, 40)
    return place


def test_most_pictures_are_links(root):
    data = coco.load(root / "annotations/instances_train.json", root / "train", "masks")
    assert len(data.ids) == 60 and data.num_annotations == 200 and data.read_image(data.ids[-1]).shape == (72, 96, 3)
    files = {(root / "train" / r["file_name"]).stat().st_ino for r in data.images.values()}
    assert len(files) == 20


def test_stages_run_with_tiny_networks(root):
    found = coco_stages.prepare_stage(str(root), "split")()
    assert found["strong_images"] == 6 and found["weak_images"] == 54
    made = coco_stages.prepare_stage(str(root), "pseudo")()
    assert made["images"] == 54 and made["masks"] > .9 * found["points"]
    assert coco_stages.prepare_student(str(root), 1)()["images"] == 60
    again = coco_stages.prepare_stage(str(root), "pseudo")()
    assert again["images"] == 54 and again["masks"] == made["masks"]     # all were in the journal, none was asked again


def test_the_page_has_the_table():
    assert scale_table.table({}) in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


PARTS = {"network": [("R-101, batch 16", 20.)], "crops": [("trained, batch 16, bf16", 100.)], "labels": [("teacher, from files", 10.)]}
RESULTS = {"parts": {name: {"rows": [{"what": what, "value": value} for what, value in rows]} for name, rows in PARTS.items()}}


def test_time_and_cost_follow_the_rates_and_the_price():
    hours = ((720_000 + 8_640_000) / 20 + 3_200_000 / 100 + 106_458 / 10) / 3600
    rates = scale_table.rates_of(RESULTS)
    assert scale_table.times("10p", rates, 2.5) == [f"{hours / n:,.1f}" for n in (1, 8, 64)] + [f"{2.5 * hours:,.0f}"]
    assert scale_table.times("10p", rates, None)[-1] == f"{hours:,.0f} x price"
    assert scale_table.times("10p", {}, 2.5) == ["not measured"] * 4
    (row,) = [line for line in scale_table.table(rates, 2.5).splitlines() if line.startswith("| 10p |")]
    assert row.endswith(f"| {' | '.join(scale_table.times('10p', rates, 2.5))} |")


def test_the_command_prints_it(tmp_path):
    def printed(*words: str) -> str:
        command = [sys.executable, "-m", "benchmarks.scale_table", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    assert printed() == scale_table.table({})
    assert printed(str(tmp_path / "results.json"), "--price", "2.5") == scale_table.table(scale_table.rates_of(RESULTS), 2.5)
