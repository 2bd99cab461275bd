"""From points to masks: what is left to do after the network's features, against the features and against loops."""
from __future__ import annotations
from dataclasses import replace

import torch
from faster_coco_eval import mask as rle_api

from pointwssis.options import SOLOv2Config, TEACHER_GRIDS, TEACHER_RANGES
from pointwssis.data.coco import encode_many
from pointwssis.data.points import Prompts, as_prompts
from pointwssis.detector.cells import Outputs
from pointwssis.detector.inference import candidates, to_instances
from pointwssis.detector.solov2 import SOLOv2

from . import loops
from .harness import Row, alternate, compare, peak_mib
from .scenes import clicks, discs

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
        found.append(Row(f"masks of {count} points, share of the features", ours, features, "features", target, True, opponent=False, note=f"R-50, {size}, fp32"))
    memory = peak_mib(lambda: (model.features(images), work(many)), device)
    return [*found[:-1], replace(found[-1], peak_mib=memory, peak_limit_mib=4096)]
