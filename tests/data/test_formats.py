"Annotation formats: samples of every tool are read alike, labels go out and come back, and a fault is one line with file, record and cure."
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointwssis.data import coco, convert as convert_module
from pointwssis.core import ConfigError, DataError
from pointwssis.data.convert import convert, read_annotations, write_annotations
from pointwssis.data.copies import cut, labels_at, shrink
from pointwssis.data.format_folders import VOC_CLASSES
from pointwssis.data.formats import AnnotationSet
from pointwssis.registry import FORMATS
from pointwssis.runs.cli import main

SAMPLES = Path(__file__).parent.parent / "recorded/formats"
SOURCES = {"coco": "coco.json", "cvat": "cvat.xml", "label_studio": "label_studio.json", "labelme": "labelme"}
CAT, TWO = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
CAT[5:15, 10:20] = TWO[4:8, 2:6] = TWO[4:8, 30:38] = True


@pytest.fixture
def work(tmp_path) -> Path:
    "The samples beside their two images."
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos/in").mkdir(parents=True)
    for name in ("cat.png", "in/two.png"): Image.new("RGB", (40, 30), "white").save(tmp_path / "photos" / name)
    return tmp_path


def objects(data: coco.CocoData) -> dict[tuple, list]:
    "Outlines and clicks by image and class, whatever their order."
    found: dict[tuple, list] = {}
    for i in data.ids:
        for a in data.annotations[i]:
            key = (data.images[i]["file_name"], data.categories.names[data.categories.index(a["category_id"])])
            found.setdefault(key, []).append(tuple(a["point"]) if "segmentation" not in a else data.mask(a).tobytes())
    return found


SCENE = {("cat.png", "cat"): [CAT.tobytes()], ("cat.png", "dog"): [(30.5, 20.25)], ("in/two.png", "dog"): [TWO.tobytes()]}


@pytest.mark.parametrize("name", SOURCES)
def test_every_tool_says_the_same(work, name):
    data = read_annotations(name, work / SOURCES[name], work / "photos")
    assert objects(data) == SCENE and data.categories.names == ("cat", "dog")
    assert all(data.read_image(i).shape == (30, 40, 3) for i in data.ids)


def test_clicks_of_a_table(work):
    data = read_annotations("csv", work / "clicks.csv", work / "photos")
    assert objects(data) == {("cat.png", "dog"): [(30.5, 20.25)], ("in/two.png", "dog"): [(4., 6.)]}


@pytest.mark.parametrize("name", SOURCES)
def test_labels_go_out_for_correction_and_come_back(work, name):
    data = read_annotations("coco", work / "coco.json", work / "photos")
    write_annotations(name, work / "out", data)
    assert objects(read_annotations(name, work / "out", work / "photos")) == SCENE
    with pytest.raises(DataError, match="is there already. Remove it, or choose another name."): write_annotations(name, work / "out", data)


@pytest.mark.parametrize("name", ["cvat", "label_studio", "labelme"])
def test_corrected_labels_are_strong_labels(work, name):
    "A pseudo label is moved in the tool; the next training sees the mask where it now is."
    data = read_annotations("coco", work / "coco.json", work / "photos")
    write_annotations(name, work / "out", data)
    file = work / "out/cat.json" if name == "labelme" else work / "out"
    if name == "cvat": file.write_text(file.read_text().replace('left="10"', 'left="12"'))
    else:
        content = json.loads(file.read_text())
        if name == "labelme":
            content["shapes"] = [s | {"points": [[x + 2, y] for x, y in s["points"]]} if s["label"] == "cat" else s for s in content["shapes"]]
        else:
            first = content[0]["annotations"][0]["result"]
            box = [[30, 50 / 3], [55, 50 / 3], [55, 50], [30, 50]]
            first[0] = first[0] | {"type": "polygonlabels", "value": {"points": box, "polygonlabels": ["cat"]}}
        file.write_text(json.dumps(content))
    convert(name, work / "out", work / "strong.json", root=work / "photos")
    back = coco.load(work / "strong.json", work / "photos")
    cat = next(a for i in back.ids for a in back.annotations[i] if back.categories.names[back.categories.index(a["category_id"])] == "cat")
    assert (back.mask(cat) == np.roll(CAT, 2, 1)).all()
    coco.check_masks(back.select(i for i in back.ids if back.images[i]["file_name"] == "in/two.png"))


