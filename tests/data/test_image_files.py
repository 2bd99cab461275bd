"One reader for every picture: each format by its rule, and one line for a file that is no picture."
import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pointwssis.core import DataError
from pointwssis.data import coco, image_files
from pointwssis.data.coco import CategoryTable, encode, mask_fields
from pointwssis.data.image_files import MOST_PIXELS, read_picture
from pointwssis.detector.predict import read_photo
from pointwssis.method.split_stage import check_images

H, W = 20, 30
RAMP = np.linspace(0, 255, H * W).round().astype(np.uint8).reshape(H, W)
COLOURS = np.stack([RAMP, RAMP[::-1], np.full((H, W), 90, np.uint8)], -1)


def saved(folder, name, picture, **options):
    picture.save(folder / name, **options)
    return read_picture(folder / name)


def grey(folder, name, values, **options): return saved(folder, name, Image.fromarray(values), **options)[..., 0]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- more than eight bits

@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_the_range_of_the_type(tmp_path, suffix):
    assert (grey(tmp_path, f"x.{suffix}", RAMP.astype(np.uint16) * 257) == RAMP).all()
    half = RAMP.astype(np.uint16) * 128                              # two pictures of a series stay comparable
    assert (grey(tmp_path, f"y.{suffix}", half) == half >> 8).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_that_are_hardly_used_are_stretched(tmp_path, suffix):
    found = grey(tmp_path, f"x.{suffix}", RAMP.astype(np.uint16) * 4)   # 10 bits in a 16-bit file
    assert found.min() == 0 and found.max() == 255 and abs(found.astype(int) - RAMP).max() <= 2


@pytest.mark.parametrize("make", [lambda r: r.astype(np.int32) * 1000 - 7,
                                  lambda r: r.astype(np.float32) / 9 - 5])
def test_integers_of_32_bits_and_floats_are_stretched(tmp_path, make):
    found = grey(tmp_path, "x.tif", make(RAMP))
    assert abs(found.astype(int) - RAMP).max() <= 2 and found.min() == 0 and found.max() == 255


def test_unsigned_integers_of_32_bits(tmp_path):
    Image.fromarray((RAMP.astype(np.uint32) << 24).view(np.int32)).save(tmp_path / "x.tif")
    signed, unsigned = (b"\x53\x01\x03\0\x01\0\0\0" + bytes([kind]) for kind in (2, 1))   # tag 339
    content = (tmp_path / "x.tif").read_bytes()
    assert content.count(signed) == 1                                # Pillow writes signed ones only
    (tmp_path / "x.tif").write_bytes(content.replace(signed, unsigned))
    assert abs(read_picture(tmp_path / "x.tif")[..., 0].astype(int) - RAMP).max() <= 2


def test_a_few_wild_values_and_no_numbers_do_not_decide(tmp_path):
    values = RAMP.astype(np.float32) / 255
    values = np.tile(values, (4, 4))
    values[0, 0], values[0, 1], values[0, 2], values[0, 3] = np.nan, np.inf, -np.inf, 1e30
    found = grey(tmp_path, "x.tif", values)
    assert found[0, :4].tolist() == [0, 255, 0, 255] and 120 < found.mean() < 136
    assert (grey(tmp_path, "flat.tif", np.full((H, W), 7., np.float32)) == 0).all()
    with pytest.raises(DataError, match="nan.tif cannot be read: it has no finite value"):
        grey(tmp_path, "nan.tif", np.full((H, W), np.nan, np.float32))


# --- kinds of pictures

def test_cmyk(tmp_path):
    found = saved(tmp_path, "x.tif", Image.fromarray(COLOURS).convert("CMYK"))
    assert abs(found.astype(int) - COLOURS).max() <= 2
    assert abs(saved(tmp_path, "x.jpg", Image.new("CMYK", (W, H), (255, 0, 0, 0))).mean((0, 1)) - (0, 255, 255)).max() < 3


def test_transparency_is_dropped_and_the_colours_stay(tmp_path):
    alpha = Image.fromarray(RAMP)
    assert (saved(tmp_path, "rgba.png", Image.merge("RGBA", (*Image.fromarray(COLOURS).split(), alpha))) == COLOURS).all()
    assert (saved(tmp_path, "la.png", Image.merge("LA", (Image.fromarray(RAMP), alpha)))[..., 0] == RAMP).all()
    palette = Image.fromarray(COLOURS).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert (saved(tmp_path, "index.png", palette, transparency=3) == expected).all()
    assert (saved(tmp_path, "bytes.png", palette, transparency=bytes(range(0, 256, 16))) == expected).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (W, H), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    found = saved(tmp_path, f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert abs(found.mean((0, 1)) - (250, 0, 0)).max() < 5 and found.shape == (H, W, 3)


def test_one_bit_and_palette(tmp_path):
    assert set(np.unique(saved(tmp_path, "x.png", Image.fromarray(RAMP > 99)))) == {0, 255}


# --- turned pictures

def dataset(folder, name, width, height):
    mask = np.zeros((height, width), bool)
    mask[2:9, 3:8] = True
    record = {"id": 7, "file_name": name, "width": width, "height": height}
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, **mask_fields(encode(mask))}
    coco.save(folder / "a.json", [record], [annotation], CategoryTable((1,), ("thing",)))
    return coco.load(folder / "a.json", folder, "masks")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_and_prediction_turn_alike(tmp_path, orientation):
    note = Image.Exif()
    note[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=note)
    turned = orientation > 4
    found = dataset(tmp_path, "x.png", *((H, W) if turned else (W, H))).read_image(7)
    assert (found == read_photo(tmp_path / "x.png")).all()
    expected = {1: COLOURS, 3: COLOURS[::-1, ::-1], 6: np.rot90(COLOURS, -1), 8: np.rot90(COLOURS)}
    if orientation in expected: assert (found == expected[orientation]).all()


