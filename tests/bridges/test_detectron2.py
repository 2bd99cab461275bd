"The bridge to Detectron2, wherever Detectron2 can be imported."
import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

reason = "Detectron2 cannot be imported: docs/detectron2.md says how it is installed"
pytest.importorskip("detectron2", reason=reason)
pytest.importorskip("detectron2._C", reason=reason, exc_type=ImportError)

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, transforms as T
from detectron2.engine import SimpleTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.structures import BitMasks, Instances, PolygonMasks
from hypothesis import given, settings, strategies as st

from pointwssis.detector.batches import solov2_loss, training_batch
from pointwssis.bridges import detectron2 as bridge
from pointwssis.bridges.d2_training import classes_option, records
from pointwssis.data.coco import load
from pointwssis.config import SOLOv2Config, TrainConfig
from pointwssis.runs.presets import preset
from pointwssis.core import ConfigError, DataError, read_json, rng, write_json
from pointwssis.data.transforms import Sample, normalise, resize_sample, target_size
from pointwssis.data.training_set import CocoDataset
from pointwssis.data.evaluation import coco_ap
from pointwssis.data.masks import encode, mask_fields
from pointwssis.data.points import Point
from pointwssis.detector.predict import predict_all, predictor
from pointwssis.data.shapes import draw_image, write
from pointwssis.method.splits import write_split
from pointwssis.training.checkpoints import load_official
from tiny import CFG, tiny_model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A drawn data set with a split and pseudo labels, one point of which has no mask."
    root = write(tmp_path_factory.mktemp("bridge") / "shapes", train=10, val=6)
    _, weak = write_split(load(root / "annotations/instances_train.json"), "40p", 0, "centroid", root / "annotations")
    content, truth = read_json(weak), load(root / "annotations/instances_train.json")
    masks = {a["id"]: a for records in truth.annotations.values() for a in records}
    lost, *found = content["annotations"]
    content["annotations"] = [masks[a["id"]] | {"point": a["point"], "point_id": a["id"]} for a in found]
    write_json(root / "annotations/instances_train2017_40p_sw_refined.json", content | {"dropped_points": [lost]})
    bridge.register(root, dataset="custom", name="test")
    return root


def mapped(record, augmentations, train=True):
    return bridge.PointMapper(train, augmentations=augmentations, image_format="RGB", use_instance_mask=True)(record)


# data

def test_names_of_a_published_layout(root, tmp_path):
    (tmp_path / "annotations").mkdir()
    for half in ("s", "w"):
        (tmp_path / f"annotations/instances_train2017_5p_{half}.json").write_bytes((root / f"annotations/instances_train2017_40p_{half}.json").read_bytes())
    (tmp_path / "annotations/instances_val2017.json").write_bytes((root / "annotations/instances_val.json").read_bytes())
    assert bridge.register(tmp_path) == ["coco_2017_train_5p_s", "coco_2017_train_5p_w", "coco_2017_val"]
    assert MetadataCatalog.get("coco_2017_val").thing_classes == ["disk", "square", "triangle", "star", "ring"]
    assert MetadataCatalog.get("coco_2017_val").image_root == str(tmp_path / "val2017")
    assert bridge.register(tmp_path, split="5p", name="mine") == ["mine_train_5p_s", "mine_train_5p_w", "mine_val"]


def test_names_of_bdd100k_and_of_an_own_folder(root, tmp_path):
    (tmp_path / "set/annotations").mkdir(parents=True)
    for name in ("bdd100k_ins_labels_train_10p_s", "bdd100k_ins_labels_train"):
        (tmp_path / f"set/annotations/{name}.json").write_bytes((root / "annotations/instances_train.json").read_bytes())
    assert bridge.register(tmp_path / "set", dataset="bdd100k") == ["bdd100k_train_10p_s", "bdd100k_train"]
    (tmp_path / "set/annotations/bdd100k_ins_labels_train.json").rename(tmp_path / "set/annotations/instances_val.json")
    assert bridge.register(tmp_path / "set", dataset="custom") == ["set_train_10p_s", "set_val"]


def test_a_weak_record_has_neither_box_nor_mask(root):
    annotations = [a for r in DatasetCatalog.get("test_train_40p_w") for a in r["annotations"]]
    assert annotations and {tuple(sorted(a)) for a in annotations} == {("category_id", "id", "iscrowd", "point")}


def test_two_files_of_one_split_are_refused(root, tmp_path):
    (tmp_path / "annotations").mkdir()
    for stem in ("a", "b"): (tmp_path / f"annotations/{stem}_5p_s.json").write_bytes((root / "annotations/instances_train2017_40p_s.json").read_bytes())
    with pytest.raises(DataError, match="Keep one of them"): bridge.register(tmp_path)


