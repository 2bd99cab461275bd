"Point maps and crop windows of the refiner."
import numpy as np
import pytest
import torch

from golden import GOLDEN
from pointwssis.refiner.crops import crop_window, gaussian_map


def test_gaussian_map_equals_the_recorded_maps():
    golden = np.load(GOLDEN / "center_map.npz")
    for i in range(4):
        height, width, x, y, label = golden[f"cm{i}_args"].tolist()
        ours = gaussian_map(torch.tensor([[x, y]]), height, width)
        assert np.abs(ours[0].numpy() - golden[f"cm{i}"][label]).max() < 1e-6


def test_gaussian_map_of_many_equals_each_alone():
    xy = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([40., 30.]) - .5
    maps = gaussian_map(xy, 30, 40)
    assert maps.shape == (8, 30, 40) and maps.dtype == torch.float32
    assert all(torch.equal(gaussian_map(p[None], 30, 40)[0], m) for p, m in zip(xy, maps))
    assert gaussian_map(torch.zeros(0, 2), 30, 40).shape == (0, 30, 40)
    assert not gaussian_map(torch.tensor([[-.6, 3], [39.5, 3], [3, 29.5]]), 30, 40).any()
    assert gaussian_map(torch.tensor([[-.5, 3]]), 30, 40).any()
    assert gaussian_map(torch.tensor([[5, 5]]), 30, 40, sigma=2)[0, 5, 7].item() == pytest.approx(np.exp(-.5))


@pytest.mark.parametrize("box, point, scale, window", [
    ((40, 30, 60, 50), (50, 40), 2, (30, 20, 70, 60)),
    ((40, 30, 60, 50), (50, 40), 1, (40, 30, 60, 50)),
    ((40, 30, 60, 50), (25, 40), 2, (10, 20, 70, 60)),      # left of the window: extended by half its scaled side
    ((40, 30, 60, 50), (50, 65), 2, (30, 20, 70, 80)),      # below
    ((40, 30, 60, 50), (5, 40), 2, (5, 20, 70, 60)),        # farther than that: up to the click
    ((40, 30, 60, 50), (119.5, 99.5), 2, (30, 20, 120, 100)),
    ((0, 0, 10, 10), (5, 5), 2, (0, 0, 15, 15)),            # clipped
    ((0, 0, 120, 100), (5, 5), 2, (0, 0, 120, 100)),
    ((40, 30, 60, 50), (70, 40), 2, (30, 20, 90, 60)),      # the half open end is outside
])
def test_crop_window(box, point, scale, window):
    assert crop_window(box, point, scale, 100, 120) == window
    flipped = crop_window((box[1], box[0], box[3], box[2]), point[::-1], scale, 120, 100)
    assert flipped == (window[1], window[0], window[3], window[2])
