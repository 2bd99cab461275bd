"Images as inputs: one hash for all of them, that costs one pass over their bytes and then a look at each file's size and time."
import os

import pytest

from pointwssis.core import write_json
from pointwssis.data import pictures
from pointwssis.data.pictures import image_names, one_look, pictures_hash
from pointwssis.data.store import cache_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Three listed images and one that no file lists; a cache folder of its own."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "train/deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png", "unlisted.png"): (tmp_path / "train" / name).write_bytes(name.encode())
    write_json(tmp_path / "train.json", {"images": [{"file_name": name} for name in ("a.png", "b.png", "deep/c.png")]})
    return tmp_path


@pytest.fixture
def read(monkeypatch) -> list[str]:
    "The names of the files whose bytes are read."
    names, real = [], pictures.file_hash
    monkeypatch.setattr(pictures, "file_hash", lambda path: names.append(path.name) or real(path))
    return names


def now(folder) -> str: return pictures_hash(folder / "train", [folder / "train.json"])


def test_any_change_of_a_listed_image_shows(folder):
    first = now(folder)
    (folder / "train/unlisted.png").write_bytes(b"other")
    assert now(folder) == first
    for name, content in (("a.png", b"x.png"), ("deep/c.png", b"longer than before")):     # one of the same size
        before = (folder / "train" / name).read_bytes()
        (folder / "train" / name).write_bytes(content)
        assert now(folder) != first
        (folder / "train" / name).write_bytes(before)
        assert now(folder) == first
    (folder / "train/b.png").rename(folder / "train/d.png")
    assert now(folder) != first


def test_each_file_is_read_once(folder, read):
    first = now(folder)
    assert sorted(read) == ["a.png", "b.png", "c.png"]
    assert now(folder) == first and len(read) == 3
    os.utime(folder / "train/a.png")
    assert now(folder) == first and read[3:] == ["a.png"]
    assert [path.name.split(".", 1)[1] for path in cache_folder().iterdir()] == ["train.pictures.json"]


def test_the_data_folder_gets_no_file(folder):
    before = sorted(folder.rglob("*.*"))
    now(folder)
    assert [path for path in sorted(folder.rglob("*.*")) if "cache" not in path.parts] == [p for p in before if "cache" not in p.parts]


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": 3}', b'{"files": {"a.png": [1, 2]}}', b"\xff\xfe"])
def test_a_damaged_cache_is_made_again(folder, content):
    first = now(folder)
    place, = cache_folder().iterdir()
    place.write_bytes(content)
    assert now(folder) == first and len(place.read_bytes()) > 100


def test_no_place_for_a_cache_is_no_obstacle(folder, monkeypatch):
    first = now(folder)
    monkeypatch.setattr(pictures, "cache_place", lambda *_: None)
    assert now(folder) == first
    (folder / "file").touch()
    monkeypatch.setattr(pictures, "cache_place", lambda *_: folder / "file/no/folder")
    assert now(folder) == first


def test_missing_and_odd_files(folder):
    "A stage that opens them says what is wrong; no pipe and no endless device is read for a hash."
    first = now(folder)
    (folder / "train/a.png").unlink()
    missing = now(folder)
    os.mkfifo(folder / "train/a.png")
    assert now(folder) == missing != first
    write_json(folder / "odd.json", {"images": [{"file_name": name} for name in ("../../../../dev/zero", "nul\0", "", "train")]})
    assert len(pictures_hash(folder / "train", [folder / "odd.json"])) == 64


@pytest.mark.parametrize("content", [b"", b"[]", b'{"images": 3}', b'{"images": [{"file_name": 5}]}', b'{"images": [{"id": 5}]}', b"\xff"])
def test_a_broken_annotation_file_lists_nothing(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert image_names(tmp_path / "a.json") == []


def test_one_look_reads_each_folder_once(folder, monkeypatch):
    looks, real = [], pictures._digest
    monkeypatch.setattr(pictures, "_digest", lambda *args: looks.append(args) or real(*args))
    with one_look():
        now(folder)
        with one_look(): now(folder)
        now(folder)
    assert len(looks) == 1
    now(folder), now(folder)
    assert len(looks) == 3
