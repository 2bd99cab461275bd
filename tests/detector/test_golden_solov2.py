"SOLOv2 against the recorded values of the published implementation: features, targets, losses, every prompt."
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from golden import GOLDEN, formula, unpack
from pointwssis.config import SOLOv2Config
from pointwssis.data.points import Prompts
from pointwssis.data.transforms import Truth
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.detector.losses import losses
from pointwssis.detector.packed import mass_centres
from pointwssis.detector.targets import assign
from pointwssis.quirks import PUBLISHED
from pointwssis.training.checkpoints import load_official

CFG = SOLOv2Config("msra_resnet50", num_classes=3, fpn_channels=64, instance_channels=64, mask_channels=32, num_kernels=32,
                   scale_ranges=((1, 18), (18, 36), (36, 72), (72, 146), (146, 2048)), num_grids=(40, 32, 16, 12, 8))
MODES = {"none_matrix": ("none", "matrix"), "none_mask": ("none", "mask"), "cls_mask": ("category", "mask"),
         "point_mask": ("point", "mask"), "point_with_size_mask": ("point_with_size", "mask")}


def backbone_formula():
    "The ResNet-50 part of the published weights, from the shapes that the key list gives for the R-101."
    keys = json.loads((GOLDEN / "official_solov2_r101_keys.json").read_text())
    resnet = {k: s for k, s in keys.items() if k.startswith("backbone.bottom_up")}
    return {k: formula(k, tuple(s)) for k, s in resnet.items() if not (k.split(".")[2] == "res4" and int(k.split(".")[3]) > 5)}


@pytest.fixture(scope="module")
def recorded(): return np.load(GOLDEN / "solov2_tiny.npz")


@pytest.fixture(scope="module")
def model():
    net = SOLOv2(CFG)
    net.load_state_dict(load_official(backbone_formula() | load_file(GOLDEN / "solov2_tiny.safetensors")))
    return net.eval()


def bits(recorded, name, i):
    return torch.from_numpy(unpack(recorded[f"{name}{i}"], recorded[f"{name}{i}_shape"]))


def image(recorded, i):
    mean, std = (torch.tensor(v)[:, None, None] for v in ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)))
    return (torch.from_numpy(recorded[f"image{i}"]).float() - mean) / std


def padded(images):
    h, w = (-(-max(x.shape[d] for x in images) // 32) * 32 for d in (1, 2))
    return torch.stack([F.pad(x, (0, w - x.shape[2], 0, h - x.shape[1])) for x in images])


def truth(recorded, i):
    return Truth(bits(recorded, "gt_masks", i), torch.from_numpy(recorded[f"gt_boxes{i}"]), torch.from_numpy(recorded[f"gt_classes{i}"]))


@pytest.fixture(scope="module")
def outputs(model, recorded):
    with torch.no_grad(): return model.features(padded([image(recorded, i) for i in range(3)]))


@pytest.fixture(scope="module")
def targets(outputs, recorded): return assign(CFG, [truth(recorded, i) for i in range(3)], tuple(outputs.mask_features.shape[-2:]))


def close(ours, theirs, bound): assert np.abs(ours.numpy() - theirs).max() <= bound * np.abs(theirs).max()


def test_features(outputs, recorded):
    for i, p in enumerate(outputs.pyramid, start=2): close(p.mean((2, 3)), recorded[f"batch_p{i}_chmean"], 1e-4)
    for level in range(5):
        close(outputs.category_logits[level], recorded[f"batch_cate{level}"], 1e-4)
        close(outputs.kernels[level].mean((2, 3)), recorded[f"batch_kernel{level}_chmean"], 1e-4)


def test_features_recorded_in_half_precision(outputs, recorded):
    "These two were stored as float16, whose own rounding is 5e-4."
    close(outputs.pyramid[1], recorded["batch_p3"].astype("f4"), 5e-4)
    close(outputs.mask_features, recorded["batch_mask_features"].astype("f4"), 5e-4)


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("level", range(5))
def test_targets(targets, recorded, i, level):
    start, s = sum(g * g for g in CFG.num_grids[:level]), CFG.num_grids[level]
    assert (targets.classes[i, start:start + s * s].view(s, s).numpy() == recorded[f"target_cate_{i}_{level}"]).all()
    here = (targets.image == i) & (targets.level == level)
    assert (targets.cell[here] - start).tolist() == recorded[f"target_cells_{i}_{level}"].tolist()
    assert targets.masks[targets.object[here]].sum((1, 2)).tolist() == recorded[f"target_mask_area_{i}_{level}"].tolist()


def test_losses(outputs, targets, recorded):
    ours = losses(outputs, targets)
    for name in ("loss_ins", "loss_cate"): assert ours[name].item() == pytest.approx(float(recorded[name]), rel=1e-4)


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("mode", MODES)
def test_prompts(model, recorded, mode, i):
    prompt, nms = MODES[mode]
    x, known = image(recorded, i), truth(recorded, i)
    size, out_size = tuple(x.shape[1:]), tuple(map(int, recorded[f"out_size{i}"]))
    scale = torch.tensor((out_size[1] / size[1], out_size[0] / size[0]), dtype=torch.float64)
    centres = mass_centres(known.masks)[0]
    clicks = Prompts((centres + .5) * scale, known.classes, known.boxes * scale.repeat(2))
    found = model.predict(padded([x]), [size], [out_size], [clicks], prompt, nms, PUBLISHED)[0]
    np.testing.assert_allclose(found.scores, recorded[f"{mode}_scores{i}"], rtol=1e-4)
    assert found.classes.tolist() == recorded[f"{mode}_classes{i}"].tolist()
    theirs = bits(recorded, f"{mode}_masks", i)
    ours = found.masks[:len(theirs)]
    assert ((ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2))).min() >= .999
    np.testing.assert_allclose(found.masks.sum((1, 2)), recorded[f"{mode}_mask_areas{i}"], rtol=1e-3)
    if prompt == "none": return
    answered = centres[found.points].flip(1) / torch.tensor(size)            # the published code cuts a point to 1/10000 of the side
    assert 0 <= (answered.numpy() - recorded[f"{mode}_points_yx{i}"]).min() and (answered.numpy() - recorded[f"{mode}_points_yx{i}"]).max() < 1.01e-4
