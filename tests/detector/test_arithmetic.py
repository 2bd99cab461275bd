"""Counts are counts: what is decided about masks is computed in fp32, also where a caller has switched autocast on. On a GPU that is how the
network runs; here the same is done on the CPU."""
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from pointwssis.config import RefinerConfig
from pointwssis.core import rng
from pointwssis.data.points import Point, Prompts
from pointwssis.detector.backbone import FPNBackbone, OnePassNorm
from pointwssis.detector import inference
from pointwssis.detector.cells import Outputs
from pointwssis.detector.inference import areas_and_maskness, candidates, soft_masks
from pointwssis.detector.nms import mask_nms, matrix_nms, pairwise_iou, shared_pixels
from pointwssis.detector.inference import to_instances, to_original
from pointwssis.detector.losses import losses, mask_dice_loss
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.detector.targets import assign
from pointwssis.quirks import FIXED, PUBLISHED
from pointwssis.refiner.refinement import MaskRefineNet, refine_many
from pointwssis.refiner.training import crop_dice_loss
from pointwssis.registry import PROMPTS
from pointwssis.training.device import set_grad_checkpointing
from tiny import CFG, squares, tiny_model

SIZE = (64, 96)


def bf16() -> torch.autocast: return torch.autocast("cpu", torch.bfloat16)


def rectangles(count: int) -> torch.Tensor:   # (N, 160, 200) bool, some of many thousand pixels
    "Masks whose overlaps are no powers of two, so that bf16 rounds most of them."
    random, masks = rng(0, "rectangles"), torch.zeros(count, 160, 200, dtype=torch.bool)
    for mask in masks:
        y, x = random.integers(0, 80), random.integers(0, 100)
        mask[y:y + random.integers(30, 80), x:x + random.integers(30, 100)] = True
    return masks


@pytest.mark.parametrize("capability", ["AVX2", "NEON"])
def test_pixels_are_counted_exactly_within_autocast(capability):
    masks, scores, classes = rectangles(20), torch.linspace(1, .5, 20), torch.zeros(20, dtype=torch.long)
    counted = (masks[:, None] & masks[None]).sum((2, 3)).float()
    assert (counted.bfloat16() != counted).float().mean() > .3           # what would go wrong
    with patch("torch.backends.cpu.get_cpu_capability", return_value=capability):
        exact = pairwise_iou(masks), matrix_nms(masks, scores, classes), mask_nms(masks, classes)
        with bf16():
            assert torch.equal(shared_pixels(masks), counted)
            rough = pairwise_iou(masks), matrix_nms(masks, scores, classes), mask_nms(masks, classes)
    assert all(torch.equal(a, b) for a, b in zip(exact, rough))


def test_areas_and_masks_are_the_same_within_autocast():
    g = torch.Generator().manual_seed(0)
    kernels, features = torch.randn(30, 16, generator=g), torch.randn(16, 40, 50, generator=g)
    soft = soft_masks(kernels, features)
    exact = soft, *areas_and_maskness(kernels, features), to_original(soft, (150, 200), (97, 131))
    with bf16(): again = soft_masks(kernels, features), *areas_and_maskness(kernels, features), to_original(soft, (150, 200), (97, 131))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(exact, again))
    assert exact[1].tolist() == (soft > .5).sum((1, 2)).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_16_bits_are_decoded_in_fp32(dtype):
    g = torch.Generator().manual_seed(0)
    kernels, features = (torch.randn(*shape, generator=g).to(dtype) for shape in ((30, 16), (16, 40, 50)))
    assert torch.equal(soft_masks(kernels, features), soft_masks(kernels.float(), features.float()))
    areas, sure = areas_and_maskness(kernels, features)
    assert areas.dtype == sure.dtype == torch.float32
    assert torch.equal(areas, (soft_masks(kernels, features) > .5).sum((1, 2)))


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    torch.manual_seed(0)
    with torch.no_grad(), bf16(): return tiny_model().features(torch.randn(1, 3, *SIZE))


