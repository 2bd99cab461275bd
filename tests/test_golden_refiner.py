"The refiner gives the published network's numbers from the published network's weights."
import json

import numpy as np
import torch
import torch.nn.functional as F

from golden import GOLDEN, formula
from pointwssis.checkpoint import load_official
from pointwssis.config import RefinerConfig
from pointwssis.points import gaussian_map
from pointwssis.refinenet import MaskRefineNet, enlarge
from pointwssis.refiner import point_maps


def published_net() -> MaskRefineNet:
    shapes = json.loads((GOLDEN / "official_refiner_keys.json").read_text())
    net = MaskRefineNet(80, RefinerConfig(weights=""), behaviour="published").eval()
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
            assert np.allclose(point_maps(torch.tensor([[x + .7, y + .2]]), height, 6., "published")[0, 0], expected[label], atol=1e-6)
