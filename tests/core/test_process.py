"Locks, orphans and remains: one process works on a place, and a killed one leaves nothing that stands in the way."
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pointwssis import process
from pointwssis.core import StageError, write_json
from pointwssis.process import MARK, claim, clear_remains, end_orphans, mark_of, orderly_end, undisturbed
from pointwssis.runs import runner

ROOT = Path(__file__).parents[2]
STARTS = """import os, subprocess, sys, time
from pointwssis.process import MARK, end_marked, mark_of, orderly_end, undisturbed
environ = os.environ | {MARK: mark_of("here")}
with orderly_end():
    try:
        print(subprocess.Popen(["sleep", "120"], start_new_session=True, stdout=subprocess.DEVNULL, env=environ).pid, flush=True)
        END
    finally:
        with undisturbed(): end_marked(mark_of("here"))"""


def python(code: str, **kw) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, **kw)


def listing(folder: Path) -> list[str]: return sorted(path.name for path in folder.iterdir())


def ended(number: int) -> bool:
    for _ in range(100):
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE: return True
        except psutil.NoSuchProcess: return True
        time.sleep(.05)
    return False


@pytest.fixture(params=["flock", "no flock", "no lock manager"])
def file_system(request, monkeypatch):
    "Locks as a local disk has them, and two network file systems."
    number = {"no flock": errno.ENOSYS, "no lock manager": errno.ENOLCK}.get(request.param)
    def refuse(*_): raise OSError(number, os.strerror(number))
    if number: monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


@pytest.mark.filterwarnings("error")
def test_one_process_at_a_time(tmp_path, file_system):
    for _ in range(2):
        with claim(tmp_path / "teacher") as partial:
            (partial / "kept").touch()
            with pytest.raises(StageError, match="is in use by another process.*Wait for it") as caught, claim(tmp_path / "teacher"): pass
            assert file_system == "flock" or f"number {os.getpid()} on " in str(caught.value)
            with claim(tmp_path / "student"): pass
    assert listing(tmp_path) == [".teacher.partial"] and listing(partial) == ["kept"]


def test_the_lock_of_a_killed_process_is_free(tmp_path, file_system):
    refuse = "" if file_system == "flock" else "def no(*_): raise OSError(errno.ENOLCK, 'none')\nfcntl.flock = no\n"
    holds = f"import errno, fcntl, time\n{refuse}from pathlib import Path\nfrom pointwssis.process import claim\n" \
            f"with claim(Path({str(tmp_path / 'teacher')!r})): print('holds', flush=True); time.sleep(60)"
    other = python(holds)
    assert other.stdout.readline() == "holds\n"
    with pytest.raises(StageError, match="in use"), claim(tmp_path / "teacher"): pass
    other.kill()
    other.wait()
    with claim(tmp_path / "teacher"): pass
    assert listing(tmp_path) == []


def test_a_folder_that_cannot_be_made_or_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match="file: cannot be made: .* Pass another folder as --runs"), claim(tmp_path / "file" / "teacher"): pass
    def refuse(*_, **__): raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(process.FileLock, "acquire", refuse)
    with pytest.raises(StageError, match=r"\.teacher\.lock: cannot be written: Permission denied"), claim(tmp_path / "teacher"): pass


def test_temporary_files_of_a_killed_process_go_with_the_next_claim(tmp_path):
    code = f"import os; from pathlib import Path; from pointwssis.core import atomic_path\n" \
           f"atomic_path(Path({str(tmp_path)!r}, '.teacher.partial/artifacts/state.pt')).__enter__().touch()\n" \
           f"for name in ('teacher', 'student'): atomic_path(Path({str(tmp_path)!r}, name)).__enter__().mkdir()\nos._exit(9)"
    assert python(code).wait() == 9
    write_json(tmp_path / ".teacher.partial/artifacts/history.json", [])
    with claim(tmp_path / "teacher") as partial: assert listing(partial / "artifacts") == ["history.json"]
    assert [name.split(".")[1] for name in listing(tmp_path)] == ["student", "teacher"]      # the student's are not ours
    (tmp_path / ".teacher.lock").touch()
    clear_remains(tmp_path / "teacher")
    assert ".teacher.lock" not in listing(tmp_path)


