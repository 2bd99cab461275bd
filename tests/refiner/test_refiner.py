"Crops, network, refinement and training pairs: what must hold on any data."
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pointwssis.config import RefinerConfig, override
from pointwssis.core import ConfigError, DataError, rng
from pointwssis.data import coco, shapes
from pointwssis.data.points import Point
from pointwssis.quirks import FIXED, PUBLISHED
from pointwssis.refiner.crops import crop_inputs, normalise_crops, paste, perturb, sample_frames
from pointwssis.refiner.refinement import class_channel, other_points, point_maps, refine, refine_many, windows
from pointwssis.refiner.network import Encoder, MaskRefineNet, PromptStem
from pointwssis.runs.presets import preset
from pointwssis.training.weights import save_weights
from pointwssis.refiner.training import MaskRefiner, PairDataset, crop_dice_loss, pairs_of, refiner_loss, training_frame

SMALL = RefinerConfig(backbone="torchvision:resnet18", weights="", aspp_channels=16, decoder_channels=(16, 8), crop_size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, train=4, val=1, size=72)
    return coco.load(root / "annotations/instances_train.json", need="masks")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MaskRefineNet(4, SMALL).eval()


def training_pairs(data, masks=lambda m: m):
    pairs = []
    for i in data.ids:
        truth = [data.mask(a) for a in data.annotations[i]]
        points = [Point(*coco.centroid(m), data.categories.index(a["category_id"]), a["id"]) for a, m in zip(data.annotations[i], truth)]
        stack = torch.from_numpy(np.stack([masks(m) for m in truth]))
        pairs += pairs_of(data, i, stack, torch.tensor([p.class_index for p in points]), points, torch.arange(len(points)))
    return pairs


def item(data, pair):
    image = torch.tensor(data.read_image(pair.image_id)).permute(2, 0, 1)
    rough = torch.from_numpy(coco.decode(pair.rough, *image.shape[1:]))[None]
    return image, rough, torch.tensor([[pair.point.x, pair.point.y]]), torch.tensor([pair.point.class_index])


# --- crops

@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(8, 40), st.integers(8, 40), st.booleans())
def test_what_is_cut_comes_back(x, y, w, h, mirrored):
    mask = torch.zeros(1, 1, 80, 80, dtype=torch.bool)
    mask[..., y:y + h, x:x + w] = True
    frame = torch.tensor([[x - 8., y - 8, x + w + 8, y + h + 8]])
    if mirrored: frame = frame[:, [2, 1, 0, 3]]
    click = torch.tensor([[x + 1.5, y + .5]])
    _, inside, at = crop_inputs(torch.zeros(3, 80, 80, dtype=torch.uint8), mask, click, frame, 128)
    certain = (inside[:, :1] * 2. - 1) * 9
    back = paste(torch.cat([-certain, certain], 1), frame, 80, 80)
    assert (back ^ mask[0]).sum() <= (w + h)                        # at most the outline's rounding
    place = frame[0, :2] + at[0] / 128 * (frame[0, 2:] - frame[0, :2])
    assert torch.allclose(place, click[0], atol=1e-3)


def test_one_image_serves_all_frames():
    image, frames = torch.rand(1, 3, 20, 30), torch.tensor([[0., 0, 10, 20], [25, 3, -4, 12]])
    assert torch.allclose(sample_frames(image, frames, 16), sample_frames(image.expand(2, -1, -1, -1), frames, 16))


def test_nothing_is_pasted_outside_the_frame():
    logits = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)], 1)
    back = paste(logits, torch.tensor([[2., 3, 7, 9]]), 12, 12)[0]
    assert back.nonzero().min(0).values.tolist() == [3, 2] and back.nonzero().max(0).values.tolist() == [8, 6] and back.sum() == 30


def test_damage_depends_on_the_draw_alone():
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:24, 10:22] = 1
    worse = [perturb(mask, rng(0, i)) for i in range(20)]
    assert torch.equal(worse[0], perturb(mask, rng(0, 0)))
    assert all(m.any() and m.shape == mask.shape and m.dtype == mask.dtype and m.max() == 1 for m in worse)
    iou = [float((m & mask).sum() / (m | mask).sum()) for m in worse]
    assert .4 < np.mean(iou) < .95 and len(set(iou)) > 10


