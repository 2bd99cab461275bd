"Every stage on a few small images: what it leaves behind, and that none before the evaluation looks at the truth of a weak image."
import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from pointwssis.config import NETWORKS
from pointwssis.core import ConfigError, DataError, file_hash, read_json
from pointwssis.data import coco, shapes
from pointwssis.data.points import points_of
from pointwssis.data.transforms import tight_boxes
from pointwssis.data.training_set import CocoDataset
from pointwssis.method import evaluation_stage, stages, training_stages
from pointwssis.method.artifacts import open_artifact, open_truth
from pointwssis.registry import DATASETS, POINTS
from pointwssis.runs.runner import NOTEBOOKS
from pointwssis.runs.stage_graph import STAGES, config_of
from chain import BLIND, CONTROLS, TINY, Chain, linked


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path: return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def root(drawn) -> Path: return drawn


@pytest.fixture(scope="module")
def whole(places, root) -> Chain:
    "All stages, the truth in its place."
    return Chain(places / "whole", "shapes", "25p", root).run("split", *BLIND, *CONTROLS, "supervised", "evaluate")


@pytest.fixture(scope="module")
def blind(places, root) -> Chain:
    "The same stages; right after the split, all annotations of the data set are deleted."
    copy = Path(shutil.copytree(root, places / "copy"))
    chain = Chain(places / "blind", "shapes", "25p", copy).run("split")
    shutil.rmtree(copy / "annotations")
    return chain.run(*BLIND, *CONTROLS)


def test_no_stage_before_the_evaluation_needs_the_truth(whole, blind):
    seen = whole.hashes()
    assert blind.hashes() == seen
    labels = {f"pseudo/instances_train2017_25p_{name}.json" for name in ("sw", "sw_refined")}
    labels |= {"pseudo_without_points/instances_train2017_25p_sw_without_points.json"}
    assert {f"{name}/last.safetensors" for name in (*BLIND, *CONTROLS) if "pseudo" not in name} | labels | {"teacher/step_2.safetensors"} <= set(seen)


def test_the_audit_would_notice_a_difference(whole):
    "Every artifact that it compares depends on what came before it."
    seen = whole.hashes()
    assert len(set(seen.values())) == len(seen)
    assert all(linked(whole.labels(name)) for name in ("sw", "sw_refined"))


@pytest.mark.parametrize("stage", ["evaluate", "supervised"])
def test_stages_that_need_the_truth_say_so(blind, whole, places, stage):
    annotations = Path(blind.cfg.data.root) / "annotations"
    annotations.mkdir(exist_ok=True)
    shutil.copy(Path(whole.cfg.data.root) / "annotations/instances_val.json", annotations)
    out = places / f"without_{stage}"
    with pytest.raises(DataError, match=r"annotations/instances_train.json: no such file. Check the path and the data root.$"):
        getattr(stages, stage)(blind.cfg, {**blind.inputs, "supervised": whole.inputs["supervised"]}, out)
    assert not out.exists()


def callers(name: str, path: Path) -> set[str]:
    "Functions of a source in which another one is called."
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]
    return {f.name for f in functions for node in ast.walk(f) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name}


@pytest.mark.parametrize("prompt", ["none", "category", "point_with_size"])
def test_other_weak_labels_become_pseudo_labels(whole, places, prompt):
    "Without clicks no mask names one and none is missing; with sizes each click has at most one mask."
    sure = {"teacher.score_threshold": 0.0, "teacher.update_threshold": 0.0, "teacher.max_per_image": 4, "pseudo_score": 0.0}
    cfg = config_of("shapes", "25p", 0, whole.cfg.data.root, {**TINY, **sure, "prompt": prompt})
    out = places / f"prompt_{prompt}"
    found = stages.pseudo(cfg, whole.inputs, out)
    made = open_artifact(cfg, whole.inputs["split"], out, "_sw.json")
    answers = [a for i in whole.half("w").ids for a in made.annotations[i]]
    assert answers and all(0 <= a["score"] <= 1 for a in answers)
    names = [a["point_id"] for a in answers if "point_id" in a]
    if prompt == "point_with_size":
        assert len(set(names)) == len(names) == len(answers)
        assert {a["id"] for a in made.info["dropped_points"]}.isdisjoint(names) and found["points"] == whole.metrics["split"]["points"]
    else: assert not names and made.info["dropped_points"] == [] and "points_without_mask" not in found
    if prompt == "category":
        clicked = {i: {a["category_id"] for a in whole.half("w").annotations[i]} for i in whole.half("w").ids}
        assert all(a["category_id"] in clicked[a["image_id"]] for a in answers)
    judged = stages.evaluate(cfg, {"split": whole.inputs["split"], "pseudo": out}, places / f"judged_{prompt}")
    assert judged["points"] == whole.metrics["split"]["points"] and judged["pseudo_sw_miou_percent"] > 0