def picture_sets(root: Path) -> None:
    "The two images with masks as folders of pictures; classes where the layout has them."
    labels = {"cat": CAT.astype(np.uint8), "two": TWO.astype(np.uint8)}
    for name, label in labels.items():
        for folder in (f"bowl/{name}/images", f"bowl/{name}/masks", "flat/images", "flat/labels", "voc/JPEGImages",
                       "voc/SegmentationObject", "voc/SegmentationClass"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for file in (f"bowl/{name}/images/{name}.png", f"flat/images/{name}.png", f"voc/JPEGImages/{name}.jpg"): Image.new("RGB", (40, 30)).save(root / file)
        Image.fromarray(label * np.uint8(255)).save(root / f"bowl/{name}/masks/1.png")
        Image.fromarray(label.astype(np.uint16) * 700).save(root / f"flat/labels/{name}.png")
        Image.fromarray(label).save(root / f"voc/SegmentationObject/{name}.png")
        Image.fromarray(label * np.uint8(VOC_CLASSES.index("cat" if name == "cat" else "dog"))).save(root / f"voc/SegmentationClass/{name}.png")


@pytest.mark.parametrize("name, folder", [("masks", "bowl"), ("label_images", "flat"), ("voc", "voc")])
def test_folders_of_masks_become_checked_coco(tmp_path, name, folder):
    picture_sets(tmp_path)
    convert(name, tmp_path / folder, tmp_path / "out.json", classes=() if name == "voc" else ("beast",))
    data = coco.load(tmp_path / "out.json", tmp_path / folder, need="masks")
    coco.check_masks(data)
    assert [data.mask(data.annotations[i][0]).tobytes() for i in data.ids] == [CAT.tobytes(), TWO.tobytes()]
    assert data.categories.names == (("cat", "dog") if name == "voc" else ("beast",))
    assert data.read_image(1).shape == (30, 40, 3)


def test_voc_with_colours_instead_of_a_palette(tmp_path):
    picture_sets(tmp_path)
    (tmp_path / "voc/labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nhound:10,20,30::\npuma:40,50,60::\n")
    for name, mask, colour in (("cat", CAT, (40, 50, 60)), ("two", TWO, (10, 20, 30))):
        Image.fromarray((mask[..., None] * np.array(colour)).astype(np.uint8)).save(tmp_path / f"voc/SegmentationClass/{name}.png")
        Image.fromarray((mask[..., None] * np.array((128, 0, 0))).astype(np.uint8)).save(tmp_path / f"voc/SegmentationObject/{name}.png")
    assert set(objects(read_annotations("voc", tmp_path / "voc"))) == {("JPEGImages/cat.jpg", "puma"), ("JPEGImages/two.jpg", "hound")}


def test_a_folder_of_coco_files_beside_their_images(work):
    for part, keep in (("train", 3), ("valid", 8)):
        content = json.loads((work / "coco.json").read_text())
        content["images"] = [i for i in content["images"] if i["id"] == keep]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == keep]
        shutil.copytree(work / "photos", work / "set" / part)
        (work / "set" / part / "_annotations.coco.json").write_text(json.dumps(content))
    assert {name for name, _ in objects(read_annotations("coco", work / "set"))} == {"train/cat.png", "valid/in/two.png"}


def test_a_list_of_names_and_a_choice_of_classes(work):
    (work / "names.txt").write_text("# the second image only\ntwo\n")
    data = read_annotations("coco", work / "coco.json", work / "photos", names=work / "names.txt", classes=("dog",))
    assert objects(data) == {("in/two.png", "dog"): [TWO.tobytes()]} and data.categories.names == ("dog",)
    (work / "names.txt").write_text("three\n")
    with pytest.raises(DataError, match="names.txt: line 1: 0 images of .*coco.json are called 'three'"):
        read_annotations("coco", work / "coco.json", work / "photos", names=work / "names.txt")
    with pytest.raises(DataError, match="has no class 'dgo'. Did you mean 'dog'"): read_annotations("coco", work / "coco.json", classes=("dgo",))