def known() -> Prompts:
    xy = torch.tensor([[20., 30.], [70., 40.], [50., 12.]], dtype=torch.float64)
    return Prompts(xy, torch.tensor([0, 1, 2]), torch.cat([xy - 9, xy + 9], 1))


@pytest.mark.parametrize("nms", ["matrix", "mask"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt_is_decoded_alike_within_autocast(outputs, prompt, nms):
    cfg = replace(CFG, score_threshold=.001, update_threshold=0.)
    def found() -> tuple:
        seen = candidates(outputs, 0, prompt, known().to_input(SIZE, SIZE, torch.device("cpu")), SIZE, cfg)
        areas = seen.areas
        made = to_instances(seen, outputs.mask_features[0].float(), SIZE, SIZE, cfg, nms)
        return areas, seen.scores, made.masks, made.scores, made.classes, made.points
    exact = found()
    with bf16(): assert all(torch.equal(a, b) for a, b in zip(exact, found(), strict=True))
    assert len(exact[0])


@pytest.mark.parametrize("nms", ["matrix", "mask", "none"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_masks_are_multiplied_once_and_equal_those_multiplied_again(outputs, prompt, nms):
    cfg = replace(CFG, score_threshold=.001, update_threshold=0.)
    def found(at_most: int) -> tuple:
        limits = replace(cfg, max_before_nms=at_most)
        seen = candidates(outputs, 0, prompt, known().to_input(SIZE, SIZE, torch.device("cpu")), SIZE, limits)
        with patch.object(inference, "soft_masks", wraps=soft_masks) as again:
            made = to_instances(seen, outputs.mask_features[0].float(), SIZE, SIZE, cfg, nms)
        return again.call_count, seen.areas, seen.scores, made.masks, made.scores, made.classes, made.points
    (first, *once), (second, *twice) = found(10**6), found(0)
    assert (first, second) == (0, 1) and len(once[0]) and all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_prediction_within_autocast_decodes_what_the_network_gave():
    model, images = tiny_model(), torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    points = [[Point(20., 30., 0, 1), Point(70., 40., 1, 2)]]
    with bf16():
        whole = model.predict(images, [SIZE], [SIZE], points, "point", "mask")[0]
        with torch.inference_mode(): out = model.features(images)
    with patch.object(model, "forward", lambda _: out): parts = model.predict(images, [SIZE], [SIZE], points, "point", "mask")[0]
    assert torch.equal(whole.masks, parts.masks) and torch.equal(whole.scores, parts.scores) and len(whole)


def test_refined_masks_are_cut_and_pasted_alike_within_autocast():
    torch.manual_seed(0)
    net = MaskRefineNet(3, RefinerConfig("torchvision:resnet18", "", crop_size=32, aspp_channels=16, decoder_channels=(16, 16, 16))).eval()
    masks = rectangles(3)
    item = torch.randint(256, (3, *masks.shape[1:]), dtype=torch.uint8), masks, torch.rand(3, 2) * 100, torch.tensor([0, 1, 2])
    for quirks in (FIXED, PUBLISHED):
        exact = refine_many(net, [item], quirks)[0]
        with bf16(): assert torch.equal(refine_many(net, [item], quirks)[0], exact)


def test_targets_and_losses_are_summed_in_fp32_within_autocast(outputs):
    "Of the losses only SOLOv2's dynamic convolution, a part of the network, follows autocast."
    truth, g = squares([(5, 8, 40, 50), (50, 10, 90, 60)], [0, 2], SIZE), torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 2, 40, 40, generator=g), torch.ones(2, 40, 40)
    logits_of, kernels = ([x.float() for x in x] for x in (outputs.category_logits, outputs.kernels))
    given = Outputs(logits_of, kernels, outputs.mask_features.float(), [])
    def computed() -> tuple:
        targets = assign(CFG, [truth], (16, 24))
        found = losses(given, targets)
        return found["loss_ins"], found["loss_cate"], targets.classes, targets.masks, crop_dice_loss(logits, target)
    dice, *exact = computed()
    with bf16(): rough, *again = computed()
    assert all(torch.equal(a, b) for a, b in zip(exact, again, strict=True))
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(dice.item(), rel=1e-3)


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("learns", [True, False])
def test_frozen_norm_equals_torchvision_s_in_the_type_of_its_input(dtype, atol, learns):
    ours, theirs = OnePassNorm(8), FrozenBatchNorm2d(8)
    for name, value in theirs.named_buffers(): value.copy_(torch.rand(8) + 0.5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 6, 10).to(dtype)
    mine, other = x.clone().requires_grad_(learns), x.clone().requires_grad_(learns)
    y, expected = ours(mine), theirs(other)
    assert y.dtype == dtype and torch.allclose(y.float(), expected.float(), atol=atol)
    if not learns: return
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    assert torch.allclose(mine.grad.float(), other.grad.float(), atol=20 * atol, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_activations_behind_frozen_norms_stay_in_bf16():
    "A scale in fp32 would lift them, and double the memory of a training in bf16."
    seen, net = [], FPNBackbone("msra_resnet50", 16)
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d): module.register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    with bf16(): net(torch.randn(1, 3, 64, 64))
    assert len(seen) == 53 and set(seen) == {torch.bfloat16}


def test_no_gradient_of_a_mask_is_lost_in_fp16(outputs):
    "A pixel of an object has a share of its Dice loss that fp16 cannot hold: the loss is computed in fp32, and a scale acts behind it."
    truth, scale = squares([(5, 8, 40, 50), (50, 10, 90, 60)], [0, 2], SIZE), 2.**16
    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        logits = [x.float() for x in outputs.category_logits]
        *kernels, features = (x.detach().half().to(dtype).requires_grad_() for x in (*outputs.kernels, outputs.mask_features))
        losses(Outputs(logits, kernels, features, []), assign(CFG, [truth], (16, 24)))["loss_ins"].mul(scale).backward()
        return [x.grad.float() for x in (*kernels, features)]
    for found, wanted in zip(gradients(torch.half), gradients(torch.float), strict=True):
        assert found.isfinite().all() and torch.allclose(found, wanted, rtol=2e-3, atol=.01) and (found != 0).sum() == (wanted != 0).sum()


@pytest.mark.parametrize("body, share", [("torchvision:resnet18", .09), ("timm:test_resnet", .77)])
def test_gradients_are_equal_when_activations_are_computed_again(body, share):
    torch.manual_seed(0)
    model, images = SOLOv2(replace(CFG, backbone=body, frozen_norm=True)).train(), torch.randn(2, 3, *SIZE)
    def learned() -> tuple[int, float, list[torch.Tensor]]:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            out = model(images)
        total = sum(x.square().mean() for x in (*out.category_logits, *out.kernels, out.mask_features))
        model.zero_grad()
        total.backward()
        return sum(kept), total.item(), [p.grad.clone() for p in model.parameters()]
    plain, loss, gradients = learned()
    set_grad_checkpointing(model, True)
    less, again, others = learned()
    assert less < share * plain and loss == again and all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_parts_whose_norms_train_are_not_computed_again():
    model = tiny_model()
    set_grad_checkpointing(model, True)
    assert model.mask_head.grad_checkpointing and model.instance_head.grad_checkpointing and not model.backbone.trunk.grad_checkpointing
    set_grad_checkpointing(model, False)
    assert not (model.mask_head.grad_checkpointing or model.instance_head.grad_checkpointing)


def test_gradients_as_large_as_the_batch_do_not_grow_in_number_with_it():
    "The gradient of an indexed image is a batch of zeros around it, once for each image."
    def batches_made(images: int) -> int:
        made = []
        class Watching(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor) and out.dim() and len(out) == images and out.numel() >= images * 100: made.append(func)
                return out
        kernels = [torch.randn(images, 16, s, s, requires_grad=True) for s in CFG.num_grids]
        features = torch.randn(images, 16, 16, 24, requires_grad=True)
        total = mask_dice_loss(Outputs([], kernels, features, []), assign(CFG, [squares([(5, 8, 40, 50)], [0], SIZE)] * images, (16, 24)))
        with Watching(): total.backward()
        assert features.grad.abs().sum() > 0
        return len(made)
    assert batches_made(11) == batches_made(23)
