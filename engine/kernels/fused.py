"""The passes of `combine` for a few sources: one loop over the elements that keeps all of them in registers.

How many sources there are is the length of a tuple, and so part of its type: a function that calls itself with a
shorter tuple is compiled once per length and leaves straight-line code, which the compiler vectorises. Up to twice
as fast as working off chunks, but compiled anew (0.5 CPU-s) for every number of sources and kind of trim: so
`combine` uses it for a few sources, and where the format of rows and output is the same, as it is nearly always.
The operations and their order are those of the chunks, and so are the bits.

Rows that nothing needs but the merge itself need not be in memory: given a `files.Stream` instead, the loops read a
piece of every row, use it while it is in the cache, and read the next one over it. What could not be read, or is not
finite and might be trimmed away, makes the whole block NaN: whoever looks at the result then reads the rows in the
ordinary way, and sees why. (In plain sums what is not finite stays so: c · x is not, even for c = 0.)

Legend: N rows, M sources; xs, parts, amounts: tuples of N or M; `places`: a tuple of as many Nones, which tells a
kernel that gets arrays how many. Measured on bf16 with AVX-512, ns per element of two sources (in chunks): no trim 0.25
(0.45), with elected signs 0.63 (0.87); by magnitude 0.46 (0.55) and 0.81 (0.92); random 0.89 (1.03) and 1.27 (1.39).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, encode, float_bits
from engine.kernels.files import Stream, read_pieces
from engine.kernels.trim import BAND, MAGNITUDE, NO_TRIM, RANDOM, mix

ROWS = 4
"""The most rows, the base among them: more are rare, and every number of them is compiled once."""


class Above(NamedTuple):
    """MAGNITUDE of `kernels.trim`: kept is what the first cut counts off."""

    thresholds: Any
    lasts: Any


class Between(NamedTuple):
    """BAND of `kernels.trim`: kept is what the first cut counts off and the second does not."""

    thresholds: Any
    lasts: Any


class Drawn(NamedTuple):
    """RANDOM of `kernels.trim`: kept is what is drawn by the element's random bits."""

    first: Any
    keys: Any
    below: Any


def serves(rows: Any, out: Any, kind: int = NO_TRIM) -> bool:
    """Whether `linear`, `affine` and `delta` take these rows, of which elements of this kind are kept."""
    held = rows.buffer if isinstance(rows, Stream) else rows
    return len(held) <= ROWS and held.dtype == out.dtype and kind in (NO_TRIM, MAGNITUDE, BAND, RANDOM)


def linear(rows: Any, coefficients: Any, out: Any) -> None:
    """`combine.linear` for what is served."""
    _linear(rows, coefficients, (None,) * len(coefficients), out)


def affine(rows: Any, coefficients: Any, out: Any) -> None:
    """`affine.whole` for what is served."""
    _affine(rows, coefficients, (None,) * (len(coefficients) - 1), out)


def delta(rows: Any, keep: Any, coefficients: Any, elect: Any, weights: Any, out: Any) -> None:
    """`combine.delta` for what is served; elect = (elected by sum, or all, normalize, scale)."""
    by_sum, normalize, scale = elect
    places = (None,) * len(coefficients)
    if by_sum:
        _elected(rows, _rule(keep), coefficients, (weights, normalize, scale), places, out)
    else:
        _summed(rows, _rule(keep), coefficients, places, out)


def _rule(keep: Any) -> Any:
    """Its kind as a type of its own, so that each gets a loop without branches; None keeps all."""
    if keep.kind == RANDOM:
        return Drawn(keep.first, keep.keys, keep.below)
    cuts = keep.thresholds, keep.lasts
    return {NO_TRIM: None, MAGNITUDE: Above(*cuts), BAND: Between(*cuts)}[keep.kind]


