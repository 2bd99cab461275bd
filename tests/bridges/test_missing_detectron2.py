"The bridge where Detectron2 is missing or broken: one line with the cure, and a suite that runs without it."
import subprocess
import sys
from types import ModuleType
from unittest.mock import patch

import pytest

from pointwssis.bridges.d2_install import require
from pointwssis.core import ConfigError
from pointwssis.runs.doctor import _detectron2


class Broken:
    "A finder that raises for the modules it is asked for, as a compiled part of another torch does."
    def __init__(self, name: str, error: ImportError): self.name, self.error = name, error
    def find_spec(self, name, path=None, target=None):
        if name == self.name: raise self.error


def without(name: str) -> dict:
    return {key: module for key, module in sys.modules.items() if key.split(".")[0] != name}


def line_of(error: ImportError, name: str) -> str:
    "Message of `require` when the import of a module raises this."
    fake = ModuleType("detectron2")
    fake.__path__, fake.__version__ = [], "0.6"
    with patch.dict(sys.modules, {**without("detectron2"), "detectron2": fake}, clear=True), patch.object(sys, "meta_path",
                                                                                                          [Broken(name, error), *sys.meta_path]):
        with pytest.raises(ConfigError) as caught: require()
    return str(caught.value)


def test_missing():
    with patch.dict(sys.modules, {"detectron2": None}), pytest.raises(ConfigError, match="Detectron2 is not installed. Build it as https://"): require()


def test_built_for_another_torch():
    said = line_of(ImportError("detectron2/_C.so: undefined symbol: _ZN3c106detail", name="detectron2._C"), "detectron2._C")
    assert "built for another torch" in said and "\n" not in said


def test_without_the_compiled_part():
    assert "it is missing or was built for another torch" in line_of(ModuleNotFoundError("No module named 'detectron2._C'",
                                                                                         name="detectron2._C"), "detectron2._C")


def test_a_package_that_it_needs_is_missing():
    assert "needs the package fvcore" in line_of(ModuleNotFoundError("No module named 'fvcore'", name="fvcore"), "detectron2._C")


def test_the_bridge_says_it_in_one_line():
    code = "import sys; sys.modules['detectron2'] = None\nimport pointwssis.bridges.detectron2"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode and said.stderr.splitlines()[-1].startswith("pointwssis.core.ConfigError: Detectron2 is not installed.")
    assert "During handling" not in said.stderr and "ModuleNotFoundError" not in said.stderr


def test_doctor_on_a_machine_without(monkeypatch):
    monkeypatch.setattr("pointwssis.runs.doctor.find_spec", lambda name: None)
    assert _detectron2() == (True, "Detectron2 is not installed (optional; docs/detectron2.md)")


def test_doctor_names_a_broken_build(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("__version__ = '0.6'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("pointwssis.runs.doctor.find_spec", lambda name: True)
    good, said = _detectron2()
    assert not good and "No module named 'detectron2._C'" in said and "build it again with this torch" in said and "\n" not in said
    (tmp_path / "detectron2/_C.py").write_text("")
    assert _detectron2() == (True, "Detectron2 0.6")
