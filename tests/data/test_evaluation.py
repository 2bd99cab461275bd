"AP as the reference computes it, silent, and the quality of pseudo masks by point."
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pointwssis.core import ConfigError, DataError
from pointwssis.data import evaluation
from pointwssis.data.coco import CategoryTable, CocoData, decode, encode, encode_many, load
from pointwssis.data.evaluation import SLICES, coco_ap, link_by_overlap, pseudo_quality, to_results
from real import PHOTOGRAPHS, needs_photographs

REAL = PHOTOGRAPHS / "coco_union"
CATEGORIES = CategoryTable((2, 5, 11, 90), ("a", "b", "c", "never"))


def blob(rng, size=160):
    y, x, r = rng.uniform(0, size), rng.uniform(0, size), rng.choice([6, 25, 90])
    return np.hypot(*(np.mgrid[:size, :size] - np.array([y, x])[:, None, None])) < r


def random_truth(rng, images=12):
    "Discs of all three sizes; every third image is empty, some annotations are crowds, ids start at 0, some have no area."
    annotations, number = {}, 0
    for i in range(1, images + 1):
        annotations[i * 10] = []
        for _ in range(0 if i % 3 == 0 else rng.integers(1, 7)):
            mask, crowd = blob(rng), int(rng.random() < .15)
            a = {"id": number, "image_id": i * 10, "category_id": int(rng.choice([2, 5, 11])), "iscrowd": crowd}
            annotations[i * 10].append(a | {"segmentation": encode(mask)} | ({"area": int(mask.sum())} if number % 4 else {}))
            number += 1
    records = {i: {"id": i, "file_name": f"{i}.png", "width": 160, "height": 160} for i in annotations}
    return CocoData(Path("random.json"), Path(), records, annotations, CATEGORIES, {})


def noisy(truth, rng):
    "Results near the truth: shifted, some missed, some doubled, some of another class, some invented; scores have ties."
    results = []
    for image_id, annotations in truth.annotations.items():
        record = truth.images[image_id]
        masks = [(np.roll(decode(a["segmentation"], record["height"], record["width"]), int(rng.integers(0, 5)), 1), a["category_id"])
                 for a in annotations for _ in range(rng.integers(0, 3))]
        invented = np.roll(np.tri(record["height"], record["width"], dtype=bool), int(rng.integers(50)), 1)
        if rng.random() < .4: masks.append((invented, truth.categories.ids[0]))     # also on images without objects
        for mask, category in masks:
            category = int(rng.choice(truth.categories.ids)) if rng.random() < .1 else category
            score = float(rng.integers(1, 20)) / 20
            results.append({"image_id": image_id, "category_id": category, "segmentation": encode(mask), "score": score})
    return results


def as_result(a): return {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 1.}


