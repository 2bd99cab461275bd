"""From points to masks: what is left to do after the network's features, against the features and against loops."""
from __future__ import annotations
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from faster_coco_eval import mask as rle_api

from pointwssis.options import DataConfig, SOLOv2Config, TEACHER_GRIDS, TEACHER_RANGES
from pointwssis.data.coco import encode_many
from pointwssis.data.image_files import read_picture
from pointwssis.data.points import Prompts, as_prompts
from pointwssis.detector.cells import Outputs
from pointwssis.detector.inference import candidates, to_instances
from pointwssis.detector.predict import predictor
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.journal import Journal, recall
from pointwssis.method.prompts import peak_scores
from pointwssis.training.device import in_precision

from . import loops
from .harness import Row, alternate, compare, peak_mib
from .scenes import clicks, discs, with_discs

SMALL = dict(fpn_channels=16, instance_channels=16, instance_convs=1, mask_channels=16, num_kernels=16, num_grids=(16, 12, 8, 6, 4))


def masks_of(outputs: Outputs, prompts: Prompts, padded: loops.Size, out_size: loops.Size, cfg: SOLOv2Config) -> list[tuple[int, dict]]:
    "Prompt, level selection, NMS, resize, run lengths: (point, RLE)."
    cand = candidates(outputs, 0, "point", prompts, padded, cfg)
    found = to_instances(cand, outputs.mask_features[0], padded, out_size, cfg, "mask")
    return list(zip(found.points.tolist(), encode_many(found.masks.cpu().numpy())))


def agree(ours: list[tuple[int, dict]], theirs: list[tuple[int, dict]]) -> bool:
    "The same points are answered, by masks that differ in a pixel in a thousand at most."
    a, b = dict(ours), dict(theirs)
    return a.keys() == b.keys() and all(rle_api.iou([a[p]], [b[p]], [0])[0, 0] > .999 for p in a)


def without_points(outputs: Outputs, padded: loops.Size, out_size: loops.Size, cfg: SOLOv2Config, once: bool = True) -> list[dict]:
    "Masks of plain inference as run lengths; `once`: kernels are multiplied with features in one pass, else again after the ranking."
    found = candidates(outputs, 0, "none", None, padded, cfg if once else replace(cfg, max_before_nms=0))
    return encode_many(to_instances(found, outputs.mask_features[0], padded, out_size, cfg).masks.cpu().numpy())


def unprompted_rows(outputs: Outputs, padded: loops.Size, out_size: loops.Size, cfg: SOLOv2Config, count: int, device: torch.device) -> list[Row]:
    "So many candidate cells: the score threshold is the one that they pass."
    scores = peak_scores(outputs, 0).flatten().sort(descending=True).values
    cfg = replace(cfg, score_threshold=scores[count].item(), max_per_image=100)
    def once() -> list[dict]: return without_points(outputs, padded, out_size, cfg)
    def twice() -> list[dict]: return without_points(outputs, padded, out_size, cfg, once=False)
    return [compare(f"masks without points, {count} candidate cells", once, twice, lambda a, b: a == b, device, against="two passes", target=1.2,
                    note=f"of {padded[0]} x {padded[1]}, run lengths at {out_size[0]} x {out_size[1]}")]


def from_file_row(model: SOLOv2, count: int, size: loops.Size, out_size: loops.Size, device: torch.device) -> Row:
    "Pseudo labels of some pictures, from JPEG files to run lengths, against the features of as many images that are ready; masks are discs."
    drawing = with_discs(model)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.jpg" for k in range(4)]
        for k, path in enumerate(paths):
            cv2.imwrite(str(path), cv2.GaussianBlur(np.random.default_rng(k).integers(0, 256, (*out_size, 3), np.uint8), (9, 9), 0))
        clicked = clicks(count, *out_size, model.cfg.num_classes)
        ask = predictor(drawing, DataConfig(short_side=min(size), long_side=max(size)), device, "point", "none")
        def work(ids: list[int], images: tuple) -> list[list[dict]]:
            return [encode_many(found.masks.cpu().numpy()) for found in ask(images, [clicked] * len(ids))]
        def ours() -> list: return list(recall(Journal(), [[0, 1], [2, 3]], lambda k: read_picture(paths[k]), work, gather=ask.prepare))
        images = torch.randn(2, 3, *ask.prepare([read_picture(paths[0])])[0].shape[2:], device=device)
        def features() -> None:
            for _ in range(2):
                with in_precision(ask.precision, device): model(images)
        ours()
        a, b = alternate(ours, features, device)
    return Row(f"pseudo labels of 4 images with {count} points each, from file to run lengths: share of the features", a, b, "features", 1.15, True,
               opponent=False, note=f"pictures of {out_size[0]} x {out_size[1]}, {ask.precision}, batches of 2, pictures of the next batch read ahead")


@torch.inference_mode()
def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "The published network with random weights, at 800 x 1216; the image itself had 421 x 640 pixels, as many of COCO's have."
    cfg = SOLOv2Config("msra_resnet50", scale_ranges=TEACHER_RANGES, num_grids=TEACHER_GRIDS, max_per_image=300)
    if quick: cfg = replace(cfg, backbone="timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0)
    (h, w), out_size = ((64, 96), (40, 60)) if quick else ((800, 1216), (421, 640))
    few, many = (5, 12) if quick else (25, 300)
    torch.manual_seed(0)
    model, images = SOLOv2(cfg).eval().to(device), torch.randn(1, 3, h, w, device=device)
    outputs = discs(model.features(images), cfg)
    def work(count: int) -> list[tuple[int, dict]]:
        return masks_of(outputs, known[count], (h, w), out_size, cfg)
    known = {n: as_prompts(clicks(n, *out_size, cfg.num_classes)).to_input((h, w), out_size, device) for n in (few, many)}
    gpu, size = device.type == "cuda", f"{h} x {w}"
    found = [compare(f"masks of {few} points", lambda: work(few), lambda: loops.point_masks(outputs, known[few], (h, w), out_size, cfg),
                     agree, device, note=f"after the features of {size}, run lengths at {out_size[0]} x {out_size[1]}")]
    for count, target in ((few, .3 if gpu else .15), (many, .6)):
        ours, features = alternate(lambda: work(count), lambda: model.features(images), device)
        crowded = f"masks of {count} points, share of the features"
        found.append(Row(crowded, ours, features, "features", target, True, opponent=False, note=f"R-50, {size}, fp32"))
    found += unprompted_rows(outputs, (h, w), out_size, cfg, 20 if quick else 300, device)
    memory = peak_mib(lambda: (model.features(images), work(many)), device)
    return [replace(row, peak_mib=memory, peak_limit_mib=4096) if row.name == crowded else row for row in found]
