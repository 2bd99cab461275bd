"""A training step as `engine.train` does it, against the step that one would write first: in fp32, targets made on the device, the loss read each time."""
from __future__ import annotations
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from pointwssis.config import SOLOv2Config, TrainConfig
from pointwssis.data import coco, shapes
from pointwssis.data.transforms import collate, normalise
from pointwssis.data.training_set import CocoDataset
from pointwssis.detector.batches import solov2_loss, training_batch
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.detector.losses import losses
from pointwssis.detector.targets import assign
from pointwssis.runs.presets import preset
from pointwssis.training import device as placing
from pointwssis.training.trainer import learning_rate, make_optimizer, train

from .coco_size import write_pictures
from .harness import RUNS, Row, now, peak_mib, timed
from .points import SMALL

NOISE = .05           # by how much the mean losses of two ways may differ, as a share
WARM = 10             # steps before those that are timed, which are a multiple of as many
PLAIN = {"sgd": lambda params, cfg: torch.optim.SGD(params, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay),
         "adamw": lambda params, cfg: torch.optim.AdamW(params, cfg.lr, weight_decay=cfg.weight_decay)}


@dataclass
class Task:
    "The task of both ways: one network from its first weights, and the items of a few batches, which come again in turns."
    network: nn.Module
    cfg: TrainConfig
    batches: list[list[tuple[int, Any]]]
    device: torch.device

    def __post_init__(self): self.first = deepcopy(self.network.state_dict())

    @property
    def gpu(self) -> bool: return self.device.type == "cuda"

    @property
    def size(self) -> str: return "{2} x {3}".format(*training_batch(self.network.cfg, self.batches[0])["images"].shape)

    def fresh(self) -> nn.Module:
        self.network.load_state_dict(self.first)
        return self.network.to(memory_format=torch.contiguous_format)

    def ready(self, parts: int) -> list[dict]:
        "Batches with their targets, each in so many parts."
        found = [training_batch(self.network.cfg, items[part::parts]) for items in self.batches for part in range(parts)]
        return [{k: v.pin_memory() if hasattr(v, "pin_memory") else v for k, v in batch.items()} for batch in found] if self.gpu else found


def as_trained(task: Task, **changes: Any) -> tuple[float, float]:
    "Seconds an image and mean loss of the last steps, by `engine.train` with batches that wait in memory."
    cfg = replace(task.cfg, **changes)
    ready = task.ready(cfg.grad_accum_steps)
    with TemporaryDirectory() as folder:
        rows = train(task.fresh(), solov2_loss, lambda sampler: itertools.cycle(ready), cfg, Path(folder), 0, task.device,
                     length=cfg.batch_size, log_every=WARM)[1:]
    return mean(1 / row["images_per_s"] for row in rows), mean(row["loss"] for row in rows)


