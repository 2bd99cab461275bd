"""A backbone's start: every published form of ImageNet weights is read by the one reader, and layers that are frozen at random are refused."""
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pointwssis.config import RefinerConfig, SOLOv2Config, check_start
from pointwssis.core import CheckpointError, ConfigError
from pointwssis.detector.backbone import FPNBackbone, build_body
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.method import stages
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.registry import DATASETS
from pointwssis.runs.presets import preset
from pointwssis.runs.runner import run_stage
from pointwssis.runs.stage_graph import config_of
from pointwssis.training.checkpoints import RESNET, to_official
from pointwssis.training.weights import load_weights

TINY = SOLOv2Config("msra_resnet50", fpn_channels=8, instance_channels=8, instance_convs=1, mask_channels=8, num_kernels=8)
BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


@pytest.fixture(scope="module")
def body() -> nn.Module:
    torch.manual_seed(0)
    return build_body("msra_resnet50")


def affine(body: nn.Module) -> dict[str, np.ndarray]:
    "Detectron2's names; its norms are a scale and a shift."
    state = {RESNET.theirs(k): v for k, v in body.state_dict().items() if not k.startswith("fc.")}
    return {k: v.numpy() for k, v in state.items() if "running" not in k}


def caffe2(body: nn.Module) -> dict[str, np.ndarray]:
    "Names of MSRA's own R-50.pkl: conv1_w, res_conv1_bn_s, res2_0_branch2a_w, ..."
    ends = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    def blob(key: str) -> str:
        if key.startswith("stem.conv1."): return f"{'res_' * ('norm' in key)}conv1_{ends[key.removeprefix('stem.conv1.')]}"
        stage, block, layer, end = key.split(".", 3)
        return f"{stage}_{block}_{BRANCHES[layer]}_{ends[end]}"
    return {blob(k): v for k, v in affine(body).items()}


def solov2(body: nn.Module) -> dict[str, torch.Tensor]:
    "A whole network of which only the backbone is wanted."
    torch.manual_seed(1)
    net = SOLOv2(TINY)
    net.backbone.trunk.body.load_state_dict({k: v for k, v in body.state_dict().items() if not k.startswith("fc.")})
    return net.state_dict()


FORMS = {
    "MSRA.pkl": lambda body: pickle.dumps(caffe2(body) | {"fc1000_w": np.zeros((1000, 2048), "f4"), "fc1000_b": np.zeros(1000, "f4")}, protocol=2),
    "blobs.pkl": lambda body: pickle.dumps({"blobs": caffe2(body)}, protocol=2),
    "detectron2.pkl": lambda body: pickle.dumps({"model": affine(body), "__author__": "x", "matching_heuristics": True}),
    "adelaidet.pth": lambda body: to_official(solov2(body)) | {"iteration": 7},
    "torchvision.pth": lambda body: body.state_dict(),
    "wrapped.pth": lambda body: {"state_dict": {f"module.{k}": v for k, v in body.state_dict().items()}, "epoch": 3},
    "torchvision.safetensors": lambda body: body.state_dict(),
}


def write(path: Path, content) -> Path:
    if isinstance(content, bytes): path.write_bytes(content)
    elif path.suffix == ".safetensors": save_file({k: v.contiguous() for k, v in content.items()}, path)
    else: torch.save(content, path)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_imagenet_weights_is_read(body, tmp_path, name):
    path, image = write(tmp_path / name, FORMS[name](body)), torch.randn(1, 3, 64, 64)
    for net in (FPNBackbone("msra_resnet50", 8, str(path)), SOLOv2(replace(TINY, weights=str(path))).backbone):
        with torch.no_grad(): made, wanted = net.trunk(image), _maps(body, image)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max()) for a, b in zip(made, wanted, strict=True))
    refiner = MaskRefineNet(3, RefinerConfig("torchvision:resnet50", str(path), aspp_channels=8, decoder_channels=(8, 8)))
    own = refiner.encoder.body.layer1[0].conv1.weight
    assert torch.equal(own, body.layer1[0].conv1.weight)


