"Detectron2's detectors as student: trained, resumed and evaluated by the suite, wherever Detectron2 can be imported."
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

reason = "Detectron2 cannot be imported: docs/detectron2.md says how it is installed"
pytest.importorskip("detectron2", reason=reason)
pytest.importorskip("detectron2._C", reason=reason, exc_type=ImportError)

from pointwssis.bridges.d2_student import _ZOO as ZOO, DetectronStudent, network_of
from pointwssis.config import CHOICES, SOLOv2Config
from pointwssis.core import CheckpointError, ConfigError
from pointwssis.data.coco import load
from pointwssis.data.evaluation import coco_ap
from pointwssis.data.shapes import write
from pointwssis.detector.predict import load_model, predict_all, predictor
from pointwssis.method.training_stages import fit_detector
from pointwssis.registry import DETECTORS
from pointwssis.runs.cli import main
from pointwssis.runs.presets import preset
from pointwssis.training.weights import load_weights

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SMALL = f"""
_BASE_: {ZOO / MASK_RCNN}
MODEL:
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN}}
  FPN: {{OUT_CHANNELS: 16}}
  ANCHOR_GENERATOR: {{SIZES: [[8], [16], [32], [64], [96]]}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 30, PRE_NMS_TOPK_TEST: 50, POST_NMS_TOPK_TEST: 10}}
  ROI_BOX_HEAD: {{FC_DIM: 32}}
  ROI_MASK_HEAD: {{NUM_CONV: 1, CONV_DIM: 16}}
  ROI_HEADS: {{NUM_CLASSES: 5, BATCH_SIZE_PER_IMAGE: 16, SCORE_THRESH_TEST: 0.0}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("student")
    (place / "small.yaml").write_text(SMALL)
    write(place / "shapes", train=8, val=4)
    return place


@pytest.fixture
def net(place): return SOLOv2Config(detector=f"detectron2:{place}/small.yaml", num_classes=5)


def test_every_instance_segmentation_network_of_the_zoo_is_read():
    "yacs and LazyConfig; the networks are not built."
    names = [p.relative_to(ZOO).as_posix() for p in sorted(ZOO.glob("COCO-InstanceSegmentation/*")) if p.suffix in (".yaml", ".py")]
    assert len(names) > 10
    for name in names: assert network_of(name, 7).order in ("rgb", "bgr")


@pytest.mark.parametrize("name, said", [("COCO-InstanceSegmentation/mask_rcn_R_50_FPN_1x.yaml",
                                         "Did you mean 'COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml'"),
                                        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "draws no masks"),
                                        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "draws no masks")])
def test_names_that_are_no_student(name, said):
    with pytest.raises(ConfigError, match=said): network_of(name, 5)


def test_an_own_file_with_other_classes_or_broken(place):
    with pytest.raises(ConfigError, match="MODEL.ROI_HEADS.NUM_CLASSES is 5, the data have 6 classes. Set it to 6"): network_of(str(place / "small.yaml"), 6)
    for text in ("MODEL: {NOTHING: 1}", "MODEL: [1, 2", "x"):
        (place / "broken.yaml").write_text(text)
        with pytest.raises(ConfigError, match="no configuration of Detectron2") as caught: network_of(str(place / "broken.yaml"), 5)
        assert "\n" not in str(caught.value)


def test_names_with_an_argument():
    assert DETECTORS[f"detectron2:{MASK_RCNN}"] is DetectronStudent and f"detectron2:{MASK_RCNN}" in CHOICES["detector"]
    for wrong in ("detectron2", "solov2:x", "detectron:x"):
        assert wrong not in DETECTORS
        with pytest.raises(ConfigError, match="unknown detector"): DETECTORS[wrong]


def test_the_command_refuses_it_before_any_work(tmp_path, capsys):
    common = ["reproduce", "--dataset", "demo", "--runs", str(tmp_path / "runs")]
    assert main([*common, "--student", "detectron2:COCO-InstanceSegmentation/mask_rcnn.yaml"]) == 2
    assert "neither a file nor a configuration" in capsys.readouterr().err
    assert main([*common, "--set", f"teacher.detector=detectron2:{MASK_RCNN}"]) == 2
    assert "takes no prompts" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("*.ipynb"))


def test_other_classes_are_refused_before_the_teacher_is_trained(place, net, tmp_path):
    cfg, truth = preset("demo"), load(place / "shapes/annotations/instances_train.json")
    cfg = replace(cfg, student=replace(net, detector=f"detectron2:{place}/other.yaml"))
    (place / "other.yaml").write_text(SMALL.replace("NUM_CLASSES: 5", "NUM_CLASSES: 7"))
    with pytest.raises(ConfigError, match="NUM_CLASSES is 7, the data have 5 classes. Set it to 5"):
        fit_detector(cfg, truth, cfg.teacher, cfg.teacher_train, tmp_path)
    assert not list(tmp_path.iterdir())


def fitted(place, net, out, steps=4):
    cfg = preset("demo")
    schedule = replace(cfg.student_train, steps=steps, batch_size=2, save_every=2, warmup_steps=1, precision="auto")
    out.mkdir()
    return fit_detector(replace(cfg, student=net), load(place / "shapes/annotations/instances_train.json"), net, schedule, out)


def test_a_broken_training_goes_on_to_the_same_weights(place, net, tmp_path, monkeypatch, capsys):
    fitted(place, net, tmp_path / "whole")
    assert "no weights given: all layers begin at random" in capsys.readouterr().err
    calls, loss = [], DetectronStudent.loss
    def breaks(self, batch):
        calls.append(1)
        if len(calls) == 4: raise KeyboardInterrupt
        return loss(self, batch)
    monkeypatch.setattr(DetectronStudent, "loss", breaks)
    with pytest.raises(KeyboardInterrupt): fitted(place, net, tmp_path / "broken")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: None)
    fitted(place, net, tmp_path / "broken")
    whole, again = (load_weights(tmp_path / name / "last.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(v, again[k]) for k, v in whole.items())


def test_it_is_evaluated_like_any_other(place, net, tmp_path):
    fitted(place, net, tmp_path / "out", steps=2)
    model = load_model(replace(net, num_classes=80), tmp_path / "out/last.safetensors")
    assert model.cfg.num_classes == 5 and not model.training
    val = load(place / "shapes/annotations/instances_val.json", need="masks")
    results = predict_all(predictor(model, preset("demo").data, torch.device("cpu")), val)
    assert results and 0 <= coco_ap(val, results)["ap_percent"] <= 100
    scores = [r["score"] for r in results if r["image_id"] == val.ids[0]]
    assert scores == sorted(scores, reverse=True)


def test_an_image_without_objects(net):
    from pointwssis.data.transforms import Sample
    student = DetectronStudent(net).train()
    empty = Sample(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 64, 64), np.uint8), np.zeros(0, np.int64), np.zeros((0, 2)))
    assert all(torch.isfinite(v) for v in student.loss(student.batch(student.cfg, [(1, empty), (2, empty)])).values())


def test_imagenet_weights_from_a_pickle(place, net, tmp_path):
    "A .pkl under Detectron2's names reaches the backbone; one that would run code is refused."
    state = {k.removeprefix("net.backbone.bottom_up."): torch.randn_like(v).numpy() for k, v in DetectronStudent(net).state_dict().items()
             if k.startswith("net.backbone.bottom_up.res3") and v.is_floating_point()}
    (tmp_path / "body.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "test", "matching_heuristics": True}))
    student = DetectronStudent(replace(net, weights=str(tmp_path / "body.pkl"))).state_dict()
    assert all(np.array_equal(student[f"net.backbone.bottom_up.{k}"], v) for k, v in state.items())
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="refused: it asks for posix.system"): DetectronStudent(replace(net, weights=str(tmp_path / "evil.pkl")))
    with pytest.raises(CheckpointError, match="no such file"): DetectronStudent(replace(net, weights=str(tmp_path / "none.pth")))
