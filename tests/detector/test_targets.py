"Targets and losses: invariants that hold for any objects."
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.ops import sigmoid_focal_loss

from pointwssis.data.transforms import Truth
from pointwssis.detector.cells import flatten_levels, level_starts, Outputs, point_cells
from pointwssis.detector.losses import focal_loss, losses, mask_dice_loss
from pointwssis.detector.packed import mass_centres, quarter_size
from pointwssis.detector.targets import assign, positive_cells
from tiny import CFG, squares

corner = st.tuples(st.integers(0, 88), st.integers(0, 56))
boxes = st.lists(st.tuples(corner, st.integers(6, 90), st.integers(6, 60)), max_size=6).map(
    lambda found: [(x, y, min(x + w, 96), min(y + h, 64)) for (x, y), w, h in found])


def loop_assign(truth, padded):
    "The rule of positive cells (SOLOv2, section 3), one object and one cell at a time."
    found = []
    for level, ((low, high), s) in enumerate(zip(CFG.scale_ranges, CFG.num_grids)):
        for k, (mask, box) in enumerate(zip(truth.masks, truth.boxes.tolist())):
            w, h = box[2] - box[0], box[3] - box[1]
            if not low <= (w * h) ** .5 < high: continue
            ys, xs = mask.nonzero(as_tuple=True)
            cx, cy = xs.double().mean().item(), ys.double().mean().item()
            span = []
            for c, half, side in ((cx, .1 * w, padded[1]), (cy, .1 * h, padded[0])):
                middle = int(c / side * s)
                span.append(range(max(max(0, int((c - half) / side * s)), middle - 1), min(min(s - 1, int((c + half) / side * s)), middle + 1) + 1))
            found += [(level, k, y * s + x) for y in span[1] for x in span[0]]
    return found


@settings(max_examples=60, deadline=None)
@given(boxes)
def test_cells_equal_the_loop(found):
    truth = squares(found, [0] * len(found))
    t = assign(CFG, [truth], (16, 24))
    starts = level_starts(CFG.num_grids)
    ours = list(zip(t.level.tolist(), t.object.tolist(), (t.cell - starts[t.level]).tolist()))
    assert ours == loop_assign(truth, (64, 96))


@settings(max_examples=30, deadline=None)
@given(boxes, boxes)
def test_a_batch_is_its_images(a, b):
    first, second = squares(a, [1] * len(a)), squares(b, [2] * len(b))
    both, alone = assign(CFG, [first, second], (16, 24)), [assign(CFG, [t], (16, 24)) for t in (first, second)]
    assert torch.equal(both.classes, torch.cat([t.classes for t in alone]))
    for i, t in enumerate(alone):
        assert torch.equal(both.cell[both.image == i], t.cell) and torch.equal(both.level[both.image == i], t.level)
        assert torch.equal(both.masks[both.object[both.image == i]], t.masks[t.object])


def test_later_object_owns_a_shared_cell_and_both_keep_their_mask():
    t = assign(CFG, [squares([(16, 16, 48, 48), (16, 16, 48, 48)], [2, 1])], (16, 24))
    assert t.classes[0, t.cell].unique().tolist() == [1] and t.object.unique().tolist() == [0, 1]


