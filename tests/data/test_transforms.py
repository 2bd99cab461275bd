"From records to batches: masks and points follow their image through every move, and the dice are keyed."
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from pointwssis.config import SOLOv2Config, TrainConfig
from pointwssis.core import DataError, rng
from pointwssis.data import coco, training_set
from pointwssis.data.transforms import Sample, augment, collate, crop_sample, dropped_points
from pointwssis.data.transforms import flip_sample, inference_batch, normalise, paste_objects
from pointwssis.data.transforms import pad_images, read_sample, resize_image, resize_sample
from pointwssis.data.transforms import target_size, tight_boxes
from pointwssis.data.training_set import CocoDataset
from pointwssis.detector.targets import assign
from pointwssis.training.trainer import StepSampler
from tiny import CFG as NETWORK

TRAIN = TrainConfig(short_sides=(40, 48), long_side=72, scale_jitter=(.6, 1.6), flip_prob=.5)


def painted(boxes, height=60, width=80) -> Sample:
    "Objects painted in a channel of their own, with their centres as points: what a mask says can be read off the image."
    masks, image = np.zeros((len(boxes), height, width), np.uint8), np.zeros((height, width, 3), np.uint8)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        masks[k, y0:y1, x0:x1] = 1
        image[..., k][masks[k] > 0] = 255
    centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
    return Sample(image, masks, np.arange(len(boxes)), np.array(centres, dtype=np.float64).reshape(-1, 2))


def agrees(s: Sample) -> bool:
    "True if each mask covers the painted pixels of its object, but for a border of a pixel."
    for mask, channel in zip(s.masks, s.classes):
        inside = s.image[..., channel] > 127
        padded = np.pad(mask, 1)     # a pixel at the edge of the image is a border, too
        around = np.stack([padded[i:i + mask.shape[0], j:j + mask.shape[1]] for i in range(3) for j in range(3)])
        if not inside[around.min(0) > 0].all() or inside[around.max(0) == 0].any(): return False
    return True


def is_whole(mask: np.ndarray) -> bool: return not (mask[[0, -1]].any() or mask[:, [0, -1]].any())
def middle(mask: np.ndarray) -> np.ndarray: return np.argwhere(mask).mean(0)[::-1] + .5


corner = st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(8, 60), st.integers(8, 50))
scenes = st.lists(corner, min_size=1, max_size=3).map(
    lambda found: painted([(x, y, min(x + w, 80), min(y + h, 60)) for x, y, w, h in found]))


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(20, 120), st.integers(20, 120))
def test_masks_and_points_follow_a_resize(s, height, width):
    big = resize_sample(s, (height, width))
    assert big.image.shape == (height, width, 3) and big.masks.shape == (len(s.classes), height, width) and agrees(big)
    assert np.allclose(big.ignore, s.ignore * (width / 80, height / 60)) and np.array_equal(big.classes, s.classes)


def test_a_resize_shifts_masks_to_neither_side():
    shifts = []
    for height in range(25, 90):
        x, y = height % 19, height % 13
        big = resize_sample(painted([(x, y, x + 41, y + 37)]), (height, height * 80 // 60))
        shifts.append(middle(big.masks[0]) - big.ignore[0])
    assert np.abs(np.mean(shifts, axis=0)).max() < .1 and np.abs(shifts).max() < 1


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(0, 40), st.integers(0, 30), st.integers(10, 40), st.integers(10, 30))
def test_masks_and_points_follow_a_crop(s, x0, y0, width, height):
    cut = crop_sample(s, x0, y0, width, height)
    seen = [k for k in range(len(s.classes)) if s.masks[k, y0:y0 + height, x0:x0 + width].any()]
    assert cut.classes.tolist() == seen and agrees(cut) and cut.image.shape == (height, width, 3)
    kept = [(x - x0, y - y0) for x, y in s.ignore if x0 <= x < x0 + width and y0 <= y < y0 + height]
    assert cut.ignore.tolist() == [list(p) for p in kept]


@settings(max_examples=30, deadline=None)
@given(scenes)
def test_masks_and_points_follow_a_flip(s):
    turned = flip_sample(s)
    assert np.array_equal(turned.image, s.image[:, ::-1]) and agrees(turned)
    assert all(np.allclose(middle(mask), point) for mask, point in zip(turned.masks, turned.ignore))
    back = flip_sample(turned)
    assert all(np.array_equal(getattr(back, k), getattr(s, k)) for k in ("image", "masks", "classes", "ignore"))


def test_a_point_on_the_left_edge_stays_inside_when_flipped():
    "x = 0 belongs to the first pixel; x = width to none."
    flipped = flip_sample(Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((0, 4, 6), np.uint8), np.zeros(0, int), np.array([[0., 1.], [2., 3.]])))
    assert (flipped.ignore[:, 0] < 6).all() and np.allclose(flipped.ignore, [[6, 1], [4, 3]])


