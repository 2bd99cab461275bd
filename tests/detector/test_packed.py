"Packed sums: the tricks with several pixels in one integer give the numbers of their plain forms."
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pointwssis.detector.nms import plain_shared_pixels, shared_pixels
from pointwssis.detector.packed import mass_centres, plain_centres, plain_quarter, quarter_size

sides = st.integers(1, 70)


def random_masks(n: int, height: int, width: int, share: float, seed: int) -> torch.Tensor:
    return torch.rand(n, height, width, generator=torch.Generator().manual_seed(seed)) < share


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), sides, sides, st.sampled_from([0., .1, .6, 1.]), st.integers(0, 99))
def test_centres_and_areas_are_those_of_plain_sums(n, height, width, share, seed):
    masks = random_masks(n, height, width, share, seed)
    assert all(torch.equal(a, b) for a, b in zip(mass_centres(masks), plain_centres(masks)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), sides, sides, st.sampled_from([.1, .5, 1.]), st.integers(0, 99))
def test_quarter_size_counts_the_middle_four_pixels(n, height, width, share, seed):
    masks, size = random_masks(n, height, width, share, seed), (-(-height // 4), -(-width // 4))
    assert torch.equal(quarter_size(masks, size), plain_quarter(masks, size))


@pytest.mark.parametrize("capability", ["NEON", None])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_products_of_bytes_count_as_products_of_floats(monkeypatch, n, capability):
    if capability: monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    masks = random_masks(n, 30, 41, .5, 0)
    assert torch.equal(shared_pixels(masks), plain_shared_pixels(masks))
    assert torch.equal(plain_shared_pixels(masks, chunk_size=17), plain_shared_pixels(masks))