def test_smaller_copies_have_smaller_labels(work):
    data = read_annotations("cvat", work / "cvat.xml", work / "photos")
    small = shrink(data, work / "small", 20)
    assert {small.read_image(i).shape for i in small.ids} == {(15, 20, 3)}
    assert [tuple(a["point"]) for i in small.ids for a in small.annotations[i] if "point" in a] == [(15.25, 10.125)]
    assert sorted(a["area"] for i in small.ids for a in small.annotations[i] if "area" in a) == [12, 25]


def test_tiles_hold_each_click_once_and_the_parts_of_masks(work):
    data = read_annotations("cvat", work / "cvat.xml", work / "photos")
    def clicks(of): return [a["point"] for a in of.records() if "point" in a]
    def areas(of): return sorted(a["area"] for a in of.records() if "area" in a)
    whole, tiles = cut(data, work / "whole", 100), cut(data, work / "tiles", 20)
    assert clicks(whole) == clicks(data) and areas(whole) == areas(data) and len(clicks(tiles)) == len(clicks(data))
    assert {tiles.read_image(i).shape for i in tiles.ids} == {(15, 20, 3)}
    assert .7 * sum(areas(data)) < sum(areas(tiles)) <= sum(areas(data))
    for i, record in tiles.images.items():
        stem, y, x = record["file_name"].removesuffix(".png").rsplit("_", 2)
        image = next(k for k, r in data.images.items() if r["file_name"].startswith(stem))
        assert (tiles.read_image(i) == data.read_image(image)[int(y):int(y) + 15, int(x):int(x) + 20]).all()
        for a in tiles.annotations[i]:
            if "point" in a: assert [a["point"][0] + int(x), a["point"][1] + int(y)] in clicks(data)


