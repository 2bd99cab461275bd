"Real COCO annotations through every stage: crowds, tiny objects, gaps in all ids, images without objects."
import json
from pathlib import Path

import numpy as np
import pytest

from pointwssis.core import read_json
from pointwssis.method.artifacts import open_truth
from chain import BLIND, Chain, linked
from real import PHOTOGRAPHS, needs_photographs

REAL = PHOTOGRAPHS / "coco_union"
pytestmark = [needs_photographs, pytest.mark.whole]
SMALL = {"data.short_side": 96, "data.long_side": 128, "teacher_train.short_sides": (96,), "teacher_train.long_side": 128,
         "student_train.short_sides": (96,), "student_train.long_side": 128, "refiner.crop_size": 32,
         **{f"{net}.{key}": value for net in ("teacher", "student") for key, value in (("frozen_stages", 0), ("frozen_norm", False))}}
TRAIN, VAL = 32, 8


def part(root: Path, name: str, count: int) -> None:
    "The first images that show a crowd, then others; every eighth loses its annotations."
    content = json.loads((REAL / f"annotations/instances_{name}.json").read_text())
    crowded = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}
    images = sorted(content["images"], key=lambda image: (image["id"] not in crowded, image["id"]))
    images = images[:count // 2] + images[-count // 2:]
    kept = {image["id"] for k, image in enumerate(images) if k % 8}
    content.update(images=images, annotations=[a for a in content["annotations"] if a["image_id"] in kept])
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    (root / name).symlink_to(REAL / name)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    place = tmp_path_factory.mktemp("real")
    for name, count in (("train", TRAIN), ("val", VAL)): part(place / "data", name, count)
    return Chain(place / "run", "coco_union", "25p", place / "data", **SMALL).run("split", *BLIND, "supervised", "evaluate")


@pytest.fixture(scope="module")
def truth(chain): return open_truth(chain.cfg, "")


def crowds(data) -> list[dict]: return [a for i in data.ids for a in data.annotations[i] if a["iscrowd"]]
def empty(data) -> set[int]: return {i for i in data.ids if not data.annotations[i]}


def test_the_data_has_what_this_is_about(truth):
    areas = [a["area"] for i in truth.ids for a in truth.annotations[i] if not a["iscrowd"]]
    assert len(truth.ids) == TRAIN and len(crowds(truth)) > 10 and len(empty(truth)) == 4 and min(areas) < 16
    assert len(truth.categories) == 80 and max(truth.categories.ids) == 90 and max(truth.ids) > TRAIN


def test_crowds_stay_strong_and_are_never_clicked(chain, truth):
    strong, weak = chain.half("s"), chain.half("w")
    assert len(crowds(strong)) == len(crowds(truth.select(strong.ids))) > 0
    objects = {a["id"]: a for i in weak.ids for a in truth.annotations[i] if not a["iscrowd"]}
    clicks = {a["id"]: a for i in weak.ids for a in weak.annotations[i]}
    left_out = set(read_json(weak.path)["info"]["unclickable_annotations"])
    assert set(clicks) == set(objects) - left_out and all(not truth.mask(objects[k]).any() for k in left_out)
    assert all(a["category_id"] == objects[k]["category_id"] for k, a in clicks.items())


def test_images_without_objects_go_through_both_halves(chain):
    strong, weak, refined = chain.half("s"), chain.half("w"), chain.labels("sw_refined")
    assert empty(strong) and empty(weak) and empty(strong) | empty(weak) <= empty(refined)
    assert sorted(refined.ids) == sorted(strong.ids + weak.ids) and len(crowds(refined)) == len(crowds(strong))


def test_pseudo_masks_have_the_ids_of_the_data_set(chain, truth):
    weak, made = chain.half("w"), linked(chain.labels("sw_refined"))
    of = {a["id"]: a for i in truth.ids for a in truth.annotations[i]}
    assert made and all((a["image_id"], a["category_id"]) == (of[k]["image_id"], of[k]["category_id"]) for k, a in made.items())
    assert len(made) + chain.metrics["pseudo"]["points_without_mask"] == weak.num_annotations


def test_everything_is_measured(chain):
    found = chain.metrics["evaluate"]
    fitted = ("teacher", "refiner", "student", "student_refined", "supervised")
    assert all(np.isfinite(chain.metrics[name]["final_loss"]) for name in fitted)
    assert all(np.isfinite(found[f"{name}_ap_percent"]) for name in ("teacher", "student_sw", "student_sw_refined", "supervised"))
    assert all(0 < found[f"pseudo_{name}_miou_percent"] <= 100 for name in ("sw", "sw_refined"))
    assert len(found["models"]["teacher"]["per_class"]) == 80
