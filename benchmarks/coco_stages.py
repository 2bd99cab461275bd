"""COCO's size through the stages of the method: 118,287 small pictures, most of them links to a few
hundred files, with 860,001 objects; time and memory of each stage, in a process of its own."""
from __future__ import annotations
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch

from .coco_size import HEIGHT, WIDTH, write_annotations
from .fresh import ROOT, Cost, fresh
from .harness import Row

SCALE = .15          # of a picture, 96 x 72 pixels, to COCO's usual 640 x 480
FILES = 300          # pictures that are not links
LIMIT_MIB = 4096
TINY = {"fpn_channels": 16, "instance_channels": 16, "instance_convs": 1, "mask_channels": 16,
        "num_kernels": 16, "num_grids": (24, 16, 12, 8, 6), "backbone": "timm:test_resnet",
        "frozen_stages": 0, "frozen_norm": False, "weights": "", "score_threshold": .3,
        "scale_ranges": ((1, 12), (8, 20), (16, 32), (28, 48), (40, 2048))}
OPTIONS = {f"{who}.{key}": value for who in ("teacher", "student") for key, value in TINY.items()}
OPTIONS |= {"data.train_json": "annotations/instances_train.json", "data.train_images": "train",
            "data.val_json": "annotations/instances_val.json", "data.val_images": "val",
            "data.short_side": 96, "data.long_side": 128, "data.cache_images": False,
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


def with_discs() -> Any:
    "Networks whose cells draw discs: masks of random weights would be noise over the whole image."
    from pointwssis.detector.solov2 import SOLOv2
    from .scenes import discs
    plain = SOLOv2.features
    return patch.object(SOLOv2, "features", lambda model, x: discs(plain(model, x), model.cfg))


def prepare_stage(root: str, name: str) -> Callable[[], Any]:
    "A stage of the method on the stand-in."
    from pointwssis.method import stages
    torch.set_num_threads(1)
    cfg, inputs, out = _config(root), _inputs(root), Path(root) / "stages" / name
    def work() -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        with with_discs(): found = getattr(stages, name)(cfg, inputs, out)
        return {k: v for k, v in found.items() if isinstance(v, int | float)}
    return work


def prepare_student(root: str, batches: int) -> Callable[[], Any]:
    "The student's data: labels opened, and batches as its training gets them."
    from pointwssis.data.transforms import CocoDataset
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
    "Images in the journal of the stage `pseudo`, killed after some seconds of its work."
    command = [sys.executable, "-m", "benchmarks.fresh", "benchmarks.coco_stages:prepare_stage",
               json.dumps([root, "pseudo"])]
    journal = Path(root) / "stages/pseudo/unfinished/rough.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    while not journal.is_file() and process.poll() is None: time.sleep(.05)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return journal.read_bytes().count(b"\n") - 1


def _row(what: str, cost: Cost, note: str) -> Row:
    "Seconds against none, memory against the limit."
    return Row(what, cost.seconds, cost.seconds, "itself", opponent=False, runs=1,
               peak_mib=cost.peak_mib, peak_limit_mib=LIMIT_MIB, note=note)


def measured(root: str, name: str, *args: Any) -> Cost:
    "A stage in a process of its own, told on the screen."
    cost = fresh(f"benchmarks.coco_stages:prepare_{name}", root, *args)
    print(f"{name} {args}: {cost.seconds:.0f} s, {cost.peak_mib:,.0f} MiB, {cost.result}",
          flush=True)
    return cost


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Each stage once, on a processor, whatever the device."
    sizes = (400, 2900, 40, 290) if quick else (118_287, 860_001, 5000, 36_781)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/caches"):
        root = f"{folder}/data"
        write_stand_in(Path(root), *sizes)
        split = measured(root, "stage", "split")
        kept = interrupted(root, .5 if quick else 30)
        pseudo = measured(root, "stage", "pseudo")
        student = measured(root, "student", 2 if quick else 200)
        evaluation = measured(root, "stage", "evaluate")
        matches = measured(root, "matches")
    weak, images = split.result["weak_images"], f"{sizes[0]:,} images"
    return [_row(f"{images}, {sizes[1]:,} objects: split", split, f"{weak:,} weak images, "
                 f"{split.result['points']:,} points"),
            _row(f"pseudo labels of {weak:,} images", pseudo,
                 f"a tiny network on 96 x 72 pixels; {pseudo.result['masks']:,} masks; killed and "
                 f"resumed: {kept:,} images were not asked again"),
            _row("the student's labels opened, and its first batches", student,
                 f"{student.result['images_per_s']:.0f} images/s in one process"),
            _row(f"evaluation of {sizes[2]:,} images and of all pseudo labels", evaluation,
                 "a tiny network"),
            _row("record of matches", matches, f"{matches.result['megabytes']:.1f} MB")]
