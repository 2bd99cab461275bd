"""The parts of `benchmarks.gpu`, each a function of what was asked for; this file runs them one
after the other in a process of its own and writes a record of each."""
from __future__ import annotations
import argparse
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pointwssis.config import RefinerConfig, SOLOv2Config, TrainConfig
from pointwssis.core import StageError, pick_device, rng, write_json
from pointwssis.data import coco, shapes
from pointwssis.data.transforms import Sample, normalise
from pointwssis.data.training_set import CocoDataset
from pointwssis.detector.batches import loader, solov2_loss, training_batch
from pointwssis.detector.predict import predictor
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.method import stages
from pointwssis.method.artifacts import open_val
from pointwssis.method.pseudo_labels import rough_masks
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.refiner.refinement import refine_many
from pointwssis.refiner.training import refiner_loss
from pointwssis.runs.presets import preset
from pointwssis.runs.stage_graph import STAGES, config_of
from pointwssis.training import device as placing
from pointwssis.training.device import choose_precision, in_precision, to_device
from pointwssis.training.trainer import train

from .coco_size import write_pictures
from .counting import Counts
from .harness import machine
from .points import SMALL
from .scenes import objects, with_discs
from .training import chosen

ROOT = Path(__file__).parent.parent
SLOW = .6    # share of the time in matrix work, below which the profile is shown
GPU_TESTS = ("tests/test_guard.py", "tests/training/test_device.py",
             "tests/detector/test_targets.py", "tests/detector/test_solov2.py")


@dataclass
class Wish:
    "Device and sizes that were asked for."
    device: torch.device
    quick: bool = False
    data: str = ""       # folder of the set `nuclei`
    until: float = 0.    # time.monotonic() at which a part with many rows begins no other

    @property
    def gpu(self) -> bool: return self.device.type == "cuda"

    @property
    def precision(self) -> str: return choose_precision("auto", self.device, warn=False)

    @property
    def size(self) -> tuple[int, int]:
        "Height and width of the images that networks are measured with."
        return (96, 128) if self.quick else (800, 1333)

    def is_over(self) -> bool: return bool(self.until) and time.monotonic() > self.until

    def wait(self) -> None:
        if self.gpu: torch.cuda.synchronize(self.device)


@dataclass
class Report:
    "The results of a part."
    partial: ClassVar[Path | None] = None   # file of the results so far
    about: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)
    restart: bool = False    # the process may be of no use afterwards

    def row(self, what: str, value: float, unit: str, note: str = "") -> None:
        self.rows.append({"what": what, "value": float(value), "unit": unit, "note": note})
        self._keep()

    def check(self, what: str, ok: bool, detail: str = "") -> None:
        self.checks.append({"what": what, "ok": bool(ok), "detail": detail})
        self._keep()

    def _keep(self) -> None:
        if self.partial: write_json(self.partial, vars(self))


def network(wish: Wish, depth: int = 50) -> SOLOv2Config:
    "The published student with a ResNet of this depth, random; a tiny one for a trial."
    tiny = {"frozen_norm": False, "frozen_stages": 0}
    if wish.quick: return SOLOv2Config("timm:test_resnet", **SMALL, **tiny)
    return SOLOv2Config(f"msra_resnet{depth}")


def built(cfg: SOLOv2Config) -> SOLOv2:
    "A network whose activations stay small, which without ImageNet weights each block doubles."
    torch.manual_seed(0)
    model = SOLOv2(cfg)
    for name, norm in model.backbone.named_modules():
        if name.endswith("bn3"): norm.weight.data.fill_(.2)
    return model


def items_of(count: int, height: int, width: int, classes: int = 80) -> list[tuple[int, Sample]]:
    "Images of noise with seven objects each."
    truth = objects(7, height, width, classes, 0)
    masks, labels, none = truth.masks.numpy(), truth.classes.numpy(), np.zeros((0, 2))
    def image(k: int) -> np.ndarray:
        return rng(k, "noise").integers(0, 256, (height, width, 3), np.uint8)
    first = [Sample(image(k), masks, labels, none) for k in range(min(count, 2))]
    return [(k, first[k % len(first)]) for k in range(count)]