def test_descendants_of_a_killed_process_are_ended_and_no_others():
    killed = python(STARTS.replace("END", "os.kill(os.getpid(), 9)"))
    orphan = int(killed.stdout.readline())
    assert killed.wait() == -signal.SIGKILL
    mine, foreign = (subprocess.Popen(["sleep", "120"], env=os.environ | {MARK: mark})
                     for mark in (mark_of("here"), f"pid:[1]|{killed.pid}|here"))   # the second in a container
    end_orphans()
    assert ended(orphan)        # by this call, or by a run that another test has started in the meantime
    assert mine.poll() is None and foreign.poll() is None
    for child in (mine, foreign): child.kill(); child.wait()


def test_a_number_used_again_is_no_owner(monkeypatch):
    "The owner's number now belongs to a process that began after the orphan."
    orphan = subprocess.Popen(["sleep", "120"], env={**os.environ, MARK: "none"})
    time.sleep(.1)
    younger = subprocess.Popen(["sleep", "120"])
    found = psutil.Process(orphan.pid)
    assert process._is_orphan(found, f"{process._space()}|{younger.pid}|here")
    assert not process._is_orphan(found, f"{process._space()}|{os.getpid()}|here")
    assert not process._is_orphan(found, "none") and not process._is_orphan(found, f"pid:[1]|{younger.pid}|here")
    for child in (orphan, younger): child.kill(); child.wait()


@pytest.mark.parametrize("number", process.ENDING)
def test_a_signal_ends_the_descendants(number):
    asked = python(f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n" + STARTS.replace("END", "time.sleep(60)"))
    child = int(asked.stdout.readline())
    asked.send_signal(number)
    assert asked.wait(timeout=60) == 128 + number and ended(child)


def test_a_run_under_nohup_goes_on_when_its_terminal_closes():
    asked = python("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + STARTS.replace("END", "time.sleep(1)"))
    asked.stdout.readline()
    asked.send_signal(signal.SIGHUP)
    assert asked.wait(timeout=60) == 0


def test_a_second_interrupt_waits_for_the_sweep():
    "Whoever presses Ctrl-C twice leaves nothing behind either."
    swept, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(.1)
        swept.append("here")
    assert len(swept) == 1 and signal.getsignal(signal.SIGINT) is before


def test_in_a_thread_signals_are_left_alone():
    before, found = [signal.getsignal(n) for n in process.ENDING], []
    def work():
        with orderly_end(), undisturbed(): found.append([signal.getsignal(n) for n in process.ENDING])
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runner.git_commit() == ""


def test_a_disk_that_is_full_in_the_middle_of_the_work_is_one_line(tmp_path):
    "A library that writes does not name the file; the place is named all the same."
    with pytest.raises(StageError, match="teacher: cannot be written: No space left on device"), claim(tmp_path / "teacher"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), claim(tmp_path / "teacher"): (tmp_path / "none").read_text()


def test_processes_of_others_and_systems_without_proc(monkeypatch):
    "macOS shows no environment of other users' processes and has no /proc; Linux itself hides some."
    def hidden(process): raise psutil.AccessDenied(process.pid)
    def missing(*_, **__): raise FileNotFoundError(errno.ENOENT, "No such file or directory")
    monkeypatch.setattr(psutil.Process, "environ", hidden)
    monkeypatch.setattr(os, "readlink", missing)
    monkeypatch.setattr(Path, "read_text", missing)
    assert process.mark_of("here") == f"machine|{os.getpid()}|here" and process.memory_kills() == 0
    assert end_orphans() == []


def test_how_a_process_ended(monkeypatch):
    monkeypatch.setattr(process, "memory_kills", lambda: 4)
    assert "died: memory ran out and the system ended it. Use a smaller batch_size" in process.death(-signal.SIGKILL, 3)
    assert "died: killed by SIGKILL, by somebody or because memory ran out" in process.death(-signal.SIGKILL, 4)
    assert "died: killed by SIGBUS" in process.death(-signal.SIGBUS) and "exit code 7" in process.death(7) and process.death(None).startswith("died. ")


WORKERS = """import os, sys, time
from pointwssis.process import in_processes
def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)
if __name__ == "__main__": in_processes(work, [120, 120], 2)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "work.py").write_text(WORKERS)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, tmp_path / "work.py"], stdout=subprocess.PIPE, text=True, env=environ)
    workers = [psutil.Process(int(owner.stdout.readline())) for _ in range(2)]
    owner.kill()
    owner.wait()
    assert not psutil.wait_procs(workers, timeout=10)[1]
