"Published weights come in and go out bit for bit, and nothing in a file is ever run."
import json
import os
import pickle
import re
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch

from golden import GOLDEN
from pointwssis.config import RefinerConfig, SOLOv2Config
from pointwssis.core import CheckpointError
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.training.checkpoints import FAMILIES, REFINER, RESNET, SOLOV2, load_official, to_official
from pointwssis.training.weights import load_weights

TINY = SOLOv2Config(backbone="msra_resnet50", num_classes=3, fpn_channels=8, instance_channels=8, instance_convs=1,
                    mask_channels=8, num_kernels=8)
SMALL = RefinerConfig(backbone="torchvision:resnet50", weights="", aspp_channels=8, decoder_channels=(8, 8, 8, 8))


@cache
def tiny() -> SOLOv2:
    "One network for all tests that only read it: its backbone takes half a second to draw."
    return SOLOv2(TINY)


@cache
def small(classes: int = 3) -> MaskRefineNet: return MaskRefineNet(classes, SMALL)


def filled(shapes: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(s, generator=generator) if s else torch.tensor(7) for k, s in shapes.items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name, wrapper, build", [
    ("solov2_r101", "model", lambda: SOLOv2(SOLOv2Config())),
    ("refiner", "model_state", lambda: MaskRefineNet(80, RefinerConfig(weights="")))])
def test_published_keys_are_ours_and_go_back(name, wrapper, build):
    theirs, net = filled(json.loads((GOLDEN / f"official_{name}_keys.json").read_text())), build()
    ours = load_official({wrapper: theirs, "optimizer": {"state": {}}, "iteration": 3}, net)
    net.load_state_dict(ours)
    back = to_official(net.state_dict())
    assert list(back) == [wrapper] and same(back[wrapper], theirs)


@pytest.mark.parametrize("build", [tiny, small])
@pytest.mark.parametrize("arrays", [False, True])
def test_round_trip_through_a_file(tmp_path, build, arrays):
    net = build()
    content = to_official(net.state_dict(), tmp_path / "plain.pth")
    (wrapper,) = content
    weights = {f"module.{k}": v.numpy() if arrays else v for k, v in content[wrapper].items()}
    beside = {"optimizer": {"state": {0: {"momentum": torch.zeros(2)}}, "param_groups": [{"lr": .1}]}, "iteration": 9}
    torch.save({wrapper: weights, **beside}, tmp_path / "dressed.pth")
    for name in ("plain.pth", "dressed.pth"): assert same(load_official(tmp_path / name, net), dict(net.state_dict()))


@pytest.mark.parametrize("family", FAMILIES)
def test_spelling_is_one_to_one(family):
    starts = [start + "x.weight" for start, _ in family.starts]
    assert [family.theirs(family.ours(key)) for key in starts] == starts and len({family.ours(key) for key in starts}) == len(starts)


class Hostile:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir, (str(self.mark),)


