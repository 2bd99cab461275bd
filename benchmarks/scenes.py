"""Objects and network outputs to measure with: seeded, and of sizes as pictures of everyday scenes have them."""
from __future__ import annotations
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from pointwssis.config import SOLOv2Config
from pointwssis.core import rng
from pointwssis.data.points import Point
from pointwssis.data.transforms import Truth
from pointwssis.detector.cells import Outputs
from pointwssis.detector.solov2 import SOLOv2


def generator(seed: int, key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng(seed, key).integers(1 << 63)))


def blobs(count: int, height: int, width: int, sides: tuple[float, float], seed: int) -> Tensor:   # (N, H, W) bool
    "Ellipses at random places with wavy borders; their sides are spread evenly on a logarithmic scale."
    g = generator(seed, "blobs")
    u = torch.rand(count, 5, generator=g)
    half = sides[0] / 2 * (sides[1] / sides[0]) ** u[:, :2]                                   # (N, 2) half axes x, y
    centre = u[:, 2:4] * torch.tensor([width, height])
    x, y = (torch.arange(n) + .5 for n in (width, height))
    def one(i: int) -> Tensor:
        dx, dy = (x - centre[i, 0]) / half[i, 0], (y - centre[i, 1]) / half[i, 1]
        angle = torch.atan2(dy[:, None], dx[None])
        return dx[None] ** 2 + dy[:, None] ** 2 < (1 + .15 * torch.sin(5 * angle + 6 * u[i, 4])) ** 2
    return torch.stack([one(i) for i in range(count)])


def objects(count: int, height: int, width: int, classes: int, seed: int) -> Truth:
    "The truth of one image."
    masks = blobs(count, height, width, (height / 25, height), seed)
    masks = masks[masks.flatten(1).any(1)]
    lines = masks.any(1), masks.any(2)
    start, end = ([line.int().argmax(1) for line in lines], [line.shape[1] - line.flip(1).int().argmax(1) for line in lines])
    labels = torch.randint(classes, (len(masks),), generator=generator(seed, "classes"))
    return Truth(masks.to(torch.uint8), torch.stack([*start, *end], 1).float(), labels)


def clicks(count: int, height: int, width: int, classes: int, seed: int = 0) -> list[Point]:
    "Points anywhere in an image."
    g = generator(seed, "clicks")
    where, what = torch.rand(count, 2, generator=g) * torch.tensor([width, height]), torch.randint(classes, (count,), generator=g)
    return [Point(*xy, c, i) for i, (xy, c) in enumerate(zip(where.tolist(), what.tolist()))]


def discs(outputs: Outputs, cfg: SOLOv2Config) -> Outputs:
    """The outputs of a network with random weights, changed so that each cell draws a disc about itself, ragged by what the network
    gave. Its radius is that of the level's objects. Without this, masks would be noise over the whole image, and the work after
    the features another than it is with trained weights."""
    features = .1 * outputs.mask_features.float() / outputs.mask_features.std()
    _, _, h, w = features.shape
    x, y = ((torch.arange(n, device=features.device) + .5) / h for n in (w, h))
    shape = torch.stack(torch.broadcast_tensors(torch.ones(1, 1).to(x), x[None], y[:, None], x[None] ** 2 + y[:, None] ** 2))
    features[:, :4] = shape
    return replace(outputs, kernels=[_disc(k, span, h, w) for k, span in zip(outputs.kernels, cfg.scale_ranges)], mask_features=features)


def with_discs(model: SOLOv2) -> SOLOv2:
    "A copy of the network, with the same weights, whose outputs are those of `discs`."
    drawing = copy(model)
    drawing.forward = lambda images: discs(model.forward(images), model.cfg)
    return drawing


def _disc(kernels: Tensor, span: tuple[int, int], h: int, w: int) -> Tensor:   # (B, D, S, S)
    "Kernels that draw 6 (1 - distance² / radius²), in units of the image's height."
    grid, kernels = kernels.shape[-1], kernels.float() / kernels.std()
    x, y = ((torch.arange(grid, device=kernels.device) + .5) / grid * side / h for side in (w, h))
    x, y = x[None].expand(grid, grid), y[:, None].expand(grid, grid)
    r2 = (min(sum(span) / 2, 4 * h) / 8 / h) ** 2
    kernels[:, :4] = 6 / r2 * torch.stack([r2 - x ** 2 - y ** 2, 2 * x, 2 * y, -torch.ones_like(x)])
    return kernels
