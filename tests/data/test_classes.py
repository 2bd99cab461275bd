"""Classes are compared by name: a validation file may number them otherwise or have fewer, and a perfect network scores 100; one that it was not
trained on is refused before anything is trained, with both lists."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointwssis.core import DataError
from pointwssis.data import coco, shapes
from pointwssis.data.coco import CategoryTable
from pointwssis.data.evaluation import coco_ap
from pointwssis.data.classes import ids_by_name, under_classes
from pointwssis.detector import predict
from pointwssis.detector.inference import Instances
from pointwssis.detector.predict import predict_all
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.method import evaluation_stage
from pointwssis.method.artifacts import open_val
from pointwssis.method.split_stage import split
from pointwssis.runs import cli
from pointwssis.runs.stage_graph import config_of
from pointwssis.training.trainer import save_weights
from tiny import CFG

TRAINED = CategoryTable((1, 2, 3, 4, 5), shapes.CLASSES)


@pytest.fixture(scope="module")
def root(tmp_path_factory, drawn) -> Path: return shutil.copytree(drawn, tmp_path_factory.mktemp("classes") / "data")


def changed(root: Path, path: Path, change: str) -> Path:
    "The validation file of the data set with other classes; its objects stay what they are."
    content = json.loads((root / "annotations/instances_val.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    if change == "renumbered":
        other = {i: 90 - 10 * i for i in names}
        content["categories"] = [{"id": other[i], "name": name} for i, name in sorted(names.items(), reverse=True)]
        for a in content["annotations"]: a["category_id"] = other[a["category_id"]]
    if change == "a subset":
        content["categories"] = [c for c in content["categories"] if c["id"] in (2, 4)]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in (2, 4)]
    if change == "one more": content["categories"].append({"id": 9, "name": "unicorn"})
    if change == "one renamed": content["categories"][1]["name"] = "unicorn"
    path.write_text(json.dumps(content))
    return path


def perfect(root: Path):
    "A network without a fault, which numbers classes as it was trained: on the training file's."
    truth = coco.load(root / "annotations/instances_val.json", root / "val", "masks")
    by_pixels = {truth.read_image(i).tobytes(): i for i in truth.ids}
    def answer(image: np.ndarray) -> Instances:
        records = truth.annotations[by_pixels[image.tobytes()]]
        masks = torch.tensor(np.stack([truth.mask(a) for a in records]))
        classes = torch.tensor([TRAINED.index(a["category_id"]) for a in records])
        return Instances(masks, torch.ones(len(records)), classes, torch.full((len(records),), -1))
    return lambda images, points=None: [answer(image) for image in images]


@pytest.mark.parametrize("change, ids", [("as it was", {1, 2, 3, 4, 5}), ("renumbered", {80, 70, 60, 50, 40}), ("a subset", {2, 4})])
def test_a_perfect_network_scores_100_on_classes_it_was_trained_on(root, tmp_path, change, ids):
    val = coco.load(changed(root, tmp_path / "val.json", change), root / "val", "masks")
    results = predict_all(perfect(root), val, trained=TRAINED)
    assert {r["category_id"] for r in results} <= ids and results
    found = coco_ap(val, results)
    assert found["ap_percent"] == pytest.approx(100) and set(found["per_class"]) == set(val.categories.names)


@pytest.mark.parametrize("change", ["one more", "one renamed"])
def test_other_classes_are_refused_with_both_lists(root, tmp_path, change):
    val = coco.load(changed(root, tmp_path / "val.json", change), root / "val", "masks")
    with pytest.raises(DataError, match="val.json: class 'unicorn'.*unicorn.*Trained on: disk, square") as e:
        predict_all(perfect(root), val, trained=TRAINED)
    assert "\n" not in str(e.value)


def test_names_that_stand_twice_cannot_be_compared():
    twice = CategoryTable((1, 2, 3), ("cat", "dog", "cat"))
    assert ids_by_name(twice, twice, "val.json") == {1: 1, 2: 2, 3: 3}
    with pytest.raises(DataError, match="val.json: .*'cat'.*twice"): ids_by_name(twice, CategoryTable((1,), ("cat",)), "val.json")


def test_data_can_be_had_under_the_classes_of_training(root, tmp_path):
    val = coco.load(changed(root, tmp_path / "val.json", "renumbered"), root / "val", "masks")
    plain = coco.load(root / "annotations/instances_val.json", root / "val", "masks")
    moved = under_classes(val, TRAINED)
    assert moved.categories == TRAINED and {i: list(v) for i, v in moved.annotations.items()} == {i: list(plain.annotations[i]) for i in plain.ids}


def data_with(root: Path, tmp_path: Path, change: str):
    "A run's configuration on the data set with a changed validation file."
    changed(root, root / f"annotations/{change}.json", change)
    return config_of("shapes", "50p", 0, str(root), {"data.val_json": f"annotations/{change}.json"})


def test_the_door_refuses_other_classes_before_anything_is_trained(root, tmp_path):
    with pytest.raises(DataError, match="one more.json: class 'unicorn'"): split(data_with(root, tmp_path, "one more"), {}, tmp_path)
    assert not list(tmp_path.glob("*_s.json"))
    split(data_with(root, tmp_path, "a subset"), {}, tmp_path)
    assert list(tmp_path.glob("*_s.json"))


@pytest.mark.parametrize("change", ["a subset", "renumbered"])
def test_the_evaluation_compares_by_name(root, tmp_path, monkeypatch, change):
    cfg = data_with(root, tmp_path, change)
    monkeypatch.setattr(evaluation_stage, "load_model", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(evaluation_stage, "predictor", lambda *_, **__: perfect(root))
    weights = tmp_path / "last.safetensors"
    weights.touch()
    found = evaluation_stage._ap_of(cfg, cfg.student, weights, open_val(cfg, tmp_path), TRAINED, tmp_path / "results.json", cfg.student_train)
    assert found["ap_percent"] == pytest.approx(100)


@pytest.fixture
def submit(root, tmp_path, monkeypatch):
    "`pointwssis submit` of a run's perfect student, on the images and classes of a changed file."
    split(config_of("shapes", "50p", 0, str(root)), {}, tmp_path / "split/artifacts")
    weights = tmp_path / "student/artifacts/last.safetensors"
    save_weights(weights, SOLOv2(replace(CFG, num_classes=5)).state_dict())
    monkeypatch.setattr(predict, "load_model", lambda *_: SOLOv2(replace(CFG, num_classes=5)))
    monkeypatch.setattr(predict, "predictor", lambda *_, **__: perfect(root))
    def run(change: str, weights: Path = weights) -> int:
        images = changed(root, tmp_path / "images.json", change)
        return cli.main(["submit", str(images), "--weights", str(weights), "--image-folder", str(root / "val"),
                         "--out", str(tmp_path / "results.json"), "--dataset", "shapes"])
    return run


@pytest.mark.parametrize("change", ["as it was", "a subset", "renumbered"])
def test_submissions_have_the_ids_of_the_server_s_file(root, tmp_path, submit, change):
    assert not submit(change)
    truth = coco.load(changed(root, tmp_path / "truth.json", change), root / "val", "masks")
    assert coco_ap(truth, json.loads((tmp_path / "results.json").read_text()))["ap_percent"] == pytest.approx(100)


def test_a_submission_of_other_classes_is_refused(submit, tmp_path, capsys):
    assert submit("one more") == 2 and "class 'unicorn'" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes((tmp_path / "student/artifacts/last.safetensors").read_bytes())
    assert submit("a subset", elsewhere) == 2 and "2 classes" in capsys.readouterr().err
    assert not submit("as it was", elsewhere)