def test_damage_is_pinned():
    "Areas and centres of twelve damaged masks; a processor may round a pixel of the border otherwise."
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:24, 10:22] = 1
    worse = [perturb(mask, rng(0, i))[0].float() for i in range(12)]
    areas = torch.stack([m.sum() for m in worse])
    columns = torch.stack([(torch.arange(32) * m.sum(0)).sum() for m in worse]) / areas
    assert (areas - torch.tensor([165, 130, 209, 158, 247, 229, 157, 229, 277, 210, 326, 174])).abs().max() <= 3
    wanted = torch.tensor([17.6, 19.8, 17.53, 14.62, 14.38, 14.35, 15.77, 13.25, 14.16, 16.51, 16.89, 18.16])
    assert (columns - wanted).abs().max() < .15


def test_nothing_left_of_a_mask_leaves_the_mask():
    speck = torch.zeros(1, 64, 64, dtype=torch.uint8)
    speck[0, 5, 60] = 1
    assert all(perturb(speck, rng(1, i)).any() for i in range(20))


def test_crops_are_bytes_at_half_and_clicks_in_crop_pixels():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :, 4:] = True
    frame = torch.tensor([[2., 0, 6, 8]])                                # 4 x 8 pixels into 4 x 4: two rows are one
    pixels, inside, at = crop_inputs(image, masks, torch.tensor([[3., 6.]]), frame, 4)
    rows = image[:, :, 2:6].float().view(3, 4, 2, 4).mean(2)
    assert torch.equal(pixels[0], rows.round().to(torch.uint8)) and at.tolist() == [[1, 3]]
    assert inside[0, 0].tolist() == [[0, 0, 1, 1]] * 4 and not inside[0, 1].any()
    half = masks[:, :1].clone()
    half[..., 1::2, :] = False                                           # every second row: exactly one half
    assert crop_inputs(image, half, torch.zeros(1, 2), frame, 4)[1][0, 0].tolist() == [[0, 0, 1, 1]] * 4


def test_pixels_are_normalised_by_the_statistics_of_imagenet():
    pixels = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1) + torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1) * 2
    assert torch.allclose(normalise_crops(pixels), torch.tensor(2.), atol=1e-5)


# --- the network

@pytest.mark.parametrize("kernel, stride", [(7, 2), (3, 2), (4, 4)])
def test_sparse_stem_is_the_dense_convolution(kernel, stride):
    torch.manual_seed(0)
    stem = PromptStem(torch.nn.Conv2d(3, 8, kernel, stride), num_classes=5, copy_rgb=False)
    image, point, rough, channel = torch.rand(4, 3, 24, 32), torch.rand(4, 1, 24, 32), torch.rand(4, 1, 24, 32), torch.tensor([5, 0, 3, 3])
    dense = torch.zeros(4, 6, 24, 32)
    dense[range(4), channel] = point[:, 0]
    expected = torch.nn.functional.conv2d(torch.cat([image, dense, rough], 1), stem.weight, stride=stride, padding=kernel // 2)
    found = stem(image, point, channel, rough)
    assert torch.allclose(found, expected, atol=1e-5)
    grads = [torch.autograd.grad(y.square().sum(), stem.weight)[0] for y in (found, expected)]
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:resnet10t", "timm:mobilenetv3_small_050"])
def test_any_backbone_gives_logits_at_input_size(name):
    net = MaskRefineNet(3, replace(SMALL, backbone=name, decoder_channels=(16, 8, 8, 8))).eval()
    with torch.no_grad(): y = net(torch.rand(2, 3, 48, 40), torch.rand(2, 1, 48, 40), torch.tensor([0, 2]), torch.rand(2, 1, 48, 40))
    assert y.shape == (2, 2, 48, 40)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:resnet10t", "timm:mobilenetv3_small_050"])
def test_folded_norms_change_nothing(name):
    "Whatever the backbone: timm's norms hold an activation too, and stay."
    torch.manual_seed(0)
    net = MaskRefineNet(3, RefinerConfig(name, "", aspp_channels=8, decoder_channels=(8, 8), crop_size=32))
    inputs = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32), torch.tensor([0, 2]), torch.ones(2, 1, 32, 32)
    for _ in range(3): net(*inputs)                                                 # the norms have seen something
    light = net.for_inference()
    assert net.training and not light.training
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in n.modules()) for n in (light, net)]
    assert norms[0] < norms[1] / 2 if name.startswith("torchvision") else norms[0] < norms[1]
    with torch.no_grad(): assert torch.allclose(light(*inputs), net.eval()(*inputs), rtol=1e-4, atol=1e-4)