@settings(max_examples=80, deadline=None)
@given(scenes, st.integers(0, 2**31))
@example(painted([(1, 1, 9, 9)]), 625)     # scaled to 4 pixels, of which the first is half covered and at the edge
def test_masks_and_points_follow_all_moves_together(s, seed):
    out = augment(s, TRAIN, rng(seed))
    assert agrees(out) and out.masks.shape[1:] == out.image.shape[:2]
    short, long = sorted(out.image.shape[:2])
    assert short <= 48 and long <= 72
    assert ((out.ignore >= 0) & (out.ignore < out.image.shape[1::-1])).all()
    for mask in filter(is_whole, out.masks):
        assert np.abs(out.ignore - middle(mask)).max(1).min() < 1.5


def test_augmentation_reaches_both_sides_and_every_size():
    s = painted([(5, 5, 25, 25)])
    outs = [augment(s, replace(TRAIN, scale_jitter=(1., 1.)), rng(0, k)) for k in range(40)]
    assert {o.image.shape[0] for o in outs} == {40, 48} and {bool(o.ignore[0, 0] > o.image.shape[1] / 2) for o in outs} == {True, False}
    zoomed = {augment(s, replace(TRAIN, short_sides=(48,)), rng(0, k)).image.shape[0] for k in range(40)}
    assert max(zoomed) == 48 and min(zoomed) < 35


def test_colour_changes_pixels_alone():
    s = painted([(5, 5, 45, 45)])
    plain, bright = (augment(s, replace(TRAIN, colour_jitter=amount), rng(3)) for amount in (0., .4))
    assert not np.array_equal(plain.image, bright.image) and bright.image.dtype == np.uint8
    assert np.array_equal(plain.masks, bright.masks) and np.array_equal(plain.ignore, bright.ignore)


@pytest.mark.parametrize("size, short, long, wanted", [((480, 640), 800, 1333, (800, 1067)), ((400, 1600), 800, 1333, (333, 1333)),
                                                       ((10, 10), 128, 128, (128, 128)), ((1, 2000), 100, 100, (1, 100))])
def test_sizes(size, short, long, wanted): assert target_size(*size, short, long) == wanted


def test_shrinking_averages_and_growing_keeps_the_range():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 200
    assert set(np.unique(resize_image(stripes, (16, 16)))) == {100}
    assert resize_image(stripes, (64, 64)).max() <= 200 and resize_image(stripes, (32, 32)) is stripes


MASKS = np.zeros((4, 20, 30), bool)
for k in range(4): MASKS[k, 3 * k:3 * k + 6, 5 * k:5 * k + 9] = True


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> coco.CocoData:
    "Image 2: two objects and a crowd. Image 5: nothing. Image 9: one object and a click that got no mask. Ids of classes have gaps."
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in (2, 5, 9)]
    for i in (2, 5, 9): Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(root / f"{i}.png")
    of = [(2, 4, 0), (2, 7, 1), (2, 90, 0), (9, 7, 0)]
    annotations = [{"id": 10 + k, "image_id": i, "category_id": c, "iscrowd": crowd, **coco.mask_fields(coco.encode(MASKS[k]))}
                   for k, (i, c, crowd) in enumerate(of)]
    dropped = [{"id": 77, "image_id": 9, "category_id": 4, "point": [12.5, 4.], "iscrowd": 0}]
    table = coco.CategoryTable((4, 7, 90), ("a", "b", "c"))
    coco.save(root / "some.json", images, annotations, table, dropped_points=dropped)
    return coco.load(root / "some.json", root, "masks")


