"A network in a file for other programs gives the scores, classes and masks of the suite."
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointwssis.core import ConfigError
from pointwssis.data.coco import CategoryTable
from pointwssis.detector.export import FixedSOLOv2, export_model
from pointwssis.detector.inference import to_original
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.runs.cli import main
from pointwssis.training.weights import save_weights
from tiny import CFG, tiny_model

TABLE = CategoryTable((2, 5, 9), ("a", "b", "c"))
SIZE = (96, 128)


@pytest.fixture
def model() -> SOLOv2:
    found = tiny_model()
    found.cfg = replace(found.cfg, score_threshold=.001, update_threshold=.001, max_per_image=20)
    return found


def image(seed: int) -> torch.Tensor: return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def compare(model: SOLOv2, run) -> None:
    "The first places are the suite's instances, the others have score 0."
    for seed in range(3):
        ours = model.predict(image(seed), [SIZE], [SIZE])[0]
        scores, classes, masks = (torch.as_tensor(np.asarray(x)) for x in run(image(seed)))
        n = len(ours)
        assert 3 < n and (scores[n:] == 0).all() and masks.shape[1:] == (24, 32)
        torch.testing.assert_close(scores[:n], ours.scores, rtol=1e-3, atol=1e-5)
        # equal scores may swap places: compare as sets of class and score
        assert sorted(zip(classes[:n].tolist(), scores[:n].round(decimals=4).tolist())) == sorted(zip(ours.classes.tolist(),
                                                                                                      ours.scores.round(decimals=4).tolist()))
        same = (to_original(masks[:n], SIZE, SIZE, .5) == ours.masks).float().mean((1, 2))
        assert same.min() > .999


def test_decoding_with_fixed_sizes_is_the_suites(model):
    with torch.no_grad(): compare(model, FixedSOLOv2(model))


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")
def test_torchscript(model, tmp_path):
    path, notes = export_model(model, tmp_path / "net.anything", "torchscript", (90, 128), TABLE)
    facts = json.loads(notes.read_text())
    assert path.name == "net.pt" and (facts["height"], facts["width"], facts["classes"], facts["category_ids"]) == (96, 128, ["a", "b", "c"], [2, 5, 9])
    compare(model, torch.jit.load(path))


def test_onnx_in_onnxruntime(model, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    path, _ = export_model(model, tmp_path / "net.onnx", "onnx", SIZE, TABLE)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["image"] and [x.name for x in session.get_outputs()] == ["scores", "classes", "masks"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.onnx"]
    compare(model, lambda x: session.run(None, {"image": x.numpy()}))


def test_faults_are_one_line(model, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="unknown format 'onx'. Did you mean 'onnx'"): export_model(model, tmp_path / "x", "onx", SIZE, TABLE)
    with pytest.raises(ConfigError, match="Linear cannot be exported. Give weights of the detector solov2"):
        export_model(torch.nn.Linear(1, 1), tmp_path / "x", "onnx", SIZE, TABLE)
    monkeypatch.setattr("pointwssis.detector.export.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX needs the packages onnx and onnxscript. Run pip install 'pointwssis\[export\]'"):
        export_model(model, tmp_path / "x", "onnx", SIZE, TABLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"backbone": CFG.backbone, "fpn_channels": 16, "instance_channels": 16, "instance_convs": 1, "mask_channels": 16, "num_kernels": 16,
               "num_grids": list(CFG.num_grids), "frozen_stages": 0, "frozen_norm": False}
    save_weights("w.safetensors", tiny_model().state_dict())
    words = [part for key, value in options.items() for part in ("--set", f"student.{key}={json.dumps(value)}")]
    assert main(["export", "--weights", "w.safetensors", "--format", "torchscript", "--input", "64x100", *words]) == 0
    assert capsys.readouterr().out.split() == ["w.pt", "w.json"] and json.loads(Path("w.json").read_text())["width"] == 128
    assert torch.jit.load("w.pt")(torch.zeros(1, 3, 64, 128))[0].shape == (CFG.max_per_image,)
    with pytest.raises(SystemExit) as ended: main(["export", "--weights", "w.safetensors", "--format", "onnx", "--input", "64"])
    assert ended.value.code == 2 and "'64' is no size. Write it like 480x640." in capsys.readouterr().err
