"COCO files in and out: three spellings of a mask, ids with gaps, points without truth, nothing decoded at the door."
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from pointwssis.core import DataError
from pointwssis.data import coco, masks
from real import PHOTOGRAPHS, needs_photographs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, under numpy 2


def random_masks(n=20, height=37, width=53):
    rng = np.random.default_rng(0)
    return rng.random((n, height, width)) < rng.random((n, 1, 1))


def test_encode_decode_round_trip_and_reference():
    masks = random_masks()
    masks[0], masks[1] = False, True
    rles = coco.encode_many(masks)
    assert json.loads(json.dumps(rles)) == rles
    for mask, rle in zip(masks, rles):
        assert np.array_equal(coco.decode(rle, 37, 53), mask)
        assert np.array_equal(reference.decode(rle).astype(bool), mask)
        assert coco.encode(mask) == rle
    assert coco.encode_many(np.zeros((0, 4, 4), bool)) == []


def test_uncompressed_run_lengths():
    for mask in random_masks(5):
        flat = np.r_[False, mask.T.ravel(), False]
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.r_[0, edges, mask.size] if edges[-1] < mask.size else np.r_[0, edges]).tolist()
        assert np.array_equal(coco.decode({"size": list(mask.shape), "counts": runs}, *mask.shape), mask)


def test_polygons_agree_with_the_reference():
    polygons = [[3.2, 4.1, 30.7, 8, 22.5, 30.9, 5, 20], [40, 2, 50, 2, 45, 12.5]]
    expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 37, 53))).astype(bool)
    assert np.array_equal(coco.decode(polygons, 37, 53), expected)
    assert np.array_equal(coco.decode(polygons + [[1, 1, 9, 9]], 37, 53), expected)   # a two-corner sliver encloses nothing
    assert not coco.decode([[1, 1, 9, 9]], 37, 53).any()


def test_box_centroid_and_fields():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:11] = True
    assert coco.box_of(mask) == (3, 2, 11, 5)
    assert coco.centroid(mask) == (7.0, 3.5)
    fields = coco.mask_fields(coco.encode(mask))
    assert fields["bbox"] == [3, 2, 8, 3] and fields["area"] == 24
    assert json.loads(json.dumps(fields)) == fields
    single = np.zeros((4, 4), bool)
    single[0, 0] = True
    assert coco.centroid(single) == (0.5, 0.5)


def test_categories_with_gaps_in_any_order(folder):
    data = folder()
    assert data.categories == coco.CategoryTable((3, 90), ("cat", "brush"))
    assert [data.categories.index(i) for i in (3, 90)] == [0, 1] and data.categories.id(1) == 90 and len(data.categories) == 2


@pytest.fixture
def folder(tmp_path):
    "A function that writes a small folder, with changes, and loads it."
    def make(change=lambda content: None, need="masks"):
        masks = random_masks(3, 8, 9)
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 8} for i in (5, 2)],
            "annotations": [{"id": 10 + k, "image_id": 5, "category_id": (90, 3)[k % 2], **coco.mask_fields(coco.encode(m))}
                            for k, m in enumerate(masks)],
            "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "cat"}], "licence": "none"}
        content["annotations"][2]["iscrowd"] = 1
        change(content)
        (tmp_path / "train").mkdir(exist_ok=True)
        for i in (5, 2): Image.fromarray(np.full((8, 9, 3), i, np.uint8)).save(tmp_path / "train" / f"{i}.png")
        path = tmp_path / "annotations" / "instances_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return coco.load(path, need=need)
    return make


def test_load_groups_by_image_and_finds_the_pictures(folder):
    data = folder()
    assert data.ids == [5, 2] and data.num_annotations == 3 and data.annotations[2] == []
    assert [a["iscrowd"] for a in data.annotations[5]] == [0, 0, 1] and data.info == {"licence": "none"}
    assert (data.read_image(2) == 2).all() and data.read_image(2).shape == (8, 9, 3)
    assert np.array_equal(data.mask(data.annotations[5][1]), random_masks(3, 8, 9)[1])
    assert data.select([2]).ids == [2] and data.select([2]).num_annotations == 0
    with pytest.raises(DataError, match="no image 77"): data.select([77])