@kernel
def _linear(rows: Any, coefficients: Any, places: Any, out: Any) -> None:
    cs = items(coefficients, places)
    start = 0
    while start < out.shape[0]:
        end = arrived(rows, start, out.shape[0], False)
        xs, y = pieces(rows, 0, (start, end), places), out[start:end]
        for i in range(end - start):
            y[i] = encode(weighted_sum(xs, cs, i), y[i])
        start = next_start(start, end, out)


@kernel
def _affine(rows: Any, coefficients: Any, places: Any, out: Any) -> None:
    """out = coefficients[0] · rows[0] + Σ_j coefficients[j] · (rows[j] − rows[0])."""
    own, cs = coefficients[0], items(coefficients[1:], places)
    start = 0
    while start < out.shape[0]:
        end = arrived(rows, start, out.shape[0], False)
        origin, xs, y = row(rows, 0, (start, end)), pieces(rows, 1, (start, end), places), out[start:end]
        for i in range(end - start):
            b = decode(origin[i])
            y[i] = encode(apart(own * b, xs, b, cs, i), y[i])
        start = next_start(start, end, out)


@kernel
def _summed(rows: Any, rule: Any, coefficients: Any, places: Any, out: Any) -> None:
    """out = rows[0] + Σ_j coefficients[j] · trimmed (rows[j+1] − rows[0])."""
    cs = items(coefficients, places)
    start = 0
    while start < out.shape[0]:
        end = arrived(rows, start, piece_end(rule, start, out.shape[0]), True)
        base, y = row(rows, 0, (start, end)), out[start:end]
        xs, own = pieces(rows, 1, (start, end), places), rules(rule, start, places)
        for i in range(end - start):
            b = decode(base[i])
            y[i] = encode(b + total(parts(xs, b, cs, own, i)), y[i])
        start = next_start(start, end, out)


@kernel
def _elected(rows: Any, rule: Any, coefficients: Any, elect: Any, places: Any, out: Any) -> None:
    """The same with TIES' elected signs (`combine.sum_agreeing`); elect = (weights float32[M], normalize, scale)."""
    weights, normalize, scale = elect
    cs, ws = items(coefficients, places), items(weights, places)
    start = 0
    while start < out.shape[0]:
        end = arrived(rows, start, piece_end(rule, start, out.shape[0]), True)
        base, y = row(rows, 0, (start, end)), out[start:end]
        xs, own = pieces(rows, 1, (start, end), places), rules(rule, start, places)
        for i in range(end - start):
            b = decode(base[i])
            weighted = parts(xs, b, cs, own, i)
            up = total(weighted) >= np.float32(0)
            mixed = agreeing(weighted, weighted, up)
            if normalize:
                share = agreeing(ws, weighted, up)
                mixed = mixed / (share if share != np.float32(0) else np.float32(1))
            y[i] = encode(b + scale * mixed, y[i])
        start = next_start(start, end, out)


@kernel
def next_start(start: Any, end: Any, out: Any) -> Any:
    """Where the next piece begins; after one that did not arrive (end = start) out[n] is NaN, and there is none."""
    if end > start:
        return end
    for i in range(out.shape[0]):
        out[i] = encode(np.float32(np.nan), out[i])
    return out.shape[0]


@kernel
def agrees(part: Any, up: Any) -> Any:
    """Whether a weighted delta has the elected sign; 0 agrees with nobody."""
    return (up & (part > np.float32(0))) | ((not up) & (part < np.float32(0)))


# Names for kernels only, as in `codec`: what they compile to follows, by the lengths and types of their arguments.


def items(values: Any, places: Any) -> Any:
    """(values[0], values[1], …), as many as there are places."""
    raise TypeError("items works inside kernels only")


def arrived(rows: Any, start: Any, end: Any, checked: Any) -> Any:
    """Up to where elements `start` … `end` of all rows are in memory now; `start` where they cannot be.

    With `checked` what is not finite counts as what cannot be read.
    """
    raise TypeError("arrived works inside kernels only")


