"The names at the root: there at once, documented, and with examples that run."
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import pointwssis

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
NAMES = pointwssis.__all__


def test_import_loads_no_library_and_takes_a_fifth_of_a_second():
    code = "import pointwssis, sys; sys.exit(bool({'torch', 'numpy', 'matplotlib', 'msgspec', 'PIL'} & {*sys.modules}))"
    said = subprocess.run([sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True)
    line = next(line for line in said.stderr.splitlines() if line.endswith("| pointwssis"))
    assert said.returncode == 0 and int(line.split("|")[1]) < 200_000   # microseconds


def test_every_name_is_that_of_its_module():
    for name in NAMES: assert getattr(pointwssis, name).__name__ == name and name in dir(pointwssis)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'presets'"): pointwssis.presets


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_units_errors_and_section(name):
    text = getattr(pointwssis, name).__doc__
    assert text.splitlines()[0].endswith(".") and ">>> " in text and "section" in text and "Error" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_help_run(name, place, monkeypatch):
    monkeypatch.chdir(place)
    thing = getattr(pointwssis, name)
    parts = doctest.DocTestFinder(recurse=False).find(thing, name, module=sys.modules[thing.__module__])
    results = [doctest.DocTestRunner(verbose=False).run(part) for part in parts]
    assert sum(r.attempted for r in results) and not sum(r.failed for r in results)


def test_the_page_lists_every_name_with_its_module_and_first_sentence():
    rows = [f"| `{name}` | `{thing.__module__}` | {thing.__doc__.splitlines()[0].strip()} |" for name in NAMES if (thing := getattr(pointwssis, name))]
    assert [line for line in PAGE.splitlines() if line.startswith("| `") and "| `pointwssis." in line] == rows
