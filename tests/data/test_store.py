"A large annotation file gets a cache that gives the same records, notices every change, and is nothing but data."
import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointwssis.core import DataError
from pointwssis.data import coco, record_checks, store
from pointwssis.data.record_checks import NEEDS
from pointwssis.runs.fingerprints import size_of

CLASSES = coco.CategoryTable((3, 90), ("cat", "brush"))


def content(images=4, seed=0) -> dict:
    "Polygons, run lengths, a crowd, an image without objects, scattered order, floats and integers, letters beyond ASCII."
    r, annotations = np.random.default_rng(seed), []
    for n in range(3 * images):
        mask = np.zeros((20, 30), bool)
        mask[(y := int(r.integers(15))):y + 4, (x := int(r.integers(25))):x + 4] = True
        outline = {"segmentation": [[x, y, x + 4.25, y, x + 4, y + 3.1]], "area": 7, "bbox": [x, y, 4.25, 3.1]}
        a = {"id": 100 - n, "image_id": 7 * int(r.integers(1, images)), "category_id": int(r.choice(CLASSES.ids))}
        annotations.append(a | (outline if n % 3 else coco.mask_fields(coco.encode(mask))) | ({"iscrowd": int(n == 3)} if n % 2 else {}))
    records = [{"id": 7 * i, "file_name": f"grün {i}.png", "width": 30, "height": 20} for i in range(images, 0, -1)]
    table = [{"id": i, "name": name} for i, name in zip(CLASSES.ids, CLASSES.names)]
    return {"licence": "none", "annotations": annotations, "images": records, "categories": table, "dropped_points": [{"id": 1, "point": [1, 2.0]}]}


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    "A file that counts as large."
    monkeypatch.setattr(store, "CACHE_FROM", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    found = tmp_path / "annotations" / "instances_train.json"
    found.parent.mkdir()
    found.write_text(json.dumps(content()))
    return found


@pytest.fixture
def makes(monkeypatch) -> list[str]:
    "The needs for which a cache was made, in order."
    made, skim = [], coco._skimmed
    monkeypatch.setattr(coco, "_skimmed", lambda path, need: made.append(need) or skim(path, need))
    return made


def plain(path: Path, need: str) -> coco.CocoData:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(store, "CACHE_FROM", 1 << 60)
        return coco.load(path, need=need)


def exactly(data: coco.CocoData) -> str:
    "Everything in order, where 2 is no 2.0."
    return repr([data.path, data.image_root, list(data.images.items()), list(data.annotations.items()), data.categories, data.info])


def kept(path: Path) -> list[Path]:
    "The caches; nothing may ever lie beside the file."
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return sorted(store.cache_folder().iterdir())


@pytest.mark.parametrize("need", NEEDS)
def test_the_same_records_from_the_file_and_from_its_cache(path, makes, need):
    wanted = plain(path, need)
    for _ in range(2):
        data = coco.load(path, need=need)
        assert isinstance(data.annotations, store.Slices) and isinstance(wanted.annotations, dict)
        assert exactly(data) == exactly(wanted) and data == wanted and data.num_annotations == wanted.num_annotations
    assert makes == [need]


def test_all_that_a_data_set_is_asked_for(path):
    data, wanted = coco.load(path), plain(path, "any")
    assert data.ids == wanted.ids == [28, 21, 14, 7] and 28 in data.images and 3 not in data.images and data.annotations.get(3) is None
    for ids in ([7, 21], [], [28]):
        part = data.select(ids)
        assert exactly(part) == exactly(wanted.select(ids)) and part.num_annotations == wanted.select(ids).num_annotations
        assert exactly(part.select(ids[:1])) == exactly(wanted.select(ids[:1]))
    with pytest.raises(DataError, match="no image 3. Choose"): data.select([7, 3])
    with pytest.raises(KeyError): data.annotations[3]
    for a, b in zip(data.annotations[7], wanted.annotations[7], strict=True): assert np.array_equal(data.mask(a), wanted.mask(b))
    assert data.annotations | {7: []} == wanted.annotations | {7: []}
    assert exactly(replace(data, info={})) == exactly(replace(wanted, info={}))
    assert exactly(pickle.loads(pickle.dumps(data))) == exactly(wanted)
    assert (data.annotations[7] or data.annotations[14]) and data.annotations[7] is not data.annotations[7]


def test_records_and_their_selections_share_one_mapping_of_the_file(path, monkeypatch):
    "Each mapping counts as memory of the process."
    coco.load(path)
    mapped, calls = store._mapped, []
    monkeypatch.setattr(store, "_mapped", lambda place: calls.append(place) or mapped(place))
    data = coco.load(path)
    assert data.select([7, 21]).select([7]).annotations[7] == data.annotations[7] and calls == kept(path)


def test_a_change_of_the_file_is_noticed(path, makes):
    before, text = coco.load(path), path.read_text()
    for changed, set_back in ((text.replace("brush", "brash"), False), (text.replace("brush", "brosh"), True), (json.dumps(content(5)), False)):
        seen = path.stat()
        path.write_text(changed)
        if set_back: os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))   # same size, same time of change
        assert exactly(coco.load(path)) == exactly(plain(path, "any"))
    assert makes == ["any"] * 4 and len(kept(path)) == 1 and before.categories.names == ("cat", "brush")
    path.unlink()
    with pytest.raises(DataError, match="no such file"): coco.load(path)