def test_unused_stages_are_cut_off():
    assert not list(Encoder("torchvision:resnet18", levels=3).body.layer3.parameters())


def test_stem_keeps_pretrained_filters_only_when_fixed(tmp_path):
    from torchvision.models import resnet18
    body = resnet18()
    torch.save(body.state_dict(), tmp_path / "w.pth")
    cfg = replace(SMALL, weights=str(tmp_path / "w.pth"))
    fixed, published = (MaskRefineNet(4, cfg, quirks) for quirks in (FIXED, PUBLISHED))
    assert torch.equal(fixed.stem.weight[:, :3], body.conv1.weight) and not torch.equal(published.stem.weight[:, :3], body.conv1.weight)
    assert torch.equal(published.encoder.body.layer1[0].conv1.weight, body.layer1[0].conv1.weight)


def test_each_switch_blanks_its_input(net):
    inputs = [torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32), torch.tensor([1]), torch.rand(1, 1, 32, 32)]
    for place, switch in ((0, "use_image"), (1, "use_point"), (3, "use_mask")):
        blind = MaskRefineNet(4, replace(SMALL, **{switch: False})).eval()
        changed = [t * 0 if i == place else t for i, t in enumerate(inputs)]
        with torch.no_grad():
            assert torch.equal(blind(*inputs), blind(*changed)) and not torch.equal(net(*inputs), net(*changed))


# --- refinement

def test_batches_and_order_do_not_matter(data, net):
    items = [item(data, p) for p in training_pairs(data)]
    together = refine_many(net, items, batch=64)
    assert all(torch.equal(a, refine(net, *i)) for a, i in zip(together, items))
    assert all(torch.equal(a, b) for a, b in zip(together, refine_many(net, items, batch=1)))
    assert all(torch.equal(a, b) for a, b in zip(together, refine_many(net, items[::-1])[::-1]))


def test_empty_masks_stay(data, net):
    image, rough, xy, classes = item(data, training_pairs(data)[0])
    both = torch.cat([torch.zeros_like(rough), rough])
    found = refine(net, image, both, xy.expand(2, 2), classes.expand(2))
    assert not found[0].any() and torch.equal(found[1:], refine(net, image, rough, xy, classes))
    assert refine(net, image, rough[:0], xy[:0], classes[:0]).shape == (0, 72, 72)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_network_that_erases_keeps_the_rough_mask(data, net, sign):
    image, rough, xy, classes = item(data, training_pairs(data)[0])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([9., -9]) * sign)
    found = refine(net, image, rough, xy, classes)[0]
    net.load_state_dict(before)
    x0, y0, x1, y1 = windows(rough, xy, 2.)[0].int().tolist()
    window = torch.zeros(72, 72, dtype=torch.bool)
    window[y0:y1, x0:x1] = True
    assert torch.equal(found, rough[0] if sign == 1 else window)


def test_published_inference_reads_the_neighbouring_channel_and_an_inclusive_window(data, net, monkeypatch):
    seen = []
    def forward(pixels, maps, channel, rough): return seen.append((pixels, channel)) or torch.zeros(len(maps), 2, 32, 32)
    monkeypatch.setattr(net, "forward", forward)
    for quirks in (FIXED, PUBLISHED): refine(net, *item(data, training_pairs(data)[0]), quirks)
    (fixed, a), (published, b) = seen
    assert b.tolist() == (a + 1).tolist() and not torch.equal(fixed, published)
    assert class_channel(a, PUBLISHED, training=True).tolist() == a.tolist()