def pinned(batch: dict, wish: Wish) -> dict:
    def one(x: Any) -> Any: return x.pin_memory() if hasattr(x, "pin_memory") else x
    return {key: one(x) for key, x in batch.items()} if wish.gpu else batch


def schedule(wish: Wish, batch: int, steps: int, precision: str = "auto") -> TrainConfig:
    "The start of the published schedule."
    return TrainConfig(steps=steps, batch_size=batch, save_every=10**9, precision=precision)


def trained(model: nn.Module, loss: Callable, batches: Any, cfg: TrainConfig, wish: Wish,
            every: int) -> list[dict[str, float]]:
    "The history of a training by the suite's loop, a row every so many steps."
    with TemporaryDirectory() as folder:
        return train(model, loss, lambda sampler: batches, cfg, Path(folder), 0, wish.device,
                     length=cfg.batch_size, log_every=every)


@contextmanager
def memory(wish: Wish) -> Iterator[Callable[[], float]]:
    "A function that tells the most memory of the GPU in this block, GiB; 0 on a processor."
    if wish.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(wish.device)
    yield lambda: torch.cuda.max_memory_allocated(wish.device) / 2**30 if wish.gpu else 0.


class _Counted:
    "Outcomes of tests, for pytest."
    def __init__(self):
        self.found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.outcome].append(report.nodeid.rpartition("/")[2])


def tests(wish: Wish) -> Report:
    "The tests that need a GPU."
    import pytest   # only this part needs it
    report, counted = Report("Tests that are marked `gpu`."), _Counted()
    with patch.dict(os.environ):   # the tests' settings end with them
        code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "gpu", *GPU_TESTS],
                           plugins=[counted])
    failed, skipped = counted.found["failed"], counted.found["skipped"]
    report.row("passed", len(counted.found["passed"]), "tests")
    report.row("skipped", len(skipped), "tests", "" if wish.gpu else "no GPU")
    report.check("every test passes", code == 0 and not failed, ", ".join(failed))
    if wish.gpu: report.check("none is skipped", not skipped, ", ".join(skipped))
    report.restart = bool(failed) and wish.gpu    # a broken context fails everything after it
    return report


@contextmanager
def _no_waiting() -> Iterator[None]:
    "A block in which torch raises at the first operation that makes the host wait."
    torch.cuda.set_sync_debug_mode("error")
    try: yield
    finally: torch.cuda.set_sync_debug_mode("default")


def _three_steps(found: dict, second: Any) -> Iterator[dict]:
    "Batches of three steps, the second of them in a context."
    yield found
    with second: yield found
    yield found


def _crops(count: int, size: int) -> dict[str, Tensor]:
    "A batch of the refiner."
    g = torch.Generator().manual_seed(0)
    def drawn(high: int, *shape: int) -> Tensor: return torch.randint(high, shape, generator=g)
    return {"image": drawn(256, count, 3, size, size).to(torch.uint8),
            "rough": drawn(2, count, 1, size, size).to(torch.uint8),
            "target": drawn(2, count, size, size), "class": drawn(80, count),
            "point": size * torch.rand(count, 2, generator=g)}


def _refiner(wish: Wish) -> MaskRefineNet:
    "The published refiner from random weights, or a tiny one."
    torch.manual_seed(0)
    tiny = RefinerConfig("torchvision:resnet18", "", aspp_channels=16,
                         decoder_channels=(16, 16, 16), crop_size=32)
    return MaskRefineNet(80, tiny if wish.quick else RefinerConfig(weights=""))


