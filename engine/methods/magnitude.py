"""Exact top-k of |δ| without sorting: which elements TIES keeps.

The k-th largest |δ_j| is found by counting: its float32 bits, as integers, are in the order of the magnitudes, so a
histogram of the upper 15 bits finds the bin, a second one of the lower 16 bits within that bin the exact value, for all
sources of a tensor in one pass each. Elements that equal the threshold are kept in index order until k are kept; where
that cuts through them, one more pass counts them per block and a look into one block finds the last index. So exactly k
survive, always the same ones, however the tensor is cut. The fact "trim" is int64[2, M]: threshold bits, last index.
In float64 recipes magnitudes are compared after rounding to float32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods.contract import Array, Block, Call, Facts, RawBlock, Stage
from engine.methods.deltas import deltas
from engine.numerics import kth_from_above

if TYPE_CHECKING:
    from torch import Tensor

_HIGH, _LOW = 1 << 15, 1 << 16
_ABOVE_ALL = 0x7FFFFFFF
"""More than the bits of any finite magnitude: a threshold that keeps nothing."""


def kept_count(elements: int, density: float) -> int:
    """⌊density · n⌋, as mergekit counts; at least one element of a tensor, unless density is 0."""
    return 0 if density <= 0 else min(elements, max(1, int(density * elements)))


def stages(call: Call) -> tuple[Stage, ...]:
    """The stages that lead to "trim"; none where every density is 1."""
    if all(density >= 1 for density in call.sources["density"]):
        return ()
    return (
        Stage("high", _finish_high, _shape_high, np.int64, "counts", _measure_high, _kernel_high),
        Stage("low", _finish_low, _shape_low, np.int64, "counts", _measure_low, _kernel_low),
        Stage("ties", _finish_ties, _shape_sources, np.int64, "per_block", _measure_ties, _kernel_ties, _need_ties),
        Stage("trim", _finish_trim, _shape_sources, np.int64, "counts", _measure_last, _kernel_last, _need_last),
    )


def trim_magnitude(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    """δ_j where |δ_j| is above the threshold, or equals it at an index up to the last kept; else 0."""
    import torch

    if "trim" not in facts:
        return deltas(block)
    out = []
    for delta, threshold, last in zip(deltas(block), *facts["trim"].tolist(), strict=True):
        bits = magnitude_bits(delta)
        index = block.start + torch.arange(delta.numel())
        keep = (bits > threshold) | ((bits == threshold) & (index <= last))
        out.append(torch.where(keep, delta, torch.zeros_like(delta)))
    return out


def magnitude_bits(delta: Tensor) -> Tensor:
    """int32: the bits of |δ| as float32."""
    import torch

    return delta.to(torch.float32).view(torch.int32) & 0x7FFFFFFF


def _ks(call: Call) -> list[int]:
    return [kept_count(call.elements, density) for density in call.sources["density"]]


def _shape_high(call: Call) -> tuple[int, ...]:
    return len(call.source_ids), _HIGH


def _shape_low(call: Call) -> tuple[int, ...]:
    return len(call.source_ids), _LOW


def _shape_sources(call: Call) -> tuple[int, ...]:
    return (len(call.source_ids),)


def _measure_high(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    return torch.stack([torch.bincount(magnitude_bits(d) >> 16, minlength=_HIGH) for d in deltas(block)])


def _kernel_high(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import measure

    measure.histogram_high(raw.rows, raw.elements, out)


def _finish_high(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[2, M]: the upper bits of the threshold (−1: none is kept), and how many elements lie above that bin."""
    places = [kth_from_above(counts, k) if k else (-1, 0) for counts, k in zip(partial, _ks(call), strict=True)]
    return np.array(places, np.int64).T


def _measure_low(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    rows = []
    for delta, high in zip(deltas(block), facts["high"][0].tolist(), strict=True):
        bits = magnitude_bits(delta)
        inside = (bits >> 16) == high
        counts = torch.bincount(torch.where(inside, bits & 0xFFFF, _LOW), minlength=_LOW + 1)
        rows.append(counts[:_LOW])
    return torch.stack(rows)


def _kernel_low(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import measure

    measure.histogram_low(raw.rows, raw.elements, facts["high"][0], out)


def _finish_low(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[3, M]: threshold bits, how many of its equals to keep, how many equals there are."""
    rows = []
    for counts, k, (high, above) in zip(partial, _ks(call), facts["high"].T.tolist(), strict=True):
        if high < 0:
            rows.append((_ABOVE_ALL, 0, 0))
            continue
        low, above_in_bin = kth_from_above(counts, k - above)
        rows.append(((high << 16) | low, k - above - above_in_bin, int(counts[low])))
    return np.array(rows, np.int64).T


def _cut(facts: Facts) -> list[bool]:
    """Per source: does the cut go through elements that equal the threshold?"""
    return [0 < keep < equal for _, keep, equal in facts["low"].T.tolist()]


def _need_ties(facts: Facts) -> Collection[int] | None:
    return None if any(_cut(facts)) else ()


def _measure_ties(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    pairs = zip(deltas(block), facts["low"][0].tolist(), strict=True)
    return torch.stack([torch.count_nonzero(magnitude_bits(delta) == threshold) for delta, threshold in pairs])


def _kernel_ties(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import measure

    measure.count_ties(raw.rows, raw.elements, facts["low"][0], out)


def _finish_ties(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[2, M]: the block in which the last kept equal lies (−1: no cut), and its rank there, from 1."""
    rows = []
    for source, cut in enumerate(_cut(facts)):
        if not cut:
            rows.append((-1, 0))
            continue
        keep = int(facts["low"][1][source])
        running = np.cumsum(partial[:, source])
        number = int(np.searchsorted(running, keep))
        rows.append((number, keep - (int(running[number - 1]) if number else 0)))
    return np.array(rows, np.int64).T


def _need_last(facts: Facts) -> Collection[int] | None:
    return {number for number in facts["ties"][0].tolist() if number >= 0}


def _measure_last(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    found = []
    for source, delta in enumerate(deltas(block)):
        number, rank = facts["ties"][:, source].tolist()
        index = torch.zeros((), dtype=torch.int64)
        if number == block.number:
            ties = magnitude_bits(delta) == int(facts["low"][0][source])
            index = block.start + torch.nonzero(ties)[rank - 1, 0]
        found.append(index)
    return torch.stack(found)


def _kernel_last(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import measure

    for source, (number, rank) in enumerate(facts["ties"].T.tolist()):
        if number == raw.number:
            x, b = raw.rows[source + 1, : raw.elements], raw.rows[0, : raw.elements]
            out[source] += raw.start + measure.locate_tie(x, b, int(facts["low"][0][source]), rank)


def _finish_trim(call: Call, partial: Any, facts: Facts) -> Array:
    lasts = [
        int(index) if cut else (call.elements if keep else -1)
        for index, cut, keep in zip(partial, _cut(facts), facts["low"][1].tolist(), strict=True)
    ]
    return np.array([facts["low"][0].tolist(), lasts], np.int64)
