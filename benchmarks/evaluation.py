"""COCO's mask AP of a whole validation set, against pycocotools."""
from __future__ import annotations

import torch

from .coco_size import judged, judged_by_reference, predictions
from .fresh import fresh
from .harness import Row, alternate


def agree(ours: list[float], reference: list[float]) -> bool: return max(abs(a - b) for a, b in zip(ours, reference, strict=True)) < 1e-9


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "On the CPU, whatever the device; the memory in processes of their own."
    size = (8, 58, 20) if quick else (5000, 36_000, 100)
    ours, reference = (fresh("benchmarks.coco_size:prepare_judge", name, *size) for name in ("judged", "judged_by_reference"))
    if not agree(ours.result, reference.result): raise AssertionError(f"AP is {ours.result}, by pycocotools {reference.result}")
    made = predictions(*size)
    seconds = alternate(lambda: judged(*made), lambda: judged_by_reference(*made), device)
    note = f"AP {ours.result[0]:.2f} by both; the whole process takes {ours.peak_mib:,.0f} MiB, with pycocotools {reference.peak_mib:,.0f} MiB"
    return [Row(f"mask AP of {size[0]:,} images, {size[1]:,} objects, {size[2]} results each", *seconds, "pycocotools", 2,
                peak_mib=ours.peak_mib - ours.start_mib, note=note)]
