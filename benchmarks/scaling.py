"""Growth of time and memory with points, objects, classes, pixels and images: exponents of a power law, a table and a figure of their own."""
from __future__ import annotations
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from pointwssis.config import RefinerConfig, SOLOv2Config
from pointwssis.core import atomic_path
from pointwssis.data import coco
from pointwssis.data.points import as_prompts
from pointwssis.data.show import save_picture, style
from pointwssis.detector.cells import flatten_levels, Outputs
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.detector.losses import focal_loss, losses
from pointwssis.detector.targets import assign, Targets
from pointwssis.method import splits
from pointwssis.refiner.refinement import refine_many
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.runs.presets import SHAPES, preset
from pointwssis.training.device import choose_precision, in_precision, place

from .coco_size import write_annotations
from .counting import Counts
from .fresh import Cost, fresh
from .harness import RUNS, Row, Work, machine, timed
from .points import masks_of
from .scenes import blobs, clicks, discs, objects

LINEAR, FLAT = 1.1, .1           # the largest exponents that pass for linear, and for no growth at all


@dataclass(frozen=True)
class Growth(Row):
    "Growth of a cost; `ours` is its exponent, `other` that of a straight line."
    of: str = ""                 # what was done
    cost: str = ""               # "time" or "memory"
    by: str = ""                 # what was made larger
    sizes: tuple[int, ...] = ()
    values: tuple[float, ...] = ()   # seconds or MiB, of each size


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    "Slope of the logarithms over the upper half of the sizes, where what every call costs has stopped to matter."
    half = slice(len(sizes) // 2, None)
    return float(np.polyfit(np.log(sizes[half]), np.log(np.maximum(values[half], 1e-9)), 1)[0])


def growth(of: str, cost: str, by: str, sizes: Sequence[int], values: Sequence[float], runs: int, limit: float = LINEAR) -> Growth:
    name, told = f"{cost} of {of} by {by}, {sizes[0]:,} to {sizes[-1]:,}", dict(of=of, cost=cost, by=by, sizes=tuple(sizes), values=tuple(values), opponent=False)
    return Growth(name, exponent(sizes, values), 1., "linear", limit, True, "", runs, **told)


def costs(work: Work, device: torch.device, runs: int) -> tuple[float, float]:
    "Median seconds, and MiB of tensors that were alive together; the counted pass comes first and warms up."
    with Counts() as counts: work()
    return median(timed(work, device)[0] for _ in range(runs)), counts.peak / 2**20


def series(of: str, by: str, sizes: Sequence[int], prepare: Callable[[int], Work], device: torch.device, runs: int) -> list[Growth]:
    "Time and memory of the work that is prepared for each size."
    seconds, memory = zip(*(costs(prepare(size), device, runs) for size in sizes))
    return [growth(of, "time", by, sizes, seconds, runs), growth(of, "memory", by, sizes, memory, 1)]


def made_outputs(cfg: SOLOv2Config, height: int, width: int, device: torch.device) -> Outputs:
    "Outputs of the form of a network's, without the network."
    g = torch.Generator().manual_seed(0)
    def drawn(channels: int, h: int, w: int) -> torch.Tensor: return torch.randn(1, channels, h, w, generator=g).to(device)
    kernels, logits = ([drawn(channels, s, s) for s in cfg.num_grids] for channels in (cfg.num_kernels, cfg.num_classes))
    return discs(Outputs(logits, kernels, drawn(cfg.num_kernels, height // 4, width // 4), []), cfg)


def by_points(device: torch.device, runs: int, quick: bool) -> list[Growth]:
    "From clicks to run lengths, as pseudo labels are made; then the refiner's second look at them."
    cfg = replace(preset("coco").teacher, nms_iou=1., max_per_image=10**6, max_before_nms=10**6)
    (height, width), out_size = ((64, 96), (40, 60)) if quick else ((800, 1216), (421, 640))
    outputs = made_outputs(cfg, height, width, device)
    def masks(count: int) -> Work:
        known = as_prompts(clicks(count, *out_size, cfg.num_classes)).to_input((height, width), out_size, device)
        return torch.inference_mode()(lambda: masks_of(outputs, known, (height, width), out_size, cfg))
    net = MaskRefineNet(5, RefinerConfig(**{k.partition(".")[2]: v for k, v in SHAPES.items() if k.startswith("refiner.")})).to(device)
    picture = torch.zeros(3, *out_size, dtype=torch.uint8)
    def refined(count: int) -> Work:
        rough = blobs(count, *out_size, (out_size[0] / 10, out_size[0] / 2), 0)
        xy = torch.tensor([[p.x, p.y] for p in clicks(count, *out_size, 5)])
        return lambda: refine_many(net, [(picture, rough, xy, torch.zeros(count, dtype=torch.long))])
    sizes = (1, 2, 4) if quick else (1, 3, 10, 30, 100, 300)
    return [*series("masks", "points", sizes, masks, device, runs), *series("refinement", "points", sizes, refined, device, runs)]


def by_objects(device: torch.device, runs: int, quick: bool) -> list[Growth]:
    "Costs of a training image beside the network: its targets in a loader's worker, the losses and their gradients on the device."
    cfg, (height, width) = preset("coco").student, (64, 96) if quick else (416, 640)
    outputs = made_outputs(cfg, height, width, device)
    leaves = [*outputs.category_logits, *outputs.kernels, outputs.mask_features]
    for leaf in leaves: leaf.requires_grad_()
    def assigned(count: int) -> Targets: return assign(cfg, [objects(count, height, width, cfg.num_classes, 0)], (height // 4, width // 4))
    def targets(count: int) -> Work:
        truth = [objects(count, height, width, cfg.num_classes, 0)]
        return lambda: assign(cfg, truth, (height // 4, width // 4))
    def learn(count: int) -> Work:
        found = assigned(count).to(device)
        return lambda: torch.autograd.grad(sum(losses(outputs, found).values()), leaves)
    sizes = (1, 2, 4) if quick else (1, 3, 10, 30, 100, 300)
    return [*series("targets", "objects", sizes, targets, torch.device("cpu"), runs), *series("losses", "objects", sizes, learn, device, runs)]


def step_of(net: SOLOv2Config, size: int, batch: int, device: torch.device) -> Work:
    "Forward, losses and backward of a batch with seven objects an image."
    torch.manual_seed(0)
    model, truths = place(SOLOv2(net), device).train(), [objects(7, size, size, 8, seed) for seed in range(batch)]
    targets = assign(net, truths, (size // 4, size // 4)).to(device)
    images, precision = torch.randn(batch, 3, size, size).to(device), choose_precision("auto", device)
    def work() -> None:
        with in_precision(precision, device): total = sum(losses(model(images), targets).values())
        model.zero_grad()
        total.backward()
    return work


def head_of(net: SOLOv2Config, batch: int, device: torch.device) -> Work:
    "The class head alone: the convolution to the classes, level by level, and the focal loss."
    conv = place(torch.nn.Conv2d(net.instance_channels, net.num_classes, 3, padding=1), device)
    levels = [torch.randn(batch, net.instance_channels, s, s).to(device).requires_grad_() for s in net.num_grids]
    classes = torch.full((batch, sum(s * s for s in net.num_grids)), net.num_classes, device=device)
    precision = choose_precision("auto", device)
    def work() -> None:
        with in_precision(precision, device): logits = [conv(x) for x in levels]
        conv.zero_grad()
        focal_loss(flatten_levels(logits).float(), classes).backward()
    return work


def small_net(classes: int) -> SOLOv2Config: return replace(preset("shapes").teacher, num_classes=classes)


def by_classes(device: torch.device, runs: int, quick: bool) -> list[Growth]:
    "The class head, and a training step less that: the rest must stay as it is."
    sizes, side = ((2, 4, 8), 64) if quick else ((8, 80, 1203), 256)
    whole, head = ({n: costs(work(n), device, runs) for n in sizes} for work in
                   (lambda n: step_of(small_net(n), side, 2, device), lambda n: head_of(small_net(n), 2, device)))
    found = []
    for i, cost in enumerate(("time", "memory")):
        rest = [whole[n][i] - head[n][i] for n in sizes]
        found += [growth("the class head", cost, "classes", sizes, [head[n][i] for n in sizes], runs),
                  growth("the rest of a step", cost, "classes", sizes, rest, runs, FLAT)]
    return found


def by_pixels(device: torch.device, runs: int, quick: bool) -> list[Growth]:
    "A training step by the size of its images, in pixels of one."
    sides = (64, 96, 128) if quick else (128, 192, 256, 384, 512, 768)
    of = {side * side: side for side in sides}
    return series("a step", "pixels", tuple(of), lambda n: step_of(small_net(5), of[n], 2, device), device, runs)


def prepare_split(path: str, out: str) -> Callable[[], Any]:
    "A split at 10% drawn and written, and both halves opened."
    def work() -> list[int]:
        halves = splits.write_split(coco.load(path, need="masks"), "10p", 0, "centroid", out)
        return [coco.load(half, need=need).num_annotations for half, need in zip(halves, ("masks", "points"))]
    return work


def opened(function: str, images: int, argument: int | str, runs: int) -> list[Cost]:
    "Cost of opening a file of so many images for the first time, or of dividing it."
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/caches"):
        path, found = Path(folder) / "all.json", []
        write_annotations(path, images, 7 * images)
        for _ in range(runs):
            for cache in (Path(folder) / "caches" / "pointwssis").glob("*"): cache.unlink()
            found.append(fresh(f"benchmarks.{function}", str(path), f"{folder}/{argument}" if isinstance(argument, str) else argument))
    return found


def by_images(device: torch.device, runs: int, quick: bool) -> list[Growth]:
    "Costs of a data set before the first step: opening its annotations, and dividing it, in processes of their own."
    found, parts = [], {"opening a data set": ("coco_size:prepare_opening", (300, 1000, 3000, 10_000), 0),
                        "a split": ("scaling:prepare_split", (100, 300, 1000), "split")}
    for of, (function, sizes, argument) in parts.items():
        sizes, runs = (20, 40, 80) if quick else sizes, min(runs, 3)
        seen = [opened(function, size, argument, runs) for size in sizes]
        found += [growth(of, "time", "images", sizes, [median(c.seconds for c in each) for each in seen], runs),
                  growth(of, "memory", "images", sizes, [max(c.peak_mib - c.start_mib for c in each) for each in seen], runs)]
    return found


def rows(device: torch.device, quick: bool = False) -> list[Growth]:
    runs = 1 if quick else RUNS
    return [row for part in (by_points, by_objects, by_classes, by_pixels, by_images) for row in part(device, runs, quick)]


MARKS = {"points": "o", "objects": "s", "classes": "^", "pixels": "D", "images": "v"}


def drawn(rows: Sequence[Growth]) -> Figure:
    "Cost against size, both as multiples of the smallest; the dashed line is linear growth."
    with style():
        fig, axes = plt.subplots(2, 1, figsize=(3.3, 4.8), sharex=True, layout="constrained")
        for ax, cost in zip(axes, ("time", "memory")):
            ax.plot((1, 1000), (1, 1000), "--", c=".5", lw=.8)
            for row in (r for r in rows if r.cost == cost):
                x, y = (np.array(v, dtype=float) for v in (row.sizes, row.values))
                ax.plot(x / x[0], y / y[0], marker=MARKS[row.by], ms=3, lw=1, label=f"{row.of} ({row.by})")
            ax.set(xscale="log", yscale="log", ylabel=f"{cost}, multiple of the first")
        axes[1].set_xlabel("size, multiple of the smallest")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.close(fig)
    return fig


def told(value: float, cost: str) -> str:
    if cost == "memory": return f"{value:,.3g} MiB" if value < 1000 else f"{value:,.0f} MiB"
    return f"{value * 1000:.3g} ms" if value < .1 else f"{value:.3g} s"


def table(rows: Sequence[Growth], where: dict[str, Any]) -> str:
    "Markdown."
    libraries = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    text = ["# Scaling", "", "Cost at the smallest and at the largest size, and the exponent of a power law over the upper half of the sizes: 1 is linear, 0 no growth. "
            "Times are medians. Memory is that of all tensors alive together; for images it is what the process took.", "",
            f"{where['device']} · {where['processor']} · {libraries}", "",
            "| of | by | sizes | cost | smallest | largest | exponent | at most | met | runs |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        cells = [r.of, r.by, f"{r.sizes[0]:,} to {r.sizes[-1]:,}", r.cost, told(r.values[0], r.cost), told(r.values[-1], r.cost),
                 f"{r.ours:.2f}", f"{r.target:g}", "yes" if r.met else "no", str(r.runs)]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", "![growth](scaling.png)", ""])


def write(folder: Path, rows: Sequence[Growth], device: torch.device) -> None:
    "scaling.md, .json, .png and .pdf."
    where = machine(device)
    save_picture(drawn(rows), folder / "scaling", dpi=220, **where, rows=[asdict(row) | {"met": row.met} for row in rows])
    with atomic_path(folder / "scaling.md") as temporary: temporary.write_text(table(rows, where), encoding="utf-8")