# --- training

def test_links_beat_nearness(data):
    i = next(i for i in data.ids if len(data.annotations[i]) > 1)
    masks = torch.from_numpy(np.stack([data.mask(a) for a in data.annotations[i]]))
    points = [Point(*coco.centroid(m.numpy()), 0, a["id"]) for a, m in zip(data.annotations[i], masks)]
    classes, crossed = torch.zeros(len(points), dtype=torch.long), torch.arange(len(points)).flip(0)
    assert [p.point for p in pairs_of(data, i, masks, classes, points)] == points
    assert [p.point for p in pairs_of(data, i, masks, classes, points, crossed)] == points[::-1]
    assert pairs_of(data, i, masks, classes + 1, points) == []
    assert pairs_of(data, i, masks * False, classes, points, crossed) == []


def test_click_gain_scales_the_point_filters_at_initialisation():
    weights, conv, stems = [], torch.nn.Conv2d(3, 8, 3), []
    for gain in (1., 3.):
        torch.manual_seed(0)
        weights.append(MaskRefineNet(4, replace(SMALL, click_gain=gain)).state_dict())
    for how in ({}, {"click_gain": 1.}):
        torch.manual_seed(0)
        stems.append(PromptStem(conv, num_classes=5, copy_rgb=False, **how).weight)
    assert torch.equal(*stems)
    plain, scaled = weights
    assert torch.equal(scaled["stem.weight"][:, 3:-1], 3 * plain["stem.weight"][:, 3:-1])
    assert torch.equal(scaled["stem.weight"][:, [0, 1, 2, -1]], plain["stem.weight"][:, [0, 1, 2, -1]])
    assert all(torch.equal(scaled[name], value) for name, value in plain.items() if name != "stem.weight")


def test_items_depend_on_the_key_alone(data):
    first, second = (PairDataset(data, training_pairs(data), SMALL, augment=.5, seed=3, cache=c) for c in (True, False))
    for key in ((0, 5, 1), (2, 5, 1), (0, 6, 1)):
        assert all(torch.equal(first[key][k], v) for k, v in second[key].items())
    assert not torch.equal(first[0, 5, 1]["image"], first[0, 6, 1]["image"])
    sizes = {k: tuple(v.shape) for k, v in first[0, 0, 0].items()}
    assert sizes == {"image": (3, 32, 32), "rough": (1, 32, 32), "target": (32, 32), "point": (2,), "class": ()}    # no C + 1 channels


def test_masks_and_click_stay_in_register(data):
    dataset = PairDataset(data, training_pairs(data), SMALL)
    for key in ((i, i, 0) for i in range(len(dataset))):
        got = dataset[key]
        assert torch.equal(got["rough"][0], got["target"])          # the rough mask is the true one here
        x, y = got["point"].tolist()
        if 0 <= x < 32 and 0 <= y < 32 and got["target"].any():
            rows, columns = got["target"].nonzero(as_tuple=True)
            assert columns.min() - 1 <= x <= columns.max() + 2 and rows.min() - 1 <= y <= rows.max() + 2


def test_fixed_training_shows_the_window_of_inference(data):
    window = [10., 20, 50, 30]
    frames = torch.cat([training_frame(window, FIXED, rng(0, i)) for i in range(200)])
    zoom = 10 / (frames[:, 3] - frames[:, 1])
    assert torch.allclose((frames[:, 2] - frames[:, 0]).abs() * zoom, torch.tensor(40.)) and zoom.min() < .6 and zoom.max() > 1.4
    assert torch.allclose(frames[:, 0] + frames[:, 2], torch.tensor(60.))
    assert (frames[:, 0] > frames[:, 2]).float().mean().sub(.5).abs() < .15
    square = training_frame(window, PUBLISHED, rng(0, 0))[0]
    assert torch.isclose((square[2] - square[0]).abs(), square[3] - square[1])


