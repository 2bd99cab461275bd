"Points: their positions on objects, and the fields of a weak annotation."
import numpy as np
import pytest

from pointwssis.core import ConfigError, DataError, rng
from pointwssis.data import coco, shapes
from pointwssis.method.point_strategies import point_of, weak_annotation
from pointwssis.registry import POINTS

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
