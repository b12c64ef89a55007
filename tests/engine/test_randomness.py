"""The random bits: documented vectors, one definition in Python, torch and kernels, and what masks promise."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engine import randomness
from engine.kernels import trim

DOCUMENT = Path(__file__).parents[2] / "docs" / "randomness.md"


def kernel_bits(start: int, count: int, key: np.ndarray) -> np.ndarray:
    indices = (np.arange(start, start + count, dtype=np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return np.array([int(trim.mix(index, key)) >> 8 for index in indices])


@pytest.mark.parametrize("start", [0, 1 << 18, (1 << 32) - (1 << 18), 1 << 32, 5 << 33])
def test_python_torch_and_kernel_give_the_same_bits(start: int) -> None:
    key = randomness.stream_key(7, "model.norm.weight", 3)
    block = randomness.block_keys(7, "model.norm.weight", (3,), start)[0]
    expected = [randomness.bits_of(start + i, key) for i in range(300)]
    assert randomness.bits_tensor(start, 300, block).tolist() == expected
    assert kernel_bits(start, 300, block).tolist() == expected


def test_the_documented_vectors_hold() -> None:
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| (\d+) \| (\d+) \| (\d+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) >= 6
    for seed, tensor, source, index, bits in rows:
        key = randomness.stream_key(int(seed), tensor, int(source))
        assert randomness.bits_of(int(index), key) == int(bits)


@pytest.mark.parametrize("density", [0.01, 0.25, 0.5, 0.9])
def test_masks_keep_the_share_they_promise(density: float) -> None:
    n = 1 << 20
    for source in range(4):
        key = randomness.block_keys(source, f"t{source}", (source,), 0)[0]
        kept = int((randomness.bits_tensor(0, n, key) < randomness.threshold(density)).sum())
        assert abs(kept - n * density) < 4.5 * (n * density * (1 - density)) ** 0.5


def test_masks_are_nested_in_density() -> None:
    key = randomness.block_keys(0, "t", (1,), 0)[0]
    bits = randomness.bits_tensor(0, 10_000, key)
    masks = [bits < randomness.threshold(d) for d in (0.0, 0.1, 0.37, 0.8, 1.0)]
    assert all(bool((small <= large).all()) for small, large in pairwise(masks))
    assert int(masks[0].sum()) == 0
    assert bool(masks[-1].all())


def test_streams_of_sources_tensors_seeds_and_neighbours_are_uncorrelated() -> None:
    n = 1 << 18
    keys = [randomness.block_keys(seed, t, (s,), 0)[0] for seed in (0, 1) for t in ("a", "b") for s in (0, 1)]
    streams = [randomness.bits_tensor(0, n, key).double() / 2**24 - 0.5 for key in keys]
    bound = 4.5 / 12 / n**0.5
    for i, left in enumerate(streams):
        assert abs(float((left[1:] * left[:-1]).mean())) < bound
        for right in streams[i + 1 :]:
            assert abs(float((left * right).mean())) < bound


def test_each_of_the_24_bits_is_fair_and_bytes_are_uniform() -> None:
    n = 1 << 20
    bits = randomness.bits_tensor(0, n, randomness.block_keys(3, "w", (2,), 0)[0]).numpy()
    for place in range(24):
        assert abs(int(((bits >> place) & 1).sum()) - n / 2) < 4.5 * n**0.5 / 2
    for shift in (0, 8, 16):
        counts = np.bincount((bits >> shift) & 0xFF, minlength=256)
        assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 5 * (2 * 255) ** 0.5
