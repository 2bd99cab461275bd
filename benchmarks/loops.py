"""The method as one would first write it down from its description: one point, one level, one cell, one pair, one crop at a time."""
from __future__ import annotations
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

from pointwssis.config import SOLOv2Config
from pointwssis.data.coco import encode
from pointwssis.data.points import Prompts
from pointwssis.data.transforms import Truth
from pointwssis.detector.cells import LEVEL_STRIDES, Outputs
from pointwssis.refiner.crops import crop_inputs, crop_window, gaussian_map, normalise_crops, paste
from pointwssis.refiner.network import MaskRefineNet

from . import usual

Size = tuple[int, int]


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def mask_nms(masks: Tensor, classes: Tensor, limit: float) -> list[int]:
    "Down the ranking: a mask stays unless a better one of its class that stayed covers it. Indices of those that stay."
    kept: list[int] = []
    for i in range(len(masks)):
        if all(classes[i] != classes[j] or iou(masks[i], masks[j]) <= limit for j in kept): kept.append(i)
    return kept


def matrix_nms(masks: Tensor, scores: Tensor, classes: Tensor, sigma: float) -> Tensor:
    "Every score is lowered by the better mask of its class that covers it most, unless that one is covered itself."
    n = len(masks)
    overlap = [[iou(masks[i], masks[j]) if i < j and classes[i] == classes[j] else 0. for j in range(n)] for i in range(n)]
    covered = [max((overlap[k][i] for k in range(i)), default=0.) for i in range(n)]
    decay = [min((math.exp(-sigma * (overlap[i][j] ** 2 - covered[i] ** 2)) for i in range(j)), default=1.) for j in range(n)]
    return torch.tensor([float(s) * min(d, 1.) for s, d in zip(scores, decay)])


def point_masks(outputs: Outputs, prompts: Prompts, padded: Size, out_size: Size, cfg: SOLOv2Config) -> list[tuple[int, dict]]:
    "Each point asks each level; the surest draws the mask; NMS by one product; enlarged and encoded one by one: (point, RLE)."
    features, found = outputs.mask_features[:1], []
    for p, (x, y) in enumerate(prompts.xy.tolist()):
        best = (-1., features, 0)
        for level, grid in enumerate(cfg.num_grids):
            row, column = min(max(int(y / padded[0] * grid), 0), grid - 1), min(max(int(x / padded[1] * grid), 0), grid - 1)
            kernel = outputs.kernels[level][0, :, row, column]
            soft = F.conv2d(features, kernel[None, :, None, None])[0, 0].sigmoid()
            inside = soft > cfg.mask_threshold
            probability = outputs.category_logits[level][0, prompts.classes[p], row, column].sigmoid()
            score = float(soft[inside].mean() * probability) if inside.any() else 0.
            if score > best[0]: best = (score, soft, level)
        found.append((p, best[1], LEVEL_STRIDES[best[2]]))
    found = [(p, soft, soft > cfg.mask_threshold) for p, soft, stride in found if (soft > cfg.mask_threshold).sum() > stride]
    maskness = [float(soft[inside].mean()) for _, soft, inside in found]
    found = [found[i] for i in sorted(range(len(found)), key=lambda i: -maskness[i])]
    kept = usual.mask_nms(torch.stack([inside for *_, inside in found]), prompts.classes[[p for p, *_ in found]], cfg.nms_iou)
    return [(found[i][0], encode(_enlarge(found[i][1], padded, out_size, cfg).cpu().numpy())) for i in kept]


def _enlarge(soft: Tensor, size: Size, out_size: Size, cfg: SOLOv2Config) -> Tensor:
    x = F.interpolate(soft[None, None], scale_factor=4, mode="bilinear", align_corners=False)[..., :size[0], :size[1]]
    return F.interpolate(x, size=out_size, mode="bilinear", align_corners=False)[0, 0] > cfg.mask_threshold


