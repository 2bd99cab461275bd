"Large pictures: tiles cover them, an object on a seam is one object, and a picture of one tile is as it would be without tiles."
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from pointwssis.core import rng
from pointwssis.data.masks import decode, encode, from_pixels, pixels_of
from pointwssis.detector import tiles
from pointwssis.detector.inference import Instances
from pointwssis.detector.tiles import Found, find_in_tiles, join_tiles, tiles_of

SIZE = (64, 96)


def instances(masks: list, classes: list, shape) -> Instances:
    n = len(masks)
    stack = torch.tensor(np.array(masks).reshape(n, *shape[:2]), dtype=torch.bool)
    return Instances(stack, torch.linspace(.9, .8, n), torch.tensor(classes, dtype=torch.long), torch.full((n,), -1))


def by_colour(images):
    "A network that finds every patch of one colour, as far as it is in the tile."
    def one(image):
        masks, classes = [], []
        for value in sorted({*np.unique(image[..., 0])} - {0}):
            labels = cv2.connectedComponents((image[..., 0] == value).astype(np.uint8))[1]
            for n in range(1, labels.max() + 1): masks.append(labels == n); classes.append(int(value) % 2)
        return instances(masks, classes, image.shape)
    return [one(image) for image in images]


def crowd(height: int, width: int, side: int, step: int) -> tuple[np.ndarray, int]:
    "Squares everywhere, so that many lie on seams; neighbours differ in colour."
    image, count = np.zeros((height, width, 3), np.uint8), 0
    for x in range(3, width - side, step):
        for y in range(5, height - side, step):
            image[y:y + side, x:x + side] = 100 + count % 50
            count += 1
    return image, count


@pytest.mark.parametrize("height, width", [(10, 10), (64, 96), (65, 97), (200, 300), (1000, 64), (64, 1000)])
def test_tiles_cover_the_picture_and_overlap(height, width):
    seen, boxes = np.zeros((height, width), int), tiles_of(height, width, SIZE)
    for x0, y0, x1, y1 in boxes: seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1 and len(set(boxes)) == len(boxes)
    assert {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in boxes} == {(min(height, 64), min(width, 96))}
    columns = sorted({box[0] for box in boxes})
    assert all(later - one <= 72 for one, later in zip(columns, columns[1:]))


def test_each_object_on_a_seam_is_found_once():
    image, count = crowd(300, 400, 14, 19)
    found = find_in_tiles(by_colour, image, tiles_of(300, 400, SIZE), score=0)
    assert len(found) == count
    whole = find_in_tiles(by_colour, image, tiles_of(300, 400, None), score=0)
    assert {(f.rle["counts"], f.class_index) for f in found} == {(f.rle["counts"], f.class_index) for f in whole}
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)


def test_an_object_larger_than_a_tile_is_one():
    image = np.zeros((300, 400, 3), np.uint8)
    image[20:280, 30:370] = 101
    found = find_in_tiles(by_colour, image, tiles_of(300, 400, SIZE), score=0)
    assert len(found) == 1 and (decode(found[0].rle, 300, 400) == (image[..., 0] > 0)).all()


def test_uneven_masks_of_one_object_are_one_and_neighbours_stay_two():
    left, right = tiles_of(60, 140, (60, 80))
    def blob(x0, x1, tile, kind=0, score=.9):
        mask = np.zeros((60, 140), bool)
        mask[10:30, x0:x1] = True
        return Found(encode(mask), score, kind, tile)
    assert len(join_tiles([blob(40, 76, left), blob(62, 80, right)])) == 1        # the second tile shows its end alone
    assert len(join_tiles([blob(40, 62, left), blob(61, 90, right)])) == 2        # they touch in one column
    assert len(join_tiles([blob(64, 74, left), blob(64, 74, right, kind=1)])) == 2
    both = [blob(61, 68, left), blob(69, 76, left), blob(61, 76, right)]          # the left tile tells two apart
    assert len(join_tiles(both)) == 2


def test_a_picture_of_one_tile_is_as_without_tiles():
    image, _ = crowd(64, 96, 14, 19)
    asked = by_colour([image])[0]
    found = find_in_tiles(by_colour, image, tiles_of(64, 96, SIZE), score=.85)
    assert [f.rle for f in found] == [encode(m.numpy()) for m, s in zip(asked.masks, asked.scores) if s >= .85]
    assert [f.score for f in found] == [float(s) for s in asked.scores if s >= .85]


def test_memory_does_not_hold_all_masks():
    "A thousand masks of this picture would be a gigabyte."
    image, count = crowd(900, 1200, 14, 31)
    assert count > 1000
    tracemalloc.start()
    find_in_tiles(by_colour, image, tiles_of(900, 1200, SIZE), score=0)
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()


def test_run_lengths_of_pixels_are_those_of_the_mask():
    for density in (0, .1, .5, .9, 1):
        mask = rng(0, "pixels", str(density)).random((37, 53)) < density
        assert (pixels_of(encode(mask)) == np.flatnonzero(mask.T)).all()
        assert from_pixels(np.flatnonzero(mask.T), 37, 53) == encode(mask)
        moved = tiles.moved(encode(mask), (4, 9, 57, 46), 60, 70)
        assert (decode(moved, 60, 70)[9:46, 4:57] == mask).all() and decode(moved, 60, 70).sum() == mask.sum()
