"""requirements.lock names one set of versions for every machine, each file by its hash; `make lock-check` asks the registry too."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PLATFORMS = {"x86_64-manylinux_2_28": ("linux", "x86_64"), "aarch64-manylinux_2_28": ("linux", "aarch64"),
             "aarch64-apple-darwin": ("darwin", "arm64")}
FLAGS = re.search(r"^LOCKING := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
ONLY_CUDA = re.compile("cuda|nvidia|triton")


def entries() -> list[tuple[Requirement, list[str]]]:
    "Each pin of the lock with its hashes."
    blocks = LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    split = [re.split(r"\s+--hash=", block.strip()) for block in blocks]
    return [(Requirement(pin), hashes) for pin, *hashes in split]


def wanted() -> list[Requirement]:
    "The requirements of settings.ini, with those of development."
    lines = re.findall(r"^(?:dev_)?requirements = (.*)$", (ROOT / "settings.ini").read_text(), re.M)
    return [Requirement(text) for text in " ".join(lines).split()]


def pins(system: str, machine: str, python: str = "3.12") -> dict[str, str]:
    "Name and version of what the lock installs on a machine."
    here = {"sys_platform": system, "platform_machine": machine, "os_name": "posix",
            "python_version": python, "python_full_version": f"{python}.5",
            "implementation_name": "cpython"}
    return {pin.name: str(pin.specifier).removeprefix("==") for pin, _ in entries()
            if pin.marker is None or pin.marker.evaluate(here)}


def test_the_lock_pins_every_line():
    for pin, hashes in entries():
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin.specifier)) and not pin.url, pin
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", h) for h in hashes), pin


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system, machine", PLATFORMS.values())
def test_the_lock_has_what_settings_ini_asks_for(system, machine, python):
    found = pins(system, machine, python)
    for need in wanted():
        name = re.sub("[-_.]+", "-", need.name).lower()
        assert name in found and need.specifier.contains(found[name]), need


def test_set_up_compiles_the_modules_that_it_installs():
    "Each process would compile torch and the others again, for seconds, if PYTHONDONTWRITEBYTECODE is set, as in many containers."
    said = subprocess.run(["make", "--dry-run", "--always-make", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"uv pip install .*--compile-bytecode .*requirements\.lock", said)


def test_cuda_is_for_linux_alone():
    assert [name for name in pins("darwin", "arm64") if ONLY_CUDA.match(name)] == []
    assert [name for name in pins("linux", "x86_64") if ONLY_CUDA.match(name)]


def test_the_lock_names_no_host():
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text


@pytest.mark.network
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_registry_has_a_file_for(platform, python, tmp_path):
    command = ["uv", "pip", "install", "--dry-run", "--require-hashes", "--no-deps",
               "--only-binary=:all:", "--target", tmp_path, "--python-platform", platform,
               "--python-version", python, "-r", LOCK]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "Would install" in done.stderr, done.stderr


@pytest.mark.network
def test_settings_ini_still_resolves_to_the_lock(tmp_path):
    lock = Path(shutil.copy(LOCK, tmp_path))
    command = ["uv", "pip", "compile", "setup.py", *FLAGS, "--quiet", f"--output-file={lock}"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert lock.read_text() == LOCK.read_text(), "requirements.lock is stale: run make lock"
