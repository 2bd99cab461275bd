"""Killed anywhere, the next start goes on by itself and ends with the numbers of an unbroken run. A few chosen moments of the first two
stages; the long version kills all stages at random moments, and `python tests/faults.py 100` as often as one likes."""
import signal
from pathlib import Path

import pytest

from faults import Run, at, campaign

MOMENTS = [(signal.SIGKILL, 9, "kernel"),       # the split's annotations
           (signal.SIGTERM, 20, "command"),     # the notebook and what follows
           (signal.SIGKILL, 30, "kernel")]      # a training state


def runs(place: Path, *stages: str) -> list[Run]:
    for name in ("whole", "broken"): (place / name).mkdir()
    return [Run(place / name, stages) for name in ("whole", "broken")]


@pytest.mark.whole
def test_killed_at_chosen_moments(tmp_path):
    whole, broken = runs(tmp_path, "split", "teacher")
    hit = 0
    for number, moment, role in MOMENTS:
        ended = at(broken, number, moment, role)
        hit += broken.note.exists()
        assert broken.note.exists() == (ended.returncode != 0), (broken.place / "log").read_text()[-3000:]
    assert hit >= 2 and broken.start().wait() == 0 and whole.start().wait() == 0
    assert broken.found() == whole.found() and set(broken.found()["metrics"]) == {"split", "teacher"}
    assert broken.remains() == []


@pytest.mark.slow
def test_killed_at_random_moments_of_all_stages(tmp_path):
    whole, broken = runs(tmp_path)
    assert whole.start().wait() == 0
    injected = campaign(broken, 15)
    print(f"{injected.total()} faults injected and survived: {dict(injected)}")
    assert broken.found() == whole.found() and len(broken.found()["metrics"]) == 9
    assert broken.remains() == []
