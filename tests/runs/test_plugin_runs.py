"A new kind is one file outside the package: a prompt, a refiner, a detector and a point strategy go through `reproduce` by their names alone."
import json
import subprocess
from pathlib import Path

import pytest

from pointwssis import registry
from pointwssis.core import read_json
from pointwssis.runs import timing
from pointwssis.runs.cli import main
from chain import TINY

ROOT = Path(__file__).parents[2]
FILES = {
    "first_level.py": '''
"A prompt: the cell under a click on the first level."
from pointwssis.method.prompts import point_guided
from pointwssis.registry import PROMPTS

@PROMPTS.register("first_level", needs="points")
def first_level(q): return point_guided(q.outputs, q.b, q.prompts, q.padded, q.cfg, level=0)
''',
    "closing.py": '''
"A refiner that learns nothing: morphological closing of the teacher's mask."
import cv2
import numpy as np
from pointwssis.data.coco import decode, encode
from pointwssis.registry import REFINERS

@REFINERS.register("closing")
class Closing:
    @staticmethod
    def train(cfg, strong, pairs, out): return {"images": len(strong.ids)}

    @classmethod
    def load(cls, cfg, num_classes, weights): return cls()

    def refine(self, items):
        def closed(rle, size):
            return encode(cv2.morphologyEx(decode(rle, *size).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5))).astype(bool))
        return [[closed(rle, image.shape[1:]) for rle in rough] for image, rough, _, _ in items]
''',
    "blobs.py": '''
"A detector: one mask a class, where a small convolution exceeds one half."
import torch
import torch.nn.functional as F
from torch import nn
from pointwssis.data.transforms import collate, normalise
from pointwssis.detector.inference import Instances
from pointwssis.registry import DETECTORS

@DETECTORS.register("blobs")
class Blobs(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg, self.head = cfg, nn.Conv2d(3, cfg.num_classes, 3, padding=1)

    @staticmethod
    def batch(cfg, items):
        made = collate(items)
        target = torch.zeros(len(items), cfg.num_classes, *made["images"].shape[2:])
        for row, truth in zip(target, made["truth"]):
            for mask, k in zip(truth.masks, truth.classes): row[k, :mask.shape[0], :mask.shape[1]] += mask
        return {"images": made["images"], "sizes": torch.tensor(made["sizes"]), "target": target.clamp(max=1)}

    def loss(self, batch):
        logits = self.head(normalise(batch["images"], batch["sizes"], self.cfg))
        return {"loss_pixel": F.binary_cross_entropy_with_logits(logits, batch["target"])}

    @torch.inference_mode()
    def predict(self, images, sizes, out_sizes, points=None, prompt="none", nms="matrix", **how):
        def one(logits, size, out):
            p = F.interpolate(logits[None, :, :size[0], :size[1]], out, mode="bilinear")[0].sigmoid()
            order = p.amax((1, 2)).argsort(descending=True)
            return Instances(p[order] > .5, p.amax((1, 2))[order], order, torch.full_like(order, -1))
        return [one(*image) for image in zip(self.head(images), sizes, out_sizes)]

    @staticmethod
    def count_classes(state): return len(state.get("head.bias", ()))
''',
    "left.py": '''
"A point strategy: the leftmost pixel."
import numpy as np
from pointwssis.registry import POINTS

@POINTS.register("leftmost")
def leftmost(mask, rng):
    ys, xs = np.nonzero(mask)
    return float(xs.min()) + .5, float(ys[xs.argmin()]) + .5
''',
}
CHOSEN = {"prompt": "first_level", "refiner.kind": "closing", "student.detector": "blobs", "point_strategy": "leftmost"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, drawn) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "data").symlink_to(drawn)
    for name, source in FILES.items(): (folder / name).write_text(source)
    return folder


def command(*stages: str) -> list[str]:
    settings = [part for key, value in (TINY | CHOSEN | {"controls": False}).items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return ["reproduce", "--dataset", "shapes", "--data-root", "data", "--split", "25p", *(part for name in FILES for part in ("--plugin", name)), *settings]


@pytest.fixture(scope="module")
def done(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.PLUGINS, "")
        patch.chdir(place)
        patch.setattr(timing, "WARM", (1, 1))
        assert main([*command(), "--jobs", "1"]) == 0
        yield place / "outputs/runs/shapes/25p/s0"


@pytest.mark.whole
def test_every_stage_runs_with_kinds_that_are_not_in_the_package(done):
    metrics = {stage: read_json(done / stage / "metrics.json") for stage in ("refiner", "pseudo", "student", "evaluate")}
    assert metrics["refiner"] == {"images": 3} and metrics["student"]["steps"] == TINY["student_train.steps"]
    assert metrics["pseudo"]["masks"] > 0 and isinstance(metrics["evaluate"]["student_sw_refined_ap_percent"], float)
    config = read_json(done / "evaluate/params.json")["config"]
    assert config["prompt"] == "first_level" and config["refiner"]["kind"] == "closing" and config["student"]["detector"] == "blobs"
    status = subprocess.run(["git", "status", "--porcelain", "pointwssis"], cwd=ROOT, capture_output=True, text=True)
    assert all("plugin" not in line for line in status.stdout.splitlines())


@pytest.mark.whole
def test_a_changed_plugin_is_other_code(done, place, monkeypatch, capsys):
    "The result stays, its line says by which code it was made; nothing of it is taken for the new code's."
    monkeypatch.setenv(registry.PLUGINS, "")
    monkeypatch.chdir(place)
    (place / "left.py").write_text(FILES["left.py"] + "# changed\n")
    assert main(["run", "split", *command()[1:]]) == 0
    assert "split up to date, made by other code" in capsys.readouterr().out
    (place / "left.py").write_text(FILES["left.py"])


@pytest.mark.parametrize("words, says", [
    (["--plugin", "none.py"], "none.py: the plug-in file does not exist"),
    (["--plugin", "broken.py"], "broken.py: the plug-in does not run: ZeroDivisionError"),
    (["--plugin", "taken.py"], "prompt 'point' is one of the package's own"),
    (["--plugin", "vague.py"], "prompt 'mine': needs=None. Register it with one of '', 'classes', 'points', 'sizes'"),
    (["--set", "refiner.kind=unte"], "unknown refiner.kind 'unte'. Did you mean 'unet'?"),
    (["--set", "student.detector=solo"], "unknown student.detector 'solo'. Did you mean 'solov2'?"),
])
def test_a_wrong_plugin_or_name_is_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.setenv(registry.PLUGINS, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "taken.py").write_text("from pointwssis.registry import PROMPTS\n@PROMPTS.register('point', needs='points')\ndef mine(query): ...\n")
    (tmp_path / "vague.py").write_text("from pointwssis.registry import PROMPTS\n@PROMPTS.register('mine')\ndef mine(query): ...\n")
    assert main(["run", "split", *words]) == 2
    assert says in capsys.readouterr().err
