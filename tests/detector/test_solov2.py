"The network, its decoding and its prompts: invariants."
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pointwssis.config import SOLOv2Config
from pointwssis.core import CheckpointError, ConfigError
from pointwssis.data.points import Point, Prompts
from pointwssis.data.transforms import inference_batch, normalise
from pointwssis.detector.backbone import FPNBackbone, build_body, load_body
from pointwssis.detector.cells import cell_strides, level_starts, Outputs
from pointwssis.detector.inference import areas_and_maskness, Candidates, candidates
from pointwssis.detector.nms import mask_nms, matrix_nms
from pointwssis.detector.inference import rank, to_original
from pointwssis.detector.nms import pairwise_iou, point_nms
from pointwssis.detector.solov2 import MaskHead, SOLOv2, conv_gn, to_levels, with_coordinates
from pointwssis.training.device import computes_in_bf16
from tiny import CFG, tiny_model

MODEL = tiny_model()
torch.manual_seed(1)
IMAGES, SIZES, OUT = torch.randn(2, 3, 64, 96), [(64, 96), (60, 90)], [(64, 96), (120, 180)]


def clicks(n, seed=0, size=(64, 96)):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=g) * torch.tensor((size[1], size[0]))
    return [Point(float(x), float(y), int(c), i) for i, ((x, y), c) in enumerate(zip(xy, torch.randint(3, (n,), generator=g)))]


def same(a, b):
    assert torch.equal(a.masks, b.masks) and torch.equal(a.classes, b.classes) and torch.allclose(a.scores, b.scores, atol=1e-5)


@pytest.mark.parametrize("prompt", ["none", "point"])
def test_batch_equals_single(prompt):
    points = [clicks(4), clicks(3, 1, (120, 180))]
    both = MODEL.predict(IMAGES, SIZES, OUT, points, prompt, "mask")
    for b in range(2): same(both[b], MODEL.predict(IMAGES[b:b + 1], SIZES[b:b + 1], OUT[b:b + 1], points[b:b + 1], prompt, "mask")[0])


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 1000))
def test_order_of_points_does_not_matter(order, seed):
    "Two clicks on one cell draw one mask; which of them it answers is a tie, everything else is not."
    points = clicks(7, seed)
    a = MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [points], "point", "mask")[0]
    b = MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [[points[i] for i in order]], "point", "mask")[0]
    def drawn(found): return sorted((c, m.numpy().tobytes()) for c, m in zip(found.classes.tolist(), found.masks))
    assert drawn(a) == drawn(b) and torch.allclose(a.scores, b.scores)
    assert [points[order[i]].class_index for i in b.points.tolist()] == b.classes.tolist()


def test_no_points_no_masks():
    found = MODEL.predict(IMAGES, SIZES, OUT, [[], clicks(2, 0, (120, 180))], "point", "mask")
    assert len(found[0]) == 0 and found[0].masks.shape == (0, 64, 96) and len(found[1]) > 0


def test_points_on_the_border_and_two_in_one_cell():
    points = [Point(0., 0., 0, 0), Point(95.99, 63.99, 1, 1), Point(50., 30., 0, 2), Point(50.1, 30.1, 1, 3)]
    found = MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [points], "point", "mask")[0]
    assert set(found.points.tolist()) <= set(range(4)) and len(set(found.points.tolist())) == len(found)


def test_three_hundred_points():
    found = MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [clicks(300)], "point", "mask")[0]
    assert 0 < len(found) <= CFG.max_per_image


def test_mask_answers_with_the_class_of_its_point():
    points = clicks(8)
    found = MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [points], "point", "mask")[0]
    assert found.classes.tolist() == [points[i].class_index for i in found.points.tolist()]


def test_fixed_category_prompt_allows_only_present_classes_and_leaks_no_location():
    here, there = (Prompts(torch.tensor([xy]), torch.tensor([1]), torch.tensor([[0., 0., 30., 30.]])) for xy in ((5., 5.), (80., 50.)))
    a, b = (MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [p], "category", "mask")[0] for p in (here, there))
    same(a, b)
    assert set(a.classes.tolist()) <= {1}


def test_oracle_needs_boxes_and_prompts_need_points():
    with pytest.raises(ConfigError, match="box"): MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [clicks(1)], "point_with_size", "mask")
    with pytest.raises(ConfigError, match="needs points"): MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], prompt="point")
    with pytest.raises(ConfigError, match="Did you mean 'point'"): MODEL.predict(IMAGES[:1], SIZES[:1], OUT[:1], [clicks(1)], "points")