@settings(max_examples=80, deadline=None)
@given(boxes.filter(len))
def test_flip_mirrors_the_cells_and_the_masks(found):
    """Flipped objects have the mirrored cells. Positions are pixel indices: a flip takes x to width - 1 - x, so a place within
    that one pixel of a cell's border lands one column off. Everywhere else the columns must be the mirrored ones exactly."""
    width, truth = 96, squares(found, [0] * len(found))
    x0, y0, x1, y1 = truth.boxes.T
    mirrored = replace(truth, masks=truth.masks.flip(2), boxes=torch.stack([width - x1, y0, width - x0, y1], 1))
    a, b = (assign(CFG, [t], (16, 24)) for t in (truth, mirrored))
    assert torch.equal(a.masks.flip(2), b.masks)
    starts, centres = level_starts(CFG.num_grids), mass_centres(truth.masks)[0][:, 0]
    for level, s in enumerate(CFG.num_grids):
        for k in range(len(found)):
            here, there = ((t.cell[(t.level == level) & (t.object == k)] - starts[level]) for t in (a, b))
            half = .1 * (x1 - x0)[k]
            place = torch.stack([centres[k] - half, centres[k], centres[k] + half]) / width * s
            flipped = here // s * s + s - 1 - here % s
            if (place % 1 < 1 - s / width - 1e-6).all(): assert sorted(flipped.tolist()) == sorted(there.tolist())
            else: assert set((flipped // s).tolist()) == set((there // s).tolist()) and all((there % s - c % s).abs().min() <= 1 for c in flipped)


def test_empty_masks_and_empty_images_teach_background_only():
    empty = Truth(torch.zeros(1, 64, 96, dtype=torch.uint8), torch.zeros(1, 4), torch.tensor([0]))
    for truth in (empty, squares([], [])):
        t = assign(CFG, [truth], (16, 24))
        assert not len(t.cell) and (t.classes == CFG.num_classes).all()


def random_outputs(batch=1):
    torch.manual_seed(0)
    return Outputs([torch.randn(batch, 3, s, s, requires_grad=True) for s in CFG.num_grids],
                   [torch.randn(batch, 16, s, s, requires_grad=True) for s in CFG.num_grids],
                   torch.randn(batch, 16, 16, 24, requires_grad=True), [])


@pytest.mark.parametrize("size", [(64, 96), (60, 90)])
def test_an_image_without_objects_as_the_loader_gives_it(size):
    "NumPy's empty arrays have strides of 0, which torch keeps."
    empty = Truth(torch.from_numpy(np.zeros((0, *size), np.uint8)), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    targets = assign(CFG, [empty, squares([(4, 4, 30, 40)], [1], size)], (16, 24))
    assert (targets.classes[0] == CFG.num_classes).all() and (targets.image == 1).all() and len(targets.masks) == 1


def test_losses_without_objects_are_finite_and_reach_every_head():
    out = random_outputs()
    found = losses(out, assign(CFG, [squares([], [])], (16, 24)))
    sum(found.values()).backward()
    assert found["loss_ins"] == 0 and found["loss_cate"] > 0 and all(x.grad is not None for x in (out.mask_features, *out.kernels, *out.category_logits))


@settings(max_examples=20, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4))
def test_the_host_knows_how_many_positives_each_image_has(found):
    t = assign(CFG, [squares(b, [0] * len(b)) for b in found], (16, 24))
    assert t.counts == tuple((t.image == i).sum().item() for i in range(len(found)))


def test_targets_move_with_all_tensors_and_keep_the_counts():
    t = assign(CFG, [squares([(10, 10, 40, 40)], [1])], (16, 24))
    moved = t.to("meta")
    assert {name for name, v in vars(moved).items() if isinstance(v, torch.Tensor) and v.is_meta} == {*vars(t)} - {"counts"}
    assert moved.counts == t.counts and torch.equal(t.to("cpu").cell, t.cell)


def test_portions_change_neither_losses_nor_gradients():
    "The second image has so many positives that it is drawn in parts; the third has none."
    many = squares([(4 * i, 2 * i, 4 * i + 30, 2 * i + 28) for i in range(12)], [0] * 12)
    targets, out = assign(CFG, [squares([(8, 8, 40, 40)], [1]), many, squares([], [])], (16, 24)), random_outputs(3)
    leaves = [*out.kernels, out.mask_features]
    whole, parts = (mask_dice_loss(out, targets, 384 * n) for n in (10**4, 5))
    plain = torch.cat([one_by_one(out, targets, b) for b in range(3)]).mean()
    assert len(targets.cell) > 20 and torch.allclose(whole, parts) and torch.allclose(whole, plain)
    first, second, wanted = (torch.autograd.grad(found, leaves) for found in (whole, parts, plain))
    assert all(torch.allclose(a, c, atol=1e-7) and torch.allclose(b, c, atol=1e-7) for a, b, c in zip(first, second, wanted)) and wanted[-1].any()


def one_by_one(out, targets, b):
    "The Dice loss of each positive of image b, as the formula has it."
    found = [torch.zeros(0)]
    for cell, k in zip(targets.cell[targets.image == b], targets.object[targets.image == b]):
        p, t = (flatten_levels(out.kernels)[b, cell] @ out.mask_features[b].flatten(1)).sigmoid(), targets.masks[k].flatten().float()
        found.append((1 - 2 * (p * t).sum() / ((p * p).sum() + .001 + (t * t).sum() + .001))[None])
    return torch.cat(found)


def test_classes_are_judged_as_by_the_library():
    g = torch.Generator().manual_seed(0)
    logits, classes = 6 * torch.randn(2, 50, 7, generator=g), torch.randint(-1, 8, (2, 50), generator=g)
    table = torch.nn.functional.one_hot(classes.clamp(min=0), 8)[..., :7].float()
    wanted = (sigmoid_focal_loss(logits, table, alpha=.25, gamma=2) * (classes >= 0)[..., None]).sum()
    assert torch.allclose(focal_loss(logits, classes), wanted)


def test_points_without_mask_leave_the_class_loss():
    "Cells about an ignored point are neither object nor background, whatever the network says there."
    known = squares([(8, 8, 40, 40)], [1])
    blind = replace(known, ignore=torch.tensor([[80., 50.]], dtype=torch.float64))
    plain, ignoring = assign(CFG, [known], (16, 24)), assign(CFG, [blind], (16, 24))
    changed = (plain.classes != ignoring.classes)[0]
    assert changed.any() and (ignoring.classes[0, changed] == -1).all() and not changed[plain.cell].any()
    out = random_outputs()
    before = losses(out, ignoring)["loss_cate"]
    starts, first = level_starts(CFG.num_grids), changed.nonzero()[0, 0]
    out.category_logits[0].data.flatten(2)[0, :, first - starts[0]] += 5
    assert losses(out, ignoring)["loss_cate"].item() == pytest.approx(before.item()) and losses(out, plain)["loss_cate"] > before


def test_shrink_follows_the_four_middle_pixels():
    torch.manual_seed(0)
    m = torch.rand(3, 32, 48) > .5
    four = m.view(3, 8, 4, 12, 4)[:, :, 1:3, :, 1:3].sum((2, 4))
    assert torch.equal(quarter_size(m, (8, 12)), (four >= 2).to(torch.uint8))
    assert not quarter_size(m[:, :30, :46], (10, 14))[:, 8:].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares an accelerator with the processor, and there is none")
def test_accelerator_assigns_and_judges_as_the_processor():
    truths, out = [squares([(0, 0, 90, 60), (70, 40, 96, 64)], [0, 2]), squares([], [])], random_outputs(2)
    truths[1] = replace(truths[1], ignore=torch.tensor([[80., 50.]], dtype=torch.float64))
    def moved(maps): return [x.detach().cuda() for x in maps]
    away = Outputs(moved(out.category_logits), moved(out.kernels), out.mask_features.detach().cuda(), [])
    here, there = assign(CFG, truths, (16, 24)), assign(CFG, [t.to("cuda") for t in truths], (16, 24))
    for name, value in vars(there.to("cpu")).items(): assert torch.equal(value, getattr(here, name)) if name != "counts" else value == here.counts
    for name, value in losses(out, here).items(): assert losses(away, there)[name].item() == pytest.approx(value.item(), rel=1e-4)


def test_object_on_the_border_stays_on_the_grid():
    level, obj, cell = positive_cells(CFG, torch.tensor([[95., 63.]], dtype=torch.float64), torch.tensor([[90., 58., 96., 64.]]), (64, 96))
    assert len(cell) and (cell < level_starts(CFG.num_grids)[1]).all()


def test_objects_weigh_in_the_mask_loss_as_their_labels_score():
    "A weighted mean over the positives of a batch: equal weights change nothing, an object of weight 0 is as if it were not there."
    scene, other = squares([(0, 0, 30, 30), (40, 8, 90, 60)], [0, 1]), squares([(10, 10, 40, 40)], [2])
    grids, g = CFG.num_grids, torch.Generator().manual_seed(0)
    out = Outputs([torch.zeros(2, 3, s, s) for s in grids], [torch.randn(2, 4, s, s, generator=g) for s in grids], torch.randn(2, 4, 16, 24, generator=g), [])
    def loss(*weights):
        first, second = torch.tensor(weights).split([2, 1])
        return mask_dice_loss(out, assign(CFG, [replace(scene, weights=first), replace(other, weights=second)], (16, 24))).item()
    plain = mask_dice_loss(out, assign(CFG, [scene, other], (16, 24))).item()
    assert loss(1., 1., 1.) == plain and loss(.3, .3, .3) == pytest.approx(plain)
    counts = [sum(assign(CFG, [scene, other], (16, 24)).object == k).item() for k in range(3)]
    alone = [loss(*(float(j == k) for j in range(3))) for k in range(3)]
    assert plain == pytest.approx(np.average(alone, weights=counts)) and loss(1., .5, .2) == pytest.approx(np.average(alone, weights=np.multiply(counts, (1, .5, .2))))
    assert loss(0., 0., 0.) == 0


def test_positive_cells_can_lie_around_another_point():
    "The centre of mass as a centre changes nothing; with a corner, the cells on every level hold it; the masks stay."
    truth = squares([(0, 0, 30, 30), (40, 8, 90, 60)], [0, 1])
    plain = assign(CFG, [truth, truth], (16, 24))
    same = assign(CFG, [replace(truth, centres=torch.tensor([[14.5, 14.5], [64.5, 33.5]]))] * 2, (16, 24))
    assert all(torch.equal(getattr(same, k), getattr(plain, k)) for k in ("classes", "cell", "object", "masks"))
    corners = torch.tensor([[1., 1.], [88., 58.]])
    moved = assign(CFG, [replace(truth, centres=corners)] * 2, (16, 24))
    held = point_cells(corners, (64, 96), CFG)
    for k in range(2):
        own = moved.object == k
        assert set(moved.level[own].tolist()) == set(plain.level[plain.object == k].tolist()) and torch.equal(moved.masks[k], plain.masks[k])
        assert all(held[k, level] in moved.cell[own & (moved.level == level)] for level in moved.level[own].unique())
    assert not torch.equal(moved.classes, plain.classes)
