"The workflow for a cluster: its jobs are the package's stages, and what runs share is made once."
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from pointwssis.runs.engine import LIGHT, resources_of
from pointwssis.runs.presets import preset
from pointwssis.runs.stage_graph import STAGES, wanted_stages

ROOT = Path(__file__).parents[2]
SNAKEMAKE = shutil.which("snakemake") if find_spec("snakemake") is None else f"{sys.executable} -m snakemake"
needs_snakemake = pytest.mark.skipif(not SNAKEMAKE, reason="snakemake is not installed: pip install 'pointwssis[cluster]'")


def plan(folder: Path, *settings: str) -> subprocess.CompletedProcess:
    "The jobs that Snakemake plans in a folder without any run."
    command = [*SNAKEMAKE.split(), "--dry-run", "--cores=1", "--nocolor", f"--snakefile={ROOT / 'workflow/Snakefile'}", f"--directory={folder}"]
    return subprocess.run([*command, "--config", *settings], capture_output=True, text=True, timeout=300)


def jobs(text: str) -> dict[str, list[str]]:
    "{run/stage: the marks that it waits for} of a dry run's output."
    blocks = re.findall(r"^rule \w+:\n((?:    .*\n)+)", text, re.M)
    rows = [dict(re.findall(r"^    (input|output): (.*)$", block, re.M)) for block in blocks]
    return {row["output"]: [name for name in row.get("input", "").split(", ") if name] for row in rows if "output" in row}


def mark(split: str, seed: int, stage: str) -> str: return f"outputs/runs/shapes/{split}/s{seed}/.{stage}.done"


def test_the_workflow_names_no_stage():
    text = (ROOT / "workflow/Snakefile").read_text(encoding="utf-8")
    assert not [name for name in STAGES if re.search(rf"""["']{name}["']|^\s*rule {name}\b""", text, re.M)]


@needs_snakemake
def test_every_stage_of_every_run_is_one_job_and_what_is_shared_has_one_maker(tmp_path):
    done = plan(tmp_path, "splits=10p,5p", "seeds=0,1")
    assert done.returncode == 0, done.stderr
    found = jobs(done.stdout + done.stderr)
    assert Counter(re.search(r"\.(\w+)\.done", name)[1] for name in found) == dict.fromkeys(STAGES, 4)
    for seed in (0, 1):
        assert {mark(split, seed, "supervised") for split in ("10p", "5p") if mark("10p", seed, "supervised") not in found[mark(split, seed, "supervised")]
                } == {mark("10p", seed, "supervised")}
        assert found[mark("5p", seed, "teacher")] == [mark("5p", seed, "split")]
        assert set(found[mark("10p", seed, "evaluate")]) == {mark("10p", seed, need) for need in STAGES["evaluate"].needs}
    assert not any("s1/" in need for name, needs in found.items() if "s0/" in name and ".report." not in name for need in needs)


@needs_snakemake
def test_every_job_has_limits_of_its_own(tmp_path):
    "The job of the tables, which all others precede, too."
    text = (done := plan(tmp_path)).stdout + done.stderr
    found = dict(re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", text, re.M))
    assert set(found) == {*wanted_stages(preset("shapes")), "all"}
    for name, limits in found.items():
        asked = dict(pair.split("=") for pair in limits.split(", ") if "=" in pair)
        expected = resources_of(STAGES[name], preset("shapes")) if name in STAGES else LIGHT
        assert {key: int(asked[key]) for key in expected} == expected, name


@needs_snakemake
def test_variants_wait_for_the_run_that_they_take_over_from(tmp_path):
    found = jobs((done := plan(tmp_path, "tables=levels", "labels_only=True")).stdout + done.stderr)
    assert mark("10p", 0, "teacher") in found[mark("10p-level_0", 0, "teacher")]
    assert mark("10p", 0, "pseudo") not in found[mark("10p-level_0", 0, "pseudo")]
    assert mark("10p-level_0", 0, "student") not in found and mark("10p-level_0", 0, "evaluate") in found


@needs_snakemake
def test_a_second_round_waits_for_the_student_of_the_first(tmp_path):
    found = jobs((done := plan(tmp_path, "tables=additions")).stdout + done.stderr)
    student = mark("10p-recipe_competition", 0, "student_refined")
    assert student in found[mark("10p-ours_second_round", 0, "pseudo")] and student not in found[mark("10p-ours_copy_paste", 0, "pseudo")]


@needs_snakemake
@pytest.mark.parametrize("setting, message", [("sedes=1", "Did you mean 'seeds'?"), ("overrides={student_train.step: 1}", "Did you mean 'steps'?")])
def test_a_typing_error_stops_it(tmp_path, setting, message):
    done = plan(tmp_path, setting)
    assert done.returncode != 0 and message in done.stdout + done.stderr


ODD = "my runs; touch hacked 'one' \"two\" $HOME & `id`"


@needs_snakemake
def test_every_path_and_value_is_quoted(tmp_path):
    root = tmp_path / ODD
    done = plan(tmp_path, f"runs={ODD}/deep", f"data_root={root}", "dataset=custom", "--printshellcmds")
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [shlex.split(line) for line in re.findall(r"^.*?(pointwssis (?:run|report) -?.*)$", done.stdout + done.stderr, re.M)]
    assert len(commands) == len(wanted_stages(preset("custom"))) + 1
    for words in commands:
        assert words[:2] in (["pointwssis", "run"], ["pointwssis", "report"])
        plain = [word.partition("=")[2] or word for word in words]
        assert f"{ODD}/deep" in plain and (words[1] == "report" or str(root) in plain)


@needs_snakemake
def test_a_folder_that_snakemake_would_take_as_a_pattern_is_refused(tmp_path):
    done = plan(tmp_path, "runs=a{b}")
    assert done.returncode != 0 and "Snakemake takes braces and stars as patterns" in done.stdout + done.stderr