def test_published_click_is_the_true_centre_in_the_crop(data):
    far = [replace(p, point=replace(p.point, x=1., y=1.)) for p in training_pairs(data)]
    got = PairDataset(data, far, SMALL, PUBLISHED)[0, 0, 0]
    assert torch.allclose(got["point"], got["target"].nonzero().float().mean(0).flip(0) + .5)


def test_published_training_teaches_class_0_nothing(data):
    torch.manual_seed(0)
    dataset = PairDataset(data, training_pairs(data), SMALL)
    batch = torch.utils.data.default_collate([dataset[0, 0, j] for j in range(4)]) | {"class": torch.zeros(4, dtype=torch.long)}
    for quirks, blind in ((PUBLISHED, True), (FIXED, False)):
        net = MaskRefineNet(4, SMALL, quirks)
        loss = sum(refiner_loss(net, batch).values())
        loss.backward()
        assert (net.stem.weight.grad[:, 3:].abs().sum() == 0) == blind      # no click and no rough mask reached the network
    assert set(refiner_loss(net, batch)) == {"loss_dice", "loss_pixel"}


def test_dice_is_over_the_batch():
    target = torch.zeros(2, 10, 10, dtype=torch.uint8)
    target[0, :5] = 1
    sure = torch.stack([1. - target, 1. * target], 1) * 60
    assert crop_dice_loss(sure, target) < 1e-4 and crop_dice_loss(-sure, target) > .999
    assert torch.isclose(crop_dice_loss(torch.zeros(2, 2, 10, 10), target), torch.tensor(1 - (50 / 150 + 150 / 250) / 2), atol=1e-4)


def test_the_loss_is_dice_and_half_a_cross_entropy(data, monkeypatch):
    torch.manual_seed(0)
    dataset = PairDataset(data, training_pairs(data), SMALL)
    batch = torch.utils.data.default_collate([dataset[j, 0, j] for j in range(3)])
    net, logits, seen = MaskRefineNet(4, SMALL), torch.randn(3, 2, 32, 32), []
    monkeypatch.setattr(net, "forward", lambda *inputs: seen.append(inputs) or logits)
    found = refiner_loss(net, batch)
    p = logits.softmax(1).gather(1, batch["target"].long()[:, None])
    assert torch.allclose(found["loss_pixel"], -p.log().mean() / 2) and torch.equal(found["loss_dice"], crop_dice_loss(logits, batch["target"]))
    pixels, maps, channel, rough = seen[0]
    assert torch.equal(channel, batch["class"]) and torch.equal(rough, batch["rough"].float())
    assert torch.equal(pixels, normalise_crops(batch["image"])) and torch.equal(maps, point_maps(batch["point"], 32, SMALL.sigma, FIXED))


def test_published_training_crops_are_half_open():
    mask = torch.zeros(1, 40, 50, dtype=torch.bool)
    mask[0, 10:21, 20:31] = True                                         # indices 10..20 and 20..30
    frame, clicks = windows(mask, torch.tensor([[25., 15.]]), 1.5, PUBLISHED)[0].tolist(), torch.tensor([[25.5, 15.5]])
    assert frame == [17, 7, 33, 23]
    dataset = object.__new__(PairDataset)
    dataset.quirks = PUBLISHED
    assert dataset._window(mask, clicks, 1.5) == [17, 7, 32, 22]
    dataset.quirks = FIXED
    assert dataset._window(mask, clicks, 1.5) == [17, 7, 34, 24]
    dot = torch.zeros(1, 40, 50, dtype=torch.bool)
    dot[0, 3, 4] = True
    dataset.quirks = PUBLISHED
    assert dataset._window(dot, torch.tensor([[4.5, 3.5]]), 2.) == [4, 3, 5, 4]     # one pixel is left


