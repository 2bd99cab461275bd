"""A second look at masks: a stem that skips empty channels, and crops in batches, against dense channels and one crop at a time."""
from __future__ import annotations
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from pointwssis.config import RefinerConfig
from pointwssis.data.coco import encode_many
from pointwssis.data.shapes import CLASSES
from pointwssis.refiner.crops import gaussian_map
from pointwssis.refiner.refinement import Item, _batch_size, refine_many
from pointwssis.refiner.network import MaskRefineNet
from pointwssis.refiner.training import MaskRefiner
from pointwssis.runs.presets import preset
from pointwssis.training.device import computes_in_bf16, in_precision

from . import loops
from .crowd import discs
from .harness import Row, Work, alternate, compare
from .scenes import objects

SMALL = RefinerConfig("torchvision:resnet18", "", aspp_channels=32, decoder_channels=(32, 24, 16), crop_size=32)


def work_of(work: Work) -> int:
    "Floating-point operations of convolutions and products."
    with FlopCounterMode(display=False) as counter: work()
    return counter.get_total_flops()


def stored(tensors: list[torch.Tensor]) -> float:
    return sum(t.nbytes for t in tensors) / 2**20


def stem_rows(net: MaskRefineNet, count: int, device: torch.device) -> list[Row]:
    size, g = net.cfg.crop_size, torch.Generator().manual_seed(0)
    image, rough = torch.rand(count, 3, size, size, generator=g), torch.rand(count, 1, size, size, generator=g).round()
    click = gaussian_map(torch.rand(count, 2, generator=g) * size, size, size)[:, None]
    inputs = [t.to(device) for t in (image, click, torch.randint(net.num_classes, (count,), generator=g), rough)]
    def ours(): return net.stem(*inputs)
    def dense(): return loops.dense_stem(net, *inputs)
    name, told = f"stem over {count} crops of {size} x {size}, {net.num_classes} classes", dict(against="dense channels")
    return [compare(name, ours, dense, lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=1e-5), device, **told),
            Row(f"{name}: work", work_of(ours) / 1e9, work_of(dense) / 1e9, unit="GFLOP", target=16, runs=1, **told),
            Row(f"{name}: input", stored(inputs), stored([loops.dense_input(net, *inputs)]), unit="MiB", target=16, runs=1, **told)]


def changed(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    "Share of pixels that fell on the other side of the threshold."
    return max((a != b).float().mean().item() for a, b in zip(ours, theirs))


def crops_row(net: MaskRefineNet, count: int, height: int, width: int, device: torch.device, precision: str = "fp32") -> Row:
    "`refine_many` over two images of `count` objects, with the network made ready as for a data set, in this precision; the other side is fp32."
    ready = net.for_inference()
    def item(seed: int) -> tuple[torch.Tensor, ...]:
        truth = objects(count, height, width, net.num_classes, seed)
        picture = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        clicked = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
        return tuple(t.to(device) for t in (picture, truth.masks.bool(), clicked, truth.classes))
    items, cfg = [item(seed) for seed in range(2)], net.cfg
    crops = f"{cfg.backbone.partition(':')[2]}, crops of {cfg.crop_size} x {cfg.crop_size}"
    def ours(): return refine_many(ready, items, precision=precision)
    def dense(): return [loops.refine(net, *i) for i in items]
    count = sum(len(i[1]) for i in items)
    sparse_work, dense_work = (work_of(work) / count / 1e9 for work in (ours, dense))
    bf16 = precision == "bf16"
    compared, allowed = ("bf16 against fp32", .02) if bf16 else ("fp32", .001)
    return compare(f"refining {count} masks of 2 images, {crops}{', bf16' * bf16}", ours, dense, lambda a, b: changed(a, b) < allowed, device,
                   against="one dense crop at a time", target=3 if device.type == "cpu" else 10,
                   note=f"images of {height} x {width}, {compared}; a crop takes {sparse_work:.2g} GFLOP against {dense_work:.2g}; "
                        f"{changed(ours(), dense()):.2%} of the pixels differ")


def drawn_item(count: int, height: int, width: int, classes: int) -> Item:
    "An image of random pixels with objects of all sizes, as run lengths, a click and a class."
    truth = objects(count, height, width, classes, 0)
    picture = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return picture, encode_many(truth.masks.bool().numpy()), (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2, truth.classes


def crowded_item(count: int, height: int, width: int) -> Item:
    "A large image of random pixels with discs, whose diameters are up to a tenth of its shorter side."
    masks, centres = discs(count, height, width, min(height, width) // 20)
    picture = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return picture, masks, torch.from_numpy(centres).float(), torch.zeros(count, dtype=torch.long)


def around_row(net: MaskRefineNet, item: Item, device: torch.device, precision: str) -> Row:
    "The refinement of one image from run lengths to run lengths, against the network on crops that are ready, in batches of the same size."
    refiner = MaskRefiner(net, device, precision=precision)
    (height, width), count = item[0].shape[1:], len(item[1])
    size, few = net.cfg.crop_size, _batch_size(refiner.net, device.type, refiner.batch)
    crops = [torch.zeros(count, *shape, device=device) for shape in ((3, size, size), (1, size, size), (1, size, size))]
    channel = torch.zeros(count, dtype=torch.long, device=device)
    def alone() -> None:
        for image, click, rough, k in zip(*(t.split(few) for t in (*crops, channel))):
            with in_precision(refiner.precision, device): refiner.net(image, click, k, rough)
    refiner.refine([item])
    ours, other = alternate(lambda: refiner.refine([item]), alone, device)
    name = (f"refining {count} masks of an image of {height} x {width} from run lengths to run lengths, {net.cfg.backbone.partition(':')[2]}, "
            f"{refiner.precision}: share of its network")
    return Row(name, ours, other, "network", 1.15, share=True, opponent=False, note=f"crops of {size} x {size}")


@torch.inference_mode()
def rows(device: torch.device, quick: bool = False) -> list[Row]:
    "The published network over 80 classes, and the small one of the built-in data set."
    torch.manual_seed(0)
    published, small = (MaskRefineNet(classes, replace(cfg, weights="")).eval().to(device)
                        for classes, cfg in ((80, SMALL if quick else RefinerConfig()), (len(CLASSES), preset("shapes").refiner)))
    count = 16 if device.type == "cpu" else 64
    native = ("fp32", "bf16") if computes_in_bf16(device) else ("fp32",)
    return [*stem_rows(published, 4 if quick else 16, device),
            *(crops_row(published, *((3, 60, 90) if quick else (count, 421, 640)), device, precision) for precision in native),
            crops_row(small, *((3, 60, 90) if quick else (4 * count, 128, 128)), device)]
