"Files for evaluation servers: their form, what is refused, and that nothing is written then."
import json
import zipfile

import pytest

from pointwssis.core import ConfigError, DataError
from pointwssis.data import coco
from pointwssis.data.evaluation import coco_ap
from pointwssis.runs.submission import SCHEMAS, check_submission, write_submission


@pytest.fixture(scope="module")
def truth(drawn): return coco.load(drawn / "annotations/instances_val.json", need="masks")


@pytest.fixture
def perfect(truth):
    return [{"image_id": i, "category_id": a["category_id"], "segmentation": coco.encode(truth.mask(a)), "score": 1.0}
            for i in truth.ids[:-1] for a in truth.annotations[i]]


def test_coco_reads_its_file_back(truth, perfect, tmp_path):
    path, packed = write_submission(perfect, truth, tmp_path / "segm_results.json")
    assert json.loads(path.read_text()) == perfect
    with zipfile.ZipFile(packed) as archive: assert archive.namelist() == [path.name] and archive.read(path.name) == path.read_bytes()
    assert coco_ap(truth.select(truth.ids[:-1]), json.loads(path.read_text()), "pycocotools")["ap_percent"] == pytest.approx(100)


def test_frames_name_images_and_classes(truth, perfect, tmp_path):
    path, = write_submission(perfect, truth, tmp_path / "ins_seg.json", "bdd100k")
    frames = json.loads(path.read_text())
    assert [f["name"] for f in frames] == [r["file_name"] for r in truth.images.values()] and frames[-1]["labels"] == []
    labels = [a for f in frames for a in f["labels"]]
    assert len({a["id"] for a in labels}) == len(labels) == len(perfect)
    assert [a["category"] for a in labels] == [truth.categories.names[truth.categories.index(r["category_id"])] for r in perfect]
    assert [a["rle"] for a in labels] == [r["segmentation"] for r in perfect]


@pytest.mark.parametrize("change, words", [
    ({"score": 1.5}, "at 1/score: 1.5 is greater than the maximum of 1"), ({"score": None}, "None is not of type 'number'"),
    ({"point_id": 4}, "'point_id' was unexpected"), ({"image_id": 999}, "result 1: its image is not in"), ({"image_id": "1"}, "at 1/image_id"),
    ({"category_id": 77}, "category 77 is not in"), ({"segmentation": [[1, 2, 3]]}, "at 1/segmentation"),
    ({"segmentation": {"size": [4, 4], "counts": "04"}}, r"a mask of \[4, 4\], the image has \[128, 128\]"),
])
def test_what_a_server_would_refuse_is_not_written(truth, perfect, tmp_path, change, words):
    perfect[1] = perfect[1] | change
    with pytest.raises(DataError, match=words) as e: write_submission(perfect, truth, tmp_path / "r.json")
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())


def test_a_missing_entry_is_named(truth, perfect, tmp_path):
    del perfect[0]["score"]
    with pytest.raises(DataError, match="at 0: 'score' is a required property"): check_submission(perfect, "coco", truth)
    with pytest.raises(DataError, match="at the top"): check_submission({}, "coco", truth)
    with pytest.raises(DataError, match="frame nobody.png, label 1: its image is not in"):
        check_submission([{"name": "nobody.png", "labels": [{"id": "1", "category": "disk", "score": .5,
                                                             "rle": perfect[0]["segmentation"]}]}], "bdd100k", truth)
    with pytest.raises(ConfigError, match="unknown form 'bdd'. Did you mean 'bdd100k'"): write_submission([], truth, tmp_path / "r.json", "bdd")
    assert set(SCHEMAS) == {"coco", "bdd100k"}


@pytest.mark.parametrize("annotations", [True, False])
def test_a_list_of_images_needs_no_annotations(truth, tmp_path, annotations):
    content = json.loads(truth.path.read_text())
    if not annotations: del content["annotations"]
    (tmp_path / "image_info_test.json").write_text(json.dumps(content))
    listed = coco.load(tmp_path / "image_info_test.json", truth.image_root, need="images")
    assert listed.ids == truth.ids and listed.num_annotations == 0 and listed.categories == truth.categories
