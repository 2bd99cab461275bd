"A rehearsal of COCO and BDD100K: their file layout, 200 images, 20 steps through every stage of each preset, with tiny networks; a minute of one core."
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pointwssis.data import shapes
from pointwssis.data.coco import load
from pointwssis.runs.stage_graph import STAGES, config_of
from pointwssis.runs.presets import COCO_SCHEDULES
from chain import BLIND, CONTROLS, Chain

IMAGES, VAL, STEPS = 200, 40, 20
COCO_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]     # the gaps of the published file
BDD_NAMES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
NARROW = {"backbone": "timm:test_resnet", "weights": "", "frozen_stages": 0, "frozen_norm": False, "fpn_channels": 16, "instance_channels": 16,
          "instance_convs": 1, "mask_channels": 16, "num_kernels": 16, "norm_groups": 8, "max_before_nms": 40, "max_per_image": 10}
SCHEDULE = {"steps": STEPS, "batch_size": 2, "warmup_steps": 2, "workers": 0}
TINY_NETS = {**{f"{net}.{key}": value for net in ("teacher", "student") for key, value in NARROW.items()},
             **{f"{part}_train.{key}": value for part in ("teacher", "student", "refiner") for key, value in SCHEDULE.items()},
             **{f"{part}_train.{key}": value for part in ("teacher", "student") for key, value in (("short_sides", (96,)), ("long_side", 128))},
             "refiner.backbone": "torchvision:resnet18", "refiner.weights": "", "refiner.aspp_channels": 16, "refiner.crop_size": 32,
             "refiner.decoder_channels": (16, 16, 8), "data.short_side": 96, "data.long_side": 128}


def polygons(mask: np.ndarray) -> list[list[float]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [c.ravel().astype(float).tolist() for c in found if len(c) >= 3]


def runs_of_pixels(mask: np.ndarray) -> list[int]:
    "Uncompressed run lengths by column, as COCO writes crowds."
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0] * (1 + flat[0]) + [*edges, len(flat)]).tolist()


def compressed(mask: np.ndarray) -> dict:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def segmentation(mask: np.ndarray, kind: str, crowd: bool):
    if kind == "bdd": return compressed(mask)
    return {"size": list(mask.shape), "counts": runs_of_pixels(mask)} if crowd else polygons(mask)


def written(root: Path, drawn, ids: list[int], kind: str, name: str, folder: str, categories: list[dict], boxes_alone: bool = False) -> None:
    "An annotation file and JPEGs as the data set's authors give them; every 40th object of COCO is a crowd."
    images, annotations = [], []
    (root / folder).mkdir(parents=True, exist_ok=True)
    for i in ids:
        height, width = drawn.images[i]["height"], drawn.images[i]["width"]
        file_name = f"{i:012d}.jpg" if kind == "coco" else f"{i:08x}-{7 * i:08x}.jpg"
        Image.fromarray(np.asarray(drawn.read_image(i))).save(root / folder / file_name, quality=90)
        more = {"license": 1, "coco_url": "", "date_captured": "2013-11-14 17:02:52"} if kind == "coco" else {}
        images.append({"id": i, "file_name": file_name, "height": height, "width": width, **more})
        for a in drawn.annotations[i]:
            mask = drawn.mask(a)
            crowd = kind == "coco" and a["id"] % 40 == 0
            record = {"id": a["id"], "image_id": i, "category_id": categories[drawn.categories.index(a["category_id"])]["id"],
                      "bbox": [float(v) for v in a["bbox"]], "area": float(mask.sum()), "iscrowd": int(crowd)}
            annotations.append(record if boxes_alone else record | {"segmentation": segmentation(mask, kind, crowd)})
    (root / "annotations").mkdir(exist_ok=True)
    content = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (root / f"annotations/{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    root = shapes.write(tmp_path_factory.mktemp("pool"), train=IMAGES - VAL, val=VAL)
    return [load(root / f"annotations/instances_{half}.json", root / half, "masks") for half in ("train", "val")]


def coco_layout(root: Path, train, val) -> None:
    categories = [{"supercategory": "thing", "id": n, "name": f"class {n}"} for n in COCO_IDS]
    for half, data in (("train", train), ("val", val)):
        written(root, data, data.ids, "coco", f"instances_{half}2017", f"{half}2017", categories)


def bdd_layout(root: Path, train, val) -> None:
    "The detection set holds the images of the instance set, too, with boxes alone."
    categories = [{"id": n, "name": name} for n, name in enumerate(BDD_NAMES, 1)]
    outlined = train.ids[:len(train.ids) // 2]
    written(root, train, outlined, "bdd", "bdd100k_ins_labels_train", "train", categories)
    written(root, train, train.ids, "bdd", "bdd100k_det_labels_train", "train", categories, boxes_alone=True)
    written(root, val, val.ids, "bdd", "bdd100k_ins_labels_val", "val", categories)


@pytest.fixture(scope="module", params=["coco", "bdd100k"])
def chain(request, pool, tmp_path_factory) -> Chain:
    place = tmp_path_factory.mktemp(request.param)
    {"coco": coco_layout, "bdd100k": bdd_layout}[request.param](place / "data", *pool)
    checkpoints = {"teacher_train.checkpoint_steps": (12, 16)}
    made = Chain(place / "run", request.param, "10p", place / "data", **TINY_NETS, **checkpoints)
    return made.run("split", *BLIND, *CONTROLS, "supervised", "evaluate")


@pytest.mark.slow
def test_every_stage_of_the_preset_ends(chain):
    assert set(chain.metrics) == set(STAGES) - {"report"}
    for name in ("teacher", "student", "student_refined", "supervised", *(n for n in CONTROLS if "pseudo" not in n)):
        assert chain.metrics[name]["steps"] == STEPS and np.isfinite(chain.metrics[name]["final_loss"])
    scores = {key: value for key, value in chain.metrics["evaluate"].items() if key.endswith("_ap_percent")}
    assert len(scores) == 8 and all(value is None or 0 <= value <= 100 for value in scores.values())


@pytest.mark.slow
def test_the_halves_are_those_of_the_data_set(chain):
    "COCO: a tenth outlined, no click on a crowd. BDD100K: a tenth of the instance set outlined, clicks on all of the detection set."
    split, coco = chain.metrics["split"], chain.cfg.dataset == "coco"
    pool = IMAGES - VAL
    assert split["strong_images"] == (pool if coco else pool // 2) // 10 and split["strong_images"] + split["weak_images"] == pool
    weak = chain.half("w")
    assert all({"point", "category_id"} <= set(a) and "segmentation" not in a and "bbox" not in a for i in weak.ids for a in weak.annotations[i])
    assert len(weak.categories) == (80 if coco else 8) and chain.metrics["evaluate"]["points"] <= split["points"]
    if not coco: assert chain.metrics["supervised"]["images"] == pool // 2


@pytest.mark.parametrize("dataset", ["coco", "bdd100k"])
def test_the_published_schedule_is_one_word_away(dataset):
    "Options that the rehearsal makes small are the paper's without overrides."
    cfg = config_of(dataset, "10p")
    assert (cfg.teacher_train.steps, cfg.teacher_train.decay_at, cfg.teacher_train.checkpoint_steps) == COCO_SCHEDULES["10p"]
    assert cfg.student_train.steps == 270_000 and cfg.student_train.batch_size == 16 and cfg.recipe == "paper" and not cfg.controls
    assert cfg.student.backbone == "msra_resnet101" and cfg.teacher.num_grids == (80, 64, 32, 24, 12)