def test_it_learns(data):
    torch.manual_seed(0)
    ones = lambda m: m | np.roll(m, 6, 1)                         # every rough mask drags a shadow to the right
    net, dataset = MaskRefineNet(4, SMALL), PairDataset(data, training_pairs(data, ones), SMALL, cache=True)
    optimizer, losses = torch.optim.AdamW(net.parameters(), 2e-3), []
    for step in range(25):
        batch = torch.utils.data.default_collate([dataset[(step * 8 + j) % len(dataset), step, j] for j in range(8)])
        loss = sum(refiner_loss(net, batch).values())
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < .8 * np.mean(losses[:5])


def test_no_pairs_is_an_error(data):
    with pytest.raises(DataError, match="nothing to learn"): PairDataset(data, [])


def test_the_refiner_of_the_stages_obeys_the_options_of_its_part(tmp_path):
    "Precision and compiling; nothing is executed here, so nothing is compiled yet."
    cfg = preset("shapes", **{"refiner_train.compile": "on", "refiner_train.precision": "fp32", "device": "cpu"})
    save_weights(tmp_path / "last.safetensors", MaskRefineNet(3, cfg.refiner).state_dict())
    compiled = MaskRefiner.load(cfg, 3, tmp_path / "last.safetensors")
    plain = MaskRefiner.load(override(cfg, "refiner_train.compile", "auto"), 3, tmp_path / "last.safetensors")
    assert compiled.net._compiled_call_impl is not None and plain.net._compiled_call_impl is None and compiled.precision == "fp32"


def test_other_points_are_a_channel_of_their_own_in_training_as_at_inference(data, monkeypatch):
    "All points of an image but the object's own, in its crop; moving one of them moves masks, without the option it does not."
    cfg, pairs = replace(SMALL, use_other_points=True), training_pairs(data)
    of_image = [p for p in pairs if p.image_id == data.ids[0]]
    assert len(of_image) > 2
    image, points = item(data, of_image[0])[0], torch.tensor([[p.point.x, p.point.y] for p in of_image])
    rough = torch.cat([item(data, p)[1] for p in of_image])
    classes = torch.tensor([p.point.class_index for p in of_image])
    seen = []
    net = MaskRefineNet(4, cfg).eval()
    inner = net.forward
    monkeypatch.setattr(net, "forward", lambda *inputs: seen.append(inputs[4]) or inner(*inputs))
    refine(net, image, rough, points, classes)
    frames = windows(rough, points, 2.)
    for k, found in enumerate(torch.cat(seen)):
        low, high = frames[k, :2], frames[k, 2:]
        maps = [point_maps((points[j:j + 1] - low) / (high - low) * 32, 32, cfg.sigma, FIXED)[0] for j in range(len(points)) if j != k]
        assert torch.allclose(found, torch.stack(maps).sum(0).clamp(max=1), atol=1e-5)
    dataset = PairDataset(data, pairs, cfg)
    monkeypatch.setattr("pointwssis.refiner.training.training_frame", lambda window, *_: torch.tensor([window]))
    k = pairs.index(of_image[1])
    assert torch.allclose(dataset[k, 0, 0]["others"], other_points(points, torch.tensor([1]), torch.tensor([dataset._window(rough[1:2], points[1:2], rng(0, "refiner", k, 0, 0).uniform(1, 2))]), 32, cfg.sigma)[0])
    batch = torch.utils.data.default_collate([dataset[j, 0, j] for j in range(3)])
    before = refiner_loss(net, batch)["loss_pixel"]
    assert not torch.equal(refiner_loss(net, batch | {"others": 1 - batch["others"]})["loss_pixel"], before)
    assert "others" not in PairDataset(data, pairs, SMALL)[0, 0, 0]
    with torch.no_grad(): assert torch.allclose(net.for_inference()(*(x := (torch.rand(1, 3, 32, 32), *torch.rand(1, 1, 1, 32, 32), classes[:1], torch.ones(1, 1, 32, 32), torch.rand(1, 1, 32, 32)))), inner(*x), atol=1e-4)
    with pytest.raises(ConfigError, match="use_other_points needs the spare channel.* Set behaviour to fixed."): MaskRefineNet(4, cfg, PUBLISHED)
