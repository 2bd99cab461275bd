"Clicks: where they lie, what a weak label keeps, the map and the window that a network sees."
import numpy as np
import pytest
import torch

from golden import GOLDEN
from pointwssis.core import ConfigError, DataError, rng
from pointwssis.data import coco, shapes
from pointwssis.data.points import Point, points_of
from pointwssis.method.point_strategies import point_of, weak_annotation
from pointwssis.registry import POINTS
from pointwssis.refiner.crops import crop_window, gaussian_map

MASKS = [mask for i in range(12) for mask in shapes.draw_image(rng(i))[1]]


def on(mask, point): return bool(mask[int(point[1]), int(point[0])])


@pytest.mark.parametrize("strategy", POINTS)
def test_points_are_inside_the_image_and_repeat(strategy):
    corner = np.zeros((6, 7), bool)
    corner[-1, -1] = True
    for k, mask in enumerate([*MASKS, corner, np.ones((6, 7), bool)]):
        for seed in range(5):
            x, y = point_of(mask, strategy, rng(seed, k))
            assert type(x) is float and 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]
            assert (x, y) == point_of(mask, strategy, rng(seed, k))


def test_strategies_known():
    assert set(POINTS) >= {"centroid", "deepest", "random", "jittered"}
    with pytest.raises(ConfigError, match="unknown point strategy 'deep'"): point_of(MASKS[0], "deep", rng(0))
    with pytest.raises(DataError, match="the mask is empty"): point_of(np.zeros((4, 4), bool), "random", rng(0))


def test_centroid_is_the_mean_of_pixel_centres():
    for mask in MASKS:
        ys, xs = np.nonzero(mask)
        assert np.allclose(point_of(mask, "centroid", rng(0)), (xs.mean() + .5, ys.mean() + .5))


def test_deepest_is_on_the_object_and_farthest_from_its_border():
    for mask in sorted(MASKS, key=np.sum)[::6]:
        x, y = point_of(mask, "deepest", rng(0))
        assert on(mask, (x, y)) and (x % 1, y % 1) == (.5, .5)
        padded = np.pad(mask, 1)
        out = np.argwhere(~padded) - 1
        inside = np.argwhere(mask)
        depth = np.sqrt(((inside[:, None] - out) ** 2).sum(-1).min(1))
        here = depth[(inside == (int(y), int(x))).all(1)]
        assert np.isclose(here, depth.max(), atol=2e-3)


def test_random_covers_the_object_and_only_it():
    mask = MASKS[0]
    clicks = [point_of(mask, "random", rng(i)) for i in range(300)]
    assert all(on(mask, c) for c in clicks) and len(set(clicks)) == 300
    assert np.allclose(np.mean(clicks, 0), coco.centroid(mask), atol=3)


def test_jittered_misses_the_centroid_by_a_tenth():
    mask = np.zeros((100, 200), bool)
    mask[30:70, 40:160] = True
    misses = np.array([point_of(mask, "jittered", rng(i)) for i in range(400)]) - coco.centroid(mask)
    assert np.allclose(misses.std(0), (12, 4), rtol=.15) and np.allclose(misses.mean(0), 0, atol=2)


def test_weak_annotation_has_five_fields():
    record = {"id": 7, "image_id": 3, "category_id": 5, "area": 9, "bbox": [0, 0, 3, 3], "segmentation": [[1]], "iscrowd": 0, "note": "x"}
    weak = weak_annotation(record, MASKS[0], "centroid", rng(0))
    assert weak == {"id": 7, "image_id": 3, "category_id": 5, "point": list(coco.centroid(MASKS[0])), "iscrowd": 0}
    with pytest.raises(DataError, match="annotation 7 of image 3: the mask is empty"):
        weak_annotation(record, MASKS[0] & False, "centroid", rng(0))


def test_points_of_uses_the_class_index(tmp_path):
    table = coco.CategoryTable((2, 40), ("a", "b"))
    weak = [{"id": 9, "image_id": 1, "category_id": 40, "point": [3, 4.5], "iscrowd": 0}]
    coco.save(tmp_path / "w.json", [{"id": i, "file_name": "x", "width": 9, "height": 9} for i in (1, 2)], weak, table)
    data = coco.load(tmp_path / "w.json", need="points")
    assert points_of(data, 1) == [Point(3.0, 4.5, 1, 9)] and points_of(data, 2) == []


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
