"Files are whole or absent, randomness repeats, errors name place and cure."
import errno
import json
import os
import stat
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from pointwssis import core
from pointwssis.core import ConfigError, DataError, StageError, run_beside


def listing(folder): return sorted(p.name for p in folder.iterdir())


def test_atomic_file_survives_a_failing_writer(tmp_path):
    target = tmp_path / "a.json"
    core.write_json(target, {"x": 1})
    with pytest.raises(RuntimeError), core.atomic_path(target) as p:
        p.write_text("half")
        raise RuntimeError
    assert core.read_json(target) == {"x": 1}
    assert listing(tmp_path) == ["a.json"]


def test_atomic_folder_replaces_and_survives(tmp_path):
    target = tmp_path / "stage"
    for name in "ab":
        with core.atomic_path(target) as p:
            p.mkdir()
            (p / name).touch()
    assert listing(target) == ["b"]
    with pytest.raises(RuntimeError), core.atomic_path(target) as p:
        p.mkdir()
        (p / "c").touch()
        raise RuntimeError
    assert listing(target) == ["b"] and listing(tmp_path) == ["stage"]


def test_atomic_path_makes_parents_and_keeps_the_suffix(tmp_path):
    with core.atomic_path(tmp_path / "x" / "y.safetensors") as p:
        assert p.suffix == ".safetensors" and p.parent == tmp_path / "x"
        p.touch()
    assert (tmp_path / "x" / "y.safetensors").exists()


def test_a_failed_swap_brings_the_old_folder_back(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "old").touch()
    with pytest.raises(FileNotFoundError), core.atomic_path(tmp_path / "stage"): pass  # nothing was written
    assert listing(tmp_path / "stage") == ["old"] and listing(tmp_path) == ["stage"]


@pytest.mark.parametrize("content, words", [
    (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
    (b"\xff\xfe\xfa", "cannot be read"),
    (b"", "line 1, column 1"),
])
def test_read_json_names_file_and_place(tmp_path, content, words):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as e: core.read_json(path)
    assert "f.json" in str(e.value) and words in str(e.value) and "\n" not in str(e.value)


def test_read_json_of_a_missing_file_or_a_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"): core.read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"): core.read_json(tmp_path)


def test_a_large_file_is_encoded_in_pieces(tmp_path):
    "The annotations of a large data set are 200 MB of text, which memory should hold once."
    content = "ä" * 2**22
    tracemalloc.start()
    try:
        core.write_json(tmp_path / "a.json", content)
        most = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    text = json.dumps(content)
    assert most < 1.4 * len(text) and (tmp_path / "a.json").read_text(encoding="utf-8") == text + "\n"


def test_write_json_converts_arrays_and_refuses_nan(tmp_path):
    core.write_json(tmp_path / "a.json", {"n": np.int64(3), "t": torch.tensor([1, 2])}, indent=1)
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 3, "t": [1, 2]}
    with pytest.raises(ValueError): core.write_json(tmp_path / "a.json", {"n": float("nan")})


def test_randomness_is_the_same_in_another_process_and_pinned():
    code = "from pointwssis.core import rng; print(rng(3, 'flip', 5).integers(10**6, size=3).tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = core.rng(3, "flip", 5).integers(10**6, size=3).tolist()
    assert str(here) == other.strip() and here == [754376, 944423, 386280]


def test_keys_do_not_collide():
    keys = [(), ("a",), ("a", "b"), ("ab",), (1,), ("1",), (1, 1), (11,), (-1,)]
    assert len({int(core.rng(0, *k).integers(2**60)) for k in keys}) == len(keys)
    with pytest.raises(TypeError): core.rng(0, 0.5)


def test_devices():
    assert core.pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "cuda:x"):
        with pytest.raises(ConfigError, match=name): core.pick_device(name)
    many = "thread" if torch.get_num_threads() == 1 else "threads"
    assert core.device_name(torch.device("cpu")) == f"CPU, {torch.get_num_threads()} {many}"


def test_core_does_not_load_torch():
    subprocess.run([sys.executable, "-c", "import sys, pointwssis.core; assert 'torch' not in sys.modules"], check=True)


def test_nearest_and_hash(tmp_path):
    assert core.nearest("suport", ["report", "support"]) == " Did you mean 'support'?"
    assert core.nearest("qqq", ["report"]) == ""
    (tmp_path / "f").write_bytes(b"abc")
    assert core.file_hash(tmp_path / "f").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_place_that_takes_no_file_is_one_line(tmp_path, number, monkeypatch):
    "A full disk, a full quota, a read-only file system, a folder of somebody else."
    core.write_json(tmp_path / "a.json", 1)
    def refuse(*_): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(core.os, "fsync", refuse if number != errno.EACCES else os.fsync)
    if number == errno.EACCES: monkeypatch.setattr(core.os, "replace", refuse)
    with pytest.raises(StageError, match=rf"a\.json: cannot be written: {os.strerror(number)}\. Free space"): core.write_json(tmp_path / "a.json", 2)
    assert core.read_json(tmp_path / "a.json") == 1 and listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_fsync_is_no_fault(tmp_path, number, monkeypatch):
    def unknown(*_): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(core.os, "fsync", unknown)
    core.write_json(tmp_path / "a.json", 2)
    assert core.read_json(tmp_path / "a.json") == 2


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    seen, fsync, replace = [], os.fsync, os.replace
    def synced(handle): seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"); fsync(handle)
    def renamed(a, b): seen.append("rename"); replace(a, b)
    monkeypatch.setattr(core.os, "fsync", synced)
    monkeypatch.setattr(core.os, "replace", renamed)
    core.write_json(tmp_path / "a.json", 1)
    assert seen == ["file", "rename", "folder"]


def test_litter_of_dead_processes_goes_and_nothing_else(tmp_path):
    code = (f"import os; from pathlib import Path; from pointwssis.core import atomic_path\n"
            f"for name in ('w.pt', 'stage'): atomic_path(Path({str(tmp_path)!r}, 'deep', name)).__enter__().mkdir()\nos._exit(9)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    hidden = [tmp_path / name for name in (".notes.tmp", ".gitignore", ".teacher.partial")]
    for path in hidden: path.touch()
    with core.atomic_path(tmp_path / "deep" / "mine.json") as mine, core.atomic_path(tmp_path / "old.json") as old:
        for path in (mine, old): path.touch()
        assert len(listing(tmp_path / "deep")) == 3 and len(core.remove_litter(tmp_path.rglob(".*"))) == 2
        os.utime(old, (0, 0))
        assert core.remove_litter(tmp_path.rglob(".*")) == [old] and core.remove_litter(tmp_path.rglob(".*"), every=True) == [mine]
        for path in (mine, old): path.touch()
    assert listing(tmp_path / "deep") == ["mine.json"] and all(path.exists() for path in hidden)
    assert core.remove_litter([tmp_path / "missing"]) == []


@pytest.mark.parametrize("run, variant, beside", [("a/10p-x/s0", "y_z", "a/10p-y_z/s0"), ("a/10p-x/s3", "main", "a/10p/s3"), ("a/12.5p/s0", "y", "a/12.5p-y/s0")])
def test_a_run_beside_another_has_its_split_and_seed(run, variant, beside):
    assert run_beside(run, variant).as_posix() == beside
