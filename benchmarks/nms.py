"""NMS of 500 masks: against the usual way, which also makes all pairs by one product."""
from __future__ import annotations
from dataclasses import replace

import torch

from pointwssis.config import SOLOv2Config
from pointwssis.detector.nms import mask_nms, matrix_nms

from . import usual
from .harness import Row, compare, peak_mib
from .scenes import blobs


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    cfg, count, (h, w) = SOLOv2Config(), 20 if quick else 500, (24, 40) if quick else (200, 304)
    masks, classes = blobs(count, h, w, (h / 20, h), 0).to(device), torch.zeros(count, dtype=torch.long, device=device)
    scores = torch.linspace(1, .1, count, device=device)
    def greedy(): return mask_nms(masks, classes, cfg.nms_iou)
    def matrix(): return matrix_nms(masks, scores, classes, cfg.nms_sigma)
    told = dict(against="masks @ masks.T in fp32", target=1, peak_limit_mib=1024, note=f"masks at stride 4, {h} x {w}, one class")
    found = [compare(f"mask NMS of {count} masks", greedy, lambda: usual.mask_nms(masks, classes, cfg.nms_iou),
                     lambda a, b: a.nonzero()[:, 0].tolist() == b, device, **told),
             compare(f"Matrix NMS of {count} masks", matrix, lambda: usual.matrix_nms(masks, scores, classes, cfg.nms_sigma),
                     lambda a, b: torch.allclose(a, b, rtol=1e-4), device, **told)]
    return [replace(row, peak_mib=peak_mib(work, device)) for row, work in zip(found, (greedy, matrix))]
