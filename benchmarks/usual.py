"Usual code without this suite: NMS as the public SOLOv2 computes it, a loader over pycocotools and PIL."
from __future__ import annotations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import masks_to_boxes

from pointwssis.data.transforms import target_size


def pairwise_iou(masks: Tensor) -> Tensor:   # (N, h, w) bool -> (N, N)
    "All pairs by one product in fp32."
    pixels = masks.flatten(1).float()
    inter, area = pixels @ pixels.T, pixels.sum(1)
    return inter / (area[:, None] + area - inter).clamp(min=1)


def mask_nms(masks: Tensor, classes: Tensor, limit: float) -> list[int]:
    "Down the ranking: a mask that stays removes those below it that it covers."
    covers = (pairwise_iou(masks) > limit) & (classes[:, None] == classes)
    keep = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    for i in range(len(masks)):
        if keep[i]: keep[i + 1:] &= ~covers[i, i + 1:]
    return keep.nonzero()[:, 0].tolist()


def matrix_nms(masks: Tensor, scores: Tensor, classes: Tensor, sigma: float) -> Tensor:
    "Matrix NMS as SOLOv2's paper writes it, one row and one column of the matrix for all masks."
    iou = (pairwise_iou(masks) * (classes[:, None] == classes)).triu(1)
    covered = iou.max(0).values[:, None].expand_as(iou)
    decay = torch.exp(-sigma * iou ** 2) / torch.exp(-sigma * covered ** 2)
    return scores * decay.min(0).values


class PlainDataset(Dataset):
    "Pictures by PIL, masks by pycocotools, both resized by PIL and mirrored half the time; keys are those of our sampler."
    def __init__(self, annotations: Path, images: Path, short: int, long: int):
        from pycocotools.coco import COCO    # only this class needs it
        self.coco, self.images, self.short, self.long = COCO(str(annotations)), images, short, long
        self.ids = sorted(self.coco.imgs)

    def __len__(self) -> int: return len(self.ids)

    def __getitem__(self, key: tuple[int, int, int]) -> dict:
        record = self.coco.imgs[self.ids[key[0]]]
        height, width = target_size(record["height"], record["width"], self.short, self.long)
        picture = Image.open(self.images / record["file_name"]).convert("RGB")
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        kept = self.coco.imgToAnns[record["id"]]
        drawn = (Image.fromarray(self.coco.annToMask(a)) for a in kept)
        masks = np.stack([np.asarray(m.resize((width, height), Image.Resampling.NEAREST)) for m in drawn])
        if torch.rand(()) < .5: pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
        classes = torch.tensor([a["category_id"] - 1 for a in kept])
        return {"image": torch.from_numpy(pixels.copy()).permute(2, 0, 1), "masks": torch.from_numpy(masks.copy()),
                "classes": classes, "id": record["id"]}


def collate(items: list[dict]) -> dict:
    "Images in one tensor, zero-padded to multiples of 32; masks, boxes and classes in lists."
    height, width = (-(-max(i["image"].shape[d] for i in items) // 32) * 32 for d in (1, 2))
    def padded(x: Tensor) -> Tensor: return F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1]))
    seen = [masks_to_boxes(i["masks"]) for i in items]
    return {"images": torch.stack([padded(i["image"]) for i in items]), "masks": [i["masks"] for i in items], "boxes": seen,
            "classes": [i["classes"] for i in items], "image_ids": [i["id"] for i in items]}