def plain_step(model: nn.Module, batch: dict, optimizer: torch.optim.Optimizer, cfg: TrainConfig, device: torch.device) -> float:
    "One step; the loss as a number, for which the host waits."
    outputs = model(normalise(batch["images"].to(device), batch["sizes"], model.cfg))
    targets = assign(model.cfg, [t.to(device, non_blocking=False) for t in batch["truth"]], outputs.mask_features.shape[-2:])
    total = sum(losses(outputs, targets).values())
    total.backward()
    if cfg.clip_norm: clip_grad_norm_(model.parameters(), cfg.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total.item()


def plainly(task: Task) -> tuple[float, float]:
    "The same by plain steps."
    model, cfg = task.fresh().to(task.device, memory_format=torch.contiguous_format).train(), task.cfg
    optimizer = PLAIN[cfg.optimizer]([p for p in model.parameters() if p.requires_grad], cfg)
    batches, values, start = itertools.cycle([collate(items) for items in task.batches]), [], 0.
    for step in range(cfg.steps):
        if step == WARM: start = time.perf_counter()
        for group in optimizer.param_groups: group["lr"] = learning_rate(cfg, step)
        values.append(plain_step(model, next(batches), optimizer, cfg, task.device))
    return (time.perf_counter() - start) / (cfg.steps - WARM) / cfg.batch_size, mean(values[WARM:])


def bare_step(task: Task) -> Callable[[], None]:
    "The least that a training step does: forward, backward and optimiser, in its precision, on ready images and a sum for a loss."
    model, device = placing.place(deepcopy(task.fresh()), task.device).train(), task.device
    optimizer, precision = make_optimizer(model, task.cfg), placing.choose_precision(task.cfg.precision, device)
    images = itertools.cycle([normalise(b["images"].to(device), b["sizes"].to(device), model.cfg) for b in task.ready(1)])
    def step() -> None:
        with placing.in_precision(precision, device): out = model(next(images))
        sum(x.float().mean() for x in (*out.category_logits, *out.kernels, out.mask_features)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def steps_in_turns(task: Task) -> tuple[list[float], list[float]]:
    "Seconds of each step of a training, until it asks for the next batch, and of the bare step that is done then."
    step, ready, ours, other = bare_step(task), task.ready(1), [], []
    def batches(sampler: Any) -> Iterator[dict]:
        for batch in itertools.cycle(ready):
            start = now(task.device)
            yield batch
            ours.append(now(task.device) - start)
            other.append(timed(step, task.device)[0])
    with TemporaryDirectory() as folder:
        train(task.fresh(), solov2_loss, batches, task.cfg, Path(folder), 0, task.device, length=task.cfg.batch_size, log_every=WARM)
    return ours[WARM:], other[WARM:]


def against_bare(name: str, task: Task) -> Row:
    "A training step, losses, clipping and log included, against its network alone."
    pairs = steps_in_turns(task)
    ours, other = (median(side) / task.cfg.batch_size for side in pairs)
    return Row(f"{name}: share of its network", ours, other, "network", 1.1, share=True, opponent=False, runs=len(pairs[0]),
               note="against forward, backward and optimiser alone, in the same precision, step by step in turns")


@contextmanager
def chosen(name: str, choice: Callable) -> Iterator[None]:
    "One of the decisions of `pointwssis.training.device`, made by hand."
    before = getattr(placing, name)
    setattr(placing, name, choice)
    try: yield
    finally: setattr(placing, name, before)


def in_other_order(task: Task) -> tuple[float, float]:
    "As trained, but with the weights in the memory order that this device does not get."
    other = torch.contiguous_format if placing.memory_order(task.device) == torch.channels_last else torch.channels_last
    with chosen("memory_order", lambda device: other): return as_trained(task)


def compiled(task: Task) -> tuple[float, float]:
    "As trained, and compiled; the network stays so."
    with chosen("compiles", lambda device, steps: True): return as_trained(task)


def compare(name: str, task: Task, ours: Callable, other: Callable, runs: int, memory: bool = False, **row: Any) -> Row:
    "Both ways in turns, seconds an image, once they are seen to learn alike."
    pairs = [(ours(task), other(task)) for _ in range(runs)]
    (a, loss), (b, other_loss) = (tuple(map(median, zip(*side))) for side in zip(*pairs))
    if abs(loss - other_loss) > NOISE * other_loss: raise AssertionError(f"{name}: mean loss {loss:.4f}, the other way {other_loss:.4f}")
    peaks = [peak_mib(lambda: side(task), task.device) for side in (ours, other)] if memory else [None]
    note = f"{1 / a:.3g} images/s, the other way {1 / b:.3g}; mean loss {loss:.3f} and {other_loss:.3f}"
    if memory: note += f"; peak memory of the other way {peaks[1]:,.0f} MiB"
    return Row(name, a, b, runs=runs, peak_mib=peaks[0], note=note, **row)


def shapes_task(folder: Path, steps: int, batch: int, device: torch.device) -> Task:
    "The teacher of the preset `shapes`."
    shapes.write(folder, train=64, val=1)
    data = coco.load(folder / "annotations/instances_train.json", folder / "train", need="masks")
    cfg = preset("shapes")
    schedule = replace(cfg.teacher_train, steps=steps, batch_size=batch, save_every=10**9, checkpoint_steps=())
    return made(data, replace(cfg.teacher, num_classes=len(data.categories)), schedule, device)


def coco_task(folder: Path, steps: int, device: torch.device, quick: bool) -> Task:
    "SOLOv2 with R-50 on pictures of COCO's size, at the published schedule's start."
    data, cfg = write_pictures(folder, 4 if quick else 32), preset("coco")
    net = SOLOv2Config("timm:test_resnet", **SMALL, frozen_norm=False, frozen_stages=0) if quick else replace(cfg.student, backbone="msra_resnet50")
    schedule = replace(cfg.student_train, steps=steps, batch_size=4 if quick else 8, short_sides=(64 if quick else 800,), save_every=10**9)
    return made(data, net, schedule, device)


def made(data: coco.CocoData, net: SOLOv2Config, cfg: TrainConfig, device: torch.device) -> Task:
    dataset = CocoDataset(data, cfg)
    torch.manual_seed(0)
    batches = [[dataset[(4 * step + slot) % len(dataset), step, slot] for slot in range(cfg.batch_size)] for step in range(4)]
    return Task(SOLOv2(net), cfg, batches, device)


def rows(device: torch.device, quick: bool = False) -> list[Row]:
    """On a GPU the published network: against plain fp32, compiled, and in four parts for small cards. On the CPU a preset that is made for it,
    against plain fp32 and against channels last."""
    gpu, runs = device.type == "cuda", 1 if quick else RUNS
    with TemporaryDirectory() as folder:
        steps = WARM + (2 if quick else 5 * WARM if gpu else 2 * WARM)
        task = coco_task(Path(folder), steps, device, quick) if gpu else shapes_task(Path(folder), steps, 4 if quick else 16, device)
    name = f"an image of a training step, {'SOLOv2 R-50' if gpu else 'preset shapes'}, {task.cfg.batch_size} of {task.size}"
    chosen = placing.choose_precision("auto", device)
    found = [compare(f"{name}: {chosen}", task, as_trained, plainly, runs, not quick, against="plain fp32", target=1.5 if gpu else None)]
    if not gpu: return [*found, compare(f"{name}: plain memory order", task, as_trained, in_other_order, runs, against="channels last")]
    twin = replace(task, network=deepcopy(task.network))
    return [*found, compare(f"{name}: compiled", task, lambda task: compiled(twin), as_trained, runs, True, against="not compiled"),
            compare(f"{name}: in 4 parts", task, lambda task: as_trained(task, grad_accum_steps=4), as_trained, runs, True, against="in one")]
