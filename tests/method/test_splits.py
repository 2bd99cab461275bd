"Strong and weak: nested, seeded, complete, and the weak file holds points and nothing else."
import json

import numpy as np
import pytest

from pointwssis.core import ConfigError, DataError
from pointwssis.data import coco, shapes
from pointwssis.method.split_stage import split
from pointwssis.method.splits import add_weak, audit, check_split, choose, percentage, split_name, take_split, write_split
from pointwssis.runs.stage_graph import config_of
from real import PHOTOGRAPHS, needs_photographs

FORBIDDEN = ("segmentation", "bbox", "area", "counts", "mask", "box")


def keys(value):
    "Every key anywhere in a JSON value."
    if isinstance(value, dict): return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    root = shapes.write(tmp_path_factory.mktemp("shapes"), train=30, val=1)
    return coco.load(root / "annotations" / "instances_train.json", need="masks")


@pytest.mark.parametrize("text, percent", [("1p", 1), ("12.5p", 12.5), (10, 10), ("10%", 10), ("99.9", 99.9), (" 5p ", 5)])
def test_percentage(text, percent): assert percentage(text) == percent and split_name(text) == f"{percent:g}p"


@pytest.mark.parametrize("bad", ["0p", "100p", 0, 100, -1, "nan", "inf", "ten", "", "p", "%", "10pp", None])
def test_percentage_refuses(bad):
    with pytest.raises(ConfigError, match="Write it like 10p"): percentage(bad)


def test_choose_is_nested_seeded_and_complete():
    sets = [set(choose(range(1000), p, 3)[0]) for p in ("1p", "2p", "5p", "10p", "20p", "30p", "40p", "50p")]
    assert [len(s) for s in sets] == [10, 20, 50, 100, 200, 300, 400, 500]
    assert all(a < b for a, b in zip(sets, sets[1:]))
    strong, weak = choose(range(1000), "10p", 3)
    assert sorted(strong + weak) == list(range(1000))
    assert choose(reversed(range(1000)), "10p", 3) == (strong, weak) and choose(range(1000), "10p", 4)[0] != strong
    assert len(choose([4, 9], "1p", 0)[0]) == 1
    with pytest.raises(DataError, match="no image"): choose([], "10p", 0)


def test_choice_is_pinned(): assert choose(range(100), "5p", 0)[0] == [16, 20, 52, 84, 98]


@pytest.mark.parametrize("strategy", ["centroid", "deepest", "random", "jittered"])
def test_files_hold_what_they_should(truth, tmp_path, strategy):
    path_s, path_w = write_split(truth, "10p", 0, strategy, tmp_path)
    assert (path_s.name, path_w.name) == ("instances_train2017_10p_s.json", "instances_train2017_10p_w.json")
    strong, weak = coco.load(path_s, truth.image_root, need="masks"), coco.load(path_w, truth.image_root, need="points")
    assert len(strong.ids) == 3 and sorted(strong.ids + weak.ids) == truth.ids
    assert all(strong.annotations[i] == truth.annotations[i] for i in strong.ids)
    assert all([a["id"] for a in weak.annotations[i]] == [a["id"] for a in truth.annotations[i]] for i in weak.ids)
    audit(path_w)
    assert not {k for k in keys(json.loads(path_w.read_text())) for word in FORBIDDEN if word in k}
    first = path_w.read_bytes()
    write_split(truth, "10p", 0, strategy, tmp_path)
    assert path_w.read_bytes() == first


def test_weak_points_are_the_centroids(truth, tmp_path):
    weak = coco.load(write_split(truth, "10p", 0, "centroid", tmp_path)[1], need="points")
    for i in weak.ids:
        for a, t in zip(weak.annotations[i], truth.annotations[i]): assert np.allclose(a["point"], coco.centroid(truth.mask(t)))


def test_a_click_does_not_depend_on_the_split(truth, tmp_path):
    def clicks(percent):
        data = coco.load(write_split(truth, percent, 0, "random", tmp_path)[1], need="points")
        return {a["id"]: a["point"] for records in data.annotations.values() for a in records}
    few, many = clicks("50p"), clicks("10p")
    assert few and few.items() < many.items()


