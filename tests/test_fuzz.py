"A few hundred broken inputs of each kind: each works or costs one line."
import pytest

from fuzz import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_broken_input_works_or_gives_one_error(kind):
    seen = fuzz(kind, 300, seconds=20)
    assert seen.total() > 50 and (seen["refused"] > 10 or kind == "surveys")