def test_a_run_that_is_none(tmp_path):
    with pytest.raises(DataError, match="no run with a finished split"): bridge.register(run=tmp_path)


def test_the_files_of_a_run(root, tmp_path):
    for stage, halves in (("split", ("s", "w")), ("pseudo", ("sw_refined",))):
        (tmp_path / stage / "artifacts").mkdir(parents=True)
        for half in halves:
            (tmp_path / f"{stage}/artifacts/instances_train2017_40p_{half}.json").write_bytes((root / f"annotations/instances_train2017_40p_{half}.json").read_bytes())
    write_json(tmp_path / "split/params.json", {"parameters": {"dataset": "custom", "split": "40p", "seed": 0, "data_root": str(root), "overrides": {}}})
    assert sorted(bridge.register(run=tmp_path, name="run")) == ["run_train", "run_train_40p_s", "run_train_40p_sw_refined", "run_train_40p_w", "run_val"]
    assert sum("ignore_points" in r for r in DatasetCatalog.get("run_train_40p_sw_refined")) == 1


def test_crowds_with_plain_run_lengths(tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "val/a.png")
    crowd = {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": {"size": [4, 6], "counts": [0, 4, 20]}}
    plain = {"id": 2, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]]}
    write_json(tmp_path / "annotations/instances_val.json", {"images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
                                                             "annotations": [crowd, plain],
                                                           "categories": [{"id": 3, "name": "x"}]})
    bridge.register(tmp_path, dataset="custom", name="crowd")
    record, = DatasetCatalog.get("crowd_val")
    assert isinstance(record["annotations"][0]["segmentation"]["counts"], (str, bytes)) and record["annotations"][0]["bbox"] == [0, 0, 1, 4]
    found = mapped(record, [])
    assert len(found["instances"]) == 1 and found["instances"].gt_boxes.tensor.tolist() == [[1, 1, 5, 3]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.integers(80, 300), vertical=st.booleans(), angle=st.floats(-180, 180), share=st.floats(.5, 1))
def test_a_point_stays_on_its_object(seed, size, vertical, angle, share):
    "Discs of 8 pixels and more about their points, under all geometric augmentations at once."
    r = rng(seed, "points")
    height, width = r.integers(60, 160, 2)
    xy = r.uniform((10, 10), (width - 10, height - 10), (4, 2))
    ys, xs = np.mgrid[:height, :width] + .5
    masks = [np.hypot(xs - x, ys - y) < 8 for x, y in xy]
    image = r.integers(0, 256, (height, width, 3), dtype=np.uint8)
    record = {"file_name": "", "height": int(height), "width": int(width), "annotations": [
        {"id": k, "category_id": 0, "iscrowd": 0, "point": p.tolist()} | mask_fields(encode(m)) for k, (p, m) in enumerate(zip(xy, masks))]}
    np.random.seed(seed)
    transforms = T.AugmentationList([bridge.ShortestEdge(size, 1000), T.RandomFlip(horizontal=not vertical, vertical=vertical),
                                     T.RandomRotation([angle, angle]),
                                     T.RandomCrop("relative_range", (share, share)), T.ResizeShortestEdge(size, 1000, "choice")])
    given_image = T.AugInput(image)
    chosen = transforms(given_image)
    mapper = bridge.PointMapper(True, augmentations=[], image_format="RGB", use_instance_mask=True)
    mapper._transform_annotations(record, chosen, given_image.image.shape[:2])
    objects = record["instances"]
    for (x, y), mask in zip(objects.gt_points.tolist(), objects.gt_masks.tensor):
        if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]: assert mask[int(y), int(x)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), short=st.integers(20, 200))
def test_our_mapper_resizes_as_our_data_set(seed, short):
    r = rng(seed, "resize")
    image = r.integers(0, 256, (*r.integers(30, 120, 2), 3), dtype=np.uint8)
    mask = (r.random(image.shape[:2]) < .3).astype(np.uint8)
    ours = resize_sample(Sample(image, mask[None], np.zeros(1, np.int64), np.array([[3., 4.]])), target_size(*image.shape[:2], short, 150))
    theirs = bridge.ShortestEdge(short, 150).get_transform(image)
    np.testing.assert_array_equal(theirs.apply_image(image), ours.image)
    np.testing.assert_array_equal(theirs.apply_segmentation(mask), ours.masks[0])
    np.testing.assert_allclose(theirs.apply_coords(np.array([[3., 4.]])), ours.ignore)