def test_less_sure_masks_do_not_become_labels(whole, places):
    changes = {**TINY, "teacher.score_threshold": 0.0, "teacher.update_threshold": 0.0, "prompt": "none", "pseudo_score": 1.0}
    assert stages.pseudo(config_of("shapes", "25p", 0, whole.cfg.data.root, changes), whole.inputs, places / "sure")["masks"] == 0


@pytest.mark.parametrize("unanswered, treated", [("ignore", "ignore"), ("background", "background")])
def test_unanswered_clicks_are_ignored_or_background(whole, places, monkeypatch, unanswered, treated):
    seen = []
    monkeypatch.setattr(training_stages, "CocoDataset", lambda *args: seen.append(args[-1]) or CocoDataset(*args))
    cfg = config_of("shapes", "25p", 0, whole.cfg.data.root, {**TINY, "student_train.steps": 1, "unanswered": unanswered})
    stages.student(cfg, whole.inputs, places / f"unanswered_{unanswered}")
    assert seen == [treated]


def test_a_published_split_goes_through_every_stage(places, root):
    "Both halves with masks, as the authors give them; what is learned from the weak one are clicks."
    data = Path(shutil.copytree(root, places / "published"))
    truth = coco.load(data / "annotations/instances_train.json", need="masks")
    for letter, ids in (("s", truth.ids[::4]), ("w", [i for i in truth.ids if i not in truth.ids[::4]])):
        records = [a for i in ids for a in truth.annotations[i]]
        coco.save(data / f"splits/bdd100k_ins_labels_train_25p_{letter}.json", [truth.images[i] for i in ids], records, truth.categories)
    changes = {"data.split_dir": "splits", "data.split_stem": "bdd100k_ins_labels_train"}
    chain = Chain(places / "taken", "shapes", "25p", data, **changes).run("split")
    assert chain.half("s").ids == truth.ids[::4] and chain.metrics["split"]["points"] == chain.half("w").num_annotations
    chain.run(*BLIND, "supervised", "evaluate")
    assert chain.files("pseudo") == {f"bdd100k_ins_labels_train_25p_{name}.json" for name in ("sw", "sw_refined")}
    assert chain.metrics["evaluate"]["points"] == chain.half("w").num_annotations
    with pytest.raises(ConfigError, match="point_strategy 'random' needs masks, data.split_dir has"):
        Chain(places / "moved", "shapes", "25p", data, **changes, point_strategy="random").run("split")


def test_the_truth_is_opened_in_few_places():
    package = Path(stages.__file__).parents[1]
    assert {(path.stem, f) for path in package.rglob("*.py") for f in callers("open_truth", path)} == {
        ("split_stage", "split"), ("training_stages", "supervised"), ("evaluation_stage", "evaluate"),
        ("stages", "refiner_weights"), ("stages", "quality"),     # the second is a part of the first; only under `weights_by_truth`
        ("stages", "prompts_for"),     # only for the oracle that knows sizes
        ("match_records", "evaluation_record"), ("finished_run", "truth")}     # after the evaluation
    notebooks = {path.stem: nbformat.read(path, 4).cells for path in NOTEBOOKS.glob("*.ipynb")}
    cells = {name: "\n".join(c.source for c in found if c.cell_type == "code") for name, found in notebooks.items()}
    assert {name for name, code in cells.items() if "open_truth" in code or "train_json" in code} == {"evaluate"}
    assert set(cells) == {stage.notebook or stage.name for stage in STAGES.values()}