def test_points_leave_the_truth_at_the_door(folder):
    data = folder(need="points")
    masks = random_masks(3, 8, 9)
    fixed = {"image_id": 5, "iscrowd": 0}
    expected = [{"id": 10 + k, "category_id": (90, 3)[k], "point": list(coco.centroid(masks[k])), **fixed} for k in range(2)]
    assert data.annotations[5] == expected   # the crowd has no point
    assert "segmentation" not in json.dumps(data.annotations)


def test_a_given_point_wins_and_a_box_serves_without_a_mask(folder):
    def change(content):
        content["annotations"][0]["point"] = [1.25, 2]
        content["annotations"][1] = {"id": 11, "image_id": 5, "category_id": 3, "bbox": [2, 3, 4, 2]}
    points = [a["point"] for a in folder(change, "points").annotations[5]]
    assert points == [[1.25, 2], [4, 4]]


def test_nothing_is_decoded_at_the_door(folder, monkeypatch):
    def refuse(*_): raise AssertionError("decoded at the door")
    monkeypatch.setattr(masks.rle_api, "decode", refuse)
    monkeypatch.setattr(masks.rle_api, "frPyObjects", refuse)
    assert folder().num_annotations == 3


def test_save_and_load_again(folder, tmp_path):
    data = folder()
    coco.save(tmp_path / "new" / "sw.json", list(data.images.values()), data.annotations[5], data.categories, dropped_points=[3])
    again = coco.load(tmp_path / "new" / "sw.json", data.image_root, need="masks")
    assert (again.images, again.annotations, again.categories) == (data.images, data.annotations, data.categories)
    assert again.info == {"dropped_points": [3]} and (again.read_image(5) == 5).all()


def test_grey_and_palette_pictures_become_rgb(folder):
    data = folder()
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(data.image_root / "5.png")
    assert (data.read_image(5) == 7).all() and data.read_image(5).shape == (8, 9, 3)


@needs_photographs
@pytest.mark.parametrize("name", ["animals7", "coco_union"])
def test_real_data(name):
    data = coco.load(PHOTOGRAPHS / name / "annotations" / "instances_val.json", need="masks")
    weak = coco.load(data.path, need="points")
    truth = {a["id"]: a for records in data.annotations.values() for a in records}
    points = [a for records in weak.annotations.values() for a in records]
    assert len(points) == sum(not a["iscrowd"] for a in truth.values())
    for image_id in data.ids[:20]:
        assert data.read_image(image_id).shape[:2] == (data.images[image_id]["height"], data.images[image_id]["width"])
    for record in points[:100]:
        image, annotation = data.images[record["image_id"]], truth[record["id"]]
        mask = data.mask(annotation)
        expected = reference.frPyObjects(annotation["segmentation"], image["height"], image["width"])
        assert np.array_equal(mask, reference.decode(reference.merge(expected)).astype(bool))
        ys, xs = np.nonzero(mask)
        assert np.allclose(record["point"], (xs.mean() + .5, ys.mean() + .5))


def test_an_object_without_a_pixel_is_no_weak_object(tmp_path):
    "Polygons thinner than a pixel exist in large data sets; one of them must not close the whole file."
    whole = {"id": 1, "image_id": 3, "category_id": 9, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
    thin = whole | {"id": 2, "segmentation": [[1, 1, 2, 2]], "bbox": [1, 1, 1, 1]}
    coco.save(tmp_path / "w.json", [{"id": 3, "file_name": "x.png", "width": 30, "height": 20}], [whole, thin], coco.CategoryTable((9,), ("b",)))
    assert [a["id"] for a in coco.load(tmp_path / "w.json", need="points").annotations[3]] == [1]


def test_relative_image_folders_follow_the_working_directory(tmp_path, monkeypatch):
    "Two folders of one relative name, in one process."
    for name in ("a", "b"):
        (tmp_path / name / "photos/deep").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("photos/deep/1.png")
        coco.save("one.json", [{"id": 1, "file_name": "deep/1.png", "width": 8, "height": 8}], [], coco.CategoryTable((1,), ("a",)))
        assert coco.load("one.json", "photos", need="images").read_image(1).shape == (8, 8, 3)
