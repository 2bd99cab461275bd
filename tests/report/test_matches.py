"Matches: AP from the record is AP, also of images counted more than once, and the record survives its file."
import json
from dataclasses import replace

import numpy as np
import pytest

from pointwssis.core import DataError, write_json
from pointwssis.data import evaluation as judge, shapes
from pointwssis.data.coco import encode_many, load
from pointwssis.report import matches as matches_module
from pointwssis.report.match_records import record
from pointwssis.report.matches import Detections, Matches, Overlaps, RECALLS, Record, from_text, read_matches, to_text


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    "Twenty drawn images; every fifth object is a crowd, and the last class never occurs."
    root = tmp_path_factory.mktemp("drawn")
    shapes.write(root, train=1, val=20, size=96)
    data = load(root / "annotations/instances_val.json", root / "val", "masks")
    last = data.categories.ids[-1]
    kept = {i: [a | {"iscrowd": int(a["id"] % 5 == 0)} for a in records if a["category_id"] != last]
            for i, records in data.annotations.items()}
    return replace(data, annotations=kept)


def guesses(truth, seed):
    "Every object three times, more or less moved, sometimes of a wrong class; few different scores."
    rng = np.random.default_rng(seed)
    return [{"image_id": i, "category_id": int(rng.choice(truth.categories.ids)) if rng.random() < .2 else a["category_id"],
             "score": round(float(rng.random()), 1), "segmentation": encode_many(np.roll(truth.mask(a), rng.integers(-4, 5), 1)[None])[0]}
            for i in truth.ids for a in truth.annotations[i] for _ in range(3)]


@pytest.mark.parametrize("seed", range(4))
def test_ap_from_the_record_is_ap(truth, seed):
    found = guesses(truth, seed)
    made = record(truth, {"net": found}).matches.ap("net")
    for backend in judge.BACKENDS: assert made[0] == pytest.approx(judge.coco_ap(truth, found, backend)["ap_percent"], abs=1e-9)
    assert 0 < made[0] < 100


def test_a_weighted_image_counts_as_often_as_it_is_there(truth):
    found = [r | {"score": n / 10**4} for n, r in enumerate(guesses(truth, 3))]
    matches, ids = record(truth, {"net": found}).matches, sorted(truth.ids)
    weights = np.random.default_rng(2).multinomial(len(ids), [1 / len(ids)] * len(ids), 3)
    for row, ap in zip(weights, matches.ap("net", weights)):
        copies = [(i, i + 1000 * n) for i, w in zip(ids, row) for n in range(w)]
        images = {new: truth.images[old] | {"id": new} for old, new in copies}
        objects = {new: [a | {"image_id": new} for a in truth.annotations[old]] for old, new in copies}
        results = [r | {"image_id": new} for old, new in copies for r in found if r["image_id"] == old]
        assert ap == pytest.approx(judge.coco_ap(replace(truth, images=images, annotations=objects), results)["ap_percent"], abs=1e-9)


def test_no_detection_and_no_object(truth):
    made = record(truth, {"nothing": [], "net": guesses(truth, 0)}).matches
    assert made.ap("nothing")[0] == 0 and made.objects[-1].sum() == 0
    assert np.isnan(made.ap("net", np.zeros((1, len(truth.ids))))[0])


def test_crowds_are_no_objects_and_what_lies_on_them_is_ignored(truth):
    crowds = [a for records in truth.annotations.values() for a in records if a["iscrowd"]]
    found = [{key: a[key] for key in ("image_id", "category_id", "segmentation")} | {"score": .5} for a in crowds]
    made = record(truth, {"net": found})
    net = made.matches.networks["net"]
    assert crowds and net.ignored.all() and not net.right.any()
    assert made.matches.objects.sum() == truth.num_annotations - len(crowds)


def test_the_file_holds_everything(truth, tmp_path):
    point = truth.annotations[truth.ids[0]][0]["id"]
    made = record(truth, {"net": guesses(truth, 5)}, {"sw": {point: 1 / 3}})
    write_json(tmp_path / "matches.json", {"weak": made.packed()})
    read = read_matches(tmp_path / "matches.json")["weak"]
    weights = np.random.default_rng(0).integers(0, 3, (4, len(truth.ids)))
    assert (read.matches.ap("net", weights) == made.matches.ap("net", weights)).all()
    assert read.matches.classes == truth.categories.names and read.overlaps["sw"].iou == pytest.approx([1 / 3], abs=1e-9)