def test_the_split_leaves_points_and_classes_only(whole, root):
    assert whole.files("split") == {"instances_train2017_25p_s.json", "instances_train2017_25p_w.json"}
    strong, weak, truth = whole.half("s"), whole.half("w"), open_truth(whole.cfg, "")
    counts = {"strong_masks": strong.num_annotations, "points": weak.num_annotations}
    assert whole.metrics["split"] == {"strong_images": 3, "weak_images": 9, **counts}
    assert sorted(strong.ids + weak.ids) == truth.ids and strong.num_annotations + weak.num_annotations == truth.num_annotations
    raw = read_json(weak.path)
    assert {frozenset(a) for a in raw["annotations"]} == {frozenset(("id", "image_id", "category_id", "point", "iscrowd"))}
    assert "segmentation" not in json.dumps(raw) and "bbox" not in json.dumps(raw) and "area" not in json.dumps(raw)


@pytest.mark.parametrize("stage, steps", [("teacher", 6), ("refiner", 3), ("student", 4), ("student_refined", 4), ("supervised", 4)])
def test_trained_stages_leave_weights_history_and_state(whole, stage, steps):
    kept = {"step_2.safetensors", "step_4.safetensors"} if stage == "teacher" else set()
    assert whole.files(stage) == {"last.safetensors", "state.pt", "history.json"} | kept and any((whole.inputs[stage] / "tb").iterdir())
    history = read_json(whole.inputs[stage] / "history.json")
    found = whole.metrics[stage]
    assert history[-1]["step"] == found["steps"] == steps
    assert history[-1]["loss"] == found["final_loss"] and np.isfinite(found["final_loss"])
    assert found["history"] == {"step": [row["step"] for row in history], "loss": [round(row["loss"], 4) for row in history]}
    if stage == "refiner": assert found["pairs"] > 0
    else: assert found["images"] == (3 if stage == "teacher" else 12) and found["images_per_s"] > 0


@pytest.mark.parametrize("labels", ["sw", "sw_refined"])
def test_pseudo_masks_are_linked_to_their_points(whole, labels):
    strong, weak, data = whole.half("s"), whole.half("w"), whole.labels(labels)
    clicks, made = {a["id"]: a for i in weak.ids for a in weak.annotations[i]}, linked(data)
    assert sorted(data.ids) == sorted(strong.ids + weak.ids) and data.categories == weak.categories
    assert sorted(a["id"] for i in data.ids for a in data.annotations[i]) == list(range(1, data.num_annotations + 1))
    assert len(made) == data.num_annotations - strong.num_annotations and set(made) <= set(clicks)
    for point_id, a in made.items():
        mask = data.mask(a)
        assert (a["image_id"], a["category_id"]) == (clicks[point_id]["image_id"], clicks[point_id]["category_id"])
        x0, y0, x1, y1 = coco.box_of(mask)
        assert mask.sum() == a["area"] > 0 and a["bbox"] == [x0, y0, x1 - x0, y1 - y0] and 0 < a["score"] <= 1 and a["iscrowd"] == 0
    for i in strong.ids:
        assert all(np.array_equal(strong.mask(a), data.mask(b)) for a, b in zip(strong.annotations[i], data.annotations[i], strict=True))


def test_points_without_a_mask_are_listed(whole):
    weak, found = whole.half("w"), whole.metrics["pseudo"]
    clicks = {a["id"]: a for i in weak.ids for a in weak.annotations[i]}
    for labels in ("sw", "sw_refined"):
        data = whole.labels(labels)
        dropped = {a["id"]: a for a in data.info["dropped_points"]}
        assert set(dropped) == set(clicks) - set(linked(data)) and all(dropped[k] == clicks[k] | {"reason": dropped[k]["reason"]} for k in dropped)
        assert dropped and len(dropped) == found["points_without_mask" + {"sw": "_sw"}.get(labels, "")]
    assert found["points"] == len(clicks)
    assert sum(missing for _, missing in found["by_class"].values()) == len(dropped) and 0 < found["mean_score"] <= 1
    assert set(found["by_class"]) == set(weak.categories.names)


def test_a_refined_mask_is_another_answer_to_the_same_click(whole):
    rough, refined = linked(whole.labels("sw")), linked(whole.labels("sw_refined"))
    both = set(rough) & set(refined)
    assert both and all(rough[k]["score"] == refined[k]["score"] for k in both)
    assert any(rough[k]["segmentation"] != refined[k]["segmentation"] for k in both)


