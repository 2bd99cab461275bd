"""Whether pictures and masks arrive faster than the network learns from them, at the published size."""
from __future__ import annotations
import itertools
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader

from pointwssis.batches import solov2_loss, training_batch
from pointwssis.config import SOLOv2Config, TrainConfig
from pointwssis.dataset import CocoDataset
from pointwssis.engine import train
from pointwssis.sampler import StepSampler
from pointwssis.solov2 import SOLOv2

from .coco_size import write_pictures
from .harness import RUNS, Row
from .points import SMALL


def loading_s(dataset: CocoDataset, net: SOLOv2Config, batch: int, workers: int, each: int, device: torch.device) -> float:
    "Seconds an image, its targets made too, over so many batches of each worker, once all have handed in what they make in advance."
    early, timed = 2 * workers, each * workers
    batches = iter(DataLoader(dataset, batch_sampler=StepSampler(len(dataset), batch, early + timed, 0), num_workers=workers,
                              collate_fn=partial(training_batch, net), pin_memory=device.type == "cuda"))
    for _ in range(early): next(batches)
    start = time.perf_counter()
    images = sum(len(found["sizes"]) for found in batches)
    return (time.perf_counter() - start) / images


def training_s(dataset: CocoDataset, cfg: TrainConfig, net: SOLOv2Config, device: torch.device, runs: int) -> list[float]:
    "Seconds an image of some parts of a training on a batch that is there already; the first part warms up and is left out."
    each = 10 if device.type == "cuda" else 1
    cfg = replace(cfg, steps=(runs + 1) * each, save_every=10**9)
    batch = training_batch(net, [dataset[slot, 0, slot] for slot in range(cfg.batch_size)])
    with TemporaryDirectory() as folder:
        rows = train(SOLOv2(net), solov2_loss, lambda sampler: itertools.repeat(batch), cfg, Path(folder), 0, device, length=len(dataset), log_every=each)
    return [1 / row["images_per_s"] for row in rows[1:]]


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Pictures of 640 x 480 with 7 polygons each, read, resized and flipped, against steps of SOLOv2 with R-50 on ready batches."
    gpu, workers, runs = device.type == "cuda", 1 if quick else len(os.sched_getaffinity(0)), 2 if quick else RUNS
    cfg = TrainConfig(batch_size=16 if gpu else 1, short_sides=(64 if quick else 800,))
    net = SOLOv2Config("timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0) if quick else SOLOv2Config("msra_resnet50")
    with TemporaryDirectory() as folder:
        dataset = CocoDataset(write_pictures(Path(folder), 2 if quick else 64), cfg)
        ours = median(loading_s(dataset, net, 16 if gpu else 4, workers, 3 if quick else 20, device) for _ in range(runs))
        other = median(training_s(dataset, cfg, net, device, runs))
    note = f"{1 / ours:.0f} images/s, the training {1 / other:.3g}, in batches of {cfg.batch_size}"
    return [Row(f"loading an image, short side {cfg.short_sides[0]}, {workers} workers", ours, other, "training on it", 1.5, runs=runs, note=note)]