@pytest.mark.parametrize("height, width", [(1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("prompt", ["none", "point"])
def test_images_of_one_pixel_width_go_through(height, width, prompt):
    x, sizes, outs = inference_batch([np.full((height, width, 3), 90, np.uint8)], 64, 96)
    clicked = [[Point(width - .5, height - .5, 0, 0), Point(0., 0., 1, 1)]]
    found = MODEL.predict(normalise(x, sizes, CFG), sizes, outs, clicked, prompt, "mask")[0]
    assert found.masks.shape[1:] == (height, width) and sizes[0][0] >= 1 and sizes[0][1] >= 1


def test_unpadded_images_are_refused():
    with pytest.raises(ConfigError, match="multiples of 32"): MODEL.features(torch.zeros(1, 3, 1, 64))


def loop_nms(masks, classes, iou):
    keep = []
    for i in range(len(masks)):
        if all(classes[i] != classes[j] or (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum().clamp(min=1) <= iou for j in keep): keep.append(i)
    return keep


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 25))
def test_mask_nms_equals_the_greedy_loop(seed, n):
    g = torch.Generator().manual_seed(seed)
    masks, classes = torch.rand(n, 3, 5, generator=g) > .35, torch.randint(2, (n,), generator=g)
    assert mask_nms(masks, classes, .5).nonzero()[:, 0].tolist() == loop_nms(masks, classes, .5)


def test_matrix_nms_follows_its_formula():
    g = torch.Generator().manual_seed(0)
    masks, scores, classes = torch.rand(8, 4, 6, generator=g) > .4, torch.rand(8, generator=g).sort(descending=True)[0], torch.randint(2, (8,), generator=g)
    iou = pairwise_iou(masks)
    rival = lambda i, j: float(iou[i, j]) if classes[i] == classes[j] else 0.
    for j in range(8):
        decay = [torch.exp(torch.tensor(-2. * (rival(i, j) ** 2 - max([rival(k, i) for k in range(i)], default=0.) ** 2))) for i in range(j)]
        assert matrix_nms(masks, scores, classes)[j] == pytest.approx(float(scores[j] * min(decay + [torch.tensor(1.)])), rel=1e-4)


@pytest.mark.skipif(not computes_in_bf16(torch.device("cpu")), reason="this processor would emulate bf16")
def test_bfloat16_stays_near_float32():
    with torch.inference_mode():
        exact = MODEL.features(IMAGES)
        with torch.autocast("cpu", torch.bfloat16): rough = MODEL.features(IMAGES)
    for a, b in zip(exact.category_logits, rough.category_logits): assert (a - b.float()).abs().max() < .05 * a.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares an accelerator with the processor, and there is none")
def test_accelerator_agrees_with_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, points = deepcopy(MODEL).cuda(), [clicks(6), clicks(3, 1, (120, 180))]
    with torch.inference_mode(): here, there = MODEL.features(IMAGES), model.features(IMAGES.cuda())
    def maps(out): return *out.category_logits, *out.kernels, out.mask_features
    for a, b in zip(maps(here), maps(there)):
        assert (a - b.cpu()).abs().max() < 1e-3 * a.abs().max()
    asked = SIZES, OUT, points, "point", "mask"
    for a, b in zip(MODEL.predict(IMAGES, *asked), model.predict(IMAGES.cuda(), *asked)):
        assert a.points.tolist() == b.points.tolist() and torch.allclose(a.scores, b.scores.cpu(), rtol=1e-3)
        assert ((a.masks != b.masks.cpu()).float().mean((1, 2)) < 5e-3).all()


def test_published_size_is_the_default():
    cfg = SOLOv2Config()
    assert (cfg.backbone, cfg.fpn_channels, cfg.instance_channels, cfg.mask_channels, cfg.num_kernels) == ("msra_resnet101", 256, 512, 128, 256)


def test_backbones_by_name():
    for name, known in (("msra_resnet5", "msra_resnet50"), ("torchvision:resnet19", "resnet1"), ("timm:resnet1O", "resnet1"), ("keras:x", "Known")):
        with pytest.raises(ConfigError, match=known): FPNBackbone(name)


def test_backbone_weights_of_another_architecture_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="another architecture"):
        load_body(build_body("torchvision:resnet18"), build_body("torchvision:resnet50").state_dict())
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="bad.safetensors"): load_body(build_body("torchvision:resnet18"), tmp_path / "bad.safetensors")


