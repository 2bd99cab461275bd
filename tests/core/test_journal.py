"A journal gives back every whole line, whatever became of the end of its file."
import errno
import os
import threading
import time

import pytest

from pointwssis import journal as journals
from pointwssis.core import DataError, StageError
from pointwssis.data.points import Point
from pointwssis.journal import Journal, in_batches, recall
from pointwssis.method.pseudo_labels import PseudoMask
from pointwssis.refiner.training import Pair

MASKS = {k: [PseudoMask(k, k, 1, {"size": [4, 5], "counts": "1a\\`0"}, 1 / 3 + k)] * (k % 3) for k in range(1, 7)}


def written(path, **kw) -> Journal:
    journal = Journal(path, kind=list[PseudoMask], **kw)
    for key, value in MASKS.items(): journal.add(key, value)
    return journal


def test_values_come_back_exactly(tmp_path):
    first, again = written(tmp_path / "deep/j"), Journal(tmp_path / "deep/j", kind=list[PseudoMask])
    assert {k: first[k] for k in MASKS} == {k: again[k] for k in MASKS} == MASKS and len(again) == 6 and 7 not in again
    pair = Pair(3, {"size": [4, 5], "counts": "x"}, [[0.1, 2, 3.5]], Point(1 / 3, 2.5, 0, 9))
    Journal(tmp_path / "p", kind=list[Pair]).add(3, [pair])
    assert Journal(tmp_path / "p", kind=list[Pair])[3] == [pair]


def test_cut_anywhere_it_goes_on_behind_the_last_whole_line(tmp_path):
    written(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    counts = set()
    for end in range(len(whole)):
        (tmp_path / "j").write_bytes(whole[:end])
        found = Journal(tmp_path / "j", kind=list[PseudoMask])
        counts.add(len(found))
        assert all(found[k] == MASKS[k] for k in MASKS if k in found)
        for key in MASKS:
            if key not in found: found.add(key, MASKS[key])
        assert (tmp_path / "j").read_bytes() == whole
    assert counts == set(range(6))


@pytest.mark.parametrize("place", [0, 10, 60, 150, -3])
def test_zeros_or_rubbish_end_it_there(tmp_path, place):
    written(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    for damage in (b"\0" * 8, b"\n\n{}[]", b"\xff"):
        spoiled = bytearray(whole)
        spoiled[place:place + len(damage)] = damage
        (tmp_path / "j").write_bytes(spoiled)
        found = Journal(tmp_path / "j", kind=list[PseudoMask])
        assert len(found) < 6 and all(found[k] == MASKS[k] for k in MASKS if k in found)


def test_another_origin_or_kind_begins_anew(tmp_path):
    written(tmp_path / "j", made_of={"seed": 0})
    assert len(Journal(tmp_path / "j", {"seed": 0}, list[PseudoMask])) == 6
    assert len(Journal(tmp_path / "j", {"seed": 1}, list[PseudoMask])) == 0
    written(tmp_path / "j", made_of={"seed": 0})
    assert len(Journal(tmp_path / "j", {"seed": 0}, list[Pair])) == 0


def test_a_batch_with_a_gap_is_computed_whole_and_the_known_stays(tmp_path):
    Journal(tmp_path / "j").add(1, "known")
    asked = []
    def work(keys, read): asked.append((list(keys), read)); return ["other", "new"]
    for _ in range(2): assert [*recall(Journal(tmp_path / "j"), [[1, 2]], str, work)] == ["known", "new"]
    assert asked == [([1, 2], ["1", "2"])]


def test_values_keep_their_order_when_later_pictures_are_read_first():
    def read(k): time.sleep(.02 * (k % 3)); return k * k
    sizes = []
    def work(keys, read): sizes.append(len(keys)); return [str(x) for x in read]
    keys = list(range(20))
    assert [*recall(Journal(), in_batches(keys, 6), read, work)] == [str(k * k) for k in keys] and sizes == [6, 6, 6, 2]


def test_the_next_batch_is_read_while_one_is_computed_and_no_later_one():
    reading: list[int] = []
    def read(k): reading.append(k); return k
    def work(keys, read):
        until = time.monotonic() + 60
        while len(reading) < min(keys[-1] + 3, 8) and time.monotonic() < until: time.sleep(.001)
        time.sleep(.02)
        assert sorted(reading) == list(range(min(keys[-1] + 3, 8)))
        return read
    assert [*recall(Journal(), in_batches(range(8), 2), read, work)] == list(range(8))


def test_a_broken_picture_is_named_and_what_came_before_is_kept(tmp_path):
    def read(k):
        if k == 5: raise DataError(f"{k}.jpg cannot be read: it is empty (0 bytes). Fetch the file again.")
        return k
    before = threading.active_count()
    with pytest.raises(DataError, match=r"^5.jpg cannot be read"):
        [*recall(Journal(tmp_path / "j"), in_batches(range(8), 2), read, lambda _, read: read)]
    assert [k in Journal(tmp_path / "j") for k in range(8)] == [True] * 4 + [False] * 4 and threading.active_count() == before
    done = []
    assert [*recall(Journal(tmp_path / "j"), in_batches(range(8), 2), lambda k: done.append(k) or k, lambda _, read: read)] == list(range(8))
    assert sorted(done) == [4, 5, 6, 7]                  # known batches are not even read


def test_inputs_are_gathered_off_the_thread_that_computes():
    threads = []
    def gather(found): threads.append(threading.current_thread()); return tuple(found)
    assert [*recall(Journal(), [[1, 2], [3]], float, lambda _, found: [x + len(found) for x in found], gather=gather)] == [3, 4, 4]
    assert len(threads) == 2 and threading.main_thread() not in threads


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(journals, "open", full, raising=False)
    with pytest.raises(StageError, match="j: cannot be written: No space left on device"): Journal(tmp_path / "j").add(1, 2)


def test_values_of_another_process_count_if_they_are_of_the_same_origin(tmp_path):
    for name, origin in (("same", "a"), ("other", "b")): Journal(tmp_path / name, origin).add(len(name), name)
    journal = Journal(tmp_path / "own", "a")
    for name in ("same", "other"): journal.learn(tmp_path / name)
    assert 4 in journal and 5 not in journal and journal[4] == "same" and not (tmp_path / "own").exists()
