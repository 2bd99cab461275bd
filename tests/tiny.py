"A SOLOv2 small enough for tests that build one in every function, and random objects for it."
import numpy as np
import torch

from pointwssis.config import SOLOv2Config
from pointwssis.core import rng
from pointwssis.data.transforms import Sample, Truth
from pointwssis.detector.solov2 import SOLOv2

CFG = SOLOv2Config("timm:test_resnet", num_classes=3, fpn_channels=16, instance_channels=16, instance_convs=1, mask_channels=16, num_kernels=16,
                   scale_ranges=((1, 16), (12, 28), (24, 48), (40, 80), (72, 2048)), num_grids=(16, 12, 8, 6, 4), frozen_stages=0, frozen_norm=False)


def tiny_model(seed: int = 0) -> SOLOv2:
    torch.manual_seed(seed)
    model = SOLOv2(CFG)
    for p in model.instance_head.parameters(): p.data.add_(.05 * torch.randn(p.shape))     # so that cells differ
    return model.eval()


def squares(boxes, classes, size=(64, 96)) -> Truth:
    "Filled boxes as objects."
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for m, (x0, y0, x1, y1) in zip(masks, boxes): m[y0:y1, x0:x1] = 1
    return Truth(masks, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(classes, dtype=torch.long))


def sample(objects: int, seed: int = 0, size=(64, 96)) -> Sample:
    "An image with so many squares of all sizes."
    r = rng(seed, "sample", objects)
    sides = np.linspace(10, 60, objects).astype(int)
    masks = np.zeros((objects, *size), np.uint8)
    for m, side in zip(masks, sides):
        y, x = r.integers(size[0] - side + 1), r.integers(size[1] - side + 1)
        m[y:y + side, x:x + side] = 1
    return Sample(r.integers(0, 256, (*size, 3), dtype=np.uint8), masks, r.integers(0, 3, objects), np.zeros((0, 2)))