def test_crowds_are_left_out_and_classes_are_indices(data):
    s = read_sample(data, 2)
    assert s.classes.tolist() == [0, 2] and np.array_equal(s.masks, MASKS[[0, 2]]) and s.ignore.shape == (0, 2)


def test_a_click_without_a_mask_is_to_be_ignored(data):
    s = read_sample(data, 9)
    assert s.classes.tolist() == [1] and s.ignore.tolist() == [[12.5, 4.]]
    assert dropped_points(data) == {9: [[12.5, 4.]]} and dropped_points(data, "published") == {}


def test_an_image_without_objects_is_background(data):
    s = read_sample(data, 5)
    assert s.masks.shape == (0, 20, 30) and s.classes.shape == (0,)
    batch = collate([(5, augment(s, TRAIN, rng(k))) for k in range(3)])
    targets = assign(NETWORK, batch["truth"], tuple(v // 4 for v in batch["images"].shape[-2:]))
    assert len(targets.cell) == 0 and (targets.classes == NETWORK.num_classes).all()


def same(a: Sample, b: Sample) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("image", "masks", "classes", "ignore", "weights"))


def test_dice_depend_on_seed_step_and_slot_alone(data):
    ds, again = CocoDataset(data, TRAIN, seed=1), CocoDataset(data, TRAIN, seed=1)
    ds[0, 0, 0]
    assert ds[0, 3, 1][0] == 2 and same(ds[0, 3, 1][1], again[0, 3, 1][1])
    others = [ds[0, 4, 1][1], ds[0, 3, 2][1], CocoDataset(data, TRAIN, seed=2)[0, 3, 1][1]]
    assert not any(same(again[0, 3, 1][1], other) for other in others)


def test_kept_samples_equal_read_ones(data):
    shaken = replace(TRAIN, colour_jitter=.4)
    kept, read = CocoDataset(data, shaken, cache=True), CocoDataset(data, shaken)
    for _ in range(2):
        for index in range(3):
            assert same(kept[index, 8, index][1], read[index, 8, index][1])
    assert sorted(kept.cache) == [0, 1, 2] and read.cache is None


def test_no_images_is_one_line(data):
    with pytest.raises(DataError, match="some.json: no images to train on"): CocoDataset(data.select([]), TRAIN)


def test_batches_do_not_depend_on_workers(data):
    ds = CocoDataset(data, TRAIN, seed=4)
    batches = [list(DataLoader(ds, batch_sampler=StepSampler(3, 2, 3, 4), num_workers=n, collate_fn=collate)) for n in (0, 1)]
    for a, b in zip(*batches):
        assert a["image_ids"] == b["image_ids"] and torch.equal(a["images"], b["images"])
        assert all(torch.equal(x.masks, y.masks) for x, y in zip(a["truth"], b["truth"]))


def test_a_batch_holds_each_image_and_its_truth(data):
    items = [(i, augment(read_sample(data, i), TRAIN, rng(7, i))) for i in (9, 2)]
    batch = collate(items)
    assert batch["image_ids"] == [9, 2] and batch["images"].dtype == torch.uint8 and batch["sizes"] == [s.image.shape[:2] for _, s in items]
    assert all(side % 32 == 0 for side in batch["images"].shape[-2:])
    for (_, s), picture, (h, w), truth in zip(items, batch["images"], batch["sizes"], batch["truth"]):
        assert np.array_equal(picture[:, :h, :w].permute(1, 2, 0), s.image) and not picture[:, h:].any() and not picture[:, :, w:].any()
        assert np.array_equal(truth.masks, s.masks) and np.array_equal(truth.classes, s.classes) and np.array_equal(truth.ignore, s.ignore)
        assert torch.equal(truth.boxes, tight_boxes(truth.masks.bool()))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalised_pixels_are_in_the_order_of_the_backbone_and_padding_is_zero(order):
    cfg = SOLOv2Config(channel_order=order, pixel_mean=(10., 20., 30.), pixel_std=(2., 4., 5.))
    red_green_blue = np.broadcast_to(np.array([110, 140, 180], np.uint8), (33, 40, 3))
    batch = pad_images([red_green_blue, red_green_blue[:20, :50]])
    x = normalise(batch, [(33, 40), (20, 40)], cfg)
    wanted = {"rgb": (50., 30., 30.), "bgr": (85., 30., 16.)}[order]
    assert x.dtype == torch.float32 and x.shape == (2, 3, 64, 64)
    assert (x[0, :, :33, :40] == torch.tensor(wanted)[:, None, None]).all() and (x[1, :, :20, :40] == torch.tensor(wanted)[:, None, None]).all()
    assert (x[0, :, 33:] == 0).all() and (x[0, :, :, 40:] == 0).all() and (x[1, :, 20:] == 0).all() and (x[1, :, :, 40:] == 0).all()


def test_boxes_are_tight_and_half_open():
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[2, 7, 9] = True
    assert tight_boxes(masks).tolist() == [[3, 2, 9, 5], [0, 0, 0, 0], [9, 7, 10, 8]] and tight_boxes(masks[:0]).shape == (0, 4)
    assert all(tuple(box) == coco.box_of(mask.numpy()) for box, mask in zip(tight_boxes(masks).tolist(), masks))


def test_inference_remembers_both_sizes():
    images = [np.full((60, 80, 3), 9, np.uint8), np.full((80, 60, 3), 7, np.uint8)]
    x, inner, outer = inference_batch(images, 48, 60)
    assert inner == [(45, 60), (60, 45)] and outer == [(60, 80), (80, 60)] and x.shape == (2, 3, 64, 64)
    assert (x[0, :, :45, :60] == 9).all() and not x[0, :, 45:].any() and (x[1, :, :60, :45] == 7).all()


def test_samples_in_memory_keep_their_masks_as_boxes(tmp_path):
    "A stack of masks has a byte for each pixel of the image and each object; the samples are the same."
    masks = np.zeros((40, 300, 400), np.uint8)
    for k, mask in enumerate(masks[1:]): mask[7 * k:7 * k + 20, 9 * k:9 * k + 30] = np.eye(20, 30)[:, ::1 - 2 * (k % 2)]
    sample = Sample(np.zeros((300, 400, 3), np.uint8), masks, np.arange(40), np.zeros((0, 2)))
    kept = training_set._keep(sample)
    assert sum(part.nbytes for *_, part in kept.parts) < masks.nbytes / 100 and all(part.base is None for *_, part in kept.parts)
    assert np.array_equal(kept.whole().masks, masks) and kept.whole().masks.dtype == np.uint8 and kept.sample.masks.base is None


def with_scores(data, scores):
    "The data set with pseudo masks: these scores by annotation id."
    return replace(data, annotations={i: [a | ({"score": scores[a["id"]]} if a["id"] in scores else {}) for a in of] for i, of in data.annotations.items()})


def test_weights_are_scores_of_pseudo_masks_and_follow_their_objects(data):
    scored = with_scores(data, {12: .25, 13: .75})
    for cache in (False, True):
        weighted, margin, plain = (CocoDataset(scored, replace(TRAIN, label_weight=w), cache=cache) for w in ("score", "margin", "none"))
        assert [weighted.sample(k).weights.tolist() for k in range(3)] == [[1, .25], [], [.75]]
        assert [margin.sample(k).weights.tolist() for k in range(3)] == [[1, 0], [], [.5]]
        assert [plain.sample(k).weights.tolist() for k in range(3)] == [[1, 1], [], [1]]
    s = painted([(0, 0, 20, 20), (30, 10, 70, 50), (60, 0, 80, 20)])
    s = replace(s, weights=np.array([.1, .2, .3], np.float32))
    assert np.allclose(flip_sample(resize_sample(crop_sample(s, 25, 0, 30, 60), (30, 20))).weights, [.2])
    assert np.allclose(collate([(0, s)])["truth"][0].weights, [.1, .2, .3]) and collate([(0, painted([(0, 0, 9, 9)]))])["truth"][0].to("cpu").weights.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(30, 90), st.integers(30, 110), st.integers(0, 99))
