"""`python -m benchmarks.gpu [--quick] [--device cuda] [--wheels DIR] [--out DIR] [PART ...]`:
everything that wants a GPU, in under eight minutes on one: results.json and page.md. Parts are
independent: one that fails or takes too long is recorded with its rows so far, and the others go
on. Both files are written anew after each part."""
from __future__ import annotations
import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# seconds that a part may take on a GPU; the first ones matter most
BUDGETS = {"tests": 60, "steps": 40, "agreement": 40, "network": 130, "loading": 40, "labels": 50,
           "crops": 40, "compiling": 90, "run": 120}
WHOLE = 480   # seconds of all parts
BEGUN = "machine.json"   # written by a process that could import all it needs
OTHER_NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow",
               "faster_coco_eval": "faster-coco-eval"}
NEEDED = {name: OTHER_NAMES.get(name, name) for name in (
    "torch", "torchvision", "timm", "cv2", "numpy", "PIL", "matplotlib", "safetensors", "psutil",
    "filelock", "tensorboard", "tqdm", "msgspec", "platformdirs", "faster_coco_eval", "pytest")}


def unpacked(wheels: Path, folder: Path) -> list[Path]:
    """Unpack wheels, each into a place of its own, from which Python can import them.

    BadZipFile names a wheel that is damaged."""
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    for wheel in found:
        if not zipfile.is_zipfile(wheel):
            raise zipfile.BadZipFile(f"{wheel}: damaged, perhaps cut short. Fetch it again.")
    for wheel in found: zipfile.ZipFile(wheel).extractall(folder / wheel.stem)
    return [folder / wheel.stem for wheel in found]


def missing() -> list[str]:
    "Packages that have to be there and are not, by the name to install them by."
    def here(name: str) -> bool:
        try: return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError: return False
    return [package for name, package in NEEDED.items() if not here(name)]


def advice(absent: list[str], wheels: Path) -> str:
    "One line for somebody whose machine lacks packages and perhaps a network."
    number = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (f"missing: {', '.join(absent)}. Install them; without a network, fetch wheels "
            f"elsewhere with `pip download --no-deps --only-binary=:all: --python-version {number} "
            f"-d {wheels.name} {' '.join(absent)}` and pass --wheels {wheels.name}.")


class Worker:
    "A process that does parts one after the other, and writes a file for each."
    def __init__(self, budgets: dict[str, float], args: argparse.Namespace, place: Path,
                 paths: list[Path]):
        known = [*paths, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        options = ["--device", args.device, "--data", args.data, "--seconds", json.dumps(budgets),
                   *["--quick"] * args.quick, str(place), *budgets]
        self.log, self.mark = open(place / "log.txt", "a+b"), place / BEGUN
        self.mark.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_parts", *options], cwd=ROOT,
            stdout=self.log, stderr=self.log, start_new_session=True,
            env={**os.environ, "TQDM_DISABLE": "1",
                 "PYTHONPATH": os.pathsep.join(map(str, known))})

    def begin(self, until: float) -> None:
        "Wait until it has imported all it needs, which on a cold machine takes longer than a part."
        while not (self.mark.is_file() or self.process.poll() is not None
                   or time.monotonic() > until): time.sleep(.05)

    def said(self) -> str:
        "The last lines that it wrote."
        self.log.seek(0)
        return "\n".join(self.log.read().decode(errors="replace").splitlines()[-10:])

    def end(self) -> None:
        "End it with all its children."
        with suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def read(path: Path) -> dict[str, Any] | None:
    "The record in a file, if it is there."
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def one_part(name: str, worker: Worker, place: Path, limit: float, until: float) -> dict[str, Any]:
    "A part's record; one without an end has the rows and checks that were there before it failed."
    record = awaited(name, worker, place, limit, until)
    return (read(place / f"{name}.partial") or {} if "error" in record else {}) | record


def awaited(name: str, worker: Worker, place: Path, limit: float, until: float) -> dict[str, Any]:
    "The record that a worker writes, or why there is none."
    start, path = time.monotonic(), place / f"{name}.json"
    while (record := read(path)) is None:
        over, code = time.monotonic() > min(start + limit, until), worker.process.poll()
        if over or code is not None:
            why = (f"took over {limit:.0f} s" if over
                   else f"the process ended with {code}\n{worker.said()}".strip())
            seconds = time.monotonic() - start
            return read(path) or {"error": why, "seconds": seconds, "restart": True}
        time.sleep(.05)
    return record


def line_of(name: str, record: dict[str, Any]) -> str:
    "One line for the screen."
    bad = [check["what"] for check in record.get("checks", []) if not check["ok"]]
    how = record.get("error", "").splitlines()
    outcome = how[-1] if how else f"fails: {'; '.join(bad)}" if bad else "done"
    return f"{name}: {outcome}, {record['seconds']:.0f} s"