def hostile_files(folder, mark):
    class Builtin:
        def __reduce__(self): return eval, (f"__import__('os').mkdir({str(mark)!r})",)
    for i, harm in enumerate((Hostile(mark), Builtin(), [Hostile(mark)], {"stem.conv1.weight": np.array([Hostile(mark)], dtype=object)})):
        for protocol in (0, 2, 4): (folder / f"{i}{protocol}.pkl").write_bytes(pickle.dumps({"model": harm}, protocol=protocol))
        torch.save({"model": harm}, folder / f"{i}.pth")
        torch.save({"model": harm}, folder / f"{i}old.pt", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


def test_nothing_in_a_file_is_run(tmp_path):
    (tmp_path / "files").mkdir()
    mark = tmp_path / "it_ran"
    files = hostile_files(tmp_path / "files", mark)
    for path in files:
        with pytest.raises(CheckpointError, match="refused"): load_official(path)
    assert len(files) == 20 and not mark.exists()
    pickle.loads((tmp_path / "files/00.pkl").read_bytes())      # the files are real: Python's own reader falls for them
    assert mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_msra_pickles(tmp_path, protocol):
    generator, r50 = np.random.default_rng(0), tiny().backbone.trunk.body.state_dict()
    theirs = {RESNET.theirs(k): generator.normal(size=v.shape).astype("f4") for k, v in r50.items() if "running" not in k}
    content = {"model": theirs | {"fc1000.weight": np.zeros((2, 2), "f4")}, "__author__": "x"}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    ours = load_official(tmp_path / "R-50.pkl")
    assert ours.keys() == r50.keys() and all(np.array_equal(ours[RESNET.ours(k)], v) for k, v in theirs.items())
    deepcopy(tiny().backbone.trunk.body).load_state_dict(ours)
    scale = ours["bn1.weight"] * (ours["bn1.running_var"] + 1e-5).rsqrt()
    assert torch.allclose(scale, ours["bn1.weight"]) and not ours["bn1.running_mean"].any()


def test_caffe2_names(tmp_path):
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    end = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b", "norm.running_mean": "bn_rm", "norm.running_var": "bn_riv"}

    def blob(key):
        stage, layer, what = re.fullmatch(r"(.+?)\.(conv\d|shortcut)\.(.+)", key).groups()
        if stage == "stem": return f"conv1_{end[what]}" if what == "weight" else f"res_conv1_{end[what]}"
        return f"{stage.replace('.', '_')}_{branch[layer]}_{end[what]}"
    r50 = tiny().backbone.trunk.body.state_dict()
    blobs = {blob(RESNET.theirs(k)): v.numpy() for k, v in r50.items()}
    assert "res4_5_branch2c_bn_s" in blobs and "res_conv1_bn_b" in blobs and "res2_0_branch1_w" in blobs
    extra = {"fc1000_w": np.zeros(3), "conv1_w_momentum": np.zeros(3), "weight_order": "x"}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs | extra}, protocol=2))
    assert same(load_official(tmp_path / "R-50.pkl"), dict(r50))


def solov2(**changes): return SOLOv2(SOLOv2Config(**(vars(TINY) | changes)))


@pytest.mark.parametrize("weights, model, words", [
    (tiny, lambda: solov2(num_classes=4), "trained on 3 classes, this network has 4"),
    (tiny, lambda: solov2(backbone="msra_resnet101"), r"bn1.weight.*another depth \(6 blocks in layer3, not 23\)"),
    (tiny, lambda: solov2(num_kernels=16), "instance_head.kernel.weight.*other widths"),
    (tiny, small, "file of a different network"),
    (small, lambda: small(5), "trained on 3 classes, this network has 5")])
def test_a_misfit_names_keys_and_cause(weights, model, words):
    with pytest.raises(CheckpointError, match=words): load_official(to_official(weights().state_dict()), model())


def test_missing_keys_are_named():
    net = tiny()
    content = to_official(net.state_dict())["model"]
    content.pop("mask_head.conv_pred.0.weight")
    with pytest.raises(CheckpointError, match=r"1 missing \(first mask_head.merge.0.weight\)"): load_official(content, net)


@pytest.mark.parametrize("keys, words", [
    (["rpn.conv.weight", "a.b"], "neither SOLOv2 nor MaskRefineNet.*rpn.conv.weight, a.b"),
    ([SOLOV2.landmark, "rpn.conv.weight"], "1 keys that SOLOv2 does not have, first rpn.conv.weight"),
    ([REFINER.landmark, "layer9.weight"], "MaskRefineNet does not have, first layer9.weight")])
def test_files_of_other_projects(keys, words):
    with pytest.raises(CheckpointError, match=words): load_official({k: torch.zeros(1) for k in keys})


@pytest.mark.parametrize("name, content", [
    ("a.pth", b"not a checkpoint"), ("a.pkl", b"not a pickle"), ("a.safetensors", b"neither"), ("b.pth", b""), ("b.pkl", b""),
    ("c.pkl", pickle.dumps([1, 2])), ("d.pkl", pickle.dumps({"model": {}})), ("e.pkl", pickle.dumps({"model": {"a": "text"}}))])
def test_corrupt_and_empty_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as error: load_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"): load_weights(tmp_path / "nowhere.pth")


def test_only_published_networks_have_a_published_form():
    with pytest.raises(CheckpointError, match="no published form"): to_official({"a.weight": torch.zeros(1)})
    state = MaskRefineNet(3, RefinerConfig(**(vars(SMALL) | {"backbone": "torchvision:mobilenet_v2"}))).state_dict()
    with pytest.raises(CheckpointError, match="no published form"): to_official(state)