def _maps(body: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    "The four maps of a plain ResNet."
    x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
    return [x := stage(x) for stage in (body.layer1, body.layer2, body.layer3, body.layer4)]


def test_files_of_timm_are_read(tmp_path):
    import timm
    net = timm.create_model("test_resnet", num_classes=10)
    path = write(tmp_path / "timm.safetensors", net.state_dict())
    made = FPNBackbone("timm:test_resnet", 8, str(path), frozen_norm=False, frozen_stages=0).trunk.body
    assert torch.equal(made.state_dict()["conv1.0.weight" if "conv1.0.weight" in made.state_dict() else "conv1.weight"],
                       net.state_dict()["conv1.0.weight" if "conv1.0.weight" in net.state_dict() else "conv1.weight"])


class Hostile:
    def __init__(self, mark: Path): self.mark = mark
    def __reduce__(self): return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["R-50.pkl", "R-50.pth"])
def test_a_backbone_file_is_never_run(tmp_path, name):
    mark, path = tmp_path / "it_ran", tmp_path / name
    content = {"conv1_w": np.zeros(3, "f4"), "x": Hostile(mark)}
    path.write_bytes(pickle.dumps(content)) if name.endswith("pkl") else torch.save(content, path)
    for read in (load_weights, lambda p: FPNBackbone("msra_resnet50", 8, str(p))):
        with pytest.raises(CheckpointError, match=f"{name}: refused: it asks for .*could run code"): read(path)
    assert not mark.exists()


def test_a_file_of_another_architecture_names_the_cure(body, tmp_path):
    path = write(tmp_path / "R-50.pkl", FORMS["MSRA.pkl"](body))
    with pytest.raises(CheckpointError, match="R-50.pkl: .*another architecture: set 'backbone' to match"): FPNBackbone("msra_resnet101", 8, str(path))
    with pytest.raises(CheckpointError, match="R-50.pkl: .*another architecture: set 'backbone' to match"):
        FPNBackbone("torchvision:mobilenet_v2", 8, str(path))


# --- frozen at random

FROZEN = ("coco", "bdd100k", "animals7", "coco_union")


def start(dataset: str, **changes) -> None:
    "Both networks of a preset, with the same changes."
    cfg = preset(dataset, **{f"{part}.{key}": v for part in ("teacher", "student") for key, v in changes.items()})
    for part in ("teacher", "student"): check_start(getattr(cfg, part), part)


@pytest.mark.parametrize("dataset", FROZEN)
def test_presets_with_frozen_layers_want_weights(dataset):
    words = r"teacher: frozen_stages=\d, frozen_norm=true but no weights.*teacher.weights.*teacher.frozen_stages=0"
    with pytest.raises(ConfigError, match=words) as e: start(dataset)
    assert "\n" not in str(e.value) and ("R-101.pkl" in str(e.value)) == (dataset in ("coco", "bdd100k"))
    start(dataset, weights="R.pkl")
    start(dataset, frozen_stages=0, frozen_norm=False)


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name not in FROZEN])
def test_the_other_presets_start_as_they_are(dataset): start(dataset)


@pytest.mark.parametrize("change, words", [({"frozen_stages": 1}, "frozen_stages=1"), ({"frozen_norm": True}, "frozen_norm=true")])
def test_each_kind_of_frozen_layer_counts(change, words):
    with pytest.raises(ConfigError, match=f"teacher: {words} but no weights"): start("shapes", **change)


def test_it_is_refused_before_the_first_stage(tmp_path, drawn):
    root = drawn
    params = {"dataset": "coco", "data_root": str(root)}
    with pytest.raises(ConfigError, match="teacher: frozen_stages=2, frozen_norm=true but no weights"):
        run_stage("split", params, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_is_called_by_itself_refuses_it_too(tmp_path, drawn):
    root = drawn
    cfg = config_of("shapes", "50p", 0, str(root), {"student.frozen_norm": True})
    with pytest.raises(ConfigError, match="student: frozen_norm=true but no weights"):
        stages.supervised(cfg, {"split": tmp_path}, tmp_path / "out")