@pytest.mark.parametrize("strategy", POINTS)
def test_the_refiner_learns_with_the_points_that_an_annotator_would_click(places, root, strategy):
    "A strong image has the very points that the split would have given it, had it been weak."
    chain = Chain(places / f"clicks_{strategy}", "shapes", "25p", root, point_strategy=strategy).run("split")
    weak, truth = chain.half("w"), open_truth(chain.cfg, "")
    for i in weak.ids:
        points, prompts = stages.points_and_boxes(chain.cfg, truth, i)
        assert points == points_of(weak, i)
        assert np.allclose(prompts.xy, [(p.x, p.y) for p in points]) and prompts.classes.tolist() == [p.class_index for p in points]
        assert torch.equal(prompts.boxes, tight_boxes(torch.from_numpy(np.stack([truth.mask(a) for a in truth.annotations[i]]))).double())


def test_an_image_without_objects_has_no_points(whole, places):
    record = {"id": 1, "file_name": "x.png", "width": 8, "height": 8}
    empty = coco.CocoData(places / "x.json", places, {1: record}, {1: []}, whole.half("s").categories, {})
    points, prompts = stages.points_and_boxes(whole.cfg, empty, 1)
    assert points == [] and prompts.xy.shape == (0, 2) and prompts.boxes.shape == (0, 4)


def test_full_supervision_does_not_depend_on_the_split(places, root):
    hashes = set()
    for split, strategy in (("25p", "centroid"), ("75p", "random")):
        cfg = config_of("shapes", split, 0, str(root), {**TINY, "point_strategy": strategy, "student_train.steps": 2})
        out = places / f"supervised_{split}"
        assert stages.supervised(cfg, {"split": places / "nowhere"}, out)["images"] == 12
        hashes.add(file_hash(out / "last.safetensors"))
    assert len(hashes) == 1


COMPARED = ("student", "student_refined", "supervised", "teacher_long", "student_without_points")


def trained_with(monkeypatch, chain: Chain, folder: Path, **changes) -> list[tuple]:
    "Networks of a comparison: network, schedule, first weights and number of images."
    seen, cfg = [], config_of("shapes", "25p", 0, chain.cfg.data.root, {**TINY, **changes})

    def fit(cfg, data, net, schedule, out, start=None):
        seen.append((net, schedule, start and start.parent.name, len(data.ids)))
        return {}
    monkeypatch.setattr(training_stages, "fit_detector", fit)
    for name in COMPARED: getattr(stages, STAGES[name].notebook or name)(cfg, chain.inputs, folder / name, **STAGES[name].fixed)
    return seen


@pytest.mark.parametrize("start, weights", [("backbone", None), ("teacher", "teacher")])
def test_compared_networks_differ_in_their_labels_alone(whole, places, monkeypatch, start, weights):
    "Students, supervised network and controls: one network, one schedule, the same first weights."
    seen = trained_with(monkeypatch, whole, places / start, student_start=start)
    cfg = config_of("shapes", "25p", 0, whole.cfg.data.root, TINY)
    assert [one[:3] for one in seen] == [(cfg.student, cfg.student_train, weights)] * len(COMPARED)
    assert dict(zip(COMPARED, (one[3] for one in seen))) == dict.fromkeys(COMPARED, 12) | {"teacher_long": 3}


def test_a_training_says_its_steps_and_its_start(whole):
    assert {name: (whole.metrics[name]["steps"], whole.metrics[name]["start"]) for name in ("teacher", *COMPARED)} == {
        "teacher": (6, "backbone"), **dict.fromkeys(COMPARED, (4, "backbone"))}


