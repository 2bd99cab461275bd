"`pointwssis doctor --data DIR`: every fault of a data set at once, with its record, and nothing of a sound one."
import ast
import json
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointwssis.data import shapes
from pointwssis.data.coco import encode
from pointwssis.runs.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    shapes.write(tmp_path / "d", train=8, val=2, size=72)
    return tmp_path / "d"


def change(root, name, edit):
    path = root / f"annotations/instances_{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return content


def doctor(capsys, root, *options):
    code = main(["doctor", "--data", str(root), *options])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_sound_data_set_has_counts_and_no_faults(root, capsys):
    code, out, _ = doctor(capsys, root)
    content = change(root, "train", lambda c: None)
    assert code == 0 and "STOP" not in out
    assert f"8 images, {len(content['annotations'])} objects (" in out and "leaves out 0 images and 0 objects" in out


def test_all_faults_are_listed_at_once_with_ids_and_names(root, capsys):
    def spoil(c):
        images, found = c["images"], c["annotations"]
        found[0]["image_id"], found[1]["category_id"] = 999, 77
        found[2]["segmentation"] = {"size": [72, 72], "counts": [9]}
        found[3]["iscrowd"] = 1
        found[4]["segmentation"] = encode(np.zeros((72, 72), bool))
        found.append(dict(found[5]))
        del found[6]["segmentation"]
        images[5]["width"] = 71
        images[6]["file_name"] = "/etc/hosts"
        images[7]["file_name"] = "none.png"
    content = change(root, "train", spoil)
    train = root / "train"
    picture = train / content["images"][3]["file_name"]
    picture.write_bytes(picture.read_bytes()[:-40])
    (train / content["images"][4]["file_name"]).write_bytes(b"")
    code, out, _ = doctor(capsys, root, "--few", "99")
    ids = [a["id"] for a in content["annotations"]]
    assert code == 1
    for words in (f"annotation {ids[0]}: unknown image_id 999", f"annotation {ids[1]}: unknown category_id 77",
                  f"annotation {ids[2]} (image", f"crowd region: 1\n       annotation {ids[3]} ", f"mask without a pixel: 1\n       annotation {ids[4]} ",
                  f"annotation id {ids[5]} occurs twice", f"annotation {ids[6]} has no segmentation", "72 x 72 pixels, the JSON says 71 x 72",
                  "file name '/etc/hosts' leaves the image folder", "none.png: image", "STOP picture cannot be read: 2",
                  f"{picture.name}: image {content['images'][3]['id']}", "0 bytes", "leaves out 0 images and 2 objects"):
        assert words in out, words
    assert not re.search(r"Traceback|None\b", out)
    assert "STOP picture cannot be read: 1" in doctor(capsys, root, "--quick")[1]    # an empty file has no header; a cut one has


def test_many_faults_of_a_kind_are_counted_and_a_few_named(root, capsys):
    content = change(root, "train", lambda c: [a.update(category_id=77) for a in c["annotations"]])
    code, out, _ = doctor(capsys, root)
    count = len(content["annotations"])
    assert code == 1 and f"annotation of an unknown class: {count} ... and {count - 5} more" in out
    assert out.count("unknown category_id 77") == 5 and "file without objects" in out


@pytest.mark.parametrize("edit, words", [
    (lambda c: c.update(annotations=[]), "STOP file without objects: 1"),
    (lambda c: c["categories"].append({"id": 500, "name": "yak"}), "'yak'; training has"),
    (lambda c: c.pop("images"), "'images' is not a list of records"),
    (lambda c: c["categories"].append({"id": 500}), "category 500: 'name' is None"),
])
def test_validation_that_cannot_be_evaluated(root, capsys, edit, words):
    change(root, "val", edit)
    code, out, _ = doctor(capsys, root)
    assert code == 1 and words in out


def test_files_that_are_no_json_or_not_there(root, capsys, tmp_path):
    (root / "annotations/instances_val.json").write_text('{"images": [')
    code, out, _ = doctor(capsys, root)
    assert code == 1 and "broken JSON at line 1" in out
    (root / "annotations/instances_val.json").unlink()
    assert "no such file" in doctor(capsys, root)[1]
    code, _, err = doctor(capsys, tmp_path / "nowhere")
    assert code == 2 and err.startswith("error: ") and "no such folder" in err and len(err.splitlines()) == 1


def test_turned_and_animated_pictures(root, capsys):
    content = change(root, "train", lambda c: None)
    first, second = (root / "train" / content["images"][i]["file_name"] for i in (0, 1))
    note = Image.Exif()
    note[0x0112] = 6
    Image.new("RGB", (72, 72)).save(first, exif=note)
    frames = [Image.new("RGB", (72, 72), colour) for colour in ("red", "green")]
    frames[0].save(second, save_all=True, append_images=frames[1:])
    code, out, _ = doctor(capsys, root)
    assert code == 0 and f"several frames: the first is read: 1\n       image {content['images'][1]['id']}" in out


def test_a_weak_file_is_checked_for_its_points(root, capsys):
    content = change(root, "train", lambda c: None)
    weak = [{k: a[k] for k in ("id", "image_id", "category_id")} | {"point": [3, 4]} for a in content["annotations"]]
    weak[0]["point"] = [500, 1]
    (root / "weak.json").write_text(json.dumps(content | {"annotations": weak}))
    code, out, _ = doctor(capsys, root, "--set", "data.weak_json=weak.json")
    assert code == 1 and "STOP point outside its image: 1" in out


def test_every_package_that_is_imported_is_declared():
    settings = (ROOT / "settings.ini").read_text()
    words = re.search(r"^requirements = (.*)$", settings, re.M)[1].split()
    declared = {re.split(r"[<>=!~\[]", word)[0].lower().replace("_", "-") for word in words}
    owners, used = packages_distributions(), set()
    for path in (ROOT / "pointwssis").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import): used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: used.add(node.module.split(".")[0])
    owned = {name: {owner.lower().replace("_", "-") for owner in owners[name]} for name in used if name in owners and name != "pointwssis"}
    assert {name for name, by in owned.items() if not by & declared} == set()
