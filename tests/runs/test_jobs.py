"Stages side by side, and kernels that serve several stages: order, overlap, failures, and results as of a new process."
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty

import psutil
import pytest

from pointwssis.core import ConfigError, StageError, file_hash
from pointwssis.process import MARK
from pointwssis.runs import execution, kernels, runner
from pointwssis.runs.jobs import beside, longest_ways, side_by_side
from pointwssis.runs.runner import reproduce, run_stage
from pointwssis.runs.stage_graph import STAGES, config_of, needs_of
from pointwssis.runs.fingerprints import is_done
from chain import TINY
from fake_stages import gone, notebook, writes

ROOT = Path(__file__).parents[2]

GRAPH = {name: needs_of(stage, config_of()) for name, stage in STAGES.items()}
FEW = ("split", "teacher", "supervised")
MACHINE = runner._machine     # which the fixture replaces
MEET = """import time
from pathlib import Path
Path("NAME.here").touch()
for _ in range(1200):
    if Path("OTHER.here").exists(): break
    time.sleep(0.05)
else: raise TimeoutError("alone")
"""
STATE = """import json, os, random, sys, warnings
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, torch
made = Path(out)
warnings.warn("said in every stage")
found = {"process": os.getpid(), "left": [name for name in ("x", "_", "LEFT") if name in globals()], "figures": plt.get_fignums(),
         "cwd": os.getcwd(), "environ": os.environ.get("LEFT", ""), "count": len(In),
         "random": [random.random(), np.random.rand(), torch.rand(1).item()], "threads": torch.get_num_threads()}
made.joinpath("FILE").write_text(json.dumps(sorted(inputs)))
made.parent.joinpath("metrics.json").resolve().write_text(json.dumps(found))
"""
LEAVE = """x = LEFT = np.zeros(10)
plt.figure(); torch.manual_seed(3); np.random.seed(3); random.seed(3); torch.set_num_threads(7)
os.environ["LEFT"] = "yes"; os.chdir("/")
"""


@pytest.fixture(autouse=True)
def none_before(kernel_pool): kernel_pool.clear()     # `marked` would find the kernels of other tests


def marked() -> list[psutil.Process]:
    "Kernels, and what they have started, of this process."
    found = []
    for process in psutil.process_iter():
        try: found += [process] if f"|{os.getpid()}|" in process.environ().get(MARK, "") else []
        except psutil.Error: continue
    return found


def test_the_longest_way_goes_first_and_the_slow_stages_pair_up():
    ways = longest_ways(GRAPH)
    assert ways["teacher"] > ways["supervised"] and sorted(ways, key=lambda n: (-ways[n], [*STAGES].index(n))) == [*STAGES]
    assert {name for name in STAGES if not beside(GRAPH, name)} == {"split", "evaluate", "report"}
    controls = {"pseudo_without_points", "teacher_long", "student_without_points"}
    assert beside(GRAPH, "student") == {"student_refined", "supervised"} | controls


def test_the_two_longest_ways_of_the_pipeline_run_side_by_side():
    "With two jobs, the supervised network fills the time of the teacher's chain, and the students share the rest."
    takes, clock, spans = {"supervised": .6, "teacher": .2, "refiner": .1, "pseudo": .05, "student": .5, "student_refined": .5}, time.monotonic, {}

    def work(name, place):
        start = clock()
        time.sleep(takes.get(name, .01))
        spans[name] = (start, clock(), place)
    side_by_side(GRAPH, work, lambda: 2, lambda: None)
    assert spans["supervised"][0] < spans["teacher"][1] and spans["supervised"][1] > spans["pseudo"][0]
    assert spans["student"][0] < spans["student_refined"][1] and spans["student_refined"][0] < spans["student"][1]
    for a, b in [(a, b) for a in spans for b in spans if a < b and spans[a][2] == spans[b][2]]:
        assert spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0]


def test_stages_that_do_not_need_each_other_run_at_the_same_time(stages, capfd):
    for name, other in (("teacher", "supervised"), ("supervised", "teacher")):
        bar = f"import sys\nsys.stderr.write('\\r  50%\\r 100%\\n')\nprint('in {name}')\n"
        notebook(stages / f"{name}.ipynb", MEET.replace("NAME", name).replace("OTHER", other) + bar, writes(name))
    told = []
    outcomes = reproduce({}, notebooks=stages, stages=FEW, jobs=2, tell=lambda name, outcome: told.append((name, outcome and outcome.how)))
    assert [o.stage for o in outcomes] == list(FEW) and {o.how for o in outcomes} == {"ran"}
    assert told[:4] == [("split", None), ("split", "ran"), ("teacher", None), ("supervised", None)]
    said = capfd.readouterr().err
    assert "teacher: 100%\n" in said and "supervised: 100%\n" in said and "50%" not in said
    assert not marked()


