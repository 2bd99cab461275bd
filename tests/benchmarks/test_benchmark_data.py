"The benchmarks of data and evaluation: what they make is like COCO, both sides do the same work, and every row is well formed."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import coco_size, data, evaluation, loader, usual   # noqa: E402
from benchmarks.fresh import fresh                              # noqa: E402
from pointwssis.data import coco, store                              # noqa: E402
from pointwssis.config import TrainConfig                       # noqa: E402
from pointwssis.data.transforms import collate  # noqa: E402
from pointwssis.data.training_set import CocoDataset  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, under numpy 2


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made") / "instances_train.json"
    coco_size.write_annotations(path, 200, 1500)
    return path


def test_the_file_is_like_that_of_coco(file):
    "About 450 MB for 860 thousand annotations: outlines with two decimals, one in a hundred a crowd of plain run lengths."
    found = coco.load(file, need="masks")
    assert len(found.ids) == 200 and found.num_annotations == 1500 and len(found.categories) == 80
    every = [a for of in found.annotations.values() for a in of]
    assert 470 < (file.stat().st_size - 200 * 330) / 1500 < 570
    assert 0 < sum(a["iscrowd"] for a in every) < 50 and all(isinstance(a["segmentation"], dict) == bool(a["iscrowd"]) for a in every)
    assert sum(found.mask(a).any() for a in every) > 1400


def test_both_sides_open_the_same_file(file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours, plain = fresh("benchmarks.coco_size:prepare_opening", str(file), 0), fresh("benchmarks.coco_size:prepare_plain_opening", str(file))
    assert ours.result == plain.result and ours.result[:2] == [200, 1500]
    assert 0 < ours.start_mib <= ours.peak_mib < 2000 and ours.seconds > 0
    assert store.cache_place(file, "any").exists()


def test_work_that_fails_in_its_own_process_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="no such file"): fresh("benchmarks.coco_size:prepare_opening", str(tmp_path / "none.json"), 0)


def test_memory_is_not_that_of_torch():
    code = "import sys, benchmarks.coco_size, benchmarks.fresh; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_both_judges_give_the_same_numbers():
    made = coco_size.predictions(12, 86, 20)
    ours, reference = coco_size.judged(*made), coco_size.judged_by_reference(*made)
    assert evaluation.agree(ours, reference) and 5 < ours[0] < 95
    assert not evaluation.agree(ours, np.add(ours, 1e-6).tolist())
    assert len(made[1]) == 12 * 20 and made[0].num_annotations == 86 and coco_size.predictions(12, 86, 20)[1] == made[1]


@pytest.mark.parametrize("suite, count", [(data, 3), (evaluation, 1), (loader, 1)])
def test_rows(suite, count):
    rows = suite.rows(CPU, quick=True)
    assert len(rows) == count and all(row.ours > 0 and row.other > 0 and row.met is not None for row in rows)
    assert json.loads(json.dumps([row.note for row in rows]))


def test_both_loaders_give_the_same_batches(tmp_path):
    made, cfg = coco_size.write_pictures(tmp_path, 3), TrainConfig(short_sides=(240,))
    ours, other = CocoDataset(made, cfg), usual.PlainDataset(made.path, made.image_root, 240, cfg.long_side)
    keys = [(i, 0, i) for i in range(3)]
    batches = collate([ours[k] for k in keys]), usual.collate([other[k] for k in keys])
    assert loader.agree(*batches) and [len(b) for b in batches[1]["boxes"]] == [7] * 3
    shorter = batches[1] | {"masks": [m.roll(1, 0) for m in batches[1]["masks"]]}
    assert not loader.agree(batches[0], shorter) and not loader.agree(batches[0], batches[1] | {"image_ids": [3, 1, 2]})