def targets(cfg: SOLOv2Config, truths: list[Truth], size: Size) -> tuple[list[Tensor], list[tuple[int, int, int, int, Tensor]]]:
    "Class grids, level by level, (B, S, S); positives as level, image, row, column and mask at stride 4."
    (h, w), grids, positives = size, [], []
    for level, (grid, (least, most)) in enumerate(zip(cfg.num_grids, cfg.scale_ranges)):
        labels = torch.full((len(truths), grid, grid), cfg.num_classes, device=truths[0].classes.device)
        for b, truth in enumerate(truths):
            for mask, box, label in zip(truth.masks, truth.boxes, truth.classes):
                bw, bh = (box[2:] - box[:2]).tolist()
                if not least <= math.sqrt(bw * bh) < most or not mask.any(): continue
                x, y = _centre(mask)
                small = _shrink(mask, h, w)
                for row in _cells(y, .5 * cfg.centre_sigma * bh, 4 * h, grid):
                    for column in _cells(x, .5 * cfg.centre_sigma * bw, 4 * w, grid):
                        labels[b, row, column] = label
                        positives.append((level, b, row, column, small.clone()))
        grids.append(labels)
    return grids, positives


def _centre(mask: Tensor) -> tuple[float, float]:
    "x and y of the centre of mass, in double precision, since a grid line may run close by."
    rows, columns = (torch.arange(n, dtype=torch.float64, device=mask.device) for n in mask.shape)
    area = mask.sum()
    return float((mask * columns).sum() / area), float((mask * rows[:, None]).sum() / area)


def _cells(at: float, half: float, side: int, grid: int) -> range:
    "Positive cells along one axis: the box about the centre, at most one cell to each side."
    middle, first, last = (int(v / side * grid) for v in (at, at - half, at + half))
    return range(max(first, middle - 1, 0), min(last, middle + 1, grid - 1) + 1)


def _shrink(mask: Tensor, h: int, w: int) -> Tensor:
    "At stride 4 as bilinear resizing does, rounded half up; the padding is 0."
    padded = mask.new_zeros(4 * h, 4 * w, dtype=torch.float32)
    padded[:mask.shape[0], :mask.shape[1]] = mask
    return F.interpolate(padded[None, None], scale_factor=.25, mode="bilinear", align_corners=False)[0, 0] >= .5


def dense_input(net: MaskRefineNet, image: Tensor, point_map: Tensor, channel: Tensor, rough: Tensor) -> Tensor:
    "Image, all C + 1 point channels, of which all but one are zero, and rough mask."
    channels = image.new_zeros(len(image), net.num_classes + 1, *image.shape[2:])
    for i, c in enumerate(channel.tolist()): channels[i, c] = point_map[i, 0]
    return torch.cat([image, channels, rough], 1)


def dense_stem(net: MaskRefineNet, *inputs: Tensor) -> Tensor:
    "The stem as one convolution."
    return F.conv2d(dense_input(net, *inputs), net.stem.weight, stride=net.stem.stride, padding=net.stem.kernel // 2)


@torch.inference_mode()
def refine(net: MaskRefineNet, image: Tensor, rough: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    "One crop at a time, all point channels stored."
    refined, size = [], net.cfg.crop_size
    for mask, point, label in zip(rough, points, classes):
        x0, y0, x1, y1 = masks_to_boxes(mask[None])[0].tolist()
        frame = torch.tensor([crop_window((x0, y0, x1 + 1, y1 + 1), tuple(point.tolist()), net.cfg.crop_scale, *mask.shape)],
                             dtype=torch.float32, device=mask.device)
        pixels, inside, xy = crop_inputs(image, mask[None, None], point[None], frame, size)
        stem = dense_stem(net, normalise_crops(pixels), gaussian_map(xy - .5, size, size, net.cfg.sigma)[:, None], label[None], inside.float())
        logits = F.interpolate(net.decode(stem), size=(size, size), mode="bilinear", align_corners=False)
        new = paste(logits, frame, *mask.shape)[0]
        refined.append(new if new.any() else mask)
    return torch.stack(refined)
