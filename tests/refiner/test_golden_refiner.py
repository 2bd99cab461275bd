"The refiner gives the published network's numbers from the published network's weights."
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden import GOLDEN, formula, unpack
from pointwssis.config import RefinerConfig
from pointwssis.refiner.crops import gaussian_map
from pointwssis.quirks import FIXED, PUBLISHED
from pointwssis.refiner.refinement import point_maps, refine_many, windows
from pointwssis.refiner.training import crop_dice_loss
from pointwssis.refiner.network import MaskRefineNet, enlarge
from pointwssis.training.checkpoints import load_official


def published_net() -> MaskRefineNet:
    shapes = json.loads((GOLDEN / "official_refiner_keys.json").read_text())
    net = MaskRefineNet(80, RefinerConfig(weights=""), quirks=PUBLISHED).eval()
    net.load_state_dict(load_official({"model_state": {k: formula(k, s) for k, s in shapes.items()}}, net))
    return net


@torch.no_grad()
def test_forward():
    z, net = np.load(GOLDEN / "refiner_forward.npz"), published_net()
    x = torch.from_numpy(np.sin(.0137 * np.arange(2 * 85 * 96 * 96)).reshape(2, 85, 96, 96)).float()
    y = enlarge(net.decode(F.conv2d(x, net.stem.weight, stride=2, padding=3)), x)   # the recorded input is dense: every channel is set
    assert np.allclose(y[:, :, ::4, ::4].numpy(), z["logits"], rtol=1e-4, atol=1e-6)
    assert np.isclose(y.mean(), z["mean"], rtol=1e-4) and np.isclose(y.std(), z["std"], rtol=1e-4)

    channel, image, rough = torch.tensor([0, 80]), x[:, :3], x[:, -1:]      # with one channel set, our sparse stem must give the same
    point = gaussian_map(torch.tensor([[30., 20], [5, 90]]), 96, 96)
    dense = torch.zeros(2, 81, 96, 96)
    dense[[0, 1], channel] = point
    expected = enlarge(net.decode(F.conv2d(torch.cat([image, dense, rough], 1), net.stem.weight, stride=2, padding=3)), x)
    assert torch.allclose(net(image, point[:, None], channel, rough), expected, rtol=1e-4, atol=1e-6)


def test_point_maps():
    z = np.load(GOLDEN / "center_map.npz")
    for i in range(4):
        height, width, x, y, label = z[f"cm{i}_args"].tolist()
        expected = z[f"cm{i}"]
        found = gaussian_map(torch.tensor([[x, y]]), height, width, 6.)[0].numpy()
        assert np.allclose(found, expected[label], atol=1e-6)
        assert not np.delete(expected, label, 0).any()          # why one map and a channel number are enough
        if height == width:                                     # the published code works on whole pixels: the fraction of a click is lost
            assert np.allclose(point_maps(torch.tensor([[x + .7, y + .2]]), height, 6., PUBLISHED)[0, 0], expected[label], atol=1e-6)


# --- the published inference crop

H, W, SIZE = 120, 160, 256
CROPS = np.load(GOLDEN / "refiner_crops.npz")
MASKS = torch.from_numpy(unpack(CROPS["masks"], CROPS["masks_shape"]))
AT = torch.from_numpy(CROPS["points_yx_10000"]).flip(1)


def picture() -> torch.Tensor:
    y, x = np.mgrid[:H, :W]
    return torch.from_numpy(np.stack([np.round(100 * np.sin(.11 * x + .07 * y + k) + 128) for k in range(3)]).astype(np.uint8))


def recorded_logits(n: int) -> torch.Tensor:
    u = torch.linspace(-1, 1, SIZE)
    answer = .8 - (u / .7) ** 2 - (u[:, None] / .5) ** 2 + .3 * torch.sin(9 * u + n)
    return torch.stack([torch.zeros_like(answer), answer])


@pytest.fixture(scope="module")
def cut():
    "The network's inputs for all seven masks, and the masks pasted from the recorded logits, through `refine_many`."
    net, seen = MaskRefineNet(4, RefinerConfig("torchvision:resnet18", "", 8, (8, 8), crop_size=SIZE)), []
    def forward(*inputs):
        seen.append(inputs)
        first = sum(len(i[0]) for i in seen[:-1])
        return torch.stack([recorded_logits(first + n) for n in range(len(inputs[0]))])
    net.forward = forward
    xy = (AT.double() + .5) / 10_000 * torch.tensor([W, H]) + .5        # the middle of the cut: image pixels
    pasted = refine_many(net, [(picture(), MASKS, xy, torch.full((7,), 2))], PUBLISHED)[0]
    return [torch.cat(part) for part in zip(*seen)], pasted


def test_published_crops():
    points = AT.double() / 10_000 * torch.tensor([W, H])
    found = windows(MASKS, points, 2., PUBLISHED) - torch.tensor([0, 0, 1, 1])
    assert found.tolist() == [CROPS[f"crop{n}"].tolist() for n in range(7)]


@pytest.mark.parametrize("n", range(7))
def test_published_inputs(cut, n):
    (image, point_map, channel, rough), _ = cut
    assert np.abs(image[n, :, ::8, ::8].numpy() - CROPS[f"image{n}"]).max() < 1e-5
    assert np.array_equal(rough[n, 0].numpy().astype(bool), unpack(CROPS[f"rough{n}"], (SIZE, SIZE)))
    assert [channel[n].item()] == CROPS[f"channel{n}"].tolist()
    peak = np.unravel_index(point_map[n].argmax().item(), (SIZE, SIZE))
    assert [list(peak)] == CROPS[f"peak_yx{n}"].tolist() and point_map[n].max() == 1
    assert point_map[n].sum().item() == pytest.approx(float(CROPS[f"map_sum{n}"]), rel=1e-5)


def test_published_masks(cut):
    theirs = np.stack([unpack(CROPS[f"pasted{n}"], (H, W)) for n in range(7)])
    assert np.array_equal(cut[1].numpy(), theirs)


def dice_by_columns(logits: np.ndarray, target: np.ndarray) -> float:
    "1 - mean of 2i / (c + 1e-7) over classes and columns, one at a time, in float64."
    p = np.exp(logits - logits.max(1, keepdims=True))
    p, parts = p / p.sum(1, keepdims=True), []
    for k in range(2):
        for column in range(target.shape[2]):
            ours, theirs = p[:, k, :, column], target[:, :, column] == k
            parts.append(2 * (ours * theirs).sum() / (ours.sum() + theirs.sum() + 1e-7))
    return 1 - np.mean(parts)


@pytest.mark.parametrize("seed", range(3))
def test_published_dice(seed):
    random = np.random.default_rng(seed)
    logits, target = random.normal(size=(3, 2, 12, 20)), (random.random((3, 12, 20)) < .3).astype(np.uint8)
    target[:, :, 5:9] = 0                                                 # columns without the object
    found = [crop_dice_loss(torch.from_numpy(logits), torch.from_numpy(target), b).item() for b in (PUBLISHED, FIXED)]
    assert found[0] == pytest.approx(dice_by_columns(logits, target), abs=1e-6) and abs(found[1] - found[0]) > .01