def test_points_in_inference_are_those_of_the_original(root):
    record = next(r for r in DatasetCatalog.get("test_train_40p_w") if r["annotations"])
    found = mapped(record, [bridge.ShortestEdge(64, 100)], train=False)
    assert found["image"].shape == (3, 64, 64) and "annotations" not in found
    assert found["points"] == [Point(*a["point"], a["category_id"], a["id"]) for a in record["annotations"]]


# network

def batch_of(root, name="test_train_40p_sw_refined", count=3):
    return [mapped(r, [bridge.ShortestEdge(96, 200)]) for r in DatasetCatalog.get(name)[:count]]


def test_losses_of_a_batch_are_ours(root):
    "Read, resized, with a point that is ignored: by our data set and by the mapper."
    data = load(root / "annotations/instances_train2017_40p_sw_refined.json", root / "train")
    still = TrainConfig(short_sides=(96,), long_side=200, flip_prob=0, scale_jitter=(1., 1.), colour_jitter=0.)
    net = replace(CFG, num_classes=5)
    items = [CocoDataset(data, still)[k, 0, 0] for k in range(4)]
    assert any(len(s.ignore) for _, s in items)
    torch.manual_seed(0)
    model = bridge.PointSOLOv2(net, input_format="RGB").train()
    theirs = model(batch_of(root, count=4))
    for name, value in solov2_loss(model.net, training_batch(net, items)).items(): assert abs(float(value) - float(theirs[name])) < 1e-5


def test_bgr_is_turned(root):
    batch = batch_of(root)
    model = bridge.PointSOLOv2(replace(CFG, num_classes=5), input_format="RGB").train()
    first = model(batch)
    model.input_format = "BGR"
    second = model([x | {"image": x["image"].flip(0)} for x in batch])
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_polygons_are_drawn():
    masks = PolygonMasks([[np.array([10., 10, 40, 10, 40, 40, 10, 40])]])
    objects = Instances((64, 64), gt_masks=masks, gt_classes=torch.tensor([1]))
    bits = Instances((64, 64), gt_masks=BitMasks.from_polygon_masks(masks, 64, 64), gt_classes=torch.tensor([1]))
    model = bridge.PointSOLOv2(CFG).train()
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    first, second = (model([{"image": image, "instances": o}]) for o in (objects, bits))
    assert all(torch.equal(first[k], second[k]) for k in first) and first["loss_ins"] > 0


def test_an_image_without_objects():
    model = bridge.PointSOLOv2(CFG).train()
    found = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": Instances((64, 64), gt_classes=torch.zeros(0, dtype=torch.long))}])
    sum(found.values()).backward()
    assert float(found["loss_ins"]) == 0


def test_prompts_through_the_same_class(root):
    model = bridge.PointSOLOv2(replace(CFG, score_threshold=0.)).eval()
    model.net.load_state_dict(tiny_model().state_dict())
    model.net.cfg = replace(CFG, nms_iou=1.0)
    model.prompt, model.nms = "point", "mask"
    image = torch.from_numpy(draw_image(rng(0, "prompts"), 128)[0]).permute(2, 0, 1)
    points = [Point(30., 40., 0, 1), Point(90., 80., 2, 2)]
    found = model([{"image": image, "height": 256, "width": 256, "points": points}])[0]["instances"]
    direct = model.net.predict(*_inputs(model, image), [points], "point", "mask")[0]
    assert found.image_size == (256, 256) and torch.equal(found.pred_masks, direct.masks) and torch.equal(found.pred_points, direct.points)


def _inputs(model, image):
    x, sizes = model._images([{"image": image}])
    return normalise(x, sizes, model.net.cfg), sizes, [(256, 256)]


def test_an_unknown_prompt():
    with pytest.raises(ConfigError, match="unknown prompt 'pont'"): bridge.PointSOLOv2(CFG, prompt="pont")