def row(rows: Any, j: Any, at: Any) -> Any:
    """rows[j, start:end] as a row of its own, once it has arrived; at = (start, end)."""
    raise TypeError("row works inside kernels only")


def pieces(rows: Any, first: Any, at: Any, places: Any) -> Any:
    """(row(rows, first, at), row(rows, first + 1, at), …), as many as there are places.

    Loops then count from 0: from anywhere else numba guards against negative indices, and nothing is vectorised.
    """
    raise TypeError("pieces works inside kernels only")


def weighted_sum(xs: Any, cs: Any, i: Any) -> Any:
    """Σ_j cs[j] · xs[j][i], in order of j."""
    raise TypeError("weighted_sum works inside kernels only")


def apart(own: Any, xs: Any, b: Any, cs: Any, i: Any) -> Any:
    """own + Σ_j cs[j] · (xs[j][i] − b), in order of j."""
    raise TypeError("apart works inside kernels only")


def total(parts: Any) -> Any:
    """Σ_j parts[j], in order of j."""
    raise TypeError("total works inside kernels only")


def agreeing(amounts: Any, parts: Any, up: Any) -> Any:
    """0 + Σ_j amounts[j] of the sources whose parts[j] agrees, in order of j."""
    raise TypeError("agreeing works inside kernels only")


def parts(xs: Any, b: Any, cs: Any, own: Any, i: Any) -> Any:
    """cs[j] · (xs[j][i] − b) of all sources, 0 in place of a delta that own[j] does not keep."""
    raise TypeError("parts works inside kernels only")


def piece_end(rule: Any, start: Any, n: Any) -> Any:
    """Up to where in the block of n elements the rule is the same as at `start`: a cut through equals may end it."""
    raise TypeError("piece_end works inside kernels only")


def rules(rule: Any, start: Any, places: Any) -> Any:
    """What `kept` needs of each source, for the piece that begins at `start`."""
    raise TypeError("rules works inside kernels only")


def own_rule(rule: Any, start: Any, j: Any) -> Any:
    """What `kept` needs of source j."""
    raise TypeError("own_rule works inside kernels only")


def kept(own: Any, delta: Any, i: Any) -> Any:
    """Whether a source's own rule keeps this delta, the i-th of the block."""
    raise TypeError("kept works inside kernels only")


@overload(items, strict=False)
def _items(values: Any, places: Any) -> Any:
    last = len(places) - 1
    if last < 0:
        return lambda values, places: ()
    return lambda values, places: (*items(values, places[1:]), values[last])


@overload(arrived, strict=False)
def _arrived(rows: Any, start: Any, end: Any, checked: Any) -> Any:
    if isinstance(rows, types.Array):
        return lambda rows, start, end, checked: end
    return lambda rows, start, end, checked: read_pieces(rows, start, end, checked)


@overload(row, strict=False)
def _row(rows: Any, j: Any, at: Any) -> Any:
    if isinstance(rows, types.Array):
        return lambda rows, j, at: rows[j, at[0] : at[1]]
    return lambda rows, j, at: rows.buffer[j, : at[1] - at[0]]


@overload(pieces, strict=False)
def _pieces(rows: Any, first: Any, at: Any, places: Any) -> Any:
    last = len(places) - 1
    if last < 0:
        return lambda rows, first, at, places: ()

    def implementation(rows: Any, first: Any, at: Any, places: Any) -> Any:
        return (*pieces(rows, first, at, places[1:]), row(rows, first + last, at))

    return implementation


@overload(weighted_sum, strict=False)
def _weighted_sum(xs: Any, cs: Any, i: Any) -> Any:
    last = len(xs) - 1
    if last == 0:
        return lambda xs, cs, i: cs[0] * decode(xs[0][i])
    return lambda xs, cs, i: weighted_sum(xs[:-1], cs, i) + cs[last] * decode(xs[last][i])


