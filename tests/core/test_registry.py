"Kinds by name: a lookup is cheap, because one is made for each image and each object."
from pathlib import Path

import pytest

from pointwssis import registry
from pointwssis.core import ConfigError
from pointwssis.registry import POINTS, PROMPTS


def test_a_second_lookup_reads_no_file_and_asks_no_package(monkeypatch):
    first = PROMPTS["point"], POINTS["centroid"]
    monkeypatch.setattr(registry, "entry_points", lambda **group: pytest.fail("asked for installed packages"))
    monkeypatch.setattr(Path, "read_text", lambda path, **how: pytest.fail(f"read {path}"))
    assert (PROMPTS["point"], POINTS["centroid"]) == first and "none" in PROMPTS and list(POINTS)
    with pytest.raises(ConfigError, match="unknown prompt 'pint'. Did you mean 'point'?"): PROMPTS["pint"]