def test_pseudo_labels_without_points_know_none(whole, places):
    "Whatever prompt and recipe the run has, the control's masks are those of the prompt `none`, from the teacher alone."
    sure = {"teacher.score_threshold": 0.0, "teacher.update_threshold": 0.0, "teacher.max_per_image": 4, "pseudo_score": 0.0}
    made = []
    for recipe in ("paper", "competition"):
        cfg = config_of("shapes", "25p", 0, whole.cfg.data.root, {**TINY, **sure, "recipe": recipe})
        out = places / f"control_{recipe}"
        inputs = {name: whole.inputs[name] for name in ("split", "teacher")}
        found = stages.pseudo(cfg, inputs, out, points=False)
        assert [path.name for path in out.glob("*.json")] == ["instances_train2017_25p_sw_without_points.json"]
        data = open_artifact(cfg, whole.inputs["split"], out, "_sw_without_points.json")
        answers = [a for i in whole.half("w").ids for a in data.annotations[i]]
        assert len(answers) == found["masks"] > 0 and not [a for a in answers if "point_id" in a] and data.info["dropped_points"] == []
        made.append(answers)
    assert made[0] == made[1]


def test_in_a_second_round_the_first_student_makes_the_masks_of_the_points(whole, places):
    "As that student would in the teacher's place; the teacher's weights change nothing, the refiner is the same."
    cfg = config_of("shapes", "25p", 0, whole.cfg.data.root, {**TINY, "recipe": "competition"})
    second, first = replace(cfg, first_round="recipe_competition"), whole.inputs["student_refined"]
    swapped = replace(cfg, teacher=cfg.student, teacher_train=cfg.student_train)
    made = {}
    for name, cfg, inputs in (("round_one", cfg, {}), ("round_two", second, {"first_student_refined": first}), ("swapped", swapped, {"teacher": first})):
        stages.pseudo(cfg, {name: whole.inputs[name] for name in ("split", "teacher", "refiner")} | inputs, places / name)
        made[name] = [open_artifact(cfg, whole.inputs["split"], places / name, f"_{labels}.json") for labels in ("sw", "sw_refined")]
    for one, two, there in zip(*made.values()): assert linked(two) == linked(there) != linked(one)
    dropped = [a["reason"] for data in made["round_two"] for a in data.info["dropped_points"]]
    assert "the teacher draws no mask" not in dropped


def test_the_built_in_data_set_is_drawn_by_the_split(places, monkeypatch):
    few = replace(DATASETS["shapes"], draw=lambda root: shapes.write(root, train=4, val=1))
    monkeypatch.setitem(DATASETS._found, "shapes", few)
    cfg, out = config_of("shapes", "25p"), places / "built_in"
    assert stages.split(cfg, {}, out)["weak_images"] == 3
    strong = open_artifact(cfg, out, out, "_s.json")
    assert (out / "data/annotations/instances_val.json").is_file() and strong.read_image(strong.ids[0]).shape == (128, 128, 3)


def test_evaluation_measures_every_network_and_both_label_sets(whole):
    found = whole.metrics["evaluate"]
    networks = [net.metric for net in NETWORKS.values()]
    scores = {f"{name}_ap_percent" for name in networks}
    assert {"teacher_long_ap_percent", "student_without_points_ap_percent"} < scores
    quality = {f"pseudo_{name}_{k}_percent" for name in ("sw", "sw_refined") for k in ("miou", "miou_found", "ap")}
    counts = {f"pseudo_{name}_{k}" for name in ("sw", "sw_refined") for k in ("masks", "masks_right")}
    assert scores | quality | counts | {"points", "points_without_mask", "models"} == set(found)
    assert all(np.isfinite(found[k]) for k in scores | quality)
    for name in networks:
        detail = found["models"][name]
        assert {"ap_percent", "ap50_percent", "ap75_percent", "aps_percent", "apm_percent", "apl_percent", "per_class"} == set(detail)
        assert set(detail["per_class"]) == set(shapes.CLASSES) and detail["ap_percent"] == found[f"{name}_ap_percent"]
    ious = {name: read_json(whole.inputs["evaluate"] / f"ious_{name}.json") for name in ("sw", "sw_refined")}
    clicks = {str(a["id"]) for i in whole.half("w").ids for a in whole.half("w").annotations[i]}
    assert all(set(found_ious) == clicks for found_ious in ious.values())
    assert all(found[f"pseudo_{name}_miou_percent"] == pytest.approx(100 * np.mean(list(v.values()))) for name, v in ious.items())
    assert all(found[f"pseudo_{name}_masks_right"] == sum(iou >= .5 for iou in v.values()) for name, v in ious.items())
    assert found["pseudo_sw_refined_masks"] == found["points"] - found["points_without_mask"] >= found["pseudo_sw_refined_masks_right"]
    assert found["points"] == len(clicks) and found["points_without_mask"] == whole.metrics["pseudo"]["points_without_mask"]
    assert {f"results_{name}.json" for name in found["models"]} <= whole.files("evaluate")