@overload(apart, strict=False)
def _apart(own: Any, xs: Any, b: Any, cs: Any, i: Any) -> Any:
    last = len(xs) - 1
    if last < 0:
        return lambda own, xs, b, cs, i: own
    return lambda own, xs, b, cs, i: apart(own, xs[:-1], b, cs, i) + cs[last] * (decode(xs[last][i]) - b)


@overload(total, strict=False)
def _total(parts: Any) -> Any:
    if len(parts) == 1:
        return lambda parts: parts[0]
    return lambda parts: total(parts[:-1]) + parts[-1]


@overload(agreeing, strict=False)
def _agreeing(amounts: Any, parts: Any, up: Any) -> Any:
    last = len(parts) - 1
    if last < 0:
        return lambda amounts, parts, up: np.float32(0)

    def implementation(amounts: Any, parts: Any, up: Any) -> Any:
        amount = amounts[last] if agrees(parts[last], up) else np.float32(0)
        return agreeing(amounts[:-1], parts[:-1], up) + amount

    return implementation


@overload(parts, strict=False)
def _parts(xs: Any, b: Any, cs: Any, own: Any, i: Any) -> Any:
    last = len(xs) - 1
    if last < 0:
        return lambda xs, b, cs, own, i: ()

    def implementation(xs: Any, b: Any, cs: Any, own: Any, i: Any) -> Any:
        delta = decode(xs[last][i]) - b
        part = cs[last] * (delta if kept(own[last], delta, i) else np.float32(0))
        return (*parts(xs[:-1], b, cs, own, i), part)

    return implementation


@overload(piece_end, strict=False)
def _piece_end(rule: Any, start: Any, n: Any) -> Any:
    if getattr(rule, "instance_class", None) not in (Above, Between):
        return lambda rule, start, n: n

    def implementation(rule: Any, start: Any, n: Any) -> Any:
        end = n
        for last in rule.lasts.flat:
            if start <= last < end:
                end = last + 1
        return end

    return implementation


@overload(rules, strict=False)
def _rules(rule: Any, start: Any, places: Any) -> Any:
    last = len(places) - 1
    if last < 0:
        return lambda rule, start, places: ()
    return lambda rule, start, places: (*rules(rule, start, places[1:]), own_rule(rule, start, last))


@overload(own_rule, strict=False)
def _own_rule(rule: Any, start: Any, j: Any) -> Any:
    kind = getattr(rule, "instance_class", None)
    if kind is Above:
        return lambda rule, start, j: (lowered(rule, 0, start, j),)
    if kind is Between:
        return lambda rule, start, j: (lowered(rule, 0, start, j), lowered(rule, 1, start, j))
    if kind is Drawn:
        return lambda rule, start, j: (np.uint32(rule.first + np.uint32(start)), rule.keys[j], rule.below[j])
    return lambda rule, start, j: ()


@kernel
def lowered(rule: Any, cut: Any, start: Any, j: Any) -> Any:
    """What a delta's bits have to be above to be counted off by this cut: where equals are, one less."""
    return np.int32(rule.thresholds[cut, j]) - np.int32(rule.lasts[cut, j] >= start)


@overload(kept, strict=False)
def _kept(own: Any, delta: Any, i: Any) -> Any:
    if len(own) == 0:
        return lambda own, delta, i: True
    if len(own) == 1:
        return lambda own, delta, i: size(delta) > own[0]
    if len(own) == 2:
        return lambda own, delta, i: (size(delta) > own[0]) & (size(delta) <= own[1])

    def drawn(own: Any, delta: Any, i: Any) -> Any:
        first, key, below = own
        return (mix(np.uint32(first + np.uint32(i)), key) >> np.uint32(8)) < below

    return drawn


@kernel
def size(delta: Any) -> Any:
    """int32: the bits of |delta|."""
    return np.int32(float_bits(delta) & np.uint32(0x7FFFFFFF))
