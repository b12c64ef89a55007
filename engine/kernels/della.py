"""DELLA's passes: ranks of |δ| within rows by counting, chances from ranks, then masses or the merge.

Legend: M sources besides the base (row 0), n elements of a block of whole rows of C columns. Rows are worked off in
groups of about a chunk. A chance is what an element's 24 random bits must be below; `engine.methods.della_linear` says
how it comes about, and tests hold the two together. Measured on bf16, ns per element and source: buckets 0.4, counts
0.5, chances of buckets 0.6 (0.15 in rows of 4096), of elements 0.4; all of it twice, because masses precede the merge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, float_bits
from engine.kernels.combine import CHUNK, add_to_base, sum_or_elect
from engine.kernels.measure import LANES, fold
from engine.kernels.trim import mix, weighted_delta

BUCKETS, FINE, GUARD = 1792, 1024, 24
GOLDEN = np.uint32(0x9E3779B9)


class Ranks(NamedTuple):
    """What chances are made of, and room for them."""

    columns: Any  # int64, C
    odds: Any  # int64[M, 2]: the least chance, and what half a rank adds to it, times 2^48
    first: Any  # uint32, index of the block's first element within its tensor, low 32 bits
    keys: Any  # uint32[M, 2]
    below: Any  # uint32[M, elements of a group of whole rows]


@kernel
def chances(x: Any, b: Any, columns: Any, odds: Any, tables: Any, below: Any) -> None:
    """below[rows · C] = the chance of every element of one source; tables uint32[2, BUCKETS], 0 before and after."""
    table = tables[0]
    for first in range(0, x.shape[0], columns):
        row = below[first : first + columns]
        find_buckets(x[first : first + columns], b[first : first + columns], row)
        count_buckets(row, tables)
        rank_buckets(columns, odds[0], odds[1], table)
        for i in range(columns):
            row[i] = table[row[i]]
        for k in range(BUCKETS):
            table[k] = np.uint32(0)


@kernel
def find_buckets(x: Any, b: Any, out: Any) -> None:
    """out[C] = the bucket of |x − b|: distance from the row's largest in 1/128 octaves, further away in 1/32."""
    largest = np.uint32(0)
    for i in range(x.shape[0]):
        octave = (float_bits(decode(x[i]) - decode(b[i])) & np.uint32(0x7FFFFFFF)) >> np.uint32(16)
        out[i] = octave
        largest = octave if octave > largest else largest
    last = np.uint32(BUCKETS - 1)
    for i in range(x.shape[0]):
        away = np.uint32(largest - out[i])
        coarse = np.uint32((away >> np.uint32(2)) + np.uint32(FINE - FINE // 4))
        bucket = away if away < coarse else coarse
        out[i] = bucket if bucket < last else last


@kernel
def count_buckets(bucket: Any, tables: Any) -> None:
    """tables[0] += how many elements every bucket has. Two in turn: an increment waits for the one before it."""
    first, second = tables[0], tables[1]
    one = np.uint32(1)
    pairs = bucket.shape[0] // 2
    for i in range(pairs):
        first[bucket[2 * i]] += one
        second[bucket[2 * i + 1]] += one
    for i in range(2 * pairs, bucket.shape[0]):
        first[bucket[i]] += one
    for k in range(BUCKETS):
        first[k] = np.uint32(first[k] + second[k])
        second[k] = np.uint32(0)


@kernel
def rank_buckets(columns: Any, least: Any, step: Any, table: Any) -> None:
    """table[BUCKETS], counts: the chance of each bucket instead, from the middle of its ranks. Most are empty."""
    unranked = np.uint32(columns)
    for first in range(0, BUCKETS, 16):
        held = np.uint32(0)
        for k in range(first, first + 16):
            held = np.uint32(held | table[k])
        if held == 0:
            continue
        for k in range(first, first + 16):
            count = table[k]
            table[k] = np.uint32(unranked + unranked - count - np.uint32(1))
            unranked = np.uint32(unranked - count)
        for k in range(first, first + 16):
            table[k] = np.uint32((least + step * np.int64(table[k]) + np.int64((1 << GUARD) - 1)) >> np.int64(GUARD))
        if unranked == 0:
            break


@kernel
def ranked_delta(x: Any, b: Any, c: Any, key: Any, below: Any, at: Any, wd: Any) -> None:
    """wd[n] = c · (x − b) where the element's 24 random bits are < below[n]; else 0.

    at = (index of the block's first element, of the piece's first), low 32 bits. A block may go on beyond a multiple of
    2^32, where the low bits begin anew and the next high bits belong into the key (`randomness.bits_of`).
    """
    origin, first = at
    beyond = np.uint32(key[1] + GOLDEN)
    for i in range(x.shape[0]):
        index = np.uint32(first + np.uint32(i))
        bits = mix(index, (key[0], beyond if index < origin else key[1])) >> np.uint32(8)
        delta = decode(x[i]) - decode(b[i])
        wd[i] = c * (delta if bits < below[i] else np.float32(0))


@kernel
def fill(rows: Any, begin: Any, end: Any, ranks: Any, tables: Any) -> None:
    """ranks.below[M, :end − begin] = the chances of the rows in [begin, end) of a block."""
    b = rows[0, begin:end]
    for j in range(rows.shape[0] - 1):
        chances(rows[j + 1, begin:end], b, ranks.columns, ranks.odds[j], tables, ranks.below[j])


@kernel
def masses(rows: Any, n: Any, ranks: Any, out: Any, work: Any) -> None:
    """out[2, M] = (Σ|δ_j|, Σ|δ_j| over what is kept of it), float64."""
    sources = rows.shape[0] - 1
    lanes = np.zeros((2, sources, LANES), np.float64)
    tables = np.zeros((2, BUCKETS), np.uint32)
    one = np.float32(1)
    step = ranks.below.shape[1]
    for begin in range(0, n, step):
        end = min(begin + step, n)
        fill(rows, begin, end, ranks, tables)
        start = begin
        while start < end:
            m = min(LANES - start % LANES, end - start)
            at = ranks.first, np.uint32(ranks.first + np.uint32(start))
            b = rows[0, start : start + m]
            for j in range(sources):
                x = rows[j + 1, start : start + m]
                weighted_delta(x, b, one, work[0])
                ranked_delta(x, b, one, ranks.keys[j], ranks.below[j, start - begin :], at, work[1])
                for kind in range(2):
                    add_sizes(work[kind], lanes[kind, j, start % LANES : start % LANES + m])
            start += m
    for j in range(sources):
        out[0, j] = fold(lanes[0, j])
        out[1, j] = fold(lanes[1, j])


@kernel
def add_sizes(delta: Any, lane: Any) -> None:
    """lane[m] += |delta[m]|."""
    for i in range(lane.shape[0]):
        lane[i] = lane[i] + np.float64(abs(delta[i]))


@kernel
def merge(rows: Any, ranks: Any, coefficients: Any, elect: Any, weights: Any, out: Any, work: Any) -> None:
    """`combine.delta` with what DELLA keeps."""
    sources = rows.shape[0] - 1
    n = out.shape[0]
    tables = np.zeros((2, BUCKETS), np.uint32)
    step = ranks.below.shape[1]
    for begin in range(0, n, step):
        end = min(begin + step, n)
        fill(rows, begin, end, ranks, tables)
        for start in range(begin, end, CHUNK):
            m = min(CHUNK, end - start)
            at = ranks.first, np.uint32(ranks.first + np.uint32(start))
            b, y = rows[0, start : start + m], out[start : start + m]
            for j in range(sources):
                below = ranks.below[j, start - begin :]
                x = rows[j + 1, start : start + m]
                ranked_delta(x, b, coefficients[j], ranks.keys[j], below, at, work[j])
            sum_or_elect(work, m, elect, weights)
            add_to_base(b, work[sources], y)