def steps(wish: Wish) -> Report:
    "Training steps that never make the host wait."
    report = Report("The second of three training steps, under `set_sync_debug_mode(\"error\")`."
                    if wish.gpu else "Questions to the device in the second of three steps.")
    net, refiner = network(wish), _refiner(wish)
    images = training_batch(net, items_of(2, *wish.size))
    crops = _crops(2, refiner.cfg.crop_size)
    names = ("fp32", "bf16") if wish.precision == "bf16" else ("fp32",)
    for precision in names:
        for name, model, loss, batch in (("detector", built(net), solov2_loss, images),
                                         ("refiner", _refiner(wish), refiner_loss, crops)):
            second = _no_waiting() if wish.gpu else Counts()
            found = _three_steps(pinned(batch, wish), second)
            trained(model, loss, found, schedule(wish, 2, 3, precision), wish, 10**9)
            waits = [] if wish.gpu else second.waits
            report.check(f"{name}, {precision}", not waits, ", ".join(waits))
    return report


BOUNDS = {"fp32": (1e-3, 1e-2), "TF32": (1e-2, .1), "bf16": (.1, .5)}   # outputs and loss, gradient


def _answers(model: nn.Module, batch: dict, device: torch.device, precision: str) -> list[Tensor]:
    "Outputs, loss and gradients of one batch, on the processor, in fp32."
    model, batch = model.to(device), to_device(batch, device)
    model.zero_grad()
    with in_precision(precision, device):
        outputs = model(normalise(batch["images"], batch["sizes"], model.cfg))
        loss = sum(solov2_loss(model, batch).values())
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    made = [outputs.mask_features, torch.cat([x.flatten() for x in outputs.category_logits]), loss]
    return [x.detach().float().cpu() for x in (*made, flat)]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try: yield
    finally: torch.backends.cudnn.allow_tf32 = before


def agreement(wish: Wish) -> Report:
    "One batch in each arithmetic against the processor in fp32."
    report = Report("Relative differences (2-norms) from fp32 on the processor, of one batch.")
    model = built(network(wish))
    batch = training_batch(model.cfg, items_of(2, *((96, 128) if wish.quick else (256, 352))))
    reference = _answers(model, batch, torch.device("cpu"), "fp32")
    kinds = ("fp32", *["TF32"] * wish.gpu, *["bf16"] * (wish.precision == "bf16"))
    for kind in kinds:
        with _tf32(kind == "TF32"):
            found = _answers(model, batch, wish.device, "bf16" if kind == "bf16" else "fp32")
        for what, ours, theirs in zip(("mask features", "class logits", "loss", "gradient"),
                                      found, reference):
            bound = BOUNDS[kind][what == "gradient"]
            error = float((ours - theirs).norm() / theirs.norm())
            report.check(f"{kind}, {what}", error <= bound, f"{error:.2g}, at most {bound:g}")
    return report


MATRIX = ("conv", "gemm", "cutlass", "xmma", "nvjet", "wgrad", "dgrad", "fprop", "addmm", "::mm",
          "bmm")    # in the names of kernels, and of a processor's operators


def _profiled(work: Callable[[], Any], wish: Wish) -> tuple[float, float, list[str]]:
    "Share of the device's time in matrix work, its share of the wall time, the first ten lines."
    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * wish.gpu]
    wish.wait()
    start = time.perf_counter()
    with profile(activities=kinds) as seen:
        work()
        wish.wait()
    wall = time.perf_counter() - start
    key = "self_device_time_total" if wish.gpu else "self_cpu_time_total"
    events = [(e.key, getattr(e, key) / 1e6) for e in seen.key_averages()
              if not wish.gpu or str(e.device_type).endswith("CUDA")]
    total = sum(s for _, s in events) or 1.
    matrix = sum(s for name, s in events if any(part in name.lower() for part in MATRIX))
    events.sort(key=lambda pair: -pair[1])
    lines = [f"{s / total:6.1%} {1000 * s:9.2f} ms  {name[:100]}" for name, s in events[:10]]
    return matrix / total, total / wall, lines


