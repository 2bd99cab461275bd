"Pictures: what is painted where, and that asking leaves no trace."
import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from pointwssis.core import read_json
from pointwssis.data.show import COLOURS, colours_of, curves, digest_of, overlay, save_picture, show_grid, stamps_in, style, thinned

GREY = np.full((40, 60, 3), 100, np.uint8)


def square(y, x, side):
    mask = np.zeros((40, 60), bool)
    mask[y:y + side, x:x + side] = True
    return mask


def test_colours_are_distinct_and_repeat():
    assert len(set(COLOURS)) == 7 and all(0 <= v <= 255 for c in COLOURS for v in c)
    assert colours_of([0, 7, 25]).tolist() == [list(COLOURS[0]), list(COLOURS[0]), list(COLOURS[4])]
    assert colours_of([]).shape == (0, 3)


def test_colours_stay_apart_for_the_colour_blind():
    "Machado 2009, severity 1, for the first four, which carry the report's series."
    simulations = {"deuteranopia": [[.367, .861, -.228], [.280, .673, .047], [-.012, .043, .969]],
                   "protanopia": [[.152, 1.053, -.205], [.115, .786, .099], [-.004, -.048, 1.052]]}
    for matrix in simulations.values():
        seen = colours_of(range(4)) / 255 @ np.array(matrix).T
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(gaps) > .2


def test_overlay_fills_outlines_and_keeps_the_rest():
    mask = square(10, 20, 12)
    picture = overlay(GREY, mask[None], classes=[3], alpha=.5)
    assert (picture[~mask] == 100).all()
    assert picture[10, 25].tolist() == list(COLOURS[3])                       # the border
    assert abs(picture[16, 26].astype(int) - (50 + np.array(COLOURS[3]) / 2)).max() <= 1
    assert (GREY == 100).all()
    outline = overlay(GREY, mask[None], classes=[3], alpha=0)
    assert (outline[16, 26] == 100).all() and outline[10, 25].tolist() == list(COLOURS[3])


def test_small_masks_stay_visible_in_any_order():
    big, small = square(5, 5, 30), square(15, 15, 8)
    for masks, classes in (([big, small], [0, 1]), ([small, big], [1, 0])):
        picture = overlay(GREY, np.stack(masks), classes, alpha=1)
        assert picture[18, 18].tolist() == list(COLOURS[1]) and picture[8, 8].tolist() == list(COLOURS[0])


def test_overlay_without_classes_and_with_tensors():
    masks = np.stack([square(2, 2, 8), square(20, 20, 8)])
    picture = overlay(GREY, masks, alpha=1)
    assert picture[5, 5].tolist() == list(COLOURS[0]) and picture[23, 23].tolist() == list(COLOURS[1])
    assert np.array_equal(picture, overlay(GREY, torch.tensor(masks), torch.tensor([0, 1]), alpha=1))
    for none in ([], np.zeros((0, 40, 60), bool), torch.zeros(0, 40, 60)): assert np.array_equal(overlay(GREY, none), GREY)


def test_border_widens_with_the_image():
    image = np.zeros((400, 400, 3), np.uint8)
    mask = np.zeros((1, 400, 400), bool)
    mask[:, 100:300, 100:300] = True
    assert (overlay(image, mask, [0], alpha=0)[200, 100:103] == COLOURS[0]).all() and not overlay(image, mask, [0], alpha=0)[200, 103].any()


def test_grid_places_points_in_coco_pixels():
    points = [SimpleNamespace(x=10.5, y=20.25), (30, 5)]
    figure = show_grid([dict(image=GREY, points=points, title="a"), dict(image=GREY), dict(image=GREY)], columns=2)
    assert len(figure.axes) == 4 and [ax.get_title() for ax in figure.axes] == ["a", "", "", ""]
    ax = figure.axes[0]
    assert ax.collections[0].get_offsets().tolist() == [[10.5, 20.25], [30, 5]]
    assert ax.images[0].get_extent() == [0, 60, 40, 0] and len(figure.axes[3].images) == 0


