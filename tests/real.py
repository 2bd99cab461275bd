"The photographs and weights that some tests need, and the reason that the others of them are skipped."
from pathlib import Path

import pytest

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared/data"
WHY = "needs the photographs of ../shared/data, which are not part of the project"
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=WHY)
