"""Work in a process of its own, as nothing else tells how much memory it takes from the start. Needs Linux, which keeps the peak."""
from __future__ import annotations
import importlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cost:
    "Time, memory and result of some work."
    seconds: float      # of the work alone
    start_mib: float    # memory of the process before it
    peak_mib: float     # memory of the process at its highest, before or during it
    result: Any


def fresh(place: str, *args: Any) -> Cost:
    "Call `module:function` with these arguments in a new process; it returns the work, whose result must fit JSON."
    command = [sys.executable, "-m", "benchmarks.fresh", place, json.dumps(args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"{place} failed: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout))


def _mib(field: str) -> float:
    "VmRSS or VmHWM of this process. (What `getrusage` calls the peak may be that of the parent, before this program was started in it.)"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    work = getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))
    before, start = _mib("VmRSS"), time.perf_counter()
    result = work()
    print(json.dumps({"seconds": time.perf_counter() - start, "start_mib": before, "peak_mib": _mib("VmHWM"), "result": result}))


if __name__ == "__main__": main()