def test_each_row_of_a_grid_is_as_high_as_its_tallest_image():
    wide, tall = np.zeros((20, 80, 3), np.uint8), np.zeros((80, 80, 3), np.uint8)
    figure = show_grid([dict(image=wide), dict(image=wide), dict(image=tall), dict(image=wide)], columns=2, size=2.0)
    assert figure.get_size_inches().tolist() == pytest.approx([4, 2 * .25 + .05 + 2 + .05])


def test_grid_shows_the_overlay():
    mask = square(10, 20, 12)
    figure = show_grid([dict(image=GREY, masks=mask[None], classes=[4])])
    assert np.array_equal(figure.axes[0].images[0].get_array(), overlay(GREY, mask[None], [4]))
    with pytest.raises(KeyError, match="boxes"): show_grid([dict(image=GREY, boxes=[])])


def test_nothing_stays_open_and_figures_can_be_saved():
    before = plt.get_fignums()
    for figure in (show_grid([dict(image=GREY)]), show_grid([]), curves({"a": [{"step": 1, "loss": 2.}]})):
        figure.savefig(file := io.BytesIO())
        assert len(file.getvalue()) > 300
    assert plt.get_fignums() == before


def test_curves():
    rows = [{"step": 10, "loss": 2., "lr": .1}, {"step": 20, "loss": 1., "lr": .2}]
    figure = curves({"teacher": rows, "student": rows[:1], "none": []})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["teacher", "student"] and lines[0].get_xydata().tolist() == [[10, 2], [20, 1]]
    assert len({line.get_linestyle() for line in lines}) == 2
    assert curves({"a": rows}, "lr").axes[0].lines[0].get_ydata().tolist() == [.1, .2]
    assert not curves({"a": rows}, "missing").axes[0].lines


def test_style_is_local():
    before = plt.rcParams["axes.spines.top"]
    with style(): assert not plt.rcParams["axes.spines.top"]
    assert plt.rcParams["axes.spines.top"] == before


def test_long_histories_are_kept_thinned():
    rows = [{"step": n, "loss": 1 / n, "lr": .1} for n in range(1, 1002)]
    kept = thinned(rows)
    assert len(kept["step"]) == len(kept["loss"]) <= 50 and kept["step"][-1] == 1001 and len(set(np.diff(kept["step"]))) == 1
    assert thinned(rows[:50])["step"] == list(range(1, 51)) and thinned(rows[:1]) == {"step": [1], "loss": [1.0]}


def test_a_picture_carries_the_digest_of_what_its_json_says(tmp_path):
    about = {"shows": "noise", "values": [{"ap": np.float64(.1), "step": (1, 2)}]}
    figure = show_grid([{"image": np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)}])
    files = save_picture(figure, tmp_path / "plot", **about)
    assert [path.suffix for path in files] == [".png", ".pdf", ".json"]
    digest = digest_of(read_json(files[2]))
    assert digest == digest_of(about) != digest_of(about | {"shows": "nothing"})
    assert Image.open(files[0]).info["Source"] == digest and f"/Subject ({digest})".encode() in files[1].read_bytes()


def test_a_photograph_is_a_webp_of_a_tenth_of_the_bytes_and_no_pdf(tmp_path):
    figure = show_grid([{"image": np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)}])
    plain = save_picture(figure, tmp_path / "plot", shows="labels")[0]
    files = save_picture(figure, tmp_path / "photograph", photograph=True, shows="labels")
    assert [path.name for path in files] == ["photograph.webp", "photograph.json"]
    with Image.open(files[0]) as image, Image.open(plain) as full: assert image.format == "WEBP" and image.size == full.size
    assert stamps_in(files[0]) == stamps_in(plain) == (digest_of({"shows": "labels"}), "") and files[0].stat().st_size < plain.stat().st_size


def test_marks_lie_at_their_places():
    item = {"image": np.zeros((60, 80, 3), np.uint8), "texts": [(10, 20, "0.71")], "missed": [(30, 40)], "false": [(50, 5), (60, 6)]}
    left, right = show_grid([item, {**item, "framed": True}]).axes
    assert [(text.get_position(), text.get_text()) for text in left.texts] == [((10, 20), "0.71")]
    places = {line.get_marker(): line.get_xydata().tolist() for line in left.lines}
    assert places == {"x": [[30, 40]], "o": [[50, 5], [60, 6]]} and (len(left.patches), len(right.patches)) == (0, 1)
