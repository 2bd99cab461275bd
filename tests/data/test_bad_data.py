"Every fault of a data set costs its owner one line: file, record, cure."
import json

import numpy as np
import pytest
from PIL import Image

from pointwssis.core import DataError
from pointwssis.data import coco, store

MASK = np.zeros((20, 30), bool)
MASK[5:10, 5:12] = True


@pytest.fixture(autouse=True, params=["parsed at once", "through the cache"])
def way_in(request, monkeypatch, tmp_path):
    "Large files are read another way, and the same must be said of them."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if request.param != "parsed at once": monkeypatch.setattr(store, "CACHE_FROM", 0)


def content():
    images = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in (1, 2)]
    annotation = {"id": 51, "image_id": 1, "category_id": 4, "iscrowd": 0, **coco.mask_fields(coco.encode(MASK))}
    return {"images": images, "annotations": [annotation], "categories": [{"id": 4, "name": "cat"}]}


def message(tmp_path, changed, need="any", use=lambda data: None):
    path = tmp_path / "spoiled.json"
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(DataError) as e: use(coco.load(path, tmp_path, need))
    text = str(e.value)
    assert "\n" not in text and "spoiled.json" in text and text.count(". ") >= 1, text   # one line, the file, a cure
    return text


ANNOTATION = {
    "id of text": ({"id": "51"}, "any", "'id' is '51'. It must be a whole number"),
    "unknown image": ({"image_id": 9}, "any", "annotation 51: unknown image_id 9"),
    "unknown category": ({"category_id": 5}, "any", "annotation 51: unknown category_id 5"),
    "no image id": ({"image_id": None}, "any", "annotation 51: 'image_id' is None"),
    "no segmentation": ({"segmentation": None}, "masks", "annotation 51 has no segmentation"),
    "empty segmentation": ({"segmentation": []}, "masks", "annotation 51 has no segmentation"),
    "point right of the image": ({"point": [30, 3]}, "points", "annotation 51: point [30, 3] is not inside image 1 (30 x 20)"),
    "point above the image": ({"point": [3, -0.1]}, "points", "annotation 51: point [3, -0.1] is not inside image 1"),
    "point of one number": ({"point": [3]}, "points", "annotation 51: point [3] is not inside"),
    "point of text": ({"point": ["3", "4"]}, "points", "annotation 51: point ['3', '4'] is not inside"),
    "point is NaN": ({"point": [float("nan"), 4]}, "points", "annotation 51: point [nan, 4] is not inside"),
    "point is null": ({"point": None}, "points", "annotation 51: point None is not inside"),
    "nothing to take a point from": ({"segmentation": None, "bbox": None}, "points", "annotation 51 has no point"),
}


@pytest.mark.parametrize("change, need, words", ANNOTATION.values(), ids=ANNOTATION)
def test_annotations(tmp_path, change, need, words):
    spoiled = content()
    spoiled["annotations"][0].update(change)
    assert words in message(tmp_path, spoiled, need)


SEGMENTATION = {
    "size of another image": ({"size": [40, 60], "counts": [2400]}, "made for size [40, 60], the image has [20, 30]"),
    "no size": ({"counts": [600]}, "made for size None"),
    "too few pixels": ({"size": [20, 30], "counts": [10, 5]}, "do not add up to 20 x 30"),
    "too many pixels": ({"size": [20, 30], "counts": [10, 5000]}, "do not add up to 20 x 30"),
    "negative run": ({"size": [20, 30], "counts": [-10, 610]}, "broken"),
    "text that is no run lengths": ({"size": [20, 30], "counts": "hello~~"}, "broken"),
    "cut string": ({"size": [20, 30], "counts": coco.encode(MASK)["counts"][:-1]}, "broken"),
    "odd polygon": ([[1, 2, 3, 4, 5]], "odd count"),
    "polygon of text": ([["a", "b", "c", "d", "e", "f"]], "not a list of polygons"),
    "flat polygon": ([1, 2, 3, 4, 5, 6], "not a list of polygons"),
    "corner out of this world": ([[1, 1, 1e9, 1, 5, 5]], "far outside"),
    "corner is NaN": ([[1, 1, float("nan"), 1, 5, 5]], "far outside"),
    "a word": ("mask", "neither polygons nor run lengths"),
}


@pytest.mark.parametrize("segmentation, words", SEGMENTATION.values(), ids=SEGMENTATION)
def test_segmentations_are_refused_when_used(tmp_path, segmentation, words):
    spoiled = content()
    spoiled["annotations"][0]["segmentation"] = segmentation
    text = message(tmp_path, spoiled, use=lambda data: data.mask(data.annotations[1][0]))
    assert "annotation 51" in text and words in text


def table(name, *records): return lambda c: c.update({name: list(records)})


FILES = {
    "duplicate image": (lambda c: c["images"].append(c["images"][0]), "image id 1 occurs twice"),
    "duplicate annotation": (lambda c: c["annotations"].append(c["annotations"][0]), "annotation id 51 occurs twice"),
    "duplicate category": (lambda c: c["categories"].append({"id": 4, "name": "dog"}), "category id 4 occurs twice"),
    "duplicate category name": (lambda c: c["categories"].append({"id": 5, "name": "cat"}), "category name 'cat' occurs twice"),
    "no categories": (table("categories"), "'categories' is empty"),
    "no list of images": (lambda c: c.pop("images"), "'images' is not a list"),
    "no list of annotations": (lambda c: c.pop("annotations"), "'annotations' is not a list"),
    "annotations are no records": (table("annotations", 3), "'annotations' is not a list of records"),
    "image without a name": (lambda c: c["images"][1].pop("file_name"), "image 2: 'file_name' is None"),
    "image of no width": (lambda c: c["images"][1].update(width=0), "image 2: 'width' is 0"),
    "image without height": (lambda c: c["images"][1].pop("height"), "image 2: 'height' is None"),
    "image without id": (lambda c: c["images"][1].pop("id"), "image number 1: 'id' is None"),
}


@pytest.mark.parametrize("change, words", FILES.values(), ids=FILES)
def test_files(tmp_path, change, words):
    spoiled = content()
    change(spoiled)
    assert words in message(tmp_path, spoiled)


def test_broken_json_and_other_json(tmp_path):
    assert "broken JSON at line 1, column 12" in message(tmp_path, '{"images": ')
    assert "'images' is not a list" in message(tmp_path, "[]")
    with pytest.raises(DataError, match="no such file"): coco.load(tmp_path / "none.json")


def test_pictures(tmp_path):
    read = lambda data: data.read_image(1)   # noqa: E731
    picture = tmp_path / "1.png"
    assert "1.png: image 1 of" in message(tmp_path, content(), use=read) and "is missing" in message(tmp_path, content(), use=read)
    picture.write_bytes(b"no picture")
    assert "cannot be read" in message(tmp_path, content(), use=read)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:-400])   # a download that broke off
    assert "cannot be read" in message(tmp_path, content(), use=read)
    Image.fromarray(np.zeros((10, 15, 3), np.uint8)).save(picture)
    assert "is 15 x 10 pixels, the JSON says 30 x 20" in message(tmp_path, content(), use=read)