def test_a_run_from_another_directory_before_does_no_harm(stages, tmp_path, monkeypatch):
    "Papermill notes the current directory once for all threads; the stage that began first and ends first must not set it back."
    real, teacher = execution._execute, Path("teacher.here").resolve()
    def in_order(notebook, *rest):
        while notebook.stem == "supervised" and not teacher.exists(): time.sleep(.05)
        return real(notebook, *rest)
    monkeypatch.setattr(execution, "_execute", in_order)
    notebook(stages / "teacher.ipynb", MEET.replace("NAME", "teacher").replace("OTHER", "supervised"), writes("teacher"))
    late = "import time\nfrom pathlib import Path\nPath('supervised.here').touch()\ntime.sleep(3)\n"
    notebook(stages / "supervised.ipynb", late, writes("supervised"))
    local = kernels.import_papermill().iorw.papermill_io.get_handler("local")
    local.cwd(str(tmp_path / "an earlier one"))
    try: assert [o.how for o in reproduce({}, notebooks=stages, stages=FEW, jobs=2)] == ["ran"] * 3
    finally: local.cwd(None)


def test_the_first_failure_stops_the_others(stages):
    notebook(stages / "teacher.ipynb", MEET.replace("NAME", "teacher").replace("OTHER", "supervised"), "raise ValueError('broken')")
    slow = "import subprocess, time\nfrom pathlib import Path\nPath(out, 'state.pt').touch()\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    notebook(stages / "supervised.ipynb", slow + "Path('supervised.here').touch()\ntime.sleep(600)")
    with pytest.raises(StageError, match="stage stopped with ValueError: broken"): reproduce({}, notebooks=stages, stages=FEW, jobs=2)
    folder = Path("runs" if Path("runs").exists() else runner.RUNS) / "shapes/10p/s0"
    assert not marked() and sorted(path.name for path in (folder / "failed").iterdir()) == ["teacher"]
    notebook(stages / "teacher.ipynb", writes("teacher"))
    notebook(stages / "supervised.ipynb", "from pathlib import Path\nassert Path(out, 'state.pt').exists()", writes("supervised"))
    assert [o.how for o in reproduce({}, notebooks=stages, stages=FEW, jobs=2)] == ["kept", "ran", "ran"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_of_two_jobs_leaves_no_process(stages, how):
    for name in FEW[1:]: notebook(stages / f"{name}.ipynb", f"import os, time\nfrom pathlib import Path\nPath('{name}.pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    code = ("import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom pathlib import Path\nfrom pointwssis.runs import runner\n"
            "runner._machine = lambda *_: {}\n"
            f"runner.reproduce({{}}, notebooks=Path({str(stages)!r}), stages={FEW}, jobs=2)")
    runner = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    pids = [Path(f"{name}.pid") for name in FEW[1:]]
    for _ in range(1200):
        if all(path.is_file() and path.read_text() for path in pids): break
        time.sleep(.1)
    processes = [psutil.Process(int(path.read_text())) for path in pids]
    runner.send_signal(how)
    assert runner.wait(timeout=90) != 0 and all(map(gone, processes))


def test_a_stage_finds_its_kernel_as_a_new_one(stages, monkeypatch):
    monkeypatch.setattr(runner, "_machine", MACHINE)
    for name in FEW[1:]: notebook(stages / f"{name}.ipynb", writes(name), STATE.replace("FILE", f"{name}.txt") + LEAVE)
    _, first, second = (o.metrics for o in reproduce({}, notebooks=stages, stages=FEW, jobs=1))
    assert first["process"] == second["process"]
    alone = run_stage("supervised", {}, notebooks=stages, force=True).metrics
    assert alone["process"] != first["process"]
    for found in (first, second): assert {**alone, "process": 0, "random": 0} == {**found, "process": 0, "random": 0}
    assert len({number for found in (first, second, alone) for number in found["random"]}) == 9     # the system seeds new processes
    for name in FEW[1:]:
        shown = json.loads((runner.run_folder(runner.config_of(), runner.RUNS) / name / "notebook.ipynb").read_text())
        assert "said in every stage" in json.dumps(shown)


@pytest.mark.parametrize("why", ["left a process", "too large", "failed"])
def test_a_kernel_in_doubt_is_replaced(stages, monkeypatch, why):
    number = "import os\nfrom pathlib import Path\nPath('numbers').open('a').write(f'{os.getpid()}\\n')\n"
    leaves = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n" if why == "left a process" else ""
    notebook(stages / "split.ipynb", number + leaves, writes("split"))
    notebook(stages / "teacher.ipynb", number, writes("teacher"))
    if why == "too large": monkeypatch.setattr(kernels, "MOST_MEMORY", 1e-9)
    with kernels.kernels() as pool:
        if why == "failed":
            notebook(stages / "split.ipynb", number, "raise ValueError")
            with pytest.raises(StageError): run_stage("split", {}, notebooks=stages, kernel=pool[0])
            notebook(stages / "split.ipynb", writes("split"))
            run_stage("split", {}, notebooks=stages)
        else: run_stage("split", {}, notebooks=stages, kernel=pool[0])
        assert not marked()
        run_stage("teacher", {}, notebooks=stages, kernel=pool[0])
    before, after = Path("numbers").read_text().split()
    assert before != after and not marked()


@pytest.mark.parametrize("silent", [0, 1])
def test_a_client_is_ready_when_the_kernel_is_idle(kernel_pool, monkeypatch, silent):
    "It has read what was said before; where a channel is silent at first, it asks again."
    from jupyter_client.asynchronous import AsyncKernelClient
    from jupyter_core.utils import run_sync
    kernel, left, plain = kernel_pool[0], [Empty] * silent, AsyncKernelClient.get_iopub_msg
    client = kernel.manager().client()
    client.start_channels()
    run_sync(client.wait_for_ready)(timeout=60)
    for _ in range(3): client.execute("print(1)")
    async def get(*words, **options):
        if left: raise left.pop()
        return await plain(client, *words, **options)
    monkeypatch.setattr(client, "get_iopub_msg", get)
    run_sync(client.wait_for_ready)(timeout=60)
    request = client.kernel_info()
    found = run_sync(client.get_iopub_msg)(timeout=60)["parent_header"]["msg_id"]
    client.stop_channels()
    assert not left and found == request


def test_a_port_that_is_taken_meanwhile_costs_one_attempt(monkeypatch):
    "A kernel that ends while it starts, as when another program has bound its port, is started again."
    kernel, calls, exchange = kernels.Kernel(), [], kernels._exchange

    def unlucky(kernel, *what):
        calls.append(what)
        if len(calls) < 3: psutil.Process(kernel._manager.provisioner.pid).kill()
        return exchange(kernel, *what)
    monkeypatch.setattr(kernels, "_exchange", unlucky)
    try: assert kernels.ask(kernel, "", "1 + 1") == 2 and len(calls) == 4
    finally: kernel.end()


@pytest.mark.whole
@pytest.mark.parametrize("alone", [("refiner",), pytest.param(("split", "teacher", "refiner", "supervised"), marks=pytest.mark.slow)])
def test_results_are_those_of_a_new_kernel_and_of_one_job(tmp_path, monkeypatch, drawn, alone):
    "Same seed, same bits: two jobs in kernels that serve several stages against a stage alone in a new one, with as many threads."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, "data")
    params = {"split": "25p", "data_root": "data", "overrides": {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()}}
    made = reproduce(params, "warm", stages=("split", "teacher", "refiner", "supervised"), jobs=2)
    for outcome in made:
        if outcome.stage not in alone: shutil.copytree(outcome.folder, "cold" / outcome.folder.relative_to("warm"))
    for name in alone: assert run_stage(name, params, "cold", among=1 if name == "split" else 2).how == "ran"
    def weights(folder: str) -> dict[str, str]:
        return {str(p.relative_to(folder)): file_hash(p) for p in Path(folder).rglob("*.safetensors")}
    assert weights("warm") == weights("cold") and len(weights("warm")) == 5
    assert all(is_done(o.folder) for o in made)
    devices = {o.stage: json.loads((o.folder / "params.json").read_text())["device"] for o in made}
    assert devices["teacher"] == devices["supervised"] and "thread" in devices["teacher"]


def test_a_number_of_jobs_that_is_not_possible(stages):
    with pytest.raises(ConfigError, match="-1 jobs are not possible"): reproduce({}, notebooks=stages, jobs=-1)


def test_the_default_number_of_jobs(monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "ask", lambda kernel, code, answer: asked.append(answer) or "cuda")
    monkeypatch.setattr(runner, "cores", lambda: 1)
    assert runner.default_jobs(None, runner.config_of()) == 1 and not asked
    monkeypatch.setattr(runner, "cores", lambda: 2)
    assert runner.default_jobs(None, runner.config_of()) == 1 and asked
    monkeypatch.setattr(runner, "ask", lambda kernel, code, answer: "cpu")
    assert runner.default_jobs(None, runner.config_of()) == 2


def test_the_first_failure_is_raised_after_the_others_have_ended():
    ended = threading.Event()

    def work(name, place):
        if name == "teacher": raise StageError("first")
        if name == "supervised":
            assert stopped.wait(60)
            ended.set()
            raise StageError("second")
    stopped = threading.Event()
    with pytest.raises(StageError, match="first"): side_by_side({"split": (), "teacher": ("split",), "supervised": ("split",)}, work, lambda: 2, stopped.set)
    assert ended.is_set()
