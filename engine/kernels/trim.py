"""Trimmed, weighted task vectors: wd = c · (x − b) where an element is kept, else 0.

Legend: M sources, n elements of a piece of one block. `&` and `|` instead of `and` and `or`: no branches within loops,
so that they are vectorised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, float_bits

NO_TRIM, MAGNITUDE, BAND, RANDOM = 0, 1, 2, 3


class Keep(NamedTuple):
    """Which elements of a block are kept; `kind` says which of the fields count.

    NO_TRIM keeps all. MAGNITUDE keeps what the first cut counts off (`engine.methods.magnitude`), BAND what the first
    does and the second does not. RANDOM keeps where the element's 24 random bits are below those of its source.
    """

    kind: Any
    thresholds: Any  # int32[P, M], bits of a magnitude
    lasts: Any  # int64[P, M], index within the block
    first: Any  # uint32, index of the block's first element within its tensor, low 32 bits
    keys: Any  # uint32[M, 2]
    below: Any  # uint32[M]


def keep_all(sources: int) -> Keep:
    """All elements of all sources; the other kinds replace the fields that they need."""
    nothing = np.zeros((1, sources), np.int32)
    keys = np.zeros((sources, 2), np.uint32)
    return Keep(NO_TRIM, nothing, nothing.astype(np.int64), np.uint32(0), keys, np.zeros(sources, np.uint32))


@kernel
def trimmed(x: Any, b: Any, c: Any, keep: Any, at: Any, wd: Any) -> None:
    """wd[n] of one source and piece; at = (source, start of the piece within the block)."""
    source, start = at
    n = x.shape[0]
    if keep.kind == MAGNITUDE:
        last = within(keep.lasts[0, source], start, n)
        weighted_delta_magnitude(x, b, c, keep.thresholds[0, source], last, wd)
    elif keep.kind == BAND:
        last = within(keep.lasts[0, source], start, n)
        upper_last = within(keep.lasts[1, source], start, n)
        cuts = keep.thresholds[0, source], last, keep.thresholds[1, source], upper_last
        weighted_delta_band(x, b, c, cuts, wd)
    elif keep.kind == RANDOM:
        first = np.uint32(keep.first + np.uint32(start))
        weighted_delta_random(x, b, c, keep.keys[source], keep.below[source], first, wd)
    else:
        weighted_delta(x, b, c, wd)


@kernel
def within(last: Any, start: Any, n: Any) -> Any:
    """The last kept index, counted from the start of a piece of n elements, as int32: −1 for none, n for all."""
    return np.int32(max(min(last - start, np.int64(n)), np.int64(-1)))


@kernel
def mix(index: Any, key: Any) -> Any:
    """uint32 bits of one element: two keyed rounds of a 32-bit integer mix (docs/randomness.md)."""
    x = (index ^ key[0]) & np.uint32(0xFFFFFFFF)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) + key[1])
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97))
    return np.uint32(x ^ (x >> np.uint32(15)))


@kernel
def weighted_delta(x: Any, b: Any, c: Any, wd: Any) -> None:
    """wd = c · (x − b), all elements kept."""
    for i in range(x.shape[0]):
        wd[i] = c * (decode(x[i]) - decode(b[i]))


@kernel
def weighted_delta_magnitude(x: Any, b: Any, c: Any, threshold: Any, last: Any, wd: Any) -> None:
    """wd = c · (x − b) where |x − b| > threshold, or equals it at an index ≤ last; else 0."""
    for i in range(x.shape[0]):
        delta = decode(x[i]) - decode(b[i])
        bits = np.int32(float_bits(delta) & np.uint32(0x7FFFFFFF))
        keep = (bits > threshold) | ((bits == threshold) & (np.int32(i) <= last))
        wd[i] = c * (delta if keep else np.float32(0))


@kernel
def weighted_delta_band(x: Any, b: Any, c: Any, cuts: Any, wd: Any) -> None:
    """wd = c · (x − b) where |x − b| is counted off by the lower cut and not by the upper one; else 0."""
    threshold, last, upper, upper_last = cuts
    for i in range(x.shape[0]):
        delta = decode(x[i]) - decode(b[i])
        bits = np.int32(float_bits(delta) & np.uint32(0x7FFFFFFF))
        keep = (bits > threshold) | ((bits == threshold) & (np.int32(i) <= last))
        outlier = (bits > upper) | ((bits == upper) & (np.int32(i) <= upper_last))
        wd[i] = c * (delta if keep & (not outlier) else np.float32(0))


@kernel
def weighted_delta_random(x: Any, b: Any, c: Any, key: Any, below: Any, first: Any, wd: Any) -> None:
    """wd = c · (x − b) where the element's 24 random bits are < below; else 0."""
    for i in range(x.shape[0]):
        delta = decode(x[i]) - decode(b[i])
        bits = mix(np.uint32(first + np.uint32(i)), key) >> np.uint32(8)
        wd[i] = c * (delta if bits < below else np.float32(0))