def _timed_steps(wish: Wish, model: nn.Module, batch: dict, cfg: TrainConfig,
                 loss: Callable = solov2_loss) -> float:
    "Items a second of the last steps of a training on a batch that is there already."
    rows = trained(model, loss, itertools.repeat(batch), cfg, wish, cfg.steps // 2)
    return rows[-1]["images_per_s"]


# depths of the network and their batches, those of a trial and those of a GPU
SIZES = {True: ((50, (2,)),), False: ((50, (8, 2, 4, 16)), (101, (16, 2, 8, 4)))}


def detectors(wish: Wish) -> Report:
    "Training steps of SOLOv2, without the input pipeline."
    h, w = wish.size
    report = Report(f"Training steps on {h} x {w} in {wish.precision}; batches wait in memory.")
    for depth, batches in SIZES[wish.quick]:
        profiled = False
        for batch in batches:
            name = f"R-{depth}, batch {batch}"
            if wish.is_over():
                report.check(name, True, "not measured: the time of this part is over")
                continue
            model = built(network(wish, depth))
            ready = pinned(training_batch(model.cfg, items_of(batch, h, w)), wish)
            with memory(wish) as peak:
                cfg = schedule(wish, batch, 4 if wish.quick else 16)
                try: speed = _timed_steps(wish, model, ready, cfg)
                except StageError as e:    # the trainer's, of a full memory
                    report.check(name, False, str(e))
                    continue
                report.row(name, speed, "images/s", f"{peak():.1f} GiB" if wish.gpu else "")
            if not profiled: _matrix_work(report, name, model, ready, wish)
            profiled = True
    return report


def _matrix_work(report: Report, name: str, model: nn.Module, batch: dict, wish: Wish) -> None:
    "A row on the share of matrix work, and the profile where it is small."
    model, here = placing.place(model, wish.device).train(), to_device(batch, wish.device)
    def step() -> None:
        with in_precision(wish.precision, wish.device):
            loss = sum(solov2_loss(model, here).values())
        loss.backward()
        model.zero_grad()
    try:
        step()
        share, busy, lines = _profiled(step, wish)
    except RuntimeError as e:   # of the profiler or of a full memory; the speed is known already
        report.check(f"{name}, matrix work", False, f"not measured: {e}")
        return
    if not lines: return report.check(f"{name}, matrix work", False, "the profiler saw no kernel")
    report.row(f"{name}, matrix work", 100 * share, "% of the device's time",
               f"kernels fill {busy:.0%} of the profiled step")
    if share < SLOW: report.profile += [f"{name}:", *lines]


def loading(wish: Wish) -> Report:
    "A training from files against one without an input pipeline."
    report = Report("The same training with pictures from files, and with batches in memory.")
    workers = 1 if wish.quick else min(len(os.sched_getaffinity(0)), 16)
    steps, batch = (4, 2) if wish.quick else (24, 16)
    cfg = replace(schedule(wish, batch, steps), workers=workers,
                  short_sides=(96 if wish.quick else 800,))
    with TemporaryDirectory() as folder:
        data = write_pictures(Path(folder), 4 if wish.quick else 64)
        net = replace(network(wish), num_classes=len(data.categories))
        dataset = CocoDataset(data, cfg)
        made = loader(dataset, cfg, wish.device, lambda items: training_batch(net, items))
        with TemporaryDirectory() as out:
            rows = train(built(net), solov2_loss, made, cfg, Path(out), 0, wish.device,
                         length=len(dataset), log_every=steps // 2)
        ready = [dataset[k % len(dataset), 0, k] for k in range(batch)]
    speed = rows[-1]["images_per_s"]
    bare = _timed_steps(wish, built(net), pinned(training_batch(net, ready), wish), cfg)
    report.row(f"R-50, batch {batch}, from files", speed, "images/s", f"{workers} workers")
    report.row(f"R-50, batch {batch}, from memory", bare, "images/s")
    return report


class _InMemory(coco.CocoData):
    "A data set whose pictures are decoded once."
    def read_image(self, image_id: int) -> np.ndarray:
        kept = self.info.setdefault("pictures", {})
        if image_id not in kept: kept[image_id] = super().read_image(image_id)
        return kept[image_id]


def _clicked(data: coco.CocoData) -> coco.CocoData:
    "The same images with a click for each object."
    def click(a: dict) -> dict:
        kept = {k: a[k] for k in ("id", "image_id", "category_id", "iscrowd")}
        return kept | {"point": np.reshape(a["segmentation"][0], (-1, 2)).mean(0).tolist()}
    fields = {name: getattr(data, name) for name in ("path", "image_root", "images", "categories")}
    return _InMemory(**fields, annotations={i: [click(a) for a in of]
                                            for i, of in data.annotations.items()}, info={})


def labels(wish: Wish) -> Report:
    "Teacher's masks of clicks, from file to run lengths, with and without decoding."
    report = Report("Seven clicks an image of 640 x 480; networks of random weights, whose cells "
                    "are made to draw discs.")
    cfg = preset("coco")
    net = network(wish) if wish.quick else replace(cfg.teacher, backbone="msra_resnet101")
    size = replace(cfg.data, short_side=96, long_side=128) if wish.quick else cfg.data
    with TemporaryDirectory() as folder:
        weak = _clicked(write_pictures(Path(folder), 8 if wish.quick else 64))
        model = built(replace(net, num_classes=len(weak.categories))).eval().to(wish.device)
        ask = predictor(with_discs(model), size, wish.device, "point", "mask")
        rough_masks(ask, weak.select(weak.ids[:8]))
        for name, data in (("from files", coco.CocoData(**vars(weak))), ("from memory", weak)):
            if name == "from memory":
                for i in data.ids: data.read_image(i)
            wish.wait()
            start = time.perf_counter()
            masks = rough_masks(ask, data)
            wish.wait()
            report.row(f"teacher, {name}", len(data.ids) / (time.perf_counter() - start),
                       "images/s", f"{len(masks)} masks of {data.num_annotations} clicks")
    return report


def crops(wish: Wish) -> Report:
    "Refined masks, and training steps of the refiner."
    report = Report("The published refiner on images of 421 x 640; crops of 256 x 256.")
    net = _refiner(wish).to(wish.device)
    count, batch = (6, 2) if wish.quick else (256, 16)
    truth = objects(count, *((60, 90) if wish.quick else (421, 640)), 80, 0)
    picture = torch.randint(256, (3, *truth.masks.shape[1:]), dtype=torch.uint8)
    clicks = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    item = tuple(x.to(wish.device) for x in (picture, truth.masks.bool(), clicks, truth.classes))
    ready = net.eval().for_inference()
    for precision in dict.fromkeys(("fp32", choose_precision("auto", wish.device, training=False))):
        with memory(wish) as peak:
            for _ in range(2):    # the first time warms up
                wish.wait()
                start = time.perf_counter()
                refine_many(ready, [item], precision=precision)
                wish.wait()
            seconds = time.perf_counter() - start
            report.row(f"refined, {precision}", len(item[1]) / seconds, "crops/s",
                       f"{peak():.1f} GiB" if wish.gpu else "")
    found = pinned(_crops(batch, net.cfg.crop_size), wish)
    speed = _timed_steps(wish, net.train(), found, schedule(wish, batch, 4 if wish.quick else 20),
                         refiner_loss)
    report.row(f"trained, batch {batch}, {wish.precision}", speed, "crops/s")
    return report


def compiling(wish: Wish) -> Report:
    "Training steps with changing image sizes, compiled and not."
    report = Report("The sizes of the images change with every step.")
    sizes = [(96, 128), (64, 96)] if wish.quick else [(800, 1088), (640, 864), (736, 992),
                                                      (672, 896)]
    batch, rounds = (2, 2) if wish.quick else (8, 6)
    cfg = schedule(wish, batch, rounds * len(sizes))
    net = network(wish)
    ready = [pinned(training_batch(net, items_of(batch, *size)), wish) for size in sizes]
    compile_it, losses = nn.Module.compile, {}
    if wish.quick: nn.Module.compile = lambda model: compile_it(model, backend="eager")
    try:
        for name, choice in (("not compiled", False), ("compiled", True)):
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            start = time.perf_counter()
            with chosen("compiles", lambda device, steps: choice):
                rows = trained(built(net), solov2_loss, itertools.cycle(ready), cfg, wish,
                               len(sizes))
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
            losses[name] = float(np.mean([row["loss"] for row in rows]))
            report.row(name, np.median([row["images_per_s"] for row in rows[rounds // 2:]]),
                       "images/s", f"{time.perf_counter() - start:.0f} s in all, {graphs} graphs")
            if choice: report.check("torch compiles", graphs > 0, "" if graphs else
                                    "no graph was made, so both rows are alike; log.txt says why")
    finally: nn.Module.compile = compile_it
    plain, other = losses.values()
    report.check("both learn alike", abs(plain - other) <= .05 * plain,
                 f"mean loss {plain:.3f} and {other:.3f}")
    return report


TINY = {"teacher_train.steps": 6, "teacher_train.checkpoint_steps": (2, 4),
        "refiner_train.steps": 3, "student_train.steps": 4, "teacher_train.batch_size": 4,
        "student_train.batch_size": 4, "refiner_train.batch_size": 4}


def _run_config(wish: Wish, folder: Path) -> Any:
    "The configuration of the whole run."
    more = {"device": str(wish.device)}
    if wish.quick:
        root = shapes.write(folder / "drawn", train=12, val=4)
        return config_of("demo", "50p", 0, str(root), TINY | more)
    if not wish.data: return config_of("demo", "10p", 0, "", more)
    from pointwssis.training.weights import packaged_weights   # asks for an installed package
    if not packaged_weights("timm:efficientnet_lite0"):
        random = {"weights": "", "frozen_stages": 0, "frozen_norm": False}
        more |= {f"{who}.{key}": value for who in ("teacher", "student")
                 for key, value in random.items()} | {"refiner.weights": ""}
    return config_of("nuclei", "10p", 0, str(Path(wish.data).resolve()), more)


def whole(wish: Wish) -> Report:
    "All stages of a run, as plain calls."
    report, inputs = Report(), {}
    with TemporaryDirectory() as place:
        cfg = _run_config(wish, Path(place))
        report.about = f"Data set {cfg.dataset}, split {cfg.split}, stages in turn."
        for name in ("split", "teacher", "refiner", "pseudo", "student_refined", "evaluate"):
            inputs[name] = out = Path(place) / name
            out.mkdir()
            stage, start = STAGES[name], time.perf_counter()
            metrics = getattr(stages, stage.notebook or name)(cfg, dict(inputs), out, **stage.fixed)
            report.row(name, time.perf_counter() - start, "s")
        images = len(open_val(cfg, inputs["split"]).ids)
    for key in ("teacher_ap_percent", "student_sw_refined_ap_percent", "pseudo_sw_miou_percent",
                "pseudo_sw_refined_miou_percent"):
        if metrics.get(key) is not None: report.row(key, metrics[key], "%")
    report.check("the student has an AP", metrics.get("student_sw_refined_ap_percent") is not None,
                 f"of {images} images")
    return report


PARTS: dict[str, Callable[[Wish], Report]] = {
    "tests": tests, "steps": steps, "agreement": agreement, "network": detectors,
    "loading": loading, "labels": labels, "crops": crops, "compiling": compiling, "run": whole}


def driver() -> str:
    "The GPU's driver and clock, if a program tells them."
    ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try: return subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired): return ""


def record_of(part: Callable[[Wish], Report], wish: Wish) -> dict[str, Any]:
    "A part's results, or the end of its traceback, with its seconds."
    start = time.perf_counter()
    try: found = vars(part(wish))
    except Exception:
        last = traceback.format_exc().splitlines()[-12:]
        found = {"error": "\n".join(last), "restart": wish.gpu}
    return {"seconds": time.perf_counter() - start, **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=json.loads, default={}, help="of parts with many rows")
    parser.add_argument("place", type=Path)
    parser.add_argument("parts", nargs="+")
    args = parser.parse_args()
    wish = Wish(pick_device(args.device), args.quick, args.data)
    write_json(args.place / "machine.json", {**machine(wish.device), "driver": driver()})
    for name in args.parts:
        wish.until = time.monotonic() + .8 * args.seconds.get(name, 1e9)
        Report.partial = args.place / f"{name}.partial"
        record = record_of(PARTS[name], wish)
        write_json(args.place / f"{name}.json", record)
        if record.get("restart"): sys.exit(3)


if __name__ == "__main__": main()