def test_the_command_cuts_images_into_tiles(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    assert main(["convert", "cvat", "cvat.xml", "tiles.json", "--images", "photos", "--images-out", "cut", "--tile", "20"]) == 0
    made = coco.load(work / "tiles.json", work / "cut")
    assert len(made.ids) == len(list((work / "cut").rglob("*.png"))) > 2 and "relative to cut" in capsys.readouterr().out
    shutil.copy(work / "photos/cat.png", work / "photos/cat.PNG")
    content = json.loads((work / "coco.json").read_text())
    content["images"][1]["file_name"] = "cat.PNG"
    (work / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="two images are named 'cat'. Rename one."):
        cut(read_annotations("coco", work / "coco.json", work / "photos"), work / "again", 20)


def test_labels_come_back_to_the_size_of_the_images(work):
    "Masks lose little on the way, clicks nothing; a copy is written once."
    data = read_annotations("cvat", work / "cvat.xml", work / "photos")
    small = shrink(data, work / "small", 20)
    when = {path: path.stat().st_mtime_ns for path in (work / "small").rglob("*.png")}
    back = labels_at(shrink(data, work / "small", 20), {i: (r["width"], r["height"]) for i, r in data.images.items()})
    assert when == {path: path.stat().st_mtime_ns for path in (work / "small").rglob("*.png")}
    assert back.images == data.images
    Image.new("RGB", Image.open(work / "photos/cat.png").size).save(work / "photos/cat.png")
    os.utime(work / "photos/cat.png", (0, 0))
    assert not shrink(data, work / "small", 20).read_image(data.ids[0]).any(), "another picture, even one with an older date, is copied again"
    pairs = [(a, b) for i in data.ids for a, b in zip(data.annotations[i], back.annotations[i])]
    assert pairs and all(a["point"] == pytest.approx(b["point"]) for a, b in pairs if "point" in a)
    for a, b in pairs:
        if "segmentation" in a: assert (data.mask(a) & back.mask(b)).sum() > .7 * (data.mask(a) | back.mask(b)).sum()


def edit(file: str, old: str, new: str): return lambda work: (work / file).write_text((work / file).read_text().replace(old, new, 1))
def again(work): (work / "cvat.xml").write_text((work / "cvat.xml").read_text().replace('name="two.png"', 'name="cat.png"'))


def unlabelled(work):
    content = json.loads((work / "label_studio.json").read_text())
    content[1]["annotations"] = content[1]["annotations"][:1]
    (work / "label_studio.json").write_text(json.dumps(content))


def lying(work):
    "The camera lay on its side: the file's pixels are 40 x 30, and a note turns them."
    note = Image.Exif()
    note[0x0112] = 6
    Image.new("RGB", (40, 30)).save(work / "photos/cat.png", exif=note)


def namesake(work):
    (work / "photos/other").mkdir()
    shutil.copy(work / "photos/in/two.png", work / "photos/other/two.png")


FAULTS = {
    "csv, no column": ("csv", edit("clicks.csv", "class", "klass"), "clicks.csv: line 1: no column 'class'. Did you mean 'klass'? Name the columns"),
    "csv, a percentage": ("csv", edit("clicks.csv", "30.5", "76%"), "line 2: x is '76%', a percentage. Write pixels"),
    "csv, no number": ("csv", edit("clicks.csv", "30.5", "left"), "line 2: x is 'left'. Write a number"),
    "csv, cells missing": ("csv", edit("clicks.csv", "4,6,dog", "4,6"), "line 3: 3 cells, 4 are needed. Mend"),
    "csv, shares of the image": ("csv", lambda w: (w / "clicks.csv").write_text("file,x,y,class\ncat.png,.5,.7,dog\n"),
                                 "line 2: the click (0.5, 0.7), as all others, is a share"),
    "csv, outside": ("csv", edit("clicks.csv", "30.5", "40"), "line 2: the click (40, 20.25) is not inside cat.png (40 x 30). Write"),
    "csv, not a number": ("csv", edit("clicks.csv", "30.5", "nan"), "line 2: the click (nan, 20.25) is not inside cat.png"),
    "csv, twice": ("csv", edit("clicks.csv", "in/two.png,4,6,dog", "cat.png,30.5,20.25,dog"), "line 3: the click repeats line 2. Remove one"),
    "csv, climbing": ("csv", edit("clicks.csv", "in/two", "../photos/in/two"), "line 3: file name '../photos/in/two.png' leaves the image folder. Write"),
    "csv, no such image": ("csv", edit("clicks.csv", "cat.png", "cats.png"), "line 2: no image 'cats.png' in"),
    "csv, two of that name": ("csv", lambda w: (namesake(w), edit("clicks.csv", "in/two", "two")(w)), "'two.png' can be in/two.png or other/two.png in"),
    "csv, empty": ("csv", lambda w: (w / "clicks.csv").write_text("\n"), "is empty. Write file,x,y,class"),
    "coco, two keypoints": ("coco", edit("coco.json", "[0, 0, 0,", "[3, 3, 1,"), "annotation 2: has 2 labelled keypoints, a click is one. Keep"),
    "coco, nothing": ("coco", edit("coco.json", '"keypoints": [0, 0, 0, 30.5, 20.25, 2]', '"bbox": [1, 1, 5, 5]'),
                      "annotation 2 has neither an outline nor a click. Add"),
    "coco, another size": ("coco", edit("coco.json", '"width": 40', '"width": 80'), "image 3: made on 80 x 30 pixels, cat.png has 40 x 30. Annotate"),
    "cvat, lying on its side": ("cvat", lying, "image 0: made on 40 x 30 pixels, cat.png has 30 x 40. It was annotated lying on its side"),
    "cvat, unknown class": ("cvat", edit("cvat.xml", '<points label="dog"', '<points label="dgo"'),
                            "image 0, shape 2: unknown class 'dgo'. Did you mean 'dog'? Known: cat, dog. Rename"),
    "cvat, a box": ("cvat", edit("cvat.xml", "<tag", '<box label="cat" xtl="1" ytl="1" xbr="4" ybr="5"/><tag'),
                    "image 0, shape 3 is a <box>, neither a click nor an outline. Draw"),
    "cvat, duplicate file": ("cvat", again, "image 1: image 'cat.png' is in image 0 too. Remove one"),
    "cvat, an empty image": ("cvat", edit("cvat.xml", "</annotations>",
                                          '<image id="2" name="cat.png" width="40" height="30"></image></annotations>'),
                             "image 2: image 'cat.png' is in image 0 too"),
    "cvat, runs too short": ("cvat", edit("cvat.xml", 'rle="0, 16"', 'rle="0, 15"'),
                             "image 1, shape 1: its runs do not fill a box inside of the image. Export"),
    "cvat, entities": ("cvat", edit("cvat.xml", "<annotations>", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotations>'),
                       "declares a document type, as no annotation tool does. Export"),
    "cvat, broken": ("cvat", edit("cvat.xml", "</annotations>", ""), "cvat.xml: broken XML at line"),
    "label studio, pixels": ("label_studio", edit("label_studio.json", "76.25", "305"),
                             "task 11, result bbb: coordinate 305 is no percentage (0 to 100). Export"),
    "label studio, rotated": ("label_studio", edit("label_studio.json", '"image_rotation": 0', '"image_rotation": 90'),
                              "task 11, result aaa: the image is rotated by 90 degrees. Turn"),
    "label studio, an empty task": ("label_studio", unlabelled, "task 12 (in/two.png) has no annotation. Finish it, or pass --empty skip"),
    "label studio, a box": ("label_studio", edit("label_studio.json", '"width": 0.5', '"width": 3, "height": 3'),
                            "task 11, result bbb: 'keypointlabels' is neither a click nor an outline"),
    "label studio, broken brush": ("label_studio", edit("label_studio.json", '"rle": [0, ', '"rle": [1, '),
                                   "task 12, result ddd: its brush mask is broken. Export"),
    "label studio, two classes": ("label_studio", edit("label_studio.json", '["cat"]', '["cat", "dog"]'), "task 11, result aaa: has 2 classes. Give it one"),
    "label studio, a class without a name": ("label_studio", edit("label_studio.json", '["cat"]', "[3]"),
                                             "task 11, result aaa: its classes are no list of names. Export"),
    "label studio, not tasks": ("label_studio", lambda w: (w / "label_studio.json").write_text("{}"), "is no list of tasks. Export the project as JSON"),
    "labelme, a box": ("labelme", edit("labelme/cat.json", '"polygon"', '"rectangle"'),
                       "cat.json: shape 1 is a rectangle, neither a click nor an outline. Draw"),
    "labelme, climbing": ("labelme", edit("labelme/two.json", '"two.png"', '"../../../secret.png"'), "labelme: two.json: no image 'secret.png' in"),
    "labelme, mask out of its box": ("labelme", edit("labelme/two.json", "[37, 7]", "[36, 7]"),
                                     "two.json: shape 2: its mask does not fit into its box or the image. Draw"),
    "labelme, no objects": ("labelme", lambda w: (w / "labelme/cat.json").write_text("{}"), "cat.json: has no 'imagePath'. Is this a LabelMe file?"),
    "an outline of no pixel": ("cvat", edit("cvat.xml", "20.00,15.00;10.00,15.00", "10.00,5.00"), "image 0, shape 1: the outline encloses no pixel. Draw"),
}


@pytest.mark.parametrize("name, spoil, words", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line(work, name, spoil, words):
    spoil(work)
    with pytest.raises(DataError) as e: read_annotations(name, work / {**SOURCES, "csv": "clicks.csv"}[name], work / "photos")
    text = str(e.value)
    assert words in text and "\n" not in text and str(work) in text and text.endswith((".", "?"))


FOLDER_FAULTS = {
    "a picture without labels": ("label_images", "flat", lambda r: (r / "labels/cat.png").unlink(), "cat.png has no label image. Add it"),
    "label image of colours": ("label_images", "flat", lambda r: Image.new("RGB", (40, 30)).save(r / "labels/cat.png"),
                               "labels/cat.png is a picture of colours or fractions"),
    "label image of another size": ("label_images", "flat", lambda r: Image.fromarray(np.ones((9, 9), np.uint8)).save(r / "labels/cat.png"),
                                    "labels/cat.png: made on 9 x 9 pixels, images/cat.png has 40 x 30"),
    "two pictures of one image": ("masks", "bowl", lambda r: shutil.copy(r / "cat/images/cat.png", r / "cat/images/b.png"),
                                  "cat/images holds 2 pictures, one is needed"),
    "a mask cut short": ("masks", "bowl", lambda r: (r / "cat/masks/1.png").write_bytes(b"no"), "1.png cannot be read as an image. Fetch"),
    "no masks": ("masks", "bowl/cat/masks", lambda r: None, "has no folder 'masks'. Give"),
    "an unknown class": ("voc", "voc", lambda r: Image.fromarray(CAT * np.uint8(77)).save(r / "SegmentationClass/cat.png"),
                         "object 1: class number 77 has no name. Put"),
    "an object without its image": ("voc", "voc", lambda r: (r / "JPEGImages/cat.jpg").unlink(), "cat of SegmentationObject has no file in JPEGImages. Add"),
}


@pytest.mark.parametrize("name, folder, spoil, words", FOLDER_FAULTS.values(), ids=FOLDER_FAULTS)
def test_a_fault_in_a_folder_is_one_line(tmp_path, name, folder, spoil, words):
    picture_sets(tmp_path)
    spoil(tmp_path / folder)
    with pytest.raises(DataError) as e: read_annotations(name, tmp_path / folder)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_clicks_in_percent_are_refused(work):
    "No click of ten lies beyond 100 in three images of 400 x 300. One that does, fewer clicks, fewer or smaller images make them pixels."
    for n in range(3): Image.new("RGB", (400, 300)).save(work / f"photos/{n}.png")
    rows = [f"{n % 3}.png,{9 * n + 10},{99 - 9 * n},dog" for n in range(10)]
    def read(*rows: str) -> coco.CocoData:
        (work / "clicks.csv").write_text("\n".join(["file,x,y,class", *rows]))
        return read_annotations("csv", work / "clicks.csv", work / "photos")
    with pytest.raises(DataError, match=r"line 2: the click \(10.0, 99.0\), as all others, seems to be a percentage of the image. "
                                        r"Multiply x by the width \(400 / 100\) and y by the height \(300 / 100\)."): read(*rows)
    assert len(read(*rows[:9]).ids) == 3 and len(read(*rows, "0.png,101,20,dog").ids) == 3
    assert len(read(*(row.replace("2.png", "1.png") for row in rows)).ids) == 2
    Image.new("RGB", (190, 300)).save(work / "photos/1.png")
    assert len(read(*rows).ids) == 3


def test_classes_are_compared_between_two_files(work):
    (work / "clicks.csv").write_text((work / "clicks.csv").read_text().replace("dog", "Dog"))
    with pytest.raises(DataError, match="line 2: unknown class 'Dog'. Did you mean 'dog'"):
        read_annotations("csv", work / "clicks.csv", work / "photos", known=("cat", "dog"))


@pytest.mark.parametrize("empty, images", [("skip", 2), ("background", 3)])
def test_images_that_nobody_has_worked_on(work, empty, images):
    Image.new("RGB", (40, 30)).save(work / "photos/third.png")
    edit("cvat.xml", "</annotations>", '<image id="2" name="third.png" width="40" height="30"></image></annotations>')(work)
    assert len(read_annotations("cvat", work / "cvat.xml", work / "photos", empty=empty).ids) == images
    with pytest.raises(DataError, match=r"image 2 \(third.png\) has no annotation. Finish it"): read_annotations("cvat", work / "cvat.xml", work / "photos")


def test_the_command(work, capsys, monkeypatch):
    monkeypatch.chdir(work)
    assert main(["convert", "CVAT", "cvat.xml", "made/masks.json", "--images", "photos", "--classes", "dog"]) == 0
    assert capsys.readouterr().out == "made/masks.json: 2 images, 1 outline, 1 click; dog 2. File names are relative to photos.\n"
    assert main(["convert", "coco", "made/masks.json", "tasks.json", "--to", "label-studio"]) == 0
    assert main(["convert", "label-studio", "tasks.json", "again.json", "--images", "photos", "--images-out", "small", "--long-side", "20"]) == 0
    assert coco.load("again.json", "small").read_image(1).shape == (15, 20, 3)


@pytest.mark.parametrize("argv, words", [
    (["cvta", "cvat.xml", "out"], "unknown format 'cvta'. Did you mean 'cvat'? Known: "),
    (["cvat", "cvt.xml", "out"], "cvt.xml: no such file or folder. Check the path."),
    (["cvat", "cvat.xml", "coco.json"], "coco.json: is there already. Remove it, or choose another name."),
    (["cvat", "cvat.xml", "out", "--images", "photo"], "photo: no such folder. Give the folder that holds the images."),
    (["cvat", "cvat.xml", "out", "--to", "voc"], "format 'voc' is only read. Formats that are written: "),
    (["cvat", "cvat.xml", "out", "--empty", "skpi"], "unknown choice 'skpi' for empty images. Did you mean 'skip'?"),
    (["cvat", "cvat.xml", "out", "--long-side", "20"], "smaller copies or tiles need a folder and one size. Pass --images-out DIR and either --long-side N or --tile N."),
    (["cvat", "cvat.xml", "out", "--names", "none.txt"], "none.txt: cannot be read: "),
    (["csv", "clicks.csv", "out"], "the size of 'cat.png' is not known. Pass the image folder as --images DIR."),
    (["label_images", "photos", "out"], "photos: no picture has a label image. Put them into 'labels'")])
def test_a_wrong_command_is_one_line(work, capsys, monkeypatch, argv, words):
    monkeypatch.chdir(work)
    assert main(["convert", *argv]) == 2
    line = capsys.readouterr().err
    assert words in line and line.startswith("error: ") and line.count("\n") == 1 and not (work / "out").exists()


def test_few_of_many_images_are_used(work):
    for n in range(500): (work / f"photos/{n}.png").write_bytes(b"")   # never opened
    assert len(read_annotations("cvat", work / "cvat.xml", work / "photos").ids) == 2


def test_a_new_format_is_one_class(work):
    @FORMATS.register("nothing")
    class Nothing:
        "No objects."
        def read(self, path, root): return AnnotationSet(path, [])
    try:
        with pytest.raises(DataError, match="has no click and no outline"): read_annotations("Nothing", work)
        with pytest.raises(ConfigError, match="format 'nothing' is only read. Formats that are written: .*cvat"):
            write_annotations("nothing", work / "out", read_annotations("coco", work / "coco.json"))
    finally: FORMATS._found.pop("nothing")
    with pytest.raises(ConfigError, match="unknown format 'cvta'. Did you mean 'cvat'"): read_annotations("cvta", work / "cvat.xml")


def test_the_formats_are_found_by_themselves():
    assert set(FORMATS) == {"coco", "csv", "cvat", "label_images", "label_studio", "labelme", "masks", "voc"}
    assert all(FORMATS[name].__doc__ for name in FORMATS)


HUGE = "9" * 400


@pytest.mark.parametrize("tool, file, old, new, said", [
    ("labelme", "labelme/cat.json", "[10, 5]", f"[{HUGE}, 5]", "'points' is not a list of"),
    ("coco", "coco.json", "30.5", HUGE, "is not a list|Write .x, y."),
    ("label_studio", "label_studio.json", None, HUGE, "not numbers|no percentage"),
    ("label_studio", "label_studio.json", '"original_height": 30', f'"original_height": {HUGE}', "has no original_width and original_height"),
    ("cvat", "cvat.xml", "utf-8", "tf-8", "unknown encoding: tf-8. Export it again, in UTF-8"),
    ("csv", "clicks.csv", "cat.png", f"{HUGE}.png", "no image '9+.png'"),
])
def test_numbers_and_names_without_measure_are_one_line(work, tool, file, old, new, said):
    "JSON allows integers that no float holds, a file system no name of 400 letters."
    text = (work / file).read_text()
    if old is None: old = re.search(r'"x": ([\d.]+)', text)[1]
    assert old in text
    (work / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=said) as caught: read_annotations(tool, work / SOURCES.get(tool, file), work / "photos")
    assert "\n" not in str(caught.value)


def test_several_files_are_read_once(work, monkeypatch):
    content = json.loads((work / "coco.json").read_text())
    for n, image in enumerate(content["images"]):
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        (work / f"part{n}.json").write_text(json.dumps(content | {"images": [image], "annotations": mine}))
    seen, parts = [], [work / "part0.json", work / "part1.json"]
    read = convert_module.read_annotations
    monkeypatch.setattr(convert_module, "read_annotations", lambda name, path, *args, **how: seen.append(path) or read(name, path, *args, **how))
    assert objects(convert_module.read_files(parts, work / "photos")) == objects(read("coco", work / "coco.json", work / "photos"))
    assert seen == parts


@pytest.mark.parametrize("x", [0, 19.99, 20, 20.01, 39.99])
def test_a_click_near_the_border_of_tiles_is_in_one_of_them(work, x):
    data = read_annotations("cvat", work / "cvat.xml", work / "photos")
    image = data.ids[0]
    data = replace(data.select([image]), annotations={image: [{"id": 1, "image_id": image, "category_id": 1, "point": [x, 15.], "iscrowd": 0}]})
    tiles = cut(data, work / "tiles", 20)
    found = [(record["file_name"], a["point"]) for k, record in tiles.images.items() for a in tiles.annotations[k]]
    assert found == [(f"cat_15_{20 * (x >= 20)}.png", [pytest.approx(x % 20), 0])]