@pytest.mark.parametrize("name, value", [("FORMAT", 99), ("__version__", "9.9")])
def test_another_version_makes_it_anew(path, makes, monkeypatch, name, value):
    coco.load(path)
    monkeypatch.setattr(store, name, value)
    coco.load(path); coco.load(path)
    assert makes == ["any", "any"]


def test_a_damaged_cache_is_made_anew(path, makes):
    wanted = exactly(coco.load(path))
    [cache] = kept(path)
    whole = cache.read_bytes()
    spoiled = [b"", whole[:100], whole[:-1], b"\0" * len(whole), whole[:50] + b"\0" + whole[51:], whole[:-40] + b"\0" + whole[-39:], whole + b"\0"]
    for n, damage in enumerate(spoiled, start=2):
        cache.write_bytes(damage)
        assert exactly(coco.load(path)) == wanted and makes == ["any"] * n
    assert cache.read_bytes() == whole


def test_a_cache_of_points_holds_no_masks(path, monkeypatch):
    weak = coco.load(path, need="points")
    [cache] = kept(path)
    found = cache.read_bytes()
    assert b"point" in found and not any(word in found for word in (b"segmentation", b"counts", b"bbox", b"area"))
    assert {key for a in sum(weak.annotations.values(), []) for key in a} == {"id", "image_id", "category_id", "point", "iscrowd"}
    monkeypatch.setattr(record_checks, "_point_from_truth", lambda *_: pytest.fail("looked at the truth again"))
    assert exactly(coco.load(path, need="points")) == exactly(weak)


def test_a_cache_is_data_and_no_program(path):
    coco.load(path)
    source = Path(store.__file__).read_text() + Path(coco.__file__).read_text() + Path(record_checks.__file__).read_text()
    assert not any(word in source for word in ("pickle", "marshal", "shelve", "eval(", "exec("))
    kept(path)[0].write_bytes(pickle.dumps(Bomb()))
    assert exactly(coco.load(path)) == exactly(plain(path, "any"))


class Bomb:
    def __reduce__(self): return pytest.fail, ("a cache was unpickled",)


def test_files_of_one_name_have_caches_of_their_own(path, makes):
    other = path.parent.parent / "other" / path.name
    other.parent.mkdir()
    other.write_text(json.dumps(content(6)))
    for source in (path, other, path, other): assert exactly(coco.load(source)) == exactly(plain(source, "any"))
    assert makes == ["any", "any"] and len(kept(path)) == 2 and [p.name for p in other.parent.iterdir()] == [path.name]


def test_a_cache_folder_that_cannot_be_written(path, tmp_path):
    (tmp_path / "home").touch()   # takes the place of the folder; file permissions do not stop an administrator
    data = coco.load(path)
    assert exactly(data) == exactly(plain(path, "any")) and isinstance(data.annotations, dict)


def test_a_full_disk_leaves_the_reader_without_a_cache(path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(store.os, "replace", full)
    data = coco.load(path)
    assert exactly(data) == exactly(plain(path, "any")) and isinstance(data.annotations, dict)
    assert kept(path) == []


def test_without_a_home(path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(store, "user_cache_path", lambda name: Path("~/.cache") / name)
    assert store.cache_place(path, "any") is None and exactly(coco.load(path)) == exactly(plain(path, "any"))


def test_opening_a_finished_stage_leaves_it_finished(path, tmp_path):
    "Its artifacts are counted to find out whether it is whole, so a reader must not add to them."
    artifacts = tmp_path / "pseudo" / "artifacts"
    artifacts.mkdir(parents=True)
    path.rename(artifacts / "instances_25p_sw.json")
    before = size_of(artifacts)
    assert isinstance(coco.load(artifacts / "instances_25p_sw.json").annotations, store.Slices)
    assert size_of(artifacts) == before


def test_a_cache_that_nobody_opens_goes(path, makes):
    coco.load(path)
    [cache] = kept(path)
    os.utime(cache, (0, 0))
    coco.load(path)                              # opened: as young as ever
    assert cache.stat().st_mtime > 0 and makes == ["any"]
    os.utime(cache, (0, 0))
    coco.load(path, need="points")
    assert [p.suffix for p in kept(path)] == [".points"]


def test_small_files_leave_nothing_behind(path):
    plain(path, "any")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_is_left_of_a_file_with_faults(path, tmp_path):
    spoiled = content()
    del spoiled["annotations"][-1]["segmentation"]
    path.write_text(json.dumps(spoiled))
    with pytest.raises(DataError, match="annotation 89 has no segmentation"): coco.load(path, need="masks")
    assert kept(path) == []
    assert coco.load(path, need="any").num_annotations == 12 and len(kept(path)) == 1


@pytest.mark.parametrize("lax", [{"area": float("nan")}, {"note": "\ud800"}, {"id": 2**70}], ids=["NaN", "half a letter", "a huge id"])
def test_lax_json_is_read_without_a_cache_or_exactly(path, lax):
    spoiled = content()
    spoiled["annotations"][0] |= lax
    path.write_text(json.dumps(spoiled))
    data = coco.load(path)
    assert exactly(data) == exactly(plain(path, "any")) and any(list(lax)[0] in a for a in sum(data.annotations.values(), []))