def test_boxes_are_those_of_the_masks(root):
    model = bridge.PointSOLOv2(CFG).eval()
    model.net.load_state_dict(tiny_model().state_dict())
    found = model([{"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}])[0]["instances"]
    assert torch.equal(found.pred_boxes.tensor, BitMasks(found.pred_masks).get_bounding_boxes().tensor)


# checkpoints

def test_a_published_file_opens_in_both(tmp_path):
    "The published SOLOv2 with ResNet-101: every key and shape of the real file, with random numbers."
    keys = json.loads((Path(__file__).parents[1] / "recorded/golden/official_solov2_r101_keys.json").read_text())
    state = {k: torch.randn(shape) if shape else torch.tensor(0) for k, shape in keys.items()}
    torch.save({"model": state}, tmp_path / "published.pth")
    model = bridge.PointSOLOv2(SOLOv2Config())
    left = DetectionCheckpointer(model).load(str(tmp_path / "published.pth"))
    ours = load_official(tmp_path / "published.pth", model.net)
    assert left == {} and all(torch.equal(v, ours[k]) for k, v in model.net.state_dict().items())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_of_detectron2_predicts_in_ours(tmp_path):
    model = bridge.PointSOLOv2(CFG)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    state = bridge.from_detectron2(tmp_path / "model_final.pth")
    assert all(torch.equal(v, state[k]) for k, v in model.net.state_dict().items()) and len(state) == len(model.net.state_dict())


# training and evaluation

def config(root, out, steps=3):
    cfg = bridge.get_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "PointSOLOv2", "cpu", "", str(out)
    for name in cfg.MODEL.POINTWSSIS:
        if hasattr(CFG, name.lower()): cfg.MODEL.POINTWSSIS[name] = getattr(CFG, name.lower())
    cfg.MODEL.POINTWSSIS.NUM_CLASSES = 5
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("test_train_40p_sw_refined",), ("test_val",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = (96,), 96, 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SEED = 2, steps, (), 1
    return cfg


def test_other_classes_than_the_data(root, tmp_path):
    cfg = config(root, tmp_path)
    cfg.MODEL.POINTWSSIS.NUM_CLASSES = 80
    with pytest.raises(ConfigError, match="has 5 classes, the network 80. Set MODEL.POINTWSSIS.NUM_CLASSES to 5"): bridge.Trainer(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert classes_option(cfg) == "MODEL.ROI_HEADS.NUM_CLASSES"


def test_default_trainer_trains_and_both_evaluators_agree(root, tmp_path):
    trainer = bridge.Trainer(config(root, tmp_path))
    trainer.resume_or_load(resume=False)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    model = trainer.model.eval()
    for p in model.net.instance_head.parameters(): p.data.add_(.05 * torch.randn(p.shape))
    model.net.cfg = replace(model.net.cfg, score_threshold=.005, update_threshold=0.)
    theirs = inference_on_dataset(model, bridge.Trainer.build_test_loader(trainer.cfg, "test_val"),
                                  COCOEvaluator("test_val", ("segm",), output_dir=str(tmp_path / "e")))
    val = load(root / "annotations/instances_val.json", root / "val", "masks")
    size = replace(preset("shapes").data, short_side=96, long_side=1333)
    results = predict_all(predictor(model.net, size, torch.device("cpu"), precision="fp32"), val)
    made = json.loads((tmp_path / "e/coco_instances_results.json").read_text())
    assert len(made) == len(results) > 0
    assert abs(theirs["segm"]["AP"] - coco_ap(val, results)["ap_percent"]) < .05
    assert abs(coco_ap(val, [{k: r[k] for k in ("image_id", "category_id", "segmentation", "score")} for r in made])["ap_percent"] - theirs["segm"]["AP"]) < .05


def test_a_lazy_config_trains_a_step(root):
    cfg = LazyConfig.load(bridge.config_file("solov2_student_R50.py"))
    cfg = LazyConfig.apply_overrides(cfg, [
        "model.net.backbone=timm:test_resnet", "model.net.num_classes=5", "model.net.frozen_stages=0", "model.net.fpn_channels=16",
        "model.net.instance_channels=16",
        "model.net.instance_convs=1", "model.net.mask_channels=16", "model.net.num_kernels=16", "dataloader.train.dataset.names=test_train_40p_s",
        "dataloader.test.dataset.names=test_val", "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"])
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [64]
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model.train(), instantiate(cfg.dataloader.train), optimizer)
    trainer.train(0, 1)
    assert len(next(iter(instantiate(cfg.dataloader.test)))) == 1 and instantiate(cfg.dataloader.evaluator)


def test_a_name_that_no_folder_has(root, tmp_path):
    with pytest.raises(DataError, match="Check data_root"): records("coco_2017_train_30p_s", str(tmp_path))
    with pytest.raises(ConfigError, match="has no data set 'test_train_30p_s'"): records("test_train_30p_s", str(root), "custom")


def test_pictures(root):
    names = MetadataCatalog.get("test_val").thing_classes
    for half in ("40p_s", "40p_w", "40p_sw_refined"):
        record = next(r for r in DatasetCatalog.get(f"test_train_{half}") if r["annotations"])
        drawn = bridge.draw_record(record, names, 2.)
        assert drawn.shape == (256, 256, 3) and drawn.dtype == np.uint8 and drawn.std() > 0
    bare = copy.deepcopy(record) | {"annotations": []}
    assert (bridge.draw_record(record) != bridge.draw_record(bare)).any()
