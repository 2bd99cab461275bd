"Pseudo labels keep the link to their clicks, and say which clicks got none."
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointwssis.core import DataError, rng
from pointwssis.data import coco
from pointwssis.data.coco import encode
from pointwssis.detector.inference import Instances
from pointwssis.method.point_strategies import weak_annotation
from pointwssis.method.pseudo_labels import PseudoMask, unmatched_points, refine_masks, rough_masks, count_unmatched, without_duplicates, write_pseudo


SIDE = 128   # of the images, pixels


@pytest.fixture(scope="module")
def halves(drawn, tmp_path_factory):
    data, root = coco.load(drawn / "annotations/instances_train.json", need="masks"), tmp_path_factory.mktemp("weak")
    strong, hidden = data.select(data.ids[:2]), data.select(data.ids[2:5])
    clicks = [weak_annotation(a, hidden.mask(a), "centroid", rng(0, a["id"])) for i in hidden.ids for a in hidden.annotations[i]]
    empty = {**hidden.images[hidden.ids[0]], "id": 99}              # a weak image on which nobody clicked
    coco.save(root / "weak.json", [*hidden.images.values(), empty], clicks, data.categories)
    return strong, coco.load(root / "weak.json", drawn / "train", need="points"), hidden


def teacher(hidden, skip=()):
    truth = {a["id"]: torch.tensor(hidden.mask(a)) for i in hidden.ids for a in hidden.annotations[i]}

    def one(image, points):
        order = [k for k in reversed(range(len(points))) if points[k].annotation_id not in skip]    # not in the order of the clicks
        masks = [truth[points[k].annotation_id] for k in order]
        return Instances(torch.stack(masks) if masks else torch.zeros(0, *image.shape[:2], dtype=torch.bool), torch.full((len(order),), .5),
                         torch.tensor([points[k].class_index for k in order], dtype=torch.long), torch.tensor(order, dtype=torch.long))
    return lambda images, points: [one(*pair) for pair in zip(images, points)]


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_every_mask_knows_its_click(halves, batch):
    _, weak, hidden = halves
    masks = rough_masks(teacher(hidden), weak, batch)
    truth = {a["id"]: a for i in hidden.ids for a in hidden.annotations[i]}
    assert {m.point_id for m in masks} == set(truth) and len(masks) == len(truth)
    for m in masks:
        a = truth[m.point_id]
        assert (m.image_id, weak.categories.id(m.class_index)) == (a["image_id"], a["category_id"])
        assert (coco.decode(m.rle, SIDE, SIDE) == hidden.mask(a)).all()


def test_empty_and_unlinked_masks(halves):
    _, weak, hidden = halves
    nothing, all_of_it = torch.zeros(1, SIDE, SIDE, dtype=torch.bool), torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    one = Instances(torch.cat([nothing, all_of_it]), torch.tensor([.9, .8]), torch.tensor([0, 1]), torch.tensor([0, -1]))
    masks = rough_masks(lambda images, points: [one for _ in images], weak.select(weak.ids[:1]))
    assert [(m.point_id, m.class_index) for m in masks] == [(-1, 1)]
    assert len(unmatched_points(weak, masks)) == weak.num_annotations


class Refiner:
    "A refiner whose answer is a function of its items."
    def __init__(self, answer): self.refine = answer


def test_refined_masks_keep_order_link_and_score(halves):
    _, weak, hidden = halves
    masks = rough_masks(teacher(hidden), weak)
    masks = [*masks[:2], replace(masks[2], point_id=-1), *masks[3:]]
    seen = []

    def invert(items):
        seen.append(sum(len(rough) for _, rough, _, _ in items))
        return [[encode(~coco.decode(rle, SIDE, SIDE)) for rle in rough] for _, rough, _, _ in items]
    found = refine_masks(Refiner(invert), weak, masks, batch=3)
    for a, b in zip(masks, found):
        assert (a.point_id, a.image_id, a.class_index, a.score) == (b.point_id, b.image_id, b.class_index, b.score)
        assert (coco.decode(a.rle, SIDE, SIDE) ^ coco.decode(b.rle, SIDE, SIDE)).all()
    assert len(found) == len(masks) and sum(seen) == len(masks) and min(seen[:-1]) >= 3


