"`make gpu` on a machine without a GPU: every part runs on a processor, with the packages of a bare machine; parts that fail cost no other."
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_parts      # noqa: E402

ABSENT = ("papermill", "nbclient", "nbformat", "nbconvert", "ipykernel", "IPython", "jupyter_client", "jupyter_core", "pycocotools", "jsonschema",
          "jinja2", "fastcore", "execnb")
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}: raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""


def command(out: Path, *options: str, env: dict | None = None) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--out", str(out), *options]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(env or {})})


@pytest.mark.slow
def test_every_part_runs_with_the_packages_of_a_bare_machine(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    done = command(tmp_path / "out", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr + json.dumps(results, indent=1)
    assert list(results["parts"]) == list(gpu.BUDGETS) and results["machine"]["versions"]["torch"]
    rows = {row["what"]: row["value"] for part in results["parts"].values() for row in part["rows"]}
    assert all(value >= 0 for value in rows.values()) and rows["R-50, batch 2"] > 0 and rows["refined, fp32"] > 0
    checks = [check["what"] for part in results["parts"].values() for check in part["checks"]]
    assert {"detector, fp32", "refiner, fp32", "fp32, gradient", "both learn alike", "the student has an AP"} <= set(checks)
    page = (tmp_path / "out/page.md").read_text()
    assert all(f"## {name}\n" in page for name in gpu.BUDGETS) and "these figures mean nothing" in page


def parts_of(tmp_path, monkeypatch, code: str, budget: float = 20.) -> dict:
    "The records of parts whose process runs this code."
    module = tmp_path / "benchmarks"
    module.mkdir()
    (module / "__init__.py").write_text("")
    (module / "gpu_parts.py").write_text(f"import sys, json, time, os\nplace, *names = sys.argv[sys.argv.index('--seconds') + 2:]\n"
                                         f"open(f'{{place}}/{gpu.BEGUN}', 'w').write('{{}}')\n{code}")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    args = gpu.parsed(["--device", "cpu", "--budget", str(budget)])
    return gpu.measured(["steps", "crops"], args, tmp_path, [])


WRITE = "\ndef write(name, **found): open(f'{place}/{name}.json.new', 'w').write(json.dumps({'seconds': 1, **found})); " \
        "os.replace(f'{place}/{name}.json.new', f'{place}/{name}.json')\n"


def test_a_part_that_fails_costs_no_other(tmp_path, monkeypatch):
    found = parts_of(tmp_path, monkeypatch, WRITE + "for name in names: write(name, **({'error': 'a\\nlast line'} if name == 'steps' else {}))\n")
    assert found["steps"]["error"].endswith("last line") and "error" not in found["crops"] and gpu.fails(found["steps"])
    assert gpu.line_of("steps", found["steps"]) == "steps: last line, 1 s"


def test_a_process_that_dies_is_replaced(tmp_path, monkeypatch):
    found = parts_of(tmp_path, monkeypatch, WRITE + "if names[0] == 'steps': sys.exit(7)\nwrite('crops')\n")
    assert found["steps"]["error"] == "the process ended with 7" and "error" not in found["crops"]


def test_a_part_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    found = parts_of(tmp_path, monkeypatch, WRITE + "if names[0] == 'steps': time.sleep(60)\nwrite('crops')\n", budget=1.)
    assert found["steps"]["error"] == "took over 1 s" and "error" not in found["crops"]


def test_rows_of_a_part_that_is_ended_are_kept(tmp_path, monkeypatch):
    rows = [{"what": "one", "value": 2.0, "unit": "s", "note": ""}]
    found = parts_of(tmp_path, monkeypatch, WRITE + f"open(f'{{place}}/steps.partial', 'w').write(json.dumps({{'rows': {rows}}}))\n"
                     "if names[0] == 'steps': time.sleep(60)\nwrite('crops', error='why')\n", budget=1.)
    assert found["steps"]["rows"] == rows and found["steps"]["error"] == "took over 1 s" and "rows" not in found["crops"]
    assert "| one | 2 s |" in "\n".join(gpu.section("steps", found["steps"]))


def test_a_slow_start_takes_no_time_of_the_first_part(tmp_path, monkeypatch):
    begun = f"os.unlink(f'{{place}}/{gpu.BEGUN}'); time.sleep(1.5); open(f'{{place}}/{gpu.BEGUN}', 'w').write('{{}}')\n"
    found = parts_of(tmp_path, monkeypatch, WRITE + begun + "write('steps'); write('crops')\n", budget=1.)
    assert "error" not in found["steps"] and "error" not in found["crops"]


def test_both_files_are_there_after_each_part(tmp_path, monkeypatch):
    "Somebody may end the command before the last part."
    seen = []
    monkeypatch.setattr(gpu, "measured", lambda parts, args, place, paths, keep: [
        (keep({"steps": {"seconds": 1.}}), seen.extend(p.name for p in tmp_path.glob("*.*"))), {}][1])
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--wheels", str(tmp_path / "none")]) == 0
    assert sorted(seen) == ["page.md", "results.json"]


def test_a_command_that_is_ended_leaves_no_worker(tmp_path):
    words = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--out", str(tmp_path), "run"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "parts" / gpu.BEGUN).is_file():
        assert process.poll() is None
        time.sleep(.1)
    (worker,) = psutil.Process(process.pid).children()
    process.terminate()
    assert process.wait(20) == 143 and not worker.is_running()


def test_a_part_keeps_its_rows_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts.Report, "partial", tmp_path / "steps.partial")
    report = gpu_parts.Report("about")
    report.row("one", 1, "s")
    assert gpu.read(tmp_path / "steps.partial") == vars(report) and report.rows


def test_a_process_that_cannot_start_is_tried_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "BEGUN", "other.json")
    found = parts_of(tmp_path, monkeypatch, f"os.unlink(f'{{place}}/other.json')\nimport no_such_module\n")
    assert found["steps"] == found["crops"] and gpu.line_of("crops", found["crops"]).startswith("crops: ModuleNotFoundError: No module named 'no_such_module', ")


