"""Targets of every cell, for a batch: all objects, levels and cells at once, against loops over them."""
from __future__ import annotations

import torch

from pointwssis.config import SOLOv2Config
from pointwssis.detector.cells import level_starts
from pointwssis.detector.targets import assign, Targets

from . import loops
from .harness import Row, compare
from .scenes import objects


def agree(ours: Targets, theirs: tuple, cfg: SOLOv2Config) -> bool:
    "Same class in every cell; same positives in the same order, with the same masks."
    grids, positives = theirs
    starts, images = level_starts(cfg.num_grids).tolist(), len(ours.classes)
    if not torch.equal(ours.classes, torch.cat([g.view(images, -1) for g in grids], 1)): return False
    cells = [starts[level] + row * cfg.num_grids[level] + column for level, _, row, column, _ in positives]
    where = ours.level.tolist(), ours.image.tolist(), ours.cell.tolist()
    if where != ([p[0] for p in positives], [p[1] for p in positives], cells): return False
    return all(torch.equal(ours.masks[k].bool(), p[-1]) for k, p in zip(ours.object.tolist(), positives))


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    cfg = SOLOv2Config()
    h, w = (96, 128) if quick else (800, 1216)
    truths = [objects(30, h, w, cfg.num_classes, seed).to(device) for seed in range(4)]
    return [compare(f"targets of 4 images of {h} x {w} with 30 objects each", lambda: assign(cfg, truths, (h // 4, w // 4)),
                    lambda: loops.targets(cfg, truths, (h // 4, w // 4)), lambda a, b: agree(a, b, cfg), device, target=20,
                    note="the student's grids; 0/1 masks at input size to labels and masks at stride 4")]
