"""COCO's size through the stages of the method: 118,287 small pictures, most of them links to a few
hundred files, with 860,001 objects; time and memory of each stage, in a process of its own."""
from __future__ import annotations
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch

from pointwssis.data.masks import encode
from pointwssis.detector.inference import Instances
from pointwssis.detector.predict import predictor

from .coco_size import HEIGHT, WIDTH, write_annotations
from .fresh import ROOT, Cost, fresh
from .harness import Row

SIZES = 118_287, 860_001, 5000, 36_781    # images and objects, validation images and objects
SCALE = .15          # of a picture, 96 x 72 pixels, to COCO's usual 640 x 480
FILES = 300          # pictures that are not links
BATCH = 8            # images that the stage `pseudo` asks at once
RADIUS = 6           # pixels, of masks that are drawn in place of a network
BY_NETWORKS = 5000   # weak images that networks label; the others' labels are drawn beforehand
LIMIT_MIB, LIMIT_S = 4096, 24 * 3600
TINY = {"fpn_channels": 16, "instance_channels": 16, "instance_convs": 1, "mask_channels": 16,
        "num_kernels": 16, "num_grids": (24, 16, 12, 8, 6), "backbone": "timm:test_resnet",
        "frozen_stages": 0, "frozen_norm": False, "weights": "", "score_threshold": .3,
        "scale_ranges": ((1, 12), (8, 20), (16, 32), (28, 48), (40, 2048))}
OPTIONS = {f"{who}.{key}": value for who in ("teacher", "student") for key, value in TINY.items()}
OPTIONS |= {"data.train_json": "annotations/instances_train.json", "data.train_images": "train",
            "data.val_json": "annotations/instances_val.json", "data.val_images": "val",
            "recipe": "paper", "data.short_side": 96, "data.long_side": 128,
            "data.cache_images": False,
            "refiner.backbone": "timm:test_resnet", "refiner.weights": "", "refiner.crop_size": 32,
            "refiner.aspp_channels": 16, "refiner.decoder_channels": (16, 16, 16), "device": "cpu"}


def write_stand_in(root: Path, images: int, annotations: int, val: int, objects: int) -> None:
    "The data set: annotation files of COCO's kind, and pictures, most of them links."
    (root / "annotations").mkdir(parents=True)
    size = (round(HEIGHT * SCALE), round(WIDTH * SCALE), 3)
    for half, count, of in (("train", images, annotations), ("val", val, objects)):
        place = root / "annotations" / f"instances_{half}.json"
        write_annotations(place, count, of, len(half), SCALE)
        (root / half).mkdir()
        names = [r["file_name"] for r in json.loads(place.read_text())["images"]]
        r = np.random.default_rng(0)
        for k, name in enumerate(names):
            if k < FILES: cv2.imwrite(str(root / half / name), r.integers(0, 256, size, np.uint8))
            else: os.link(root / half / names[k % FILES], root / half / name)


def _config(root: str) -> Any:
    from pointwssis.runs.stage_graph import config_of
    return config_of("custom", "10p", 0, root, OPTIONS)


def _inputs(root: str) -> dict[str, Path]:
    "Folders of the stages; weights are random."
    from pointwssis.detector.solov2 import SOLOv2
    from pointwssis.refiner.network import MaskRefineNet
    from pointwssis.training.weights import save_weights
    cfg, place = _config(root), Path(root) / "stages"
    torch.manual_seed(0)
    made = {"teacher": lambda: SOLOv2(replace(cfg.teacher, num_classes=80)),
            "refiner": lambda: MaskRefineNet(80, cfg.refiner),
            "student_refined": lambda: SOLOv2(replace(cfg.student, num_classes=80))}
    for name, build in made.items():
        path = place / name / "last.safetensors"
        if not path.is_file(): save_weights(path, build().state_dict())
    return {name: place / name for name in ("split", "pseudo", *made)}


ASKED = Counter()    # images that a detector has seen


