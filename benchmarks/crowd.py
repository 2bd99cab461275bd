"Memory of refining a crowded image: many masks, given as run lengths, of one large picture, in a process of its own."
from __future__ import annotations
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from pointwssis.config import RefinerConfig
from pointwssis.core import rng
from pointwssis.data.masks import encode_at
from pointwssis.refiner.refinement import refine_rles
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.runs.presets import preset

from .fresh import Cost, fresh
from .harness import Row

LIMIT_MIB = 2048
NETWORKS: dict[str, tuple[int, Callable[[], RefinerConfig]]] = {   # classes and network
    "small": (4, lambda: preset("shapes").refiner), "published": (80, RefinerConfig)}


def discs(count: int, height: int, width: int, radius: int) -> tuple[list[dict], np.ndarray]:
    "Run lengths of `count` discs, with a radius of `radius` pixels at most, and their centres (N, 2)."
    random = rng(0, "crowd")
    centres = random.uniform(radius, (width - radius, height - radius), (count, 2))
    def one(x: float, y: float) -> dict:
        left, top = max(int(x) - radius, 0), max(int(y) - radius, 0)
        rows, columns = np.ogrid[top:min(int(y) + radius, height), left:min(int(x) + radius, width)]
        far = (columns - x) ** 2 + (rows - y) ** 2
        return encode_at(far < random.uniform(4, radius) ** 2, left, top, height, width)
    return [one(x, y) for x, y in centres], centres


def prepare_refining(count: int, height: int, width: int, network: str = "small") -> Callable[[], list[int]]:
    "The work of refining `count` masks of one image; it gives how many came back, and how many are new."
    classes, config = NETWORKS[network]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = MaskRefineNet(classes, replace(config(), weights=""))
    net.head.bias.data = torch.tensor([-.5, .5])   # random weights that draw something
    net = net.for_inference()
    masks, centres = discs(count, height, width, min(height, width) // 40)
    picture = torch.randint(256, (3, height, width), dtype=torch.uint8)
    item = picture, masks, torch.from_numpy(centres).float(), torch.zeros(count, dtype=torch.long)

    def work() -> list[int]:
        (found,) = refine_rles(net, [item])
        return [len(found), sum(a != b for a, b in zip(found, masks))]
    return work


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "Peak memory of the process against the limit that it is to keep."
    sizes = [(20, 300, 400, "small")] if quick else [(1000, 3000, 4000, "small"), (32, 3000, 4000, "published")]
    def row(count: int, height: int, width: int, network: str) -> Row:
        cost: Cost = fresh("benchmarks.crowd:prepare_refining", count, height, width, network)
        name = f"refining {count:,} masks of one image of {height * width / 1e6:.0f} megapixels, {network} network"
        return Row(name, cost.peak_mib, LIMIT_MIB, "limit", 1, share=True, opponent=False, unit="MiB", runs=1, peak_mib=cost.peak_mib,
                   peak_limit_mib=LIMIT_MIB, note=f"{cost.start_mib:.0f} MiB before it; {cost.seconds:.0f} s on one thread")
    return [row(*size) for size in sizes]