def test_crowds_and_empty_masks_get_no_point(truth, tmp_path):
    weak_ids = choose(truth.ids, "10p", 0)[1]
    crowd, sliver = (truth.annotations[i][0] for i in weak_ids[:2])
    changed = {crowd["id"]: crowd | {"iscrowd": 1}, sliver["id"]: sliver | {"segmentation": [[1, 1, 1.1, 1, 1.1, 1.1]]}}
    annotations = {i: [changed.get(a["id"], a) for a in records] for i, records in truth.annotations.items()}
    data = coco.CocoData(truth.path, truth.image_root, truth.images, annotations, truth.categories, {})
    weak = coco.load(write_split(data, "10p", 0, "centroid", tmp_path)[1], need="points")
    found = {a["id"] for records in weak.annotations.values() for a in records}
    assert not found & set(changed) and weak.num_annotations == sum(len(truth.annotations[i]) for i in weak_ids) - 2
    assert weak.info["info"]["unclickable_annotations"] == [sliver["id"]]


def test_a_strong_set_without_objects_is_refused(truth, tmp_path):
    annotations = dict.fromkeys(truth.images, [])
    bare = coco.CocoData(truth.path, truth.image_root, truth.images, annotations, truth.categories, {})
    with pytest.raises(DataError, match="strong images of split 10p show no object"): write_split(bare, "10p", 0, "centroid", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, word", [
    (lambda c: c["annotations"][3].update(segmentation=[]), "'segmentation'"),
    (lambda c: c["annotations"][3].update(bbox=None), "'bbox'"),
    (lambda c: c["annotations"][3].update(area=1), "'area'"),
    (lambda c: c["annotations"][3].update(hint=[1]), "'hint'"),
    (lambda c: c["images"][0].update(caption="two disks"), "'caption'"),
    (lambda c: c["info"].update(truth={}), "'truth'"),
    (lambda c: c.update(masks=[]), "'masks'"),
])
def test_audit_finds_anything_that_does_not_belong(truth, tmp_path, change, word):
    path = write_split(truth, "10p", 0, "centroid", tmp_path)[1]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"_w.json.*must not hold {word}"): audit(path)


def publish(truth, folder, stem="instances_train2017", shift=0, weak_from=2):
    "A pair as the authors give it: both halves with masks; annotation ids of the weak one moved by `shift`."
    halves = {"s": truth.ids[:2], "w": truth.ids[weak_from:]}
    for letter, ids in halves.items():
        records = [a | {"id": a["id"] + shift * (letter == "w")} for i in ids for a in truth.annotations[i]]
        coco.save(folder / f"{stem}_5p_{letter}.json", [truth.images[i] for i in ids], records, truth.categories)
    return folder


@pytest.mark.parametrize("shift", [0, 1, 5000])     # 1: every id is known, and means another object
def test_a_published_split_is_taken_over_without_its_weak_masks(truth, tmp_path, shift):
    path_s, path_w = take_split(publish(truth, tmp_path / "old", shift=shift), "5%", truth, tmp_path / "new", "bdd100k_ins_labels_train")
    assert (path_s.name, path_w.name) == ("bdd100k_ins_labels_train_5p_s.json", "bdd100k_ins_labels_train_5p_w.json")
    strong, weak = coco.load(path_s, need="masks"), coco.load(path_w, need="points")
    assert strong.ids == truth.ids[:2] and weak.ids == truth.ids[2:]
    assert all(strong.annotations[i] == truth.annotations[i] for i in strong.ids)
    audit(path_w)
    assert not {k for k in keys(json.loads(path_w.read_text())) for word in FORBIDDEN if word in k}
    for i in weak.ids:
        masks = {a["id"]: (a["category_id"], truth.mask(a)) for a in truth.annotations[i]}
        assert [a["id"] for a in weak.annotations[i]] == list(masks)
        for a in weak.annotations[i]: assert a["category_id"] == masks[a["id"]][0] and np.allclose(a["point"], coco.centroid(masks[a["id"]][1]))