def counted(*args: Any, **options: Any) -> Callable:
    "As `predictor`; its images are counted."
    inner = predictor(*args, **options)
    def predict(images: tuple, points: list | None = None) -> list:
        ASKED.update(images=len(images[1]))
        return inner(images, points)
    predict.prepare = inner.prepare
    return predict


def drawn(*args: Any, **options: Any) -> Callable:
    "As `predictor`, with a hundred discs an image in place of a network."
    def one(image: np.ndarray) -> Any:
        height, width = image.shape[:2]
        g = torch.Generator().manual_seed(int(image[0, 0, 0]))
        xy = torch.rand(100, 2, generator=g) * torch.tensor([width, height])
        x, y = torch.arange(width) + .5, torch.arange(height)[:, None] + .5
        masks = (x - xy[:, :1, None]) ** 2 + (y - xy[:, 1:, None]) ** 2 < RADIUS ** 2
        return Instances(masks, torch.linspace(.9, .1, 100),
                         torch.randint(80, (100,), generator=g), torch.full((100,), -1))
    def predict(images: list[np.ndarray], points: None = None) -> list:
        ASKED.update(images=len(images))
        return list(map(one, images))
    return predict


def prepare_stage(root: str, name: str) -> Callable[[], Any]:
    "A stage of the method on the stand-in; networks are tiny, those of `evaluate` drawn masks."
    from pointwssis.method import evaluation_stage, stages
    torch.set_num_threads(1)
    cfg, inputs, out = _config(root), _inputs(root), Path(root) / "stages" / name
    inputs.pop("teacher" if name == "evaluate" else "", None)
    def work() -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        with (patch.object(stages, "predictor", counted),
              patch.object(evaluation_stage, "predictor", drawn)):
            found = getattr(stages, name)(cfg, inputs, out)
        return {k: v for k, v in found.items() if isinstance(v, int | float)} | dict(ASKED)
    return work


def prepare_drawn(root: str, left: int) -> Callable[[], Any]:
    "Journals of the stage `pseudo` with discs for the clicks of all weak images but the last ones."
    from pointwssis.data.points import points_of
    from pointwssis.method.artifacts import open_artifact
    from pointwssis.method.pseudo_labels import PseudoMask
    from pointwssis.training.shares import journal_of
    cfg, inputs = _config(root), _inputs(root)
    weak = open_artifact(cfg, inputs["split"], inputs["split"], "_w.json")
    def journal(name: str, who: str, kind: Any) -> Any:
        return journal_of(inputs["pseudo"], name, cfg, inputs[who] / "last.safetensors", kind)
    rough = journal("rough", "teacher", list[PseudoMask])
    refined = journal("refined_last", "refiner", list[dict])
    def work() -> dict[str, int]:
        for i in weak.ids[:-left]:
            masks = [PseudoMask(p.annotation_id, i, p.class_index, _disc(p.x, p.y), .5)
                     for p in points_of(weak, i)]
            rough.add(i, masks)
            refined.add(i, [m.rle for m in masks])
        return {"images": len(rough)}
    return work


@cache
def _disc(x: float, y: float) -> dict:
    "Run lengths of a disc in a picture of the stand-in."
    rows, columns = np.ogrid[:round(HEIGHT * SCALE), :round(WIDTH * SCALE)]
    return encode((columns + .5 - x) ** 2 + (rows + .5 - y) ** 2 < RADIUS ** 2)


def prepare_student(root: str, batches: int) -> Callable[[], Any]:
    "The student's data: labels opened, and batches as its training gets them."
    from pointwssis.data.training_set import CocoDataset
    from pointwssis.detector.batches import detector_batch, loader
    from pointwssis.method.training_stages import open_labels
    from pointwssis.training.sampler import StepSampler
    cfg, inputs = _config(root), _inputs(root)
    schedule = replace(cfg.student_train, steps=batches, workers=0, short_sides=(96,))
    def work() -> dict[str, Any]:
        data = open_labels(cfg, inputs, "sw_refined")
        dataset = CocoDataset(data, schedule)
        net, start = replace(cfg.student, num_classes=80), time.perf_counter()
        made = loader(dataset, schedule, torch.device("cpu"), lambda x: detector_batch(net, x))
        sampler = StepSampler(len(dataset), schedule.batch_size, batches, 0)
        images = sum(len(batch["images"]) for batch in made(sampler))
        return {"images": len(data.ids), "masks": data.num_annotations,
                "images_per_s": images / (time.perf_counter() - start)}
    return work