def test_pasted_objects_cover_what_lies_behind_them(s, height, width, seed):
    front = painted([(0, 0, width // 2, height // 2), (width // 3, height // 3, width, height)], height, width)
    front = replace(front, image=255 - front.image, classes=front.classes + 7, weights=np.array([.5, .25], np.float32))
    out = paste_objects(s, front, rng(seed))
    new = out.classes >= 7
    covered = out.masks[new].any(0)
    assert np.array_equal(out.image[~covered], s.image[~covered]) and out.image.shape == s.image.shape
    left = [k for k in s.classes if (s.masks[k] * ~covered).any()]
    assert out.classes[~new].tolist() == left and all(np.array_equal(m, s.masks[k] * ~covered) for m, k in zip(out.masks, left))
    assert out.weights[new].tolist() == [(.5, .25)[k - 7] for k in out.classes[new]] and out.masks.any((1, 2)).all()
    assert {tuple(p) for p in out.ignore} == {tuple(p) for p in s.ignore if not covered[int(p[1]), int(p[0])]}
    if height <= 60 and width <= 80 and new.any():                     # the whole front lies inside: its pixels are found again
        ys, xs = np.nonzero(covered)
        assert new.sum() < 2 or np.array_equal(out.image[covered], front.image[front.masks.any(0)]) and (np.ptp(ys), np.ptp(xs)) == (height - 1, width - 1)


def test_objects_of_outlined_images_alone_are_pasted_and_the_dice_stay(data):
    cfg = replace(TRAIN, copy_paste_prob=.5)
    plain, some = CocoDataset(data, TRAIN, seed=1), CocoDataset(data, cfg, seed=1)
    assert some.outlined == [0, 2] and CocoDataset(with_scores(data, {13: .5}), cfg).outlined == [0]     # image 5 has no object
    pasted = [not same(plain[1, k, 0][1], some[1, k, 0][1]) for k in range(60)]                      # where nothing is pasted, nothing differs
    assert 10 < sum(pasted) < 40 and same(some[1, 4, 0][1], CocoDataset(data, cfg, seed=1, cache=True)[1, 4, 0][1])
    none = with_scores(data, {a["id"]: .5 for a in data.records()})
    assert same(CocoDataset(none, cfg, seed=1)[0, 3, 0][1], plain[0, 3, 0][1])                        # nothing is outlined


def test_centres_of_positive_cells_are_pixels_of_their_objects(data):
    inside = CocoDataset(data, replace(TRAIN, positive_cells="inside"), seed=1)
    drawn = [inside[0, k, 0][1] for k in range(20)]
    for s in drawn: assert all(not mask.any() or mask[int(y), int(x)] for mask, (x, y) in zip(s.masks, s.centres))
    assert len({tuple(s.centres[0]) for s in drawn if len(s.centres)}) > 10 and inside[1, 0, 0][1].centres.shape == (0, 2)
    assert same(inside[0, 3, 0][1], CocoDataset(data, TRAIN, seed=1)[0, 3, 0][1]) and CocoDataset(data, TRAIN)[0, 3, 0][1].centres is None
    truth = collate([(2, drawn[0]), (5, inside[1, 0, 0][1])])["truth"]
    assert truth[0].to("cpu").centres.tolist() == drawn[0].centres.tolist() and len(assign(NETWORK, truth, (16, 24)).counts) == 2