def assert_equal(a, b):
    for key in SLICES: assert (a[key] is None) == (b[key] is None) and (a[key] is None or abs(a[key] - b[key]) < 1e-9), key
    assert a["per_class"].keys() == b["per_class"].keys()
    for key in a["per_class"]: assert a["per_class"][key] == pytest.approx(b["per_class"][key], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_backends_agree_on_random_data(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    results = noisy(truth, rng)
    fast, reference = (coco_ap(truth, results, b) for b in ("faster", "pycocotools"))
    assert_equal(fast, reference)
    assert 5 < fast["ap_percent"] < 95 and fast["per_class"]["never"] is None


@needs_photographs
def test_backends_agree_on_real_coco():
    truth = load(REAL / "annotations/instances_train.json", REAL / "train")
    crowded = [i for i in truth.ids if any(a["iscrowd"] for a in truth.annotations[i])]
    assert crowded
    truth = truth.select(dict.fromkeys([*crowded, *truth.ids[:40]]))
    truth = replace(truth, annotations=truth.annotations | {i: [] for i in truth.ids[-5:]})     # images without objects, but with results
    results = noisy(truth, np.random.default_rng(0))
    fast, reference = (coco_ap(truth, results, b) for b in ("faster", "pycocotools"))
    assert_equal(fast, reference)
    assert 5 < fast["ap_percent"] < 95


def test_reference_itself():
    "Against pycocotools used as its manual says, without our wrapper."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    truth = random_truth(np.random.default_rng(9))
    for i, a in enumerate(a for r in truth.annotations.values() for a in r):
        a.update(id=i + 1, area=float(decode(a["segmentation"], 160, 160).sum()))
    results = noisy(truth, np.random.default_rng(9))
    wrapped = coco_ap(truth, results, "pycocotools")
    index = COCO()
    index.dataset = {"info": {}, "images": list(truth.images.values()), "annotations": [a for r in truth.annotations.values() for a in r],
                     "categories": [{"id": i, "name": n} for i, n in zip(CATEGORIES.ids, CATEGORIES.names)]}
    index.createIndex()
    judge = COCOeval(index, index.loadRes(results), "segm")
    judge.evaluate(); judge.accumulate(); judge.summarize()
    assert [wrapped[k] for k in SLICES] == pytest.approx((judge.stats[:6] * 100).tolist(), abs=1e-9)


def test_silent_and_leaves_its_input_alone(capfd):
    truth = random_truth(np.random.default_rng(1))
    results = noisy(truth, np.random.default_rng(1))
    before = json.dumps([truth.annotations, results])
    for backend in ("faster", "pycocotools"): coco_ap(truth, results, backend)
    assert json.dumps([truth.annotations, results]) == before
    assert capfd.readouterr() == ("", "")


def test_results_may_come_one_by_one(monkeypatch):
    truth = random_truth(np.random.default_rng(1))
    results = noisy(truth, np.random.default_rng(1))
    whole = coco_ap(truth, results)
    monkeypatch.setattr(evaluation, "AT_ONCE", 3)
    assert len(results) > 6 and coco_ap(truth, iter(results)) == whole


def test_records_wait_for_their_class_in_little_memory():
    "Half of what the detections take as dictionaries, at most."
    truth = random_truth(np.random.default_rng(1))
    text = json.dumps({"image_id": 10, "category_id": 90, "segmentation": encode(blob(np.random.default_rng(1))), "score": .5})
    def detections(): return evaluation._detections(truth, (json.loads(text) for _ in range(3000)))
    def peak(work) -> int:
        tracemalloc.start()
        try:
            kept = work()
            return kept is not None and tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    with pytest.MonkeyPatch.context() as few:
        few.setattr(evaluation, "AT_ONCE", 100)
        classes, plain = peak(lambda: next(evaluation._of_classes(truth, iter(()), detections()))), peak(lambda: [*detections()])
    assert 0 < classes < plain / 2


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_no_results_and_no_objects(backend):
    truth = random_truth(np.random.default_rng(2))
    nothing = coco_ap(truth, [], backend)
    assert all(nothing[k] == 0 for k in SLICES) and nothing["per_class"] == {"a": 0, "b": 0, "c": 0, "never": None}
    empty = replace(truth, annotations={i: [] for i in truth.ids})
    assert set(coco_ap(empty, [], backend)[k] for k in SLICES) == {None}
    json.dumps(nothing, allow_nan=False)


def test_first_annotation_id_may_be_zero():
    truth = random_truth(np.random.default_rng(3))
    truth = truth.select([i for i in truth.ids if any(not a["iscrowd"] for a in truth.annotations[i])][:1])
    perfect = [as_result(a) for r in truth.annotations.values() for a in r]
    assert truth.annotations[truth.ids[0]][0]["id"] == 0
    for backend in ("faster", "pycocotools"): assert coco_ap(truth, perfect, backend)["ap_percent"] == pytest.approx(100)


def test_refusals():
    truth = random_truth(np.random.default_rng(4))
    result = {"image_id": 10, "category_id": 2, "segmentation": encode(np.ones((160, 160), bool)), "score": 1.}
    with pytest.raises(DataError, match="random.json: no image 77"): coco_ap(truth, [result | {"image_id": 77}])
    with pytest.raises(DataError, match="random.json: no category 3"): coco_ap(truth, [result | {"category_id": 3}])
    with pytest.raises(ConfigError, match="Did you mean 'faster'"): coco_ap(truth, [], "fastest")


def test_instances_become_results():
    masks = torch.zeros(2, 8, 6, dtype=torch.bool)
    masks[0, 2:5, 1:3] = True
    found = SimpleNamespace(masks=masks, scores=torch.tensor([.75, .5]), classes=torch.tensor([3, 1]))
    first, second = to_results(found, 42, CATEGORIES)
    assert first["image_id"] == 42 and (first["category_id"], second["category_id"]) == (90, 5) and first["score"] == .75
    assert np.array_equal(decode(first["segmentation"], 8, 6), masks[0].numpy())
    json.dumps([first, second])


def half_right(truth):
    "The pseudo file of a truth: each mask loses its left half, every fifth point has no mask; the first image is strong."
    strong, *weak = truth.ids
    pseudo, dropped = {i: [] for i in truth.ids}, []
    pseudo[strong] = [dict(a) for a in truth.annotations[strong]]
    for i in weak:
        for a in truth.annotations[i]:
            mask = decode(a["segmentation"], 160, 160)
            columns = np.flatnonzero(mask.any(0))
            kept = mask & (np.arange(160) >= columns.mean())
            known = {"image_id": i, "category_id": a["category_id"], "iscrowd": 0}
            if a["id"] % 5 == 0: dropped.append(known | {"id": a["id"], "point": [1., 1.]})
            else: pseudo[i].append(known | {"id": 900 + a["id"], "segmentation": encode(kept), "point_id": a["id"]})
    return replace(truth, annotations=pseudo, info={"dropped_points": dropped})


def test_pseudo_quality_by_hand():
    truth = random_truth(np.random.default_rng(5))
    for a in (a for r in truth.annotations.values() for a in r): a["iscrowd"] = 0
    pseudo = half_right(truth)
    quality = pseudo_quality(pseudo, truth)
    true = {a["id"]: decode(a["segmentation"], 160, 160) for r in truth.annotations.values() for a in r}
    wanted = {}
    for a in (a for r in pseudo.annotations.values() for a in r if "point_id" in a):
        mask, other = decode(a["segmentation"], 160, 160), true[a["point_id"]]
        wanted[a["point_id"]] = (mask & other).sum() / (mask | other).sum()
    missing = {a["id"]: 0. for a in pseudo.info["dropped_points"]}
    assert quality["ious"] == pytest.approx(wanted | missing) and len(missing) > 1
    assert quality["points"] == len(wanted) + len(missing) and quality["points_without_mask"] == len(missing)
    assert quality["miou_percent"] == pytest.approx(100 * np.mean([*wanted.values(), *missing.values()]))
    assert quality["miou_found_percent"] == pytest.approx(100 * np.mean([*wanted.values()]))
    assert quality["masks"] == len(wanted) and quality["masks_right"] == sum(iou >= .5 for iou in wanted.values())


def test_pseudo_ap_is_over_weak_images_with_scores_one():
    truth = random_truth(np.random.default_rng(6))
    pseudo = half_right(truth)
    weak = truth.select([i for i in truth.ids[1:] if truth.annotations[i]])
    results = [as_result(a) for i in weak.ids for a in pseudo.annotations[i]]
    assert pseudo_quality(pseudo, truth)["ap_percent"] == pytest.approx(coco_ap(weak, results, "pycocotools")["ap_percent"], abs=1e-9)


def test_pseudo_quality_of_perfect_empty_and_foreign_files():
    truth = random_truth(np.random.default_rng(7))
    linked = {i: [a | {"point_id": a["id"]} for a in r if not a["iscrowd"]] for i, r in truth.annotations.items()}
    perfect = replace(truth, annotations=linked)
    quality = pseudo_quality(perfect, truth)
    assert quality["miou_percent"] == quality["ap_percent"] == pytest.approx(100) and quality["points_without_mask"] == 0
    none = pseudo_quality(replace(truth, annotations={i: [] for i in truth.ids}), truth)
    assert none["points"] == 0 and none["miou_percent"] is None and none["ap_percent"] is None
    with pytest.raises(DataError, match="no annotation 4321.*random.json"):
        pseudo_quality(replace(truth, info={"dropped_points": [{"id": 4321}]}), truth)


def test_polygons_count_like_their_masks():
    polygon = [[10., 10., 60., 10., 60., 70., 10., 70.]]
    record = {"id": 1, "image_id": 1, "category_id": 2, "segmentation": polygon, "area": 3000, "iscrowd": 0}
    image = {"id": 1, "file_name": "1.png", "width": 160, "height": 160}
    truth = CocoData(Path("p.json"), Path(), {1: image}, {1: [record]}, CATEGORIES, {})
    rle = encode_many(decode(polygon, 160, 160)[None])[0]
    assert coco_ap(truth, [{"image_id": 1, "category_id": 2, "segmentation": rle, "score": 1.}])["ap_percent"] == pytest.approx(100)
    assert pseudo_quality(replace(truth, annotations={1: [record | {"segmentation": rle, "point_id": 1}]}), truth)["miou_percent"] == 100


def square(number, x, category, size=20, image=1):
    mask = np.zeros((60, 100), bool)
    mask[10:10 + size, x:x + size] = True
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": encode(mask)}


def test_masks_without_links_are_joined_by_overlap():
    records = {i: {"id": i, "file_name": f"{i}.png", "width": 100, "height": 60} for i in (1, 2)}
    crowd = square(14, 0, 2, 50) | {"iscrowd": 1}
    truth = CocoData(Path("t"), Path(), records, {1: [square(11, 0, 2), square(12, 30, 2), square(13, 60, 5), crowd], 2: [square(15, 0, 11, image=2)]},
                     CATEGORIES, {})
    made = [square(1, 28, 2), square(2, 4, 2), square(3, 62, 2), square(4, 62, 11)]     # two good ones, one too many, one of another class
    found = link_by_overlap(replace(truth, annotations={1: made, 2: []}), truth)
    assert {a["id"]: a.get("point_id") for a in found.annotations[1]} == {1: 12, 2: 11, 3: None, 4: None} and found.annotations[2] == []
    assert [a["id"] for a in found.info["dropped_points"]] == [13, 15] and found.info["masks_without_object"] == 2
    quality = pseudo_quality(found, truth)
    assert quality["points"] == 4 and quality["ious"][12] == pytest.approx(18 / 22) and quality["ious"][15] == 0
    assert (quality["masks"], quality["masks_right"]) == (4, 2)
    found = link_by_overlap(replace(truth, annotations={1: made[::-1], 2: []}), truth)
    fewer = replace(found, annotations={1: [a for a in found.annotations[1] if "point_id" in a], 2: []})
    assert pseudo_quality(found, truth)["ap_percent"] < pseudo_quality(fewer, truth)["ap_percent"]      # invented masks cost precision


def test_joining_undoes_forgetting():
    rng = np.random.default_rng(4)
    truth = random_truth(rng, 6)
    sharp = {i: [a | {"point_id": a["id"]} for a in records if not a["iscrowd"]] for i, records in truth.annotations.items()}
    bare = {i: [{k: v for k, v in a.items() if k != "point_id"} for a in records] for i, records in sharp.items()}
    found = link_by_overlap(replace(truth, annotations=bare), truth).annotations
    assert {i: sorted(records, key=lambda a: a["id"]) for i, records in found.items()} == sharp
