"""Loading of pictures and masks: against a plain loader, and on a GPU against the network that learns from them."""
from __future__ import annotations
import io
import itertools
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader, Dataset

from pointwssis.config import SOLOv2Config, TrainConfig
from pointwssis.data.transforms import collate
from pointwssis.data.training_set import CocoDataset
from pointwssis.detector.batches import solov2_loss, training_batch
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.training.sampler import StepSampler
from pointwssis.training.trainer import train

from . import usual
from .coco_size import write_pictures
from .harness import RUNS, Row
from .points import SMALL

Collate = Callable[[list], dict]


def loading_s(dataset: Dataset, gather: Collate, batch: int, workers: int, each: int) -> float:
    "Seconds an image over so many batches of each worker, once all have handed in what they make in advance."
    early, timed = 2 * workers, each * workers
    batches = iter(DataLoader(dataset, batch_sampler=StepSampler(len(dataset), batch, early + timed, 0), num_workers=workers,
                              collate_fn=gather))
    for _ in range(early): next(batches)
    start = time.perf_counter()
    images = sum(len(found["image_ids"]) for found in batches)
    return (time.perf_counter() - start) / images


def agree(ours: dict, other: dict) -> bool:
    "The same images at one size, up to the decoder's rounding; of each object the same class and as many pixels, within 1%."
    if ours["image_ids"] != other["image_ids"] or ours["images"].shape != other["images"].shape: return False
    if (ours["images"].float().mean((1, 2, 3)) - other["images"].float().mean((1, 2, 3))).abs().max() > 1: return False
    areas = [[m.sum((1, 2), dtype=torch.float) for m in side] for side in ([t.masks for t in ours["truth"]], other["masks"])]
    classes = all(torch.equal(t.classes, c) for t, c in zip(ours["truth"], other["classes"]))
    return classes and all(((a - b).abs() <= .01 * b + 8).all() for a, b in zip(*areas))


def training_s(dataset: CocoDataset, cfg: TrainConfig, net: SOLOv2Config, device: torch.device, runs: int) -> list[float]:
    "Seconds an image of some parts of a training on a batch that is there already; the first part warms up and is left out."
    each = 10
    cfg = replace(cfg, steps=(runs + 1) * each, save_every=10**9)
    batch = training_batch(net, [dataset[slot, 0, slot] for slot in range(cfg.batch_size)])
    with TemporaryDirectory() as folder:
        rows = train(SOLOv2(net), solov2_loss, lambda sampler: itertools.repeat(batch), cfg, Path(folder), 0, device, length=len(dataset), log_every=each)
    return [1 / row["images_per_s"] for row in rows[1:]]


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Pictures of 640 x 480 with 7 polygons each, read, resized, mirrored half the time, padded; masks and boxes with them."
    workers, runs, batch = 1 if quick else len(os.sched_getaffinity(0)), 1 if quick else RUNS, 4
    cfg = TrainConfig(batch_size=16, short_sides=(64 if quick else 800,))
    with TemporaryDirectory() as folder:
        data = write_pictures(Path(folder), 4 if quick else 64)
        ours = CocoDataset(data, cfg)
        with redirect_stdout(io.StringIO()): other = usual.PlainDataset(data.path, data.image_root, cfg.short_sides[0], cfg.long_side)
        keys = [(i, 0, i) for i in range(4)]
        if not agree(collate([ours[k] for k in keys]), usual.collate([other[k] for k in keys])):
            raise AssertionError("loading: the two loaders give different batches")
        pairs = [(loading_s(ours, collate, batch, workers, 3 if quick else 20), loading_s(other, usual.collate, batch, workers, 3 if quick else 20))
                 for _ in range(runs)]
        a, b = (median(side) for side in zip(*pairs))
        name = f"loading an image, short side {cfg.short_sides[0]}, {workers} workers"
        found = [Row(name, a, b, "DataLoader over pycocotools and PIL", 1, runs=runs, note=f"{1 / a:.0f} images/s, the other way {1 / b:.0f}")]
        if device.type == "cuda": found.append(_against_training(name, a, ours, cfg, device, quick, runs))
    return found


def _against_training(name: str, seconds: float, dataset: CocoDataset, cfg: TrainConfig, device: torch.device, quick: bool, runs: int) -> Row:
    "Loading for a GPU: the loader against steps of SOLOv2 with R-50 on ready batches."
    net = SOLOv2Config("timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0) if quick else SOLOv2Config("msra_resnet50")
    training = median(training_s(dataset, cfg, net, device, runs))
    note = f"{1 / seconds:.0f} images/s, the training {1 / training:.3g}, in batches of {cfg.batch_size}"
    return Row(f"{name}: share of a training step", seconds, training, "training on it", 1, share=True, opponent=False, runs=runs, note=note)