def prepare_matches(root: str) -> Callable[[], Any]:
    "The record of matches of validation images and pseudo labels."
    from pointwssis.core import write_json
    from pointwssis.report.match_records import evaluation_record
    cfg, inputs, out = _config(root), _inputs(root), Path(root) / "stages/evaluate"
    def work() -> dict[str, Any]:
        write_json(out / "matches.json", evaluation_record(cfg, inputs, out))
        return {"megabytes": (out / "matches.json").stat().st_size / 1e6}
    return work


def interrupted(root: str, seconds: float) -> int:
    "Images in the journal of the stage `pseudo`, killed after some seconds of its networks' work."
    command = [sys.executable, "-m", "benchmarks.fresh", "benchmarks.coco_stages:prepare_stage",
               json.dumps([root, "pseudo"])]
    journal = Path(root) / "stages/pseudo/unfinished/rough.jsonl"
    size = journal.stat().st_size
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    while journal.stat().st_size == size and process.poll() is None: time.sleep(.05)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return journal.read_bytes().count(b"\n") - 1


def _row(what: str, cost: Cost, note: str) -> Row:
    "Seconds as a share of a day, memory against its limit."
    return Row(what, cost.seconds, LIMIT_S, "limit", share=True, opponent=False, runs=1,
               peak_mib=cost.peak_mib, peak_limit_mib=LIMIT_MIB, note=note)


def measured(root: str, name: str, *args: Any) -> Cost:
    "A stage in a process of its own, told on the screen."
    cost = fresh(f"benchmarks.coco_stages:prepare_{name}", root, *args)
    print(f"{name} {args}: {cost.seconds:.0f} s, {cost.peak_mib:,.0f} MiB, {cost.result}",
          flush=True)
    return cost


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Each stage once, on a processor, whatever the device."
    sizes = (400, 2900, 40, 290) if quick else SIZES
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/caches"):
        root = f"{folder}/data"
        write_stand_in(Path(root), *sizes)
        split = measured(root, "stage", "split")
        return [*_split_rows(split, sizes), *later_rows(root, split.result["weak_images"], sizes,
                                                        quick)]


def _split_rows(split: Cost, sizes: tuple[int, ...]) -> list[Row]:
    "The row of a split, with the size of the stand-in."
    return [_row(f"{sizes[0]:,} images, {sizes[1]:,} objects: split", split,
                 f"{split.result['weak_images']:,} weak images, {split.result['points']:,} points")]


def later_rows(root: str, weak: int, sizes: tuple[int, ...], quick: bool = False) -> list[Row]:
    "The stages behind a split."
    measured(root, "drawn", 40 if quick else BY_NETWORKS)
    kept = interrupted(root, .2 if quick else 30)
    pseudo = measured(root, "stage", "pseudo")
    student = measured(root, "student", 2 if quick else 200)
    evaluation = measured(root, "stage", "evaluate")
    matches = measured(root, "matches")
    asked = pseudo.result["images"]
    if not weak - kept <= asked < weak - kept + BATCH:
        raise AssertionError(f"{kept} images are in the journal, and {asked} of {weak} are asked")
    return [_row(f"pseudo labels of {weak:,} images", pseudo,
                 f"pictures of 96 x 72, {pseudo.result['masks']:,} masks; killed and resumed: "
                 f"{kept:,} images were in the journal, most of them drawn beforehand, and "
                 f"{asked:,} were asked, the smallest ResNet for teacher and refiner"),
            _row("the student's labels opened, and its first batches", student,
                 f"{student.result['images_per_s']:.0f} images/s in one process"),
            _row(f"evaluation of {sizes[2]:,} images and of all pseudo labels", evaluation,
                 "a hundred drawn masks an image in place of a network"),
            _row("record of matches", matches, f"{matches.result['megabytes']:.1f} MB")]
