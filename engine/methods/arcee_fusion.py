"""arcee_fusion: the other model's values where they matter most, the base's elsewhere (Arcee AI; no paper).

    p = softmax(x) + 1e-8,  q = softmax(b) + 1e-8  along each row;   I = |x − b| · Σ_row p · ln(p / q)
    threshold = median(I) + 1.5 · (q3(I) − q1(I)) over the tensor;   out = x where I ≥ threshold, else b

Quantiles are elements of I, as in mergekit: the one with ⌊q · (n − 1)⌋ smaller ones. Deviations: mergekit takes them
from a random sample of a million elements, here they are exact for any size, found by counting I's float32 bits (as
`magnitude` does); softmax and divergence are computed in float64, because in float32 the divergence of two models that
are nearly alike is rounding error; and the result has the planned dtype, where mergekit writes float32.
Not exact: exp and ln have other bits on other machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods.contract import Array, Block, Call, Facts, Method, Stage
from engine.numerics import row_sums

if TYPE_CHECKING:
    from torch import Tensor

_HALF = 1 << 16
_SMALLEST = 1e-8


def importance(call: Call, block: Block, facts: Facts) -> Tensor:
    """float32[n]: |x − b| times the divergence of the row."""
    import torch

    b, x = (value.view(-1, call.columns).to(torch.float64) for value in block.values)
    first = block.start // call.columns
    divergence = b.new_tensor(facts["divergence"][first : first + len(b)].tolist())
    return ((x - b).abs() * divergence.unsqueeze(1)).to(torch.float32).flatten()


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    b, x = block.values
    (threshold,) = facts["threshold"].tolist()
    return torch.where(importance(call, block, facts).to(torch.float64) >= threshold, x, b)


def _rows_of_block(call: Call) -> tuple[int, ...]:
    return (call.block // call.columns,)


def _measure_divergence(call: Call, block: Block, facts: Facts) -> Tensor:
    """float64[R], and zeros where the last block has fewer rows."""
    import torch

    b, x = (value.view(-1, call.columns).to(torch.float64) for value in block.values)
    p, q = _probabilities(x), _probabilities(b)
    padded = torch.zeros(_rows_of_block(call), dtype=torch.float64, device=b.device)
    padded[: len(b)] = row_sums(p * torch.log(p / q))
    return padded


def _finish_divergence(call: Call, partial: Any, facts: Facts) -> Array:
    """float64[rows of the tensor]."""
    divergence: Array = partial.ravel()[: call.elements // call.columns]
    return divergence


def _probabilities(values: Tensor) -> Tensor:
    powers = (values - values.amax(1, keepdim=True)).exp()
    return powers / row_sums(powers).unsqueeze(1) + _SMALLEST


def _ordered_bits(values: Tensor) -> Tensor:
    """int64 from 0 to 2^32 − 1 in the order of the float32 values: negative numbers' bits are turned around."""
    import torch

    bits = values.view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + (1 << 31)


def _value_of(bits: int) -> float:
    """The float32 of `_ordered_bits`."""
    signed = bits - (1 << 31)
    stored = (-1 - signed) | 0x80000000 if signed < 0 else signed
    return float(np.array([stored], np.uint32).view(np.float32)[0])


def _measure_bins(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    return torch.bincount(_ordered_bits(importance(call, block, facts)) >> 16, minlength=_HALF)


def _finish_bins(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[3, 2]: for the three quartiles, the upper half of their bits, and their rank (from 0) in that bin."""
    below = np.concatenate([[0], np.cumsum(partial)])
    ranks = [quarter * (call.elements - 1) // 4 for quarter in (1, 2, 3)]
    places = [int(np.searchsorted(below, rank, side="right")) - 1 for rank in ranks]
    return np.array([(place, rank - int(below[place])) for place, rank in zip(places, ranks, strict=True)], np.int64)


def _measure_within(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    bits = _ordered_bits(importance(call, block, facts))
    places = facts["bins"][:, 0].tolist()
    return torch.stack([torch.bincount(bits[bits >> 16 == place] & (_HALF - 1), minlength=_HALF) for place in places])


def _finish_within(call: Call, partial: Any, facts: Facts) -> Array:
    """float64[1]: the threshold."""
    quartiles = []
    for counts, (place, rank) in zip(partial, facts["bins"].tolist(), strict=True):
        low = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        quartiles.append(_value_of((place << 16) | low))
    first, median, third = quartiles
    return np.array([median + 1.5 * (third - first)], np.float64)


METHOD = Method(
    name="arcee_fusion",
    summary="the other model where its change matters most, else the base",
    merge=merge,
    kernel=None,
    parameters={},
    stages=lambda call: (
        Stage("divergence", _finish_divergence, _rows_of_block, measure=_measure_divergence),
        Stage("bins", _finish_bins, lambda call: (_HALF,), np.int64, "counts", _measure_bins),
        Stage("threshold", _finish_within, lambda call: (3, _HALF), np.int64, "counts", _measure_within),
    ),
    base="required",
    models=(1, 1),
    scope="row",
    exact=False,
    workspace=lambda call: 6 * 8 * min(call.block, call.elements),
)