def test_a_turn_that_contradicts_the_json_names_both_sizes(tmp_path):
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "x.jpg", exif=note)
    words = f"x.jpg: image 7 of .*a.json is {H} x {W} pixels, the JSON says {W} x {H}. An EXIF note turned it"
    with pytest.raises(DataError, match=words): dataset(tmp_path, "x.jpg", W, H).read_image(7)


# --- no pictures

def truncated():
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "PNG")
    return buffer.getvalue()[:-60]


@pytest.mark.parametrize("content, words", [(b"", r"it is empty \(0 bytes\)"), (truncated(), "cannot be read: "),
                                            (b"<html>not found</html>", "cannot be read as an image")])
def test_a_broken_file_costs_one_line(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    for read in (read_photo, lambda path: dataset(tmp_path, "x.png", W, H).read_image(7)):
        with pytest.raises(DataError, match=words) as e: read(tmp_path / "x.png")
        assert "x.png" in str(e.value) and "\n" not in str(e.value)


def test_too_many_pixels(tmp_path):
    side = int(MOST_PIXELS ** .5) + 1
    Image.new("1", (side, side)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="x.png has more than the 178,956,970 pixels that are read. Cut it into tiles"):
        read_photo(tmp_path / "x.png")
    with pytest.raises(DataError, match="a.json: image 7 has more than the 178,956,970 pixels"):
        record = {"id": 7, "file_name": "x.png", "width": side, "height": side}
        coco.save(tmp_path / "a.json", [record], [], CategoryTable((1,), ("thing",)))
        coco.load(tmp_path / "a.json")


# --- names that leave the folder

@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "../../x.png", "a/../../x.png", "..", "a\\..\\..\\x.png",
                                  "\\\\host\\x.png", "C:\\x.png", "C:/x.png", "", "x\0.png", "x\ud800.png"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    coco.save(tmp_path / "a.json", [{"id": 7, "file_name": name, "width": W, "height": H}], [], CategoryTable((1,), ("a",)))
    with pytest.raises(DataError, match="image 7: file name .* leaves the image folder. Write names relative"):
        coco.load(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("name", ["a..b.png", "..x.png", "a/b/x..png", "x:y.png", "a b;c'\".png"])
def test_odd_names_within_the_folder_are_read(tmp_path, name):
    (tmp_path / "a/b").mkdir(parents=True)
    Image.fromarray(COLOURS).save(tmp_path / name)
    assert (dataset(tmp_path, name, W, H).read_image(7) == COLOURS).all()


def test_links_that_leave_the_folder_are_refused_and_others_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "real", outside): folder.mkdir(parents=True)
    for folder in (root / "real", outside): Image.fromarray(COLOURS).save(folder / "x.png")
    (root / "inner.png").symlink_to(root / "real/x.png")
    (root / "linked").symlink_to(root / "real")
    (root / "leaves.png").symlink_to(outside / "x.png")
    (root / "folder").symlink_to(outside)
    (tmp_path / "alias").symlink_to(root)                            # the image folder itself may be a link
    for name in ("inner.png", "linked/x.png"):
        for place in (root, tmp_path / "alias"): assert (dataset(place, name, W, H).read_image(7) == COLOURS).all()
    for name in ("leaves.png", "folder/x.png"):
        data = dataset(root, name, W, H)
        for use in (check_images, lambda d: d.read_image(7)):
            with pytest.raises(DataError, match=r"image 7 of .*a.json is a link that leaves the image folder. Copy"): use(data)


def test_names_are_checked_where_a_large_file_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "cached", lambda path, need, make: SimpleNamespace(made=make()))
    (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "../x", "width": 1, "height": 1}],
                                                 "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    with pytest.raises(DataError, match="leaves the image folder"): coco.load(tmp_path / "a.json")


def test_pictures_with_odd_metadata_are_read_in_threads_without_a_warning(tmp_path):
    "A filter that is set and taken back around each picture would be lost between threads."
    palette = Image.fromarray(RAMP).convert("P")
    palette.info["transparency"] = bytes(range(256))
    palette.save(tmp_path / "odd.png", transparency=bytes(range(256)))
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool: found = list(pool.map(read_picture, [tmp_path / "odd.png"] * 64))
    assert all((x == found[0]).all() for x in found)
    assert [f for f in warnings.filters if f not in filters] in ([], [image_files._PILLOW])     # once, and for Pillow alone
    with pytest.warns(UserWarning, match="ours"): warnings.warn("ours", stacklevel=1)
