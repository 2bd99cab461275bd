"Records are read as they were written: masks, boxes and points through every form in which they are stored."
import json
import math

import numpy as np
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pointwssis.core import rng
from pointwssis.data import coco
from pointwssis.data.points import Point, as_prompts, points_of
from pointwssis.data.transforms import tight_boxes
from pointwssis.method.point_strategies import weak_annotation
from pointwssis.registry import POINTS

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))
filled = masks.filter(lambda mask: mask.any())


def through_json(value): return json.loads(json.dumps(value))


@settings(deadline=None, max_examples=150)
@given(masks)
def test_masks_as_compressed_run_lengths(mask):
    assert np.array_equal(coco.decode(through_json(coco.encode(mask)), *mask.shape), mask)


@settings(deadline=None, max_examples=80)
@given(masks)
def test_masks_as_plain_run_lengths(mask):
    column = np.r_[0, mask.T.ravel(), 0]                        # runs of zeros and ones in turn, down the columns, zeros first
    edges = np.flatnonzero(np.diff(column)).tolist()
    runs = np.diff([0, *edges, mask.size] if not edges or edges[-1] < mask.size else [0, *edges]).tolist()
    assert np.array_equal(coco.decode({"size": list(mask.shape), "counts": runs}, *mask.shape), mask)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 20)), min_size=3, max_size=8))
def test_polygons_as_run_lengths(corners):
    mask = coco.decode([[v for corner in corners for v in corner]], 20, 30)
    assert np.array_equal(coco.decode(coco.encode(mask), 20, 30), mask)


@settings(deadline=None, max_examples=100)
@given(filled)
def test_boxes(mask):
    "COCO's x, y, width, height in files, half open corners inside: both enclose the same pixels, and nothing is left over."
    x, y, w, h = through_json(coco.mask_fields(coco.encode(mask)))["bbox"]
    x0, y0, x1, y1 = coco.box_of(mask)
    assert (x, y, x + w, y + h) == (x0, y0, x1, y1) and tight_boxes(torch.from_numpy(mask)[None]).tolist() == [[x0, y0, x1, y1]]
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = True
    assert not (mask & ~inside).any() and mask[y0:y1, x0:x1].any(0)[[0, -1]].all() and mask[y0:y1, x0:x1].any(1)[[0, -1]].all()


@settings(deadline=None, max_examples=60)
@given(filled, st.sampled_from(sorted(POINTS)), st.integers(0, 1000))
def test_points_through_a_weak_file(tmp_path_factory, mask, strategy, seed):
    "A click is stored to the last bit, and lies in the image."
    record = {"id": 5, "image_id": 3, "category_id": 9}
    weak = weak_annotation(record, mask, strategy, rng(seed))
    path, (height, width) = tmp_path_factory.mktemp("weak") / "w.json", mask.shape
    coco.save(path, [{"id": 3, "file_name": "x.png", "width": width, "height": height}], [weak], coco.CategoryTable((4, 9), ("a", "b")))
    (point,) = points_of(coco.load(path, need="points"), 3)
    assert point == Point(*weak["point"], 1, 5) and 0 <= point.x < width and 0 <= point.y < height


sides = st.integers(1, 2000)


@settings(deadline=None, max_examples=100)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)))
def test_points_into_the_input_and_back(size, out_size, share):
    "The resize of a point is undone exactly, and its half pixel is taken off once."
    point = Point(share[0] * out_size[1], share[1] * out_size[0], 0, 0)
    x, y = as_prompts([point]).to_input(size, out_size, torch.device("cpu")).xy[0].tolist()
    back = (x + .5) * out_size[1] / size[1], (y + .5) * out_size[0] / size[0]
    assert math.dist(back, (point.x, point.y)) < 1e-6
    assert -.5 <= x < size[1] and -.5 <= y < size[0]
