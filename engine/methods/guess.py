"""Guessing the thresholds of `magnitude` from a sample, and counting once to see whether the guess is right.

The histogram of a sixteenth of the scores says in which bin the k-th largest of all of them probably lies. One pass
that counts what lies beyond that bin, what lies above its lowest value, and what equals it, takes a fifth of the time
of the histograms of everything; it proves the bin, and mostly the threshold too, because deltas of 16-bit models are so
coarse that nearly all of a bin sits on its lowest value. Where the guess is wrong the histograms are made after all:
it saves time and changes no result.

Legend: S rows of scores, P cuts, each after its own k largest. The fact "counted" is int64[8, P, S]: what the stages
"high" (3), "low" (3) and "ties" (2) of `magnitude` would find, `UNKNOWN` where counting did not settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.methods.contract import Array, Facts
from engine.numerics import kth_from_above

SAMPLE = 1 << 14
"""Elements at the beginning of every block that are looked at: a sixteenth of a whole one, from all over the tensor."""
UNKNOWN = -2
HIGH, LOW, TIES = slice(0, 3), slice(3, 6), slice(6, 8)
ABOVE_ALL = 0x7FFFFFFF
"""More than the bits of any finite magnitude: a threshold that nothing reaches."""


def bins(sample: Array, ks: Sequence[Sequence[int]], elements: int) -> Array:
    """int64[P, S]: the bin that probably holds the k-th largest, from the sample[S, bins]; −1 where k is 0."""
    found = [
        [_bin(counts, k, elements) if k else -1 for counts, k in zip(sample, of_cut, strict=True)] for of_cut in ks
    ]
    return np.array(found, np.int64)


def _bin(counts: Array, k: int, elements: int) -> int:
    sampled = int(counts.sum())
    return kth_from_above(counts, min(sampled, max(1, round(k * sampled / elements))))[0]


def counted(partial: Array, guessed: Array, ks: Sequence[Sequence[int]]) -> Array:
    """The fact "counted" from partial[blocks, 3, P, S]: beyond the guessed bin, above its lowest value, equal to it."""
    out: Array = np.full((8, *guessed.shape), UNKNOWN, np.int64)
    for cut, row in np.ndindex(*guessed.shape):
        k, number = ks[cut][row], int(guessed[cut, row])
        beyond, above, equal = partial[:, :, cut, row].sum(axis=0).tolist()
        if k == 0:
            out[:, cut, row] = 0, -1, 0, ABOVE_ALL, 0, 0, -1, 0
        elif beyond < k <= above + equal:
            out[HIGH, cut, row] = k, number, beyond
            if k > above:
                out[LOW, cut, row] = number << 16, k - above, equal
                out[TIES, cut, row] = last_equal(partial[:, 2, cut, row], k - above)
    return out


def last_equal(equal_per_block: Array, keep: int) -> tuple[int, int]:
    """The block in which the keep-th of the equal elements lies, and its rank there, from 1; (−1, 0) for the last."""
    running = np.cumsum(equal_per_block)
    if keep in (0, running[-1]):
        return -1, 0
    number = int(np.searchsorted(running, keep))
    return number, keep - (int(running[number - 1]) if number else 0)


def settled(facts: Facts, what: slice) -> Any:
    """This part of "counted", or None where it has to be measured."""
    if "counted" not in facts or (facts["counted"][what] == UNKNOWN).any():
        return None
    return facts["counted"][what]
