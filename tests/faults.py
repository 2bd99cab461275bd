"""Faults on purpose: the whole pipeline on a tiny data set is killed at random moments and started again until it is done.

    python tests/faults.py 100 [SEED]    injects 100 faults and says what became of them

A fault is a signal to the command or to its kernel after a random time, or at a random change of the files below the runs: just before one is
opened for writing, synced, renamed, cut or removed. For the latter a `sitecustomize` module, which lies in the test's own folder, watches
through Python's audit hooks; the package knows nothing about it."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from chain import TINY                       # noqa: E402
from pointwssis.data import shapes                # noqa: E402
from pointwssis.runs.stage_graph import STAGES          # noqa: E402

WATCHER = '''import os, signal, sys
number, moment, role, place = os.environ["FAULT"].split(":", 3)
role_here = "kernel" if any("ipykernel" in part for part in sys.orig_argv) else "command"
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree", "shutil.copyfile"}
left = [int(moment)]

def count(path):
    try: inside = os.path.abspath(os.fsdecode(path)).startswith(place)
    except TypeError: inside = False
    if not inside: return
    left[0] -= 1
    if left[0] == 0:
        open(os.environ["FAULT_NOTE"], "w").close()
        os.kill(os.getpid(), int(number))

def watch(event, args):
    if event in CHANGES: count(args[0])
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT): count(args[0])

def synced(handle, fsync=os.fsync):
    count(place)
    fsync(handle)

if role == role_here:
    os.fsync = synced
    sys.addaudithook(watch)
'''
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SMALL = {**TINY, "controls": False, "teacher_train.save_every": 2, "student_train.save_every": 1, "refiner_train.save_every": 1, "teacher_train.workers": 1,
         "teacher_train.precision": "fp32", "student_train.precision": "fp32", "refiner_train.precision": "fp32"}
TIMES = ("wall_s", "images_per_s", "stages", "seconds", "files")     # of metrics: they may differ


class Run:
    "One run in a folder of its own."
    def __init__(self, place: Path, stages: tuple[str, ...] = ()):
        self.place, self.note, self.stages = place, place / "note", stages
        shapes.write(place / "data", train=12, val=4)
        (place / "watch").mkdir()
        (place / "watch/sitecustomize.py").write_text(WATCHER)

    def start(self, fault: str = "9:0:nobody:") -> subprocess.Popen:
        options = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        common = ["--dataset", "shapes", "--split", "25p", "--seed", "1", "--data-root", "data", "--runs", "runs", *options]
        calls = [["run", stage] for stage in self.stages] or [["reproduce"]]
        listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from pointwssis.runs.cli import main\n"
        code = listen + f"for call in {calls!r}:\n    if found := main([*call, *{common!r}]): sys.exit(found)"
        env = {**os.environ, "FAULT": fault, "FAULT_NOTE": str(self.note), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
               "PYTHONPATH": os.pathsep.join((str(self.place / "watch"), str(ROOT))), "XDG_CACHE_HOME": str(self.place / "cache")}
        with open(self.place / "log", "a") as log:
            return subprocess.Popen([sys.executable, "-c", code], cwd=self.place, env=env, stdout=log, stderr=log, start_new_session=True)

    @property
    def folder(self) -> Path: return next(self.place.glob("runs/**/s1"))

    def found(self) -> dict:
        "Everything that must not depend on interruptions."
        metrics = {path.parent.name: untimed(json.loads(path.read_text())) for path in self.folder.glob("*/metrics.json")}
        made = [path for pattern in ("last.safetensors", "step_*.safetensors", "*.json") for path in self.folder.glob(f"*/artifacts/{pattern}")]
        hashes = {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in made if path.name != "history.json"}
        return {"metrics": metrics, "hashes": hashes}

    def remains(self) -> list[str]:
        "Leftovers of a finished run: hidden files, working folders, temporary files, processes."
        hidden = [path for part in ("runs", "figures") for path in (self.place / part).rglob("*") if path.name.startswith(".") or path.name == "unfinished"]
        return [str(path.relative_to(self.place)) for path in hidden] + [f"process {p.pid}" for p in self.processes()]

    def processes(self) -> list[psutil.Process]:
        "Every process of this run that is alive."
        found = []
        for process in psutil.process_iter():
            try:
                of_run = process.environ().get("FAULT_NOTE") == str(self.note)
                if of_run and process.status() != psutil.STATUS_ZOMBIE: found.append(process)
            except psutil.Error: pass
        return found


def untimed(value):
    "A value without those of its entries that are times."
    if isinstance(value, dict): return {k: untimed(v) for k, v in value.items() if k not in TIMES}
    return list(map(untimed, value)) if isinstance(value, list) else value


def is_kernel(process: psutil.Process) -> bool:
    "True for a running kernel; one that ends meanwhile has no command line."
    try: return "ipykernel" in " ".join(process.cmdline())
    except psutil.Error: return False


def kernel_of(runner: subprocess.Popen) -> psutil.Process | None:
    try: children = psutil.Process(runner.pid).children(recursive=True)
    except psutil.NoSuchProcess: return None
    return next((p for p in children if is_kernel(p)), None)


def inject(run: Run, r: random.Random, longest: float) -> str:
    "Start the run, and one fault in it; what was injected, or nothing when the run ended before its moment came."
    number, role = r.choice(SIGNALS), r.choice(("command", "kernel"))
    if r.random() < .5: return at_a_change(run, r, number, role)
    runner, name = run.start(), signal.Signals(number).name
    try: runner.wait(timeout=r.uniform(.3, longest))
    except subprocess.TimeoutExpired:
        victim = kernel_of(runner) if role == "kernel" else None
        try: (victim or runner).send_signal(signal.SIGKILL if victim else number)
        except psutil.NoSuchProcess: pass
        runner.wait()
        if victim or number != signal.SIGKILL: gone(run)
        return f"{'SIGKILL kernel' if victim else f'{name} command'} at a random time"
    assert runner.returncode == 0, (run.place / "log").read_text()[-3000:]
    return ""


def at_a_change(run: Run, r: random.Random, number: int, role: str) -> str:
    "As `inject`, at a change of files."
    runner = at(run, number, int(r.uniform(1, 6) ** 2.5) if role == "command" else int(r.uniform(1, 9) ** 2), role)
    if run.note.exists(): return f"{signal.Signals(number).name} {role} at a change of files"
    assert runner.returncode == 0, (run.place / "log").read_text()[-3000:]
    return ""


def gone(run: Run) -> None:
    "Nothing lives on after the command has ended in any way but by SIGKILL."
    for _ in range(100):
        if not (left := run.processes()): return
        time.sleep(.1)
    raise AssertionError(f"left behind: {[p.cmdline() for p in left]}")


def at(run: Run, number: int, moment: int, role: str) -> subprocess.Popen:
    "The run, which gets a signal at that change of files by the command or by its kernel, when it has ended."
    run.note.unlink(missing_ok=True)
    runner = run.start(f"{number}:{moment}:{role}:{run.place / 'runs'}")
    runner.wait()
    if run.note.exists() and not (role == "command" and number == signal.SIGKILL): gone(run)
    return runner


def campaign(run: Run, faults: int, seed: int = 0, longest: float = 30, tell=lambda line: None) -> Counter:
    "Inject so many faults at least, taking a result away where a run finishes too early, and let the last one finish."
    r, injected = random.Random(seed), Counter()
    while injected.total() < faults:
        started = time.perf_counter()
        kind = inject(run, r, longest)
        if kind: injected[kind] += 1
        tell(f"{injected.total():4} {time.perf_counter() - started:6.1f} s  {kind or 'finished'}")
        if not kind: take_away(run, r)
    runner = run.start()
    assert runner.wait() == 0, (run.place / "log").read_text()[-3000:]
    return injected


def take_away(run: Run, r: random.Random) -> None:
    "The run is done and faults are left: without a stage's result, it is made again."
    stage = r.choice([name for name in (run.stages or STAGES) if (run.folder / name).exists()])
    shutil.rmtree(run.folder / stage)


def main(faults: int, seed: int = 0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = (Run(Path(folder, name)) for name in ("whole", "broken") if Path(folder, name).mkdir() is None)
        started = time.perf_counter()
        assert whole.start().wait() == 0, (whole.place / "log").read_text()[-3000:]
        print(f"unbroken run: {time.perf_counter() - started:.0f} s", flush=True)
        injected = campaign(broken, faults, seed, tell=lambda line: print(line, flush=True))
        same, remains = whole.found() == broken.found(), broken.remains()
        for kind, count in sorted(injected.items()): print(f"{count:4} {kind}")
        print(f"{injected.total()} faults injected, {injected.total()} survived; results equal to the unbroken run's: {same}; remains: {remains}")
        if not same:
            a, b = whole.found(), broken.found()
            print([k for part in a for k in a[part] if a[part].get(k) != b[part].get(k)])
        sys.exit(not same or bool(remains))


if __name__ == "__main__": main(*map(int, sys.argv[1:]))