def test_refiner_gets_the_click_of_the_mask(halves):
    _, weak, hidden = halves
    got = {}

    def note(items):
        for image, _, xy, classes in items: got.update({tuple(p): (c, int(image.sum())) for p, c in zip(xy.tolist(), classes.tolist())})
        return [rough for _, rough, _, _ in items]
    refine_masks(Refiner(note), weak, rough_masks(teacher(hidden), weak))
    def place(a): return tuple(torch.tensor(a["point"]).tolist())
    def seen(a): return weak.categories.index(a["category_id"]), int(weak.read_image(a["image_id"]).sum())
    expected = {place(a): seen(a) for i in weak.ids for a in weak.annotations[i]}
    assert got == expected


def test_file_for_the_student(halves, tmp_path):
    strong, weak, hidden = halves
    skip = {weak.annotations[weak.ids[0]][0]["id"]}
    masks = rough_masks(teacher(hidden, skip), weak)
    written = write_pseudo(tmp_path / "instances_train2017_10p_sw.json", strong, weak, masks)
    sw = coco.load(tmp_path / "instances_train2017_10p_sw.json", strong.image_root, need="masks")
    records = [a for i in sw.ids for a in sw.annotations[i]]
    assert sw.ids == strong.ids + weak.ids and sw.annotations[99] == []
    assert sorted(a["id"] for a in records) == list(range(1, len(records) + 1))
    assert len(records) == strong.num_annotations + len(masks) == len(written["annotations"])
    (dropped,) = sw.info["dropped_points"]
    assert dropped["id"] in skip and set(dropped) == {"id", "image_id", "category_id", "point", "iscrowd"}
    truth = {a["id"]: a for i in hidden.ids for a in hidden.annotations[i]}
    for a in (a for a in records if "point_id" in a):
        mask = sw.mask(a)
        x0, y0, x1, y1 = coco.box_of(mask)
        assert (mask == hidden.mask(truth[a["point_id"]])).all() and a["area"] == mask.sum() and a["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert a["iscrowd"] == 0 and a["score"] == .5 and a["category_id"] == truth[a["point_id"]]["category_id"]
    for i in strong.ids: assert [a["segmentation"] for a in sw.annotations[i]] == [a["segmentation"] for a in strong.annotations[i]]


def test_an_emptied_mask_is_a_dropped_point(halves, tmp_path):
    strong, weak, hidden = halves
    masks = rough_masks(teacher(hidden), weak)
    masks[0] = replace(masks[0], rle=coco.encode(coco.decode(masks[0].rle, SIDE, SIDE) & False))
    written = write_pseudo(tmp_path / "sw.json", strong, weak, masks)
    assert [a["id"] for a in written["dropped_points"]] == [masks[0].point_id]
    assert masks[0].point_id not in {a.get("point_id") for a in written["annotations"]}


def test_summary_counts_by_class(halves):
    _, weak, hidden = halves
    first = weak.annotations[weak.ids[0]][0]
    report = count_unmatched(weak, rough_masks(teacher(hidden, {first["id"]}), weak))
    name = weak.categories.names[weak.categories.index(first["category_id"])]
    assert (report["points"], report["points_without_mask"]) == (weak.num_annotations, 1)
    assert report["by_class"][name][1] == 1 and sum(n for n, _ in report["by_class"].values()) == weak.num_annotations


@pytest.mark.parametrize("change, words", [
    (lambda s, w: (s, replace(w, categories=coco.CategoryTable((1,), ("x",)))), "categories differ"),
    (lambda s, w: (s, replace(w, image_root=w.image_root / "other")), "one root"),
    (lambda s, w: (replace(s, images=s.images | {99: {}}, annotations=s.annotations | {99: []}), w), "image 99 is also in")])
def test_halves_that_do_not_belong_together(halves, tmp_path, change, words):
    strong, weak = change(*halves[:2])
    with pytest.raises(DataError, match=words): write_pseudo(tmp_path / "sw.json", strong, weak, [])
    assert not list(tmp_path.iterdir())


def test_duplicates_are_dropped_within_a_class_and_image_only():
    square = np.zeros((10, 10), bool)
    square[2:8, 2:8] = True
    def mask(point, image, kind, score, m=square): return PseudoMask(point, image, kind, encode(m), score)
    smaller = square.copy()
    smaller[2] = False
    found = without_duplicates([mask(1, 1, 0, .5), mask(2, 1, 0, .9, smaller), mask(3, 1, 1, .1), mask(4, 2, 0, .1), mask(5, 1, 0, .4, ~square)])
    assert sorted(m.point_id for m in found) == [2, 3, 4, 5]
    assert [m.point_id for m in without_duplicates([mask(1, 1, 0, .5), mask(2, 1, 0, .9, smaller)], iou=.99)] == [2, 1]
