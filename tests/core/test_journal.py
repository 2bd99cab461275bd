"A journal gives back every whole line, whatever became of the end of its file."
import errno
import os

import pytest

from pointwssis import journal as journals
from pointwssis.core import StageError
from pointwssis.data.points import Point
from pointwssis.journal import Journal, recall
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
    def work(): asked.append(1); return ["other", "new"]
    for _ in range(2): assert recall(Journal(tmp_path / "j"), [1, 2], work) == ["known", "new"]
    assert asked == [1]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(journals, "open", full, raising=False)
    with pytest.raises(StageError, match="j: cannot be written: No space left on device"): Journal(tmp_path / "j").add(1, 2)