def test_a_published_split_that_does_not_fit_is_refused(truth, tmp_path):
    folder = publish(truth, tmp_path / "twice", weak_from=1)
    with pytest.raises(DataError, match=rf"_w.json: image {truth.ids[1]} is also in .*_s.json. Remove it"): take_split(folder, "5p", truth, tmp_path)
    with pytest.raises(DataError, match=r"twice: 0 files are called \*_10p_s.json, one is needed"): take_split(folder, "10p", truth, tmp_path)
    publish(truth, folder, stem="other")
    with pytest.raises(DataError, match=r"2 files are called \*_5p_s.json"): take_split(folder, "5p", truth, tmp_path)
    names = coco.CategoryTable(truth.categories.ids, tuple(n.upper() for n in truth.categories.names))
    with pytest.raises(DataError, match="categories.* differ. Use files of one data set"):
        take_split(publish(truth, tmp_path / "names"), "5p", coco.CocoData(truth.path, truth.image_root, truth.images, truth.annotations, names, {}), tmp_path)
    bare = coco.CocoData(truth.path, truth.image_root, truth.images, dict.fromkeys(truth.images, []), truth.categories, {})
    with pytest.raises(DataError, match=r"annotation \d+: .* has no object of its class in image"): take_split(tmp_path / "names", "5p", bare, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def boxed(path, names, files):
    "A set without masks, its classes in another order; one box of 10 x 20 pixels at (5, 7) an image."
    categories = [{"id": 30 + k, "name": name} for k, name in enumerate(names)]
    images = [{"id": k, "file_name": name, "width": 128, "height": 128, "caption": "hidden"} for k, name in enumerate(files, 1)]
    annotations = [{"id": 70 + k, "image_id": k, "category_id": 30 + k % len(names), "bbox": [5, 7, 10, 20], "iscrowd": 0}
                   for k in range(1, len(files) + 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_a_set_without_masks_joins_the_weak_half(truth, tmp_path):
    path_s, path_w = write_split(truth, "10p", 0, "centroid", tmp_path)
    before, strong = json.loads(path_w.read_text()), json.loads(path_s.read_text())
    known = [before["images"][0]["file_name"], strong["images"][0]["file_name"]]
    add_weak(path_w, boxed(tmp_path / "more.json", truth.categories.names[::-1], ["new_a.png", *known, "new_b.png"]))
    after = json.loads(path_w.read_text())
    images, points = (after[k][len(before[k]):] for k in ("images", "annotations"))
    assert all(after[k][:len(before[k])] == before[k] for k in ("images", "annotations"))
    first, last = max(r["id"] for r in before["images"]), max(r["id"] for r in before["annotations"])
    assert images == [{"id": first + 1_000_000 + n, "file_name": name, "width": 128, "height": 128} for n, name in enumerate(["new_a.png", "new_b.png"])]
    ids = {name: truth.categories.ids[k] for k, name in enumerate(truth.categories.names)}
    backwards = truth.categories.names[::-1]
    wanted = [(n, ids[backwards[k % len(backwards)]]) for n, k in enumerate((1, 4))]
    assert points == [{"id": last + 1_000_000 + n, "image_id": first + 1_000_000 + n, "category_id": c, "point": [10, 17], "iscrowd": 0} for n, c in wanted]
    audit(path_w)


def test_an_unknown_class_cannot_join(truth, tmp_path):
    path_w, more = write_split(truth, "10p", 0, "centroid", tmp_path)[1], boxed(tmp_path / "more.json", ["disk", "zebra"], ["a.png"])
    with pytest.raises(DataError, match="more.json: unknown category '(disk|zebra)'"): add_weak(path_w, more)


@needs_photographs
@pytest.mark.parametrize("name", ["animals7", "coco_union"])
def test_real_data(name, tmp_path):
    truth = coco.load(PHOTOGRAPHS / name / "annotations" / "instances_train.json", need="masks")
    path_s, path_w = write_split(truth, "20p", 0, "deepest", tmp_path)
    audit(path_w)
    strong, weak = coco.load(path_s, truth.image_root, need="masks"), coco.load(path_w, truth.image_root, need="points")
    assert len(strong.ids) + len(weak.ids) == len(truth.ids)
    assert strong.num_annotations == sum(len(truth.annotations[i]) for i in strong.ids)   # crowds stay with the masks
    for i in weak.ids[:40]:
        masks = {a["id"]: truth.mask(a) for a in truth.annotations[i]}
        assert all(masks[a["id"]][int(a["point"][1]), int(a["point"][0])] for a in weak.annotations[i])


# --- halves that nothing can be learned from

def test_an_object_annotated_twice_keeps_two_ids_in_a_renumbered_split(tmp_path):
    shapes.write(tmp_path / "d", train=4, val=1, size=72)
    truth = coco.load(tmp_path / "d/annotations/instances_train.json", need="masks")
    image = truth.ids[3]
    first = truth.annotations[image][0]
    truth.annotations[image].append(first | {"id": 9000})             # the same object once more
    folder = publish(truth, tmp_path / "old", shift=20_000)
    weak = coco.load(take_split(folder, "5p", truth, tmp_path / "new")[1], need="points")
    assert sorted(a["id"] for a in weak.annotations[image]) == sorted(a["id"] for a in truth.annotations[image])
    truth.annotations[image].pop()
    with pytest.raises(DataError, match="has no object of its class in image .* that no other point has taken"):
        take_split(folder, "5p", truth, tmp_path / "new")


def test_clicks_in_images_beyond_the_truth_never_share_an_id_with_others(truth, tmp_path):
    folder, inside = publish(truth, tmp_path / "old", shift=1), truth.ids[3:]
    weak = coco.load(take_split(folder, "5p", truth.select(inside), tmp_path / "new")[1], need="points")
    ids = [a["id"] for i in weak.ids for a in weak.annotations[i]]
    assert len(set(ids)) == len(ids) == sum(len(truth.annotations[i]) for i in truth.ids[2:])
    for i in inside: assert [a["id"] for a in weak.annotations[i]] == [a["id"] for a in truth.annotations[i]]


def test_a_strong_half_needs_an_object_that_is_no_crowd(truth, tmp_path):
    strong, weak = (coco.load(path, truth.image_root, need) for path, need in zip(write_split(truth, "10p", 0, "centroid", tmp_path), ("masks", "points")))
    check_split(strong, weak)
    for a in strong.records(): a["iscrowd"] = 1
    with pytest.raises(DataError, match="its 3 images show no object"): check_split(strong, weak)


def spoiled(folder, name, change):
    path = folder / f"annotations/instances_{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


NOTHING = {   # percent, file, change, message
    "no weak image": ("99p", "train", lambda c: None, "all 4 images are strong, none is left for points. Choose a smaller split"),
    "no point": ("50p", "train", lambda c: c.update(annotations=c["annotations"][:1]), "have no point|show no object"),
    "no object in validation": ("50p", "val", lambda c: c.update(annotations=[]),
                                "instances_val.json: its 2 images show no object, so nothing can be evaluated"),
    "crowds only in validation": ("50p", "val", lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "show no object"),
    "no mask that has pixels": ("50p", "train", lambda c: [a.update(segmentation=[[1, 1, 1, 1, 1, 1]]) for a in c["annotations"]],
                                "show no object|have no point"),
    "a broken mask in validation": ("50p", "val", lambda c: c["annotations"][0]["segmentation"].update(counts="~"),
                                    r"instances_val.json: annotation \d+: the run lengths are broken"),
    "a picture of validation missing": ("50p", "val", lambda c: c["images"][0].update(file_name="none.png"),
                                        r"none.png: image \d+ of .*instances_val.json is missing"),
}


@pytest.mark.parametrize("percent, name, change, words", NOTHING.values(), ids=NOTHING)
def test_a_data_set_that_fails_after_training_is_refused_before_it(tmp_path, percent, name, change, words):
    shapes.write(tmp_path / "d", train=4, val=2, size=72)
    spoiled(tmp_path / "d", name, change)
    cfg = config_of(split=percent, data_root=str(tmp_path / "d"))
    with pytest.raises(DataError, match=words): split(cfg, {}, tmp_path / "out")


def test_a_published_half_without_objects_is_refused(truth, tmp_path):
    root = tmp_path / "d"
    shapes.write(root, train=4, val=1, size=72)
    data = coco.load(root / "annotations/instances_train.json", need="masks")
    (root / "halves").mkdir()
    for letter, ids, records in (("s", data.ids[:2], []), ("w", data.ids[2:], [a for i in data.ids[2:] for a in data.annotations[i]])):
        coco.save(root / f"halves/x_5p_{letter}.json", [data.images[i] for i in ids], records, data.categories)
    cfg = config_of(split="5p", data_root=str(root), overrides={"data.split_dir": "halves"})
    with pytest.raises(DataError, match="_s.json: its 2 images show no object. Choose a larger split"): split(cfg, {}, tmp_path / "out")
