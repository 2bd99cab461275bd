"Bars show the time left of the stage and of the run, one line each, on a terminal and in a log."
import io

import pytest

from pointwssis.journal import Journal, in_batches, recall
from pointwssis.runs import jobs
from pointwssis.runs.jobs import Named, RunClock, Watched
from pointwssis.runs.runner import reproduce
from fake_stages import notebook, writes

BAR = """import time
from tqdm import tqdm
from pointwssis.journal import BAR
for _ in tqdm(range(4), unit="steps", mininterval=0, bar_format=BAR): time.sleep(.05)"""


@pytest.fixture
def clock(monkeypatch) -> RunClock:
    "Of a run that has taken a minute when somebody asks."
    now = [0.]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    made = RunClock({"teacher": 100, "student": 100, "supervised": 200})
    now[0] = 60.
    return made


def state(percent: int) -> str: return f"\r{percent:3d}%|###| {percent}/100 steps [00:30, 00:40 left, loss 1.0]"


def test_time_left_follows_from_the_work_of_all_stages(clock):
    assert clock.left() is None and clock.show("teacher", state(0)) == state(0)
    assert clock.show("teacher", state(50)) == state(50).replace("left", "left, run 07:00 left")
    clock.show("supervised", state(0))
    assert "run 01:59 left" in clock.show("supervised", state(42)) and round(clock.left()) == round(60 * 266 / 134)


def test_stages_that_are_up_to_date_and_steps_of_an_earlier_start_are_no_work(clock):
    clock.finish("supervised", ran=False)
    clock.show("teacher", state(60)), clock.show("teacher", state(80))      # resumed at 60%
    assert round(clock.left()) == round(60 * 120 / 20)
    clock.finish("teacher", ran=True)
    clock.finish("student", ran=True)
    assert clock.left() == 0


def test_a_second_bar_of_a_stage_does_not_turn_the_clock_back(clock):
    clock.show("teacher", state(0)), clock.show("teacher", state(90))
    before = clock.left()
    clock.show("teacher", state(10))
    assert clock.left() == before


def test_lines_of_two_stages_stay_readable(clock):
    log = io.StringIO()
    streams = {name: Watched(clock, name, Named(name, log, every=0)) for name in ("student", "supervised")}
    for percent in (0, 40):
        for stream in streams.values(): stream.write(state(percent))
    lines = log.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["student", "supervised"] * 2 and "\r" not in log.getvalue()
    assert lines[2].endswith("[00:30, 00:40 left, run 09:00 left, loss 1.0]") and "run 02:20 left" in lines[3]


def test_bars_of_a_run_show_both_times(stages, capfd):
    notebook(stages / "teacher.ipynb", BAR, writes("teacher"))
    notebook(stages / "supervised.ipynb", BAR, writes("supervised"))
    reproduce({}, notebooks=stages, stages=["split", "teacher", "supervised"], jobs=1)
    bars = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if "steps [" in line]
    assert "100%" in bars[-1] and " left, run " in bars[-1] and bars[-1].count("left") == 2


def test_batches_come_whole_and_a_short_loop_shows_nothing(capfd):
    assert in_batches(range(5), 2) == [range(0, 2), range(2, 4), range(4, 5)] and in_batches([], 2) == []
    assert [*recall(Journal(), in_batches(range(5), 2), int, lambda _, read: read)] == [0, 1, 2, 3, 4]
    assert capfd.readouterr().err == ""