def test_true_masks_as_pseudo_labels_score_full_marks(whole, places):
    "The evaluation links each pseudo mask to the right object."
    truth, weak = open_truth(whole.cfg, ""), whole.half("w")
    of = {a["id"]: a for i in truth.ids for a in truth.annotations[i]}
    perfect = shutil.copytree(whole.inputs["pseudo"], places / "perfect")
    for path in Path(perfect).glob("*.json"):
        content = read_json(path)
        for a in content["annotations"]: a.update({"segmentation": of[a["point_id"]]["segmentation"]} if "point_id" in a else {})
        path.write_text(json.dumps(content))
    inputs = {name: whole.inputs[name] for name in ("split", "teacher")} | {"pseudo": Path(perfect)}
    found = stages.evaluate(whole.cfg, inputs, places / "perfect_evaluate")
    share = 100 * len(linked(whole.labels("sw"))) / weak.num_annotations
    assert found["pseudo_sw_miou_found_percent"] == 100 and found["pseudo_sw_miou_percent"] == pytest.approx(share)


def test_only_published_behaviour_judges_refiners_by_the_truth(whole, blind, places):
    "`fixed` takes the last weights without looking; `published` judges the saved ones, and fails where the truth is gone."
    weak, saved = whole.half("w"), [whole.inputs["refiner"] / "last.safetensors"]
    assert stages.refiner_weights(blind.cfg, blind.inputs, weak, [], places) == blind.inputs["refiner"] / "last.safetensors"
    published = replace(whole.cfg, behaviour="published")
    assert stages.refiner_weights(published, whole.inputs, weak, [], places) in saved
    with pytest.raises(DataError): stages.refiner_weights(replace(blind.cfg, behaviour="published"), blind.inputs, weak, [], places)


class Pulled(Exception): "Somebody pulled the plug."


def asked(monkeypatch, until: int) -> list[int]:
    "Sizes of the batches that a network was asked about; before the one of that number the plug is pulled."
    seen, make = [], stages.predictor
    def counting(*args, **kw):
        predict = make(*args, **kw)
        def one(images, *rest):
            if len(seen) == until: raise Pulled
            seen.append(len(images))
            return predict(images, *rest)
        return one
    for module in (stages, evaluation_stage): monkeypatch.setattr(module, "predictor", counting)
    return seen


@pytest.mark.parametrize("stage, until", [("refiner", 1), ("pseudo", 1), ("evaluate", 2)])
def test_a_stage_goes_on_image_by_image_and_ends_with_the_same_bytes(whole, places, stage, until):
    "Values computed before the interruption are not computed again."
    out = places / f"pulled_{stage}"
    with pytest.MonkeyPatch.context() as patch:
        before = asked(patch, until)
        with pytest.raises(Pulled): getattr(stages, stage)(whole.cfg, whole.inputs, out)
    with pytest.MonkeyPatch.context() as patch:
        after = asked(patch, -1)
        found = getattr(stages, stage)(whole.cfg, whole.inputs, out)
    with pytest.MonkeyPatch.context() as patch:
        again = asked(patch, 0)
        if stage != "refiner": getattr(stages, stage)(whole.cfg, whole.inputs, out)
        else: assert len(stages.training_pairs(whole.cfg, whole.half("s"), [whole.inputs["teacher"] / f"step_{n}.safetensors" for n in (2, 4)], torch.device("cpu"), out=out))
    unbroken = {"refiner": 2, "pseudo": 2, "evaluate": 6}[stage]
    assert len(before) == until and len(after) == unbroken - until and again == []
    assert found == whole.metrics[stage]
    same = {path.name for pattern in ("*.json", "last.safetensors") for path in whole.inputs[stage].glob(pattern)} - {"history.json"}
    assert same and {name: file_hash(out / name) for name in same} == {name: file_hash(whole.inputs[stage] / name) for name in same}
