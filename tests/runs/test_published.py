"The authors' files, in their layout and under their names: found, opened, and judged link by link."
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from golden import GOLDEN, formula
from pointwssis.config import RefinerConfig, SOLOv2Config
from pointwssis.core import CheckpointError, DataError, read_json
from pointwssis.data.coco import load
from pointwssis.detector.predict import predict_all, predictor
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.runs.cli import main
from pointwssis.runs.published import EVALUATORS, reproduce_published, open_release
from pointwssis.runs.release import SLIM, THIN, parts_of_name, find_releases, open_refiner, refiner_sizes, solov2_sizes, write_miniature
from pointwssis.training.checkpoints import load_official

SMALL = {"data.short_side": 64, "data.long_side": 64, "device": "cpu"}
LOW = {"score_threshold": .005, "update_threshold": 0.}
EAGER = SMALL | {f"{net}.{key}": value for net in ("teacher", "student") for key, value in LOW.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with the published files of both data sets."
    root = tmp_path_factory.mktemp("made")
    write_miniature(root / "coco_only")
    write_miniature(root / "bdd_only", "bdd100k", "10p")
    return root


@pytest.fixture
def copy(made, tmp_path):
    "A copy of COCO's that a test may spoil; the big files are linked."
    def bring(a, b): return (os.link if a.endswith(".pth") else shutil.copy2)(a, b)
    shutil.copytree(made / "coco_only", tmp_path / "copy", copy_function=bring)
    return tmp_path / "copy"


def judge(folder, runs, **options):
    "The outcome of each link."
    told = {}
    def tell(release, part, what): told[part] = what
    paths = reproduce_published(folder, options.pop("overrides", SMALL), runs=runs, tell=tell, **options)
    return told, [read_json(path) for path in paths]


# --- names and layout

@pytest.mark.parametrize("name, says", [
    ("coco/annotations/instances_train2017_1p_s.json", ("coco", "1p", "s")),
    ("instances_train2017_50p_w.json", ("coco", "50p", "w")),
    ("x/instances_train2017_30p_sw.json", ("coco", "30p", "sw")),
    ("x/instances_train2017_12.5p_sw_refined.json", ("coco", "12.5p", "sw_refined")),
    ("BDD100K/annotations/bdd100k_ins_labels_train_10p_s.json", ("bdd100k", "10p", "s")),
    ("bdd100k_ins_labels_train_10p_w.json", ("bdd100k", "10p", "w")),
    ("coco/annotations/instances_train2017.json", None), ("bdd100k_det_labels_train.json", None),
    ("results_5p_w.json", None), ("a.jpg", None),
    ("coco5p_teacher.pth", ("coco", "5p", "teacher")), ("20p/Teacher.pth", ("", "20p", "teacher")),
    ("coco_10p/MaskRefineNet.pt", ("coco", "10p", "refiner")), ("bdd_10p_student_sw.pth", ("bdd100k", "10p", "student_sw")),
    ("student_sw_refined_2p.pth", ("", "2p", "student_sw_refined")), ("student.pth", ("", "", "student_sw_refined")),
    ("answers_student_5p.pth", ("", "5p", "student_sw_refined")), ("R-101.pth", ("", "", ""))])
def test_names(tmp_path, name, says):
    assert parts_of_name(tmp_path / name, tmp_path) == says


def test_a_folder_with_both_data_sets(made):
    coco, bdd = sorted(find_releases(made), key=lambda r: r.dataset, reverse=True)
    assert (coco.dataset, coco.split, bdd.dataset, bdd.split) == ("coco", "5p", "bdd100k", "10p")
    assert set(coco.files) == set(bdd.files) == {"s", "w", "sw", "sw_refined", "teacher", "refiner", "student_sw_refined"}


@pytest.mark.parametrize("place, images", [("coco_only", "coco/train2017"), ("bdd_only", "BDD100K/train")])
def test_published_annotations_load(made, place, images):
    (release,) = find_releases(made / place)
    needs = {"s": "masks", "w": "points", "sw": "masks", "sw_refined": "masks"}
    data = {kind: load(release.files[kind], made / place / images, need) for kind, need in needs.items()}
    ids = {kind: set(found.ids) for kind, found in data.items()}
    assert not ids["s"] & ids["w"] and ids["s"] | ids["w"] == ids["sw"] == ids["sw_refined"]
    stored = {a["id"]: a for a in json.loads(release.files["w"].read_text())["annotations"]}
    clicked = [a for records in data["w"].annotations.values() for a in records]
    assert len(clicked) == len(stored) > 4
    for a in clicked:
        assert set(a) == {"id", "image_id", "category_id", "point", "iscrowd"}
        x, y, w, h = stored[a["id"]]["bbox"]
        assert x <= a["point"][0] <= x + w and y <= a["point"][1] <= y + h
        if place == "bdd_only": assert a["point"] == [x + w / 2, y + h / 2] and "segmentation" not in stored[a["id"]]
    for image_id in data["sw"].ids: data["sw"].read_image(image_id)


def test_what_a_name_leaves_out_is_filled_up_or_asked_for(copy):
    (copy / "coco_5p_teacher.pth").rename(copy / "teacher.pth")
    (release,) = find_releases(copy)
    assert release.files["teacher"].name == "teacher.pth"
    shutil.copy(copy / "coco/annotations/instances_train2017_5p_s.json", copy / "instances_train2017_10p_s.json")
    with pytest.raises(DataError, match="teacher.pth: its name does not say of which split"): find_releases(copy)


def test_folders_that_cannot_be_judged(copy, tmp_path):
    with pytest.raises(DataError, match="no such folder"): find_releases(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no published file in it"): find_releases(copy / "coco/val2017")
    shutil.copy(copy / "coco_5p_MaskRefineNet.pt", copy / "refine_5p_coco.pt")
    with pytest.raises(DataError, match="refine_5p_coco.pt: .*MaskRefineNet.pt is the refiner of coco 5p too"): find_releases(copy)


# --- sizes

def test_sizes_of_the_published_networks_are_the_defaults():
    keys = {name: json.loads((GOLDEN / f"official_{name}_keys.json").read_text()) for name in ("solov2_r101", "refiner")}
    solo, refiner = (load_official({k: formula(k, tuple(s)) for k, s in shapes.items()}) for shapes in keys.values())
    assert solov2_sizes(solo, replace(THIN, num_classes=3)) == SOLOv2Config()
    assert refiner_sizes(refiner, SLIM) == replace(RefinerConfig(), weights="")


def test_sizes_of_the_miniature(made):
    (release,) = find_releases(made / "coco_only")
    classes = len(load(release.files["s"]).categories)
    assert solov2_sizes(load_official(release.files["teacher"]), SOLOv2Config()) == replace(THIN, num_classes=classes)
    net = open_refiner(release.files["refiner"], RefinerConfig(crop_size=32))
    assert net.cfg == replace(SLIM, crop_size=32) and net.num_classes == classes and not net.training
    with pytest.raises(CheckpointError, match="no SOLOv2"): solov2_sizes(load_official(release.files["refiner"]), SOLOv2Config())
    with pytest.raises(CheckpointError, match="no MaskRefineNet"): refiner_sizes(load_official(release.files["teacher"]), RefinerConfig())


# --- the chain

def test_every_link_is_judged(made, tmp_path):
    told, (metrics,) = judge(made / "coco_only", tmp_path / "runs", overrides=EAGER)
    assert {part for part, what in told.items() if what.startswith("done")} == set(EVALUATORS) - {"student_sw"}
    assert told["student_sw"] == "left out, for there is no student_sw"
    assert metrics["behaviour"] == "published" and set(metrics["links"]) == set(EVALUATORS) - {"student_sw"}
    assert 20 < metrics["pseudo_sw_miou_percent"] < metrics["pseudo_sw_refined_miou_percent"] < 100
    assert {"teacher_ap_percent", "student_sw_refined_ap_percent", "clicks_refined_miou_percent"} <= set(metrics)
    assert 0 < metrics["clicks_rough_miou_percent"] < 100


def test_the_teacher_predicts_what_it_predicted_before_it_was_published(made, tmp_path):
    folder = made / "coco_only"
    judge(folder, tmp_path / "runs", overrides=EAGER)
    found = read_json(tmp_path / "runs/coco/5p/published/artifacts/results_teacher.json")
    (release,) = find_releases(folder)
    cfg = open_release(release, folder, tmp_path, EAGER).cfg
    val = load(folder / "coco/annotations/instances_val2017.json", need="masks")
    known = {key: getattr(cfg.teacher, key) for key in ("scale_ranges", "num_grids", "score_threshold", "update_threshold")}
    torch.manual_seed(0)                                        # as `write_miniature` makes it
    model = SOLOv2(replace(THIN, num_classes=len(val.categories), **known)).eval()
    expected = predict_all(predictor(model, cfg.data, torch.device("cpu")), val)
    assert found == json.loads(json.dumps(expected)) and len(found) > 10


def renamed(path, change) -> None:
    "The same file with its categories, and the annotations' references to them, changed."
    content = json.loads(path.read_text())
    ids = {c["id"]: 100 - c["id"] for c in content["categories"]}
    content["categories"] = [change(c | {"id": ids[c["id"]]}) for c in reversed(content["categories"])]
    content["annotations"] = [a | {"category_id": ids[a["category_id"]]} for a in content["annotations"]]
    path.write_text(json.dumps(content))


def test_networks_are_judged_by_the_names_of_their_classes(copy, tmp_path):
    _, (first,) = judge(copy, tmp_path / "a", overrides=EAGER)
    val = copy / "coco/annotations/instances_val2017.json"
    renamed(val, lambda c: c)
    _, (second,) = judge(copy, tmp_path / "b", overrides=EAGER)
    assert {k: v for k, v in first.items() if k != "links"} == {k: v for k, v in second.items() if k != "links"}
    found, other = (read_json(tmp_path / run / "coco/5p/published/artifacts/results_teacher.json") for run in "ab")
    assert other == [r | {"category_id": 100 - r["category_id"]} for r in found] and found
    renamed(val, lambda c: c | {"name": f"another {c['name']}"})
    with pytest.raises(DataError, match="instances_val2017.json: class 'another .*Trained on: disk"): judge(copy, tmp_path / "c")


def test_true_masks_are_perfect_and_the_weak_file_is_truth_enough(copy, tmp_path):
    names = {kind: copy / f"coco/annotations/instances_train2017_5p_{kind}.json" for kind in ("s", "w", "sw")}
    sw = json.loads(names["sw"].read_text())
    true = [a for kind in ("s", "w") for a in json.loads(names[kind].read_text())["annotations"]]
    names["sw"].write_text(json.dumps(sw | {"annotations": [a | {"id": n} for n, a in enumerate(true, 1)]}))
    for path in copy.glob("*.p*t*"): path.unlink()
    (copy / "coco/annotations/instances_train2017_5p_sw_refined.json").unlink()
    _, (first,) = judge(copy, tmp_path / "a")
    (copy / "coco/annotations/instances_train2017.json").unlink()
    told, (second,) = judge(copy, tmp_path / "b")
    assert first["pseudo_sw_miou_percent"] == second["pseudo_sw_miou_percent"] == pytest.approx(100)
    assert first["pseudo_sw_ap_percent"] == second["pseudo_sw_ap_percent"] == pytest.approx(100)
    assert first["pseudo_sw_points_without_mask"] == 0
    assert told["teacher"] == "left out, for there is no teacher" and told["sw_refined"] == "left out, for there is no sw_refined"


def test_labels_whose_truth_nobody_knows(made, tmp_path):
    told, (metrics,) = judge(made / "bdd_only", tmp_path / "runs")
    assert told["teacher"].startswith("done") and "pseudo_sw_miou_percent" in metrics     # the small training file covers these weak images
    alone = tmp_path / "alone"
    shutil.copytree(made / "bdd_only/BDD100K/annotations", alone / "annotations")
    (alone / "annotations/bdd100k_ins_labels_train.json").unlink()
    told, (metrics,) = judge(alone, tmp_path / "more")
    assert told["sw"].endswith("nothing to compare with") and "pseudo_sw_miou_percent" not in metrics


def test_only_what_changed_is_judged_again(copy, tmp_path):
    judge(copy, tmp_path / "runs")
    (copy / "coco_5p_MaskRefineNet.pt").unlink()
    path = copy / "coco/annotations/instances_train2017_5p_sw.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "new"}))
    told, (metrics,) = judge(copy, tmp_path / "runs")
    assert {part for part, what in told.items() if what.startswith("done")} == {"sw"}
    assert {part for part, what in told.items() if what.startswith("up to date")} == {"teacher", "sw_refined", "student_sw_refined"}
    assert "clicks_refined_miou_percent" in metrics             # what was known of the refiner is kept
    told, _ = judge(copy, tmp_path / "runs", overrides=SMALL | {"data.short_side": 96, "data.long_side": 96})
    assert told["teacher"].startswith("done")
    told, _ = judge(copy, tmp_path / "runs", force=True, overrides=SMALL | {"data.short_side": 96, "data.long_side": 96})
    assert told["sw"].startswith("done")


def test_images_may_lie_elsewhere(copy, tmp_path):
    (copy / "coco").rename(tmp_path / "data")
    told, _ = judge(copy, tmp_path / "runs", root=str(tmp_path / "data"))
    assert told["teacher"].startswith("done") and told["sw"] == "left out, for there is no sw and no w"


# --- the command

def test_one_command_fills_the_column(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [option for key, value in SMALL.items() for option in ("--set", f"{key}={value}")]
    assert main(["reproduce", "--from-published", str(made), "--dataset", "coco", *options]) == 0
    said = capsys.readouterr().out
    assert "coco 5p teacher: done in" in said and "published checkpoint, evaluated here" in said and "bdd100k" not in said
    assert "| 5% | student of refined masks, AP | 33.7 | 0.0 | —² | —² | —² |" in (tmp_path / "outputs/figures/results_coco.md").read_text()
    assert main(["reproduce", "--from-published", str(made), "--split", "1p"]) == 2
    assert "nothing of 1p in it" in capsys.readouterr().err


def test_a_broken_checkpoint_is_one_line(copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (copy / "coco_5p_teacher.pth").unlink()
    (copy / "coco_5p_teacher.pth").write_bytes(b"cut")
    assert main(["reproduce", "--from-published", str(copy)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "coco_5p_teacher.pth" in said