def test_frozen_parts_do_not_train():
    net = SOLOv2(SOLOv2Config("torchvision:resnet18", num_classes=2, fpn_channels=16, instance_channels=16, mask_channels=16, num_kernels=16, frozen_stages=2))
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert any("layer1" in n for n in frozen) and not any("layer2" in n or "fpn" in n for n in frozen)
    assert not any("bn" in n for n, _ in net.named_parameters())


# --- parts of the network

def test_the_heads_start_small_and_the_classes_at_their_prior():
    net = SOLOv2(replace(CFG, instance_channels=64, mask_channels=64, num_kernels=48))
    heads = dict([*net.instance_head.named_modules(), *net.mask_head.named_modules()])
    convs = [m for m in heads.values() if isinstance(m, torch.nn.Conv2d)]
    assert torch.allclose(net.instance_head.category.bias.sigmoid(), torch.tensor(.01))
    assert not net.instance_head.kernel.bias.any()
    assert len(convs) > 8 and all(.008 < m.weight.std() < .012 and abs(m.weight.mean()) < .002 for m in convs)


def test_five_levels_come_from_the_five_maps():
    torch.manual_seed(0)
    pyramid = [torch.randn(1, 2, 64 // 2 ** i, 96 // 2 ** i) for i in range(5)]
    levels = to_levels(pyramid)
    assert [tuple(x.shape[2:]) for x in levels] == [(32, 48), (32, 48), (16, 24), (8, 12), (8, 12)]
    assert torch.allclose(levels[0], torch.nn.functional.avg_pool2d(pyramid[0], 2), atol=1e-6)     # bilinear halving
    assert all(torch.equal(a, b) for a, b in zip(levels[1:4], pyramid[1:4]))
    enlarged = torch.nn.functional.interpolate(pyramid[4], size=(8, 12), mode="bilinear", align_corners=False)
    assert torch.equal(levels[4], enlarged) and not torch.allclose(levels[4], pyramid[3])


def test_the_last_map_of_the_pyramid_is_every_second_pixel_of_the_one_before():
    with torch.no_grad(): pyramid = MODEL.backbone(IMAGES[:1])
    assert [x.shape[-1] for x in pyramid] == [24, 12, 6, 3, 2]
    assert torch.equal(pyramid[4], pyramid[3][..., ::2, ::2])


def test_coordinates_run_from_minus_one_to_one():
    x = with_coordinates(torch.zeros(2, 3, 5, 9))
    assert x.shape == (2, 5, 5, 9) and not x[:, :3].any()
    assert torch.allclose(x[0, 3, 4], torch.arange(9) / 4. - 1) and torch.allclose(x[1, 4, :, 8], torch.arange(5) / 2. - 1)


def test_the_mask_head_has_a_branch_of_each_depth():
    cfg = replace(CFG, fpn_channels=12, mask_channels=20, num_kernels=24)
    head = MaskHead(cfg)
    widths = [[(m.in_channels, m.out_channels) for m in b.modules() if isinstance(m, torch.nn.Conv2d)] for b in head.branches]
    assert widths == [[(12, 20)], [(12, 20)], [(12, 20), (20, 20)], [(14, 20), (20, 20), (20, 20)]]
    assert (head.merge[0].in_channels, head.merge[0].out_channels, head.merge[0].kernel_size) == (20, 24, (1, 1))
    assert head([torch.randn(1, 12, 32 // 2 ** i, 48 // 2 ** i) for i in range(5)]).shape == (1, 24, 32, 48)


@pytest.mark.parametrize("outputs, groups, wanted", [(64, 32, 32), (48, 32, 16), (20, 32, 4), (64, 8, 8)])
def test_norms_have_as_many_groups_as_divide_the_channels(outputs, groups, wanted):
    conv, norm, last = conv_gn(3, outputs, groups)
    assert norm.num_groups == wanted and conv.bias is None and isinstance(last, torch.nn.ReLU)


# --- decoding

def test_areas_and_maskness_follow_their_definition():
    g = torch.Generator().manual_seed(0)
    kernels, features = torch.randn(5, 4, generator=g), torch.randn(4, 6, 7, generator=g)
    soft = (kernels @ features.flatten(1)).sigmoid()
    for threshold in (.5, .7):
        inside = soft > threshold
        found = areas_and_maskness(kernels, features) if threshold == .5 else areas_and_maskness(kernels, features, threshold)
        assert torch.equal(found[0], inside.sum(1).float())
        assert torch.allclose(found[1], (soft * inside).sum(1) / inside.sum(1).clamp(min=1))
        assert all(torch.allclose(a, b) for a, b in zip(areas_and_maskness(kernels, features, threshold, chunk_size=11), found))
    assert [x.tolist() for x in areas_and_maskness(-100 * torch.ones(1, 1), torch.ones(1, 2, 2))] == [[0], [0]]


def test_masks_are_enlarged_cropped_and_resized():
    soft = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(0))
    resize = partial(torch.nn.functional.interpolate, mode="bilinear", align_corners=False)
    for size, out_size in (((30, 37), (61, 75)), ((32, 40), (16, 20))):
        wanted = resize(resize(soft[None], scale_factor=4)[..., :size[0], :size[1]], size=out_size)[0]
        sure = (wanted - .5).abs() > 1e-4
        assert torch.equal(to_original(soft, size, out_size)[sure], (wanted > .5)[sure])
        assert torch.equal(to_original(soft, size, out_size, .5, chunk_size=2), to_original(soft, size, out_size))


def candidates_of(scores, areas, strides):
    n = len(scores)
    return Candidates(torch.arange(n)[:, None].float(), torch.tensor(scores), torch.arange(n), torch.tensor(areas), torch.tensor(strides), torch.arange(n))


def test_rank_drops_small_masks_and_keeps_the_best():
    found = rank(candidates_of([.2, .9, .5, .9], [9., 8., 30., 17.], [8, 8, 16, 16]), 10)
    assert found.classes.tolist() == [3, 2, 0]                           # 8 pixels are not more than stride 8
    assert rank(candidates_of([.2, .9, .5, .9], [9., 9., 30., 17.], [8, 8, 16, 16]), 3).classes.tolist() == [1, 3, 2]


def test_the_defaults_of_decoding():
    masks = torch.zeros(2, 1, 12, dtype=torch.bool)
    masks[0, 0, :9], masks[1, 0, 3:] = True, True                        # IoU 6 / 12
    assert mask_nms(masks, torch.zeros(2)).tolist() == [True, True] and mask_nms(masks, torch.zeros(2), .49).tolist() == [True, False]
    masks[1, 0, 2] = True                                                # 7 / 12
    assert mask_nms(masks, torch.zeros(2)).tolist() == [True, False]


def test_the_strides_of_the_cells_are_those_of_the_levels():
    assert cell_strides((3, 2, 2, 1, 1)).tolist() == [8] * 9 + [8] * 4 + [16] * 4 + [32, 32]
    assert level_starts((3, 2, 2, 1, 1)).tolist() == [0, 9, 13, 17, 18]


def test_a_peak_is_the_maximum_of_the_window_that_ends_at_it():
    scores = torch.tensor([[1., 2, 3], [4., 4, 1], [0., 5, 2]])[None, None]
    assert point_nms(scores)[0, 0].tolist() == [[1, 2, 3], [4, 4, 0], [0, 5, 0]]


def test_candidates_are_above_the_threshold_and_linked():
    cfg = replace(CFG, num_classes=2, num_grids=(2, 1, 1, 1, 1), score_threshold=.25)
    logits = [torch.full((1, 2, s, s), -9.) for s in cfg.num_grids]
    logits[0][0, 1, 1, 0], logits[3][0, 0] = torch.tensor(.25).logit(), 2.
    kernels = [torch.full((1, 1, s, s), 1. + i) for i, s in enumerate(cfg.num_grids)]
    out = Outputs(logits, kernels, torch.ones(1, 1, 4, 4), [])
    found = candidates(out, 0, "none", None, (16, 16), cfg)
    assert found.classes.tolist() == [0] and found.points.tolist() == [-1] and found.strides.tolist() == [32]
    assert found.areas.tolist() == [16] and found.kernels.tolist() == [[4]]
    assert found.scores.item() == pytest.approx(torch.tensor(2.).sigmoid().item() * torch.tensor(4.).sigmoid().item())