@pytest.mark.parametrize("column", [[], [0], [255, 0], [256], [70000, 1], [2**33]])
def test_columns(column):
    assert from_text(to_text(column)).tolist() == column


@pytest.mark.parametrize("broken", ["{}", '{"val": {}}', '{"val": 3}', '{"val": {"images": "x"}}', "[1]"])
def test_a_broken_record_is_one_line(tmp_path, broken):
    path = tmp_path / "matches.json"
    path.write_text(broken)
    if broken == "{}": assert read_matches(path) == {}; return
    with pytest.raises(DataError, match="matches.json: no record of matches .*Run the stage evaluate again"): read_matches(path)


def test_a_record_takes_few_bytes(truth):
    found = guesses(truth, 0)
    assert len(json.dumps(record(truth, {"net": found}).packed())) < 8 * len(found) + 800


def test_mean_overlap_counts_points_not_images():
    overlaps = Overlaps(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0.]))
    assert overlaps.miou(np.array([[1, 1], [0, 1], [2, 1]])).tolist() == pytest.approx([75, 0, 600 / 7])


def test_columns_of_a_record_keep_their_order():
    rng, n = np.random.default_rng(0), 50
    right = rng.random((10, n)) < .3
    found = Detections(rng.integers(0, 9, n), np.sort(rng.integers(0, 3, n)), right, ~right & (rng.random((10, n)) < .1))
    made = Record(Matches(np.arange(9) * 7, ("a", "b", "c"), rng.integers(0, 3, (3, 9)), {"net": found}), {})
    again = Record.unpacked(json.loads(json.dumps(made.packed())))
    for name in ("image", "kind", "right", "ignored"): assert (getattr(again.matches.networks["net"], name) == getattr(found, name)).all()
    assert (again.matches.objects == made.matches.objects).all() and again.matches.images.tolist() == made.matches.images.tolist()


def plain_ap(matches, network, weights):
    "AP as it is defined: one class, threshold and weighting after the other, with Python's own sums."
    found, scores = matches.networks[network], []
    for kind, objects in enumerate(matches.objects @ weights):
        if not objects: continue
        for right, ignored in zip(found.right, found.ignored):
            hits, seen, points = 0, 0, []
            for image, own, hit, skipped in zip(found.image, found.kind, right, ignored):
                if own != kind: continue
                hits, seen = hits + weights[image] * hit, seen + weights[image] * (not skipped)
                if hit: points.append((hits / objects, hits / seen if seen else 0))
            best = [max((p for recall, p in points if recall >= level), default=0) for level in RECALLS]
            scores.append(100 * sum(best) / len(RECALLS))
    return sum(scores) / len(scores) if scores else float("nan")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("large, many", [(0, 100), (2**24, 2**22)])
def test_drawn_ap_is_the_plain_one(monkeypatch, seed, large, many):
    "Random records: crowds, classes without objects, images that are drawn never or often; with the table of recalls and without, in one piece and in many."
    monkeypatch.setattr(matches_module, "LARGE", large)
    monkeypatch.setattr(matches_module, "MANY", many)
    random, images, classes, found = np.random.default_rng(seed), 9, 3, 80
    ignored = random.random((10, found)) < .1 * (seed % 2)
    right = (random.random((10, found)) < random.random()) & ~ignored
    net = Detections(random.integers(0, images, found), np.sort(random.integers(0, classes, found)), right, ignored)
    objects = random.integers(0, 8, (classes, images)) * np.array([[1], [1], [seed % 2]]) + 4 * (np.arange(classes) == 0)[:, None]
    made = Matches(np.arange(images), ("a", "b", "c"), objects, {"net": net})
    weights = random.multinomial(images, np.full(images, 1 / images), 40)
    weights[0] = 0
    slow = [plain_ap(made, "net", row) for row in weights]
    assert made.ap("net", weights) == pytest.approx(slow, abs=1e-9, nan_ok=True) and np.isnan(slow[0])


def test_precision_is_ap_by_class_and_threshold(truth):
    found = guesses(truth, 2)
    each, told = record(truth, {"net": found}).matches.precision("net")[..., 0], judge.coco_ap(truth, found)
    assert np.nanmean(each[:, 0]) == pytest.approx(told["ap50_percent"], abs=1e-9)
    assert np.nanmean(each[:, 5]) == pytest.approx(told["ap75_percent"], abs=1e-9)
    by_class = dict(zip(truth.categories.names, each.mean(1)))
    assert {name: None if np.isnan(ap) else pytest.approx(ap, abs=1e-9) for name, ap in by_class.items()} == told["per_class"]
