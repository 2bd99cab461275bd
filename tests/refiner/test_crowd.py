"Refining many masks of a large image takes the memory of a few of them."
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.crowd import discs, rows                             # noqa: E402
from benchmarks.fresh import fresh                                   # noqa: E402
from pointwssis.refiner import crops, refinement                               # noqa: E402
from pointwssis.data.coco import decode, encode_many                      # noqa: E402
from pointwssis.config import RefinerConfig                          # noqa: E402
from pointwssis.refiner.network import MaskRefineNet                       # noqa: E402
from pointwssis.quirks import FIXED, PUBLISHED              # noqa: E402
from pointwssis.refiner.refinement import refine_many, refine_rles              # noqa: E402

SMALL = RefinerConfig(backbone="torchvision:resnet18", weights="", aspp_channels=16, decoder_channels=(16, 8), crop_size=32)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps a process's highest use of memory")
def test_the_memory_does_not_grow_with_masks_times_pixels():
    cost = fresh("benchmarks.crowd:prepare_refining", 120, 1000, 1500, "small")
    assert cost.result == [120, 120]                                  # all were refined
    assert cost.peak_mib - cost.start_mib < 300, cost                 # 5 bytes a mask and pixel would be 858


def test_the_row_compares_with_a_limit():
    (row,) = rows(torch.device("cpu"), quick=True)
    assert row.against == "limit" and row.unit == "MiB" and row.ours == row.peak_mib and row.met is not None


@pytest.fixture(scope="module")
def crowd():
    torch.manual_seed(0)
    net = MaskRefineNet(3, SMALL).eval()
    net.head.bias.data = torch.tensor([-.2, .2])
    masks, centres = discs(9, 120, 90, radius=12)
    masks[4] = encode_many(np.zeros((1, 120, 90), bool))[0]           # an empty one stays as it was
    picture, classes = torch.randint(256, (3, 120, 90), dtype=torch.uint8), torch.arange(9) % 3
    return net, picture, masks, torch.from_numpy(centres).float(), classes


@pytest.mark.parametrize("portion", [1, 3 * 120 * 90, 2**24])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("quirks", [FIXED, PUBLISHED], ids=["fixed", "published"])
def test_portions_and_run_lengths_give_the_same_masks(crowd, monkeypatch, portion, batch, quirks):
    net, picture, masks, xy, classes = crowd
    stack = torch.from_numpy(np.stack([decode(m, 120, 90) for m in masks]))
    expected = encode_many(refine_many(net, [(picture, stack, xy, classes)], quirks, 64)[0].numpy())
    monkeypatch.setattr(refinement, "CHUNK_PIXELS", portion)
    items = [(picture, masks[:4], xy[:4], classes[:4]), (picture, masks[4:], xy[4:], classes[4:])]   # a batch spans both
    found = refine_rles(net, items, quirks, batch)
    assert found[0] + found[1] == expected and found[1][0] == masks[4] and expected != masks


@pytest.mark.parametrize("quirks", [FIXED, PUBLISHED], ids=["fixed", "published"])
def test_pixels_around_the_windows_are_neither_read_nor_written(crowd, monkeypatch, quirks):
    "The masks of full-size copies of the picture and of each rough mask, pasted and encoded at full size."
    net = crowd[0]
    masks, centres = discs(6, 400, 300, radius=15)
    xy, classes, picture = torch.from_numpy(centres).float(), torch.arange(6) % 3, torch.randint(256, (3, 400, 300), dtype=torch.uint8)
    stack = torch.from_numpy(np.stack([decode(m, 400, 300) for m in masks]))
    clicks = refinement._clicks(xy, 400, 300, quirks)
    frames = refinement.windows(stack, clicks, net.cfg.crop_scale, quirks)
    cut = crops.published_inputs if quirks is PUBLISHED else crops.crop_inputs
    plain = refinement._logits(net, [*cut(picture, stack[:, None], clicks, frames, net.cfg.crop_size), classes], quirks, "fp32")
    whole = encode_many(crops.paste(plain, frames, 400, 300, quirks=quirks).numpy())
    monkeypatch.setattr(refinement, "CHUNK_PIXELS", 1)
    monkeypatch.setattr(refinement.torch, "empty", lambda *size, **options: torch.full(size[0] if isinstance(size[0], tuple) else size, float("nan"), **options))
    assert refine_rles(net, [(picture, masks, xy, classes)], quirks)[0] == whole != masks


@pytest.mark.parametrize("seed", range(4))
def test_pasting_computes_frames_only_and_gives_the_masks_of_the_whole_image(seed):
    g = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(6, 2, generator=g) * 60 - 10, torch.rand(6, 2, generator=g) * 50 + 1
    frames, logits = torch.cat([corner, corner + side], 1), torch.randn(6, 2, 16, 16, generator=g)
    frames[1] = frames[1][[2, 1, 0, 3]]                               # mirrored
    frames[2] += 500                                                  # outside the image
    def axis(n, lo, hi): return (torch.arange(n) + .5 - lo[:, None]) / (hi - lo)[:, None] * 2 - 1
    x, y = axis(70, frames[:, 0], frames[:, 2])[:, None], axis(50, frames[:, 1], frames[:, 3])[:, :, None]
    grid = torch.stack([x.expand(-1, 50, -1), y.expand(-1, -1, 70)], -1)
    read = torch.nn.functional.grid_sample(logits.softmax(1)[:, 1:], grid, padding_mode="border", align_corners=False)[:, 0]
    whole = (read > .5) & (x.abs() < 1) & (y.abs() < 1)
    for portion in (1, 2**23): assert torch.equal(crops.paste(logits, frames, 50, 70, portion), whole)
    assert crops.paste(logits[:0], frames[:0], 50, 70).shape == (0, 50, 70)
