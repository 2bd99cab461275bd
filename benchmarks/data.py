"""Annotations of COCO's size: from the JSON file to records, the first time and from the cache."""
from __future__ import annotations
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from .coco_size import write_annotations
from .fresh import Cost, fresh
from .harness import RUNS, Row

LIMIT_S, LIMIT_AGAIN_S, LIMIT_MIB = 20, 2, 3 * 1024


def opened(path: Path, cache_from: int) -> tuple[Cost, Cost, Cost]:
    "The file opened without a cache, with one, and as pycocotools does it, in processes of their own; all find the same."
    for cache in (path.parent / "caches" / "pointwssis").glob("*"): cache.unlink()
    first, again = (fresh("benchmarks.coco_size:prepare_opening", str(path), cache_from) for _ in range(2))
    plain = fresh("benchmarks.coco_size:prepare_plain_opening", str(path))
    if not first.result == again.result == plain.result: raise AssertionError(f"{path}: other records from the cache than from the file")
    return first, again, plain


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Seconds of `coco.load` against the limits that it is to keep; the memory is that of the whole process. The file is in the disk's cache."
    images, annotations = (300, 2000) if quick else (118_287, 860_001)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/caches"):
        path = Path(folder) / "instances_train.json"
        write_annotations(path, images, annotations)
        megabytes, runs = path.stat().st_size / 1e6, 1 if quick else RUNS
        first, again, plain = zip(*(opened(path, 0 if quick else 20_000_000) for _ in range(runs)))
    note = f"json.load and pycocotools' index: {median(c.seconds for c in plain):.1f} s, {max(c.peak_mib for c in plain):,.0f} MiB"
    def row(name: str, costs: tuple[Cost, ...], limit: float, note: str) -> Row:
        return Row(f"{images:,} images, {annotations:,} annotations, {megabytes:.0f} MB of JSON: {name}", median(c.seconds for c in costs), limit, "limit", 1,
                   share=True, runs=runs, peak_mib=max(c.peak_mib for c in costs), peak_limit_mib=LIMIT_MIB, note=note)
    return [row("first opening", first, LIMIT_S, note), row("from the cache", again, LIMIT_AGAIN_S, "the cache, mapped into memory, included")]