def test_parts_after_the_whole_budget_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "WHOLE", -1)
    found = parts_of(tmp_path, monkeypatch, "")
    assert set(found) == {"steps", "crops"} and all("not run" in record["error"] for record in found.values())


def test_wheels_lie_on_the_path(tmp_path):
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels/made_up-1.0-py3-none-any.whl", "w") as wheel: wheel.writestr("made_up.py", "x = 1")
    (place,) = gpu.unpacked(tmp_path / "wheels", tmp_path / "unpacked")
    assert (place / "made_up.py").is_file() and gpu.unpacked(tmp_path / "none", tmp_path) == []


def test_missing_packages_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NEEDED", {"no_such_module": "no-such-package"})
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--wheels", str(tmp_path / "wheels")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("missing: no-such-package.") and "pip download" in said and said.count("\n") == 1


def test_a_damaged_wheel_is_one_line(tmp_path, capsys):
    (tmp_path / "cut-1.0-py3-none-any.whl").write_bytes(b"PK")
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "out"), "--wheels", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "cut-1.0-py3-none-any.whl: damaged" in said and said.count("\n") == 1


TRIAL = gpu_parts.Wish(torch.device("cpu"), quick=True)


def test_a_batch_that_does_not_fit_is_a_row_of_its_own(monkeypatch):
    "Torch's error in one training of the part `network`; the next one is measured."
    passes, forward = iter(range(100)), gpu_parts.SOLOv2.forward
    def full_once(self, x):
        if next(passes) == 0: raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.50 GiB.")
        return forward(self, x)
    monkeypatch.setattr(gpu_parts.SOLOv2, "forward", full_once)
    monkeypatch.setattr(gpu_parts, "SIZES", {True: ((50, (2, 1)),)})
    found = gpu_parts.record_of(gpu_parts.detectors, TRIAL)
    (check,) = found["checks"]
    assert check["what"] == "R-50, batch 2" and not check["ok"] and check["detail"].startswith("out of memory: 2 images at once")
    assert [row["what"] for row in found["rows"]] == ["R-50, batch 1", "R-50, batch 1, matrix work"]


@pytest.mark.parametrize("profiler, told", [(lambda *_: (0., 0., []), "the profiler saw no kernel"),
                                            (lambda *_: torch.ones(2) @ torch.ones(3), "not measured: ")])
def test_a_profiler_that_fails_costs_no_speed(monkeypatch, profiler, told):
    monkeypatch.setattr(gpu_parts, "_profiled", profiler)
    monkeypatch.setattr(gpu_parts, "SIZES", {True: ((50, (2, 1)),)})
    found = gpu_parts.record_of(gpu_parts.detectors, TRIAL)
    (check,) = found["checks"]
    assert check["what"] == "R-50, batch 2, matrix work" and not check["ok"] and check["detail"].startswith(told)
    assert [row["what"] for row in found["rows"]] == ["R-50, batch 2", "R-50, batch 1"]


def test_settings_of_the_tests_end_with_them(monkeypatch):
    monkeypatch.setattr(pytest, "main", lambda *_, **__: os.environ.update(OMP_NUM_THREADS="99") or 0)
    gpu_parts.tests(TRIAL)
    assert os.environ.get("OMP_NUM_THREADS") != "99"


def test_a_compiler_that_fails_is_named(monkeypatch):
    "Torch goes on without graphs then, and nothing else would tell."
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, backend=None: None)
    found = gpu_parts.record_of(gpu_parts.compiling, TRIAL)
    assert "error" not in found and [check["what"] for check in found["checks"] if not check["ok"]] == ["torch compiles"]


def test_arithmetic_that_the_device_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(gpu_parts, "choose_precision", lambda name, device, **_: "fp32")
    checks = gpu_parts.record_of(gpu_parts.agreement, TRIAL)["checks"]
    assert len(checks) == 4 and all(check["ok"] and check["what"].startswith("fp32") for check in checks)


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"): gpu.main(["stops"])
    assert "unknown part 'stops'" in capsys.readouterr().err