def measured(parts: list[str], args: argparse.Namespace, place: Path, paths: list[Path],
             keep: Callable[[dict], None] = lambda parts: None) -> dict[str, dict[str, Any]]:
    "All parts, in as many processes as it takes; `keep` gets those that are done, after each."
    factor = 4 if args.device == "cpu" else 1          # nobody waits for a processor by the minute
    budgets = {name: args.budget or factor * BUDGETS[name] for name in parts}
    until, done = time.monotonic() + factor * WHOLE, {}
    while left := {name: s for name, s in budgets.items() if name not in done}:
        if time.monotonic() > until:
            why = {"error": f"not run: all parts together took over {WHOLE} s", "seconds": 0.}
            return done | dict.fromkeys(left, why)
        worker = Worker(left, args, place, paths)
        try:
            worker.begin(until)
            for name, limit in left.items():
                done[name] = one_part(name, worker, place, limit, until)
                print(line_of(name, done[name]), flush=True)
                keep(done)
                if done[name].get("restart"): break
        finally: worker.end()
        if not (place / BEGUN).is_file(): return done | dict.fromkeys(left, done[next(iter(left))])
    return done


def number(value: float) -> str: return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def section(name: str, record: dict[str, Any]) -> list[str]:
    "A part as lines of the page."
    text = [f"## {name}", "", f"{record.get('about', '')} {record['seconds']:.0f} s.".strip(), ""]
    if "error" in record: text += ["```", *record["error"].splitlines(), "```", ""]
    if record.get("checks"):
        rows = [f"| {c['what']} | {'yes' if c['ok'] else '**no**'} | {c['detail']} |"
                for c in record["checks"]]
        text += ["| check | holds | |", "|---|---|---|", *rows, ""]
    if record.get("rows"):
        rows = [f"| {r['what']} | {number(r['value'])} {r['unit']} | {r['note']} |"
                for r in record["rows"]]
        text += ["| | | |", "|---|---:|---|", *rows, ""]
    return text + (["```", *record["profile"], "```", ""] if record.get("profile") else [])


def page(results: dict[str, Any]) -> str:
    "results.json for people."
    about = results.get("machine", {})
    libraries = ", ".join(map(" ".join, about.get("versions", {}).items()))
    title = "The measurements of a GPU, on a processor" if results["device"] == "cpu" else "One GPU"
    known = filter(None, (*(about.get(k) for k in ("device", "driver", "processor")), libraries))
    text = [f"# {title}", "", " · ".join(known), ""]
    if results["quick"]:
        text += ["Tiny sizes, to try the command out: these figures mean nothing.", ""]
    for name, record in results["parts"].items(): text += section(name, record)
    return "\n".join(text)


def parsed(argv: list[str] | None) -> argparse.Namespace:
    "The command line."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=", ".join(BUDGETS))
    add("--quick", action="store_true", help="tiny sizes: does it run at all?")
    add("--device", default="cuda", help="cuda, cuda:N, or cpu for a trial")
    add("--wheels", type=Path, default=ROOT / ".whl",
        help="folder of wheels of packages that this machine lacks")
    add("--data", default="", help="folder of the set `nuclei`, for the run; else drawn shapes")
    add("--budget", type=float, default=0, help="seconds of every part, instead of its own")
    add("--out", type=Path, default=ROOT / "outputs/gpu", help="where results.json and page.md go")
    args = parser.parse_args(argv)
    for name in args.parts:
        if name not in BUDGETS: parser.error(f"unknown part '{name}'. Known: {', '.join(BUDGETS)}.")
    return args


def fails(record: dict[str, Any]) -> bool:
    "True for a part with an error or a check that does not hold."
    return "error" in record or not all(c["ok"] for c in record.get("checks", []))


def main(argv: list[str] | None = None) -> int:
    args = parsed(argv)
    place = args.out.resolve() / "parts"
    place.mkdir(parents=True, exist_ok=True)
    for kind in ("*.json", "*.partial", "log.txt"):
        for old in place.glob(kind): old.unlink()
    try: paths = unpacked(args.wheels, args.out.resolve() / "wheels")
    except zipfile.BadZipFile as e:
        print(e, file=sys.stderr)
        return 2
    sys.path[:0] = map(str, paths)
    if absent := missing():
        print(advice(absent, args.wheels), file=sys.stderr)
        return 2
    def keep(parts: dict[str, dict[str, Any]]) -> None:
        results = {"device": args.device, "quick": args.quick,
                   "machine": read(place / BEGUN) or {}, "parts": parts}
        text = json.dumps(results, indent=1) + "\n"
        (args.out / "results.json").write_text(text, encoding="utf-8")
        (args.out / "page.md").write_text(page(results), encoding="utf-8")
    keep(parts := measured(args.parts or list(BUDGETS), args, place, paths, keep))
    print(f"Written: {args.out / 'page.md'}")
    return int(any(map(fails, parts.values())))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))   # ends the worker, too
    sys.exit(main())
