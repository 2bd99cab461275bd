"""Annotations of COCO's size, from the JSON file to records, the first time and from the cache; and the drawing of the built-in images."""
from __future__ import annotations
import os
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from pointwssis.core import rng
from pointwssis.data import shapes

from .coco_size import write_annotations
from .fresh import Cost, fresh
from .harness import RUNS, Row

LIMIT_S, LIMIT_AGAIN_S, LIMIT_MIB, LIMIT_DRAWING_S = 20, 2, 3 * 1024, .03


def opened(path: Path, cache_from: int) -> tuple[Cost, Cost, Cost]:
    "The file opened without a cache, with one, and as pycocotools does it, in processes of their own; all find the same."
    for cache in (path.parent / "caches" / "pointwssis").glob("*"): cache.unlink()
    first, again = (fresh("benchmarks.coco_size:prepare_opening", str(path), cache_from) for _ in range(2))
    plain = fresh("benchmarks.coco_size:prepare_plain_opening", str(path))
    if not first.result == again.result == plain.result: raise AssertionError(f"{path}: other records from the cache than from the file")
    return first, again, plain


def drawing_row(images: int, runs: int) -> Row:
    "CPU time of an image of the data set `shapes`, of which the demo draws some hundreds."
    def seconds() -> float:
        start = time.process_time()
        for i in range(images): shapes.draw_image(rng(i))
        return (time.process_time() - start) / images
    return Row("drawing an image of 128 x 128 of the data set shapes", median(seconds() for _ in range(runs)), LIMIT_DRAWING_S, "limit", 1,
               share=True, opponent=False, runs=runs, note=f"CPU time, the mean of {images} images")


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
                   share=True, opponent=False, runs=runs, peak_mib=max(c.peak_mib for c in costs), peak_limit_mib=LIMIT_MIB, note=note)
    return [row("first opening", first, LIMIT_S, note), row("from the cache", again, LIMIT_AGAIN_S, "the cache, mapped into memory, included"),
            drawing_row(3 if quick else 30, runs)]
