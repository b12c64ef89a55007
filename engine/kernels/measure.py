"""Facts about a whole tensor, block by block: radix histograms of |delta|, ties, masses.

Legend: N sources, M = N − 1 sources besides the base (row 0), n elements of the block.
Counts are integers and exact in any order. Sums are float64 in `LANES` lanes (element i goes to lane i mod LANES, in
order of i), then a fixed fold of halves: the same bits for any cut, thread count and compiler (docs/bits.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, float_bits
from engine.kernels.combine import CHUNK
from engine.kernels.trim import trimmed, weighted_delta

LANES = 1024


@kernel
def fold(lanes: Any) -> Any:
    """Σ lanes[a power of two] in place: halves are added onto each other until one number is left."""
    width = lanes.shape[0] // 2
    while width > 0:
        for i in range(width):
            lanes[i] = lanes[i] + lanes[i + width]
        width //= 2
    return lanes[0]


@kernel
def masses(rows: Any, n: Any, keep: Any, out: Any, work: Any) -> None:
    """out[2, M] = (Σ|δ_j|, Σ|δ_j| over what is kept of it), float64."""
    sources = rows.shape[0] - 1
    lanes = np.zeros((2, sources, LANES), np.float64)
    one = np.float32(1)
    for start in range(0, n, CHUNK):
        m = min(CHUNK, n - start)
        b = rows[0, start : start + m]
        for j in range(sources):
            x = rows[j + 1, start : start + m]
            weighted_delta(x, b, one, work[0, :m])
            trimmed(x, b, one, keep, (j, start), work[1, :m])
            add_sizes(work[0], m, lanes[0, j])
            add_sizes(work[1], m, lanes[1, j])
    for j in range(sources):
        out[0, j] = fold(lanes[0, j])
        out[1, j] = fold(lanes[1, j])


@kernel
def add_sizes(values: Any, m: Any, lane: Any) -> None:
    """lane[LANES] += |values[:m]|, the two steps of a chunk at once: so lanes are loaded and stored half as often."""
    for i in range(m, CHUNK):
        values[i] = np.float32(0)
    first, second = values[:LANES], values[LANES:CHUNK]
    for i in range(LANES):
        lane[i] = (lane[i] + np.float64(abs(first[i]))) + np.float64(abs(second[i]))


@kernel
def magnitude_bits(x: Any, b: Any, out: Any) -> None:
    """out[n] = the 31 bits of |x − b| as float32; as integers they are in the order of the magnitudes."""
    for i in range(x.shape[0]):
        out[i] = float_bits(decode(x[i]) - decode(b[i])) & np.uint32(0x7FFFFFFF)


@kernel
def histogram_high(rows: Any, n: Any, out: Any) -> None:
    """out[M, 32768] += counts of the upper 15 bits (exponent, 7 of mantissa) of |δ_j| as float32.

    Four tables in turn: neighbours often fall into one bin, and an increment would wait for the one before it.
    """
    bits = np.empty(CHUNK, np.uint32)
    tables = np.zeros((4, out.shape[1]), np.uint32)
    first, second, third, fourth = tables[0], tables[1], tables[2], tables[3]
    one, shift = np.uint32(1), np.uint32(16)
    for j in range(rows.shape[0] - 1):
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            magnitude_bits(rows[j + 1, start : start + m], rows[0, start : start + m], bits)
            whole = m - m % 4
            for i in range(0, whole, 4):
                first[bits[i] >> shift] += one
                second[bits[i + 1] >> shift] += one
                third[bits[i + 2] >> shift] += one
                fourth[bits[i + 3] >> shift] += one
            for i in range(whole, m):
                first[bits[i] >> shift] += one
        counts = out[j]
        for k in range(counts.shape[0]):
            counts[k] += np.int64(first[k]) + np.int64(second[k]) + np.int64(third[k]) + np.int64(fourth[k])
        tables[:] = np.uint32(0)


@kernel
def histogram_few(rows: Any, n: Any, out: Any) -> None:
    """The same for a few elements: what four tables take to begin and to add up is more than they save."""
    base = rows[0]
    for j in range(rows.shape[0] - 1):
        x, counts = rows[j + 1], out[j]
        for i in range(n):
            bits = float_bits(decode(x[i]) - decode(base[i])) & np.uint32(0x7FFFFFFF)
            counts[bits >> np.uint32(16)] += 1


@kernel
def count_around(rows: Any, n: Any, bins: Any, out: Any) -> None:
    """out[3, P, M] = how many |δ_j| are beyond bin bins[P, M] (upper 15 bits), above its lowest value, equal to it."""
    base = rows[0, :n]
    for cut in range(bins.shape[0]):
        for j in range(rows.shape[0] - 1):
            x = rows[j + 1, :n]
            lowest = np.int32(bins[cut, j] << 16)
            highest = np.int32(lowest + np.int32(0xFFFF))
            beyond, above, equal = np.int32(0), np.int32(0), np.int32(0)
            for i in range(n):
                bits = np.int32(float_bits(decode(x[i]) - decode(base[i])) & np.uint32(0x7FFFFFFF))
                beyond = np.int32(beyond + np.int32(bits > highest))
                above = np.int32(above + np.int32(bits > lowest))
                equal = np.int32(equal + np.int32(bits == lowest))
            out[0, cut, j], out[1, cut, j], out[2, cut, j] = beyond, above, equal


@kernel
def histogram_low(rows: Any, n: Any, high: Any, out: Any) -> None:
    """out[P, M, 65536] += counts of the lower 16 bits of |δ_j|, where the upper 15 equal high[P, M].

    Differences of 16-bit values are so coarse that nearly all of a bin sits on its lowest value, which is counted
    without branches; groups of 64 are searched for other values of the bin only where there are any.
    """
    bits = np.empty(CHUNK, np.uint32)
    for j in range(rows.shape[0] - 1):
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            magnitude_bits(rows[j + 1, start : start + m], rows[0, start : start + m], bits)
            for cut in range(high.shape[0]):
                count_low(bits, m, np.uint32(np.uint32(high[cut, j]) << np.uint32(16)), out[cut, j])


@kernel
def count_low(bits: Any, m: Any, lowest: Any, counts: Any) -> None:
    """counts[65536] += counts of bits[:m] − lowest, where that is below 65536."""
    for first in range(0, m, 64):
        group = bits[first : min(first + 64, m)]
        equal, inside = np.uint32(0), np.uint32(0)
        for i in range(group.shape[0]):
            above = np.uint32(group[i] - lowest)
            equal = np.uint32(equal + np.uint32(above == np.uint32(0)))
            inside = np.uint32(inside + np.uint32(above < np.uint32(0x10000)))
        counts[0] += np.int64(equal)
        if inside > equal:
            for i in range(group.shape[0]):
                above = np.uint32(group[i] - lowest)
                if (above > np.uint32(0)) & (above < np.uint32(0x10000)):
                    counts[above] += 1


@kernel
def count_ties(rows: Any, n: Any, thresholds: Any, out: Any) -> None:
    """out[P, M] = how many |δ_j| equal thresholds[P, M] (float32 bits)."""
    bits = np.empty(CHUNK, np.uint32)
    out[:] = 0
    for j in range(rows.shape[0] - 1):
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            magnitude_bits(rows[j + 1, start : start + m], rows[0, start : start + m], bits)
            for cut in range(thresholds.shape[0]):
                out[cut, j] += np.int64(count_equal(bits, m, np.uint32(thresholds[cut, j])))


@kernel
def count_equal(bits: Any, m: Any, wanted: Any) -> Any:
    """How many of bits[:m] are `wanted`; m ≤ CHUNK."""
    count = np.uint32(0)
    for i in range(m):
        count = np.uint32(count + np.uint32(bits[i] == wanted))  # not +=, which would count in 64 bits
    return count


@kernel
def locate_tie(x: Any, b: Any, threshold: Any, rank: Any) -> Any:
    """Index within the block of the rank-th (from 1) element with |x − b| = threshold; −1 where there are fewer."""
    seen = 0
    for i in range(x.shape[0]):
        bits = float_bits(decode(x[i]) - decode(b[i])) & np.uint32(0x7FFFFFFF)
        if bits == np.uint32(threshold):
            seen += 1
            if seen == rank:
                return i
    return -1
