"""Guessed thresholds: whatever is guessed, exactly the same elements are kept as a sort keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_blocks import call_of, measured, rows_of

from engine.execution.arithmetic import KernelArithmetic
from engine.methods import METHODS, guess, magnitude
from engine.methods.contract import Call
from engine.models.views import STORED

TIES = METHODS["ties"]
KS = [0, 1, 37, 2500, 4999, 5000]


def cut_after(k: int, *, guessed: bool) -> magnitude.Cuts:
    """One cut after the k largest of each of two rows."""
    return magnitude.Cuts(lambda call, counts: [[k, k]], guessed=guessed)


def facts_of(cuts: magnitude.Cuts, call: Call, rows: np.ndarray) -> dict[str, Any]:
    arithmetic, facts = KernelArithmetic(TIES), dict[str, Any]()
    for stage in cuts.stages():
        facts[stage.name] = stage.finish(call, measured(arithmetic, stage, call, rows, facts), facts)
    return facts


def sizes_of(rows: np.ndarray, elements: int) -> np.ndarray:
    """float32[M, elements]: magnitudes of the deltas; those of awkward values may overflow."""
    values = (rows.astype(np.uint32) << 16).view(np.float32) if rows.dtype == np.uint16 else rows
    with np.errstate(over="ignore"):
        return np.abs(values[1:, :elements] - values[:1, :elements])


def kept(trim: np.ndarray, rows: np.ndarray, elements: int) -> np.ndarray:
    """Which deltas of rows[1:] the fact "trim" counts off."""
    bits = sizes_of(rows, elements).view(np.int32)
    thresholds, lasts = trim[:, 0, :, None]
    return (bits > thresholds) | ((bits == thresholds) & (np.arange(elements) <= lasts))


def largest(rows: np.ndarray, elements: int, k: int) -> np.ndarray:
    """The k largest deltas of each of rows[1:], equal ones in order of index: by a sort."""
    sizes = sizes_of(rows, elements)
    wanted = np.zeros(sizes.shape, bool)
    for row, size in zip(wanted, sizes, strict=True):
        row[np.argsort(-size, kind="stable")[:k]] = True
    return wanted


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(["BF16", "F32"]), k=st.sampled_from(KS), wrong=st.integers(-1, 32767), seed=st.integers(0, 99)
)
def test_whatever_is_guessed_the_k_largest_are_kept(dtype: str, k: int, wrong: int, seed: int) -> None:
    elements = 5000
    rows = rows_of(dtype, 3, elements, seed)
    call = call_of(TIES, 3, (elements,), np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        found = [facts_of(cut_after(k, guessed=False), call, rows), facts_of(cut_after(k, guessed=True), call, rows)]
        patch.setattr(guess, "bins", lambda sample, ks, elements: np.full((1, 2), wrong))
        found.append(facts_of(cut_after(k, guessed=True), call, rows))
    for facts in found:
        np.testing.assert_array_equal(kept(facts["trim"], rows, elements), largest(rows, elements, k))


def test_coarse_deltas_are_settled_by_the_guess_and_fine_ones_by_its_bin() -> None:
    """Deltas of 16-bit models sit on few values; those of float32 ones do not, but their bin is guessed right."""
    elements, k = 200_000, 100_000
    call = call_of(TIES, 3, (elements,), np.random.default_rng(0))
    generator = np.random.default_rng(1)
    values = generator.normal(0, 0.02, elements) + np.array([[0], [1], [1]]) * generator.normal(0, 2e-4, (3, elements))
    fine = np.zeros((3, 1 << 18), np.float32)
    fine[:, :elements] = values
    coarse = (fine.view(np.uint32) >> 16).astype(STORED["BF16"])
    facts = facts_of(cut_after(k, guessed=True), call, coarse)
    assert guess.settled(facts, guess.TIES) is not None
    facts = facts_of(cut_after(k, guessed=True), call, fine)
    assert guess.settled(facts, guess.LOW) is None
    assert guess.settled(facts, guess.HIGH) is not None
