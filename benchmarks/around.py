"""Work with its networks as a share of the networks alone: pseudo labels from file to run lengths, refinement from run
lengths to run lengths, and a training step. On a CPU in processor time, as other work on the machine would count for one side only."""
from __future__ import annotations
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pointwssis.config import RefinerConfig, SOLOv2Config
from pointwssis.options import TEACHER_GRIDS, TEACHER_RANGES
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.training.device import choose_precision, computes_in_bf16

from .harness import Row, processor_time
from .points import SMALL, from_file_row
from .refiner import SMALL as SMALL_REFINER, around_row, crowded_item, drawn_item
from .training import WARM, against_bare, shapes_task


@torch.inference_mode()
def label_rows(device: torch.device, quick: bool) -> list[Row]:
    "The published networks with random weights; images of 421 x 640 pixels, as many of COCO's have, are 800 x 1216 for the teacher."
    torch.manual_seed(0)
    cfg = SOLOv2Config("msra_resnet50", scale_ranges=TEACHER_RANGES, num_grids=TEACHER_GRIDS, max_per_image=300)
    if quick: cfg = replace(cfg, backbone="timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0)
    teacher = SOLOv2(cfg).eval().to(device)
    refiner = MaskRefineNet(80, SMALL_REFINER if quick else RefinerConfig(weights="")).eval().to(device)
    size, out_size, points = ((64, 96), (40, 60), 5) if quick else ((800, 1216), (421, 640), 25)
    masks = 3 if quick else 16 if device.type == "cpu" else 64
    precision = "bf16" if computes_in_bf16(device) else "fp32"
    return [from_file_row(teacher, points, size, out_size, device),
            around_row(refiner, drawn_item(masks, *((60, 90) if quick else out_size), 80), device, precision),
            around_row(refiner, crowded_item(masks, *((200, 300) if quick else (3000, 4000))), device, precision)]


def step_row(device: torch.device, quick: bool) -> Row:
    "The teacher of the preset `shapes`, whose step is short, so that its surroundings count most."
    with TemporaryDirectory() as folder: task = shapes_task(Path(folder), WARM + (3 if quick else 4 * WARM), 4 if quick else 16, device)
    name = f"an image of a training step, preset shapes, {task.cfg.batch_size} of {task.size}: {choose_precision('auto', device)}"
    return against_bare(name, task)


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    note = "; processor time" if device.type == "cpu" else ""
    with processor_time(device): found = [*label_rows(device, quick), step_row(device, quick)]
    return [replace(row, note=row.note + note) for row in found]
