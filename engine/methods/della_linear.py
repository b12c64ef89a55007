"""della_linear: magnitude-ranked dropping and rescaling of task vectors (DELLA; arXiv 2406.11617), summed.

    δ'_j = δ_j · m,   m ~ Bernoulli(p),   p = (density_j − ε_j) + 2 ε_j · r;   out = b + λ · Σ_j w_j · s_j · δ'_j

r, from 0 to 1, is the rank of |δ| within its row (the last dimension; a vector is one row), the largest 1: the paper's
MAGPRUNE. 0 < density − ε and density + ε < 1, but a density of 1 keeps everything and one of 0 nothing. The paper
divides each element by its own p; as in mergekit s_j restores the tensor's L1 norm.

Ranks are found by counting, in buckets of magnitudes: 1/128 of an octave wide down to 2^-8 of the largest of the row,
1/32 down to 2^-32, everything below in one. All elements of a bucket take the middle of its ranks, so that equal
magnitudes have equal chances, and the mean of p is the density whatever the buckets. No bucket holds more than 1/256 of
a row of normal or heavier-tailed differences (1/128 of uniform ones), unless the largest is some 100 times as large as
most: then 1/64.

Deviations from mergekit: its ranks are a sort's, arbitrary among equals (in bfloat16 up to half of all differences are
0), and rounded to the tensor's dtype; of tensors with more than two dimensions it ranks within the second one. In a row
of one element it divides 0 by 0 and fails: here r is 1/2 there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import randomness
from engine.methods.contract import DENSITY, Array, Block, Call, Facts, Parameter, RawBlock, Stage
from engine.methods.delta_family import Elect, Trim, delta_method, divisors
from engine.methods.deltas import deltas
from engine.methods.magnitude import magnitude_bits
from engine.numerics import twice_midranks

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Parameter("epsilon", "model", default=0.15, low=0.0, high=1.0)
BUCKETS = 1792
_FINE = 1024
"""Buckets of 1/128 octave, before those of 1/32."""
_GROUP = 2048
"""Elements that the kernels work off together: as many whole rows, at least one."""
_GUARD = 24
"""Binary digits of a chance beyond the 24 that are compared: sums of integers instead of floats are exact anywhere."""


def buckets(delta: Tensor) -> Tensor:
    """Of task vectors [R, C]: the bucket of each |δ| in its row; bucket 0 has the largest."""
    import torch

    octaves = magnitude_bits(delta) >> 16  # exponent and 7 bits of the mantissa
    away = octaves.amax(dim=1, keepdim=True) - octaves
    coarse = (away >> 2) + (_FINE - _FINE // 4)
    bucket = torch.where(away < coarse, away, coarse)
    return torch.where(bucket < BUCKETS, bucket, BUCKETS - 1)


def _kept(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    """δ_j where the element's 24 random bits are below those of its chance, else 0."""
    import torch

    out = []
    for delta, key, odds in zip(deltas(block), block.keys, facts["odds"], strict=True):
        least, step = odds.tolist()
        rank = twice_midranks(BUCKETS - 1 - buckets(delta.view(-1, call.columns)), BUCKETS).view(-1)
        below = (least + step * rank + ((1 << _GUARD) - 1)) >> _GUARD
        bits = randomness.bits_tensor(block.start, delta.numel(), key, device=delta.device)
        out.append(torch.where(bits < below, delta, torch.zeros_like(delta)))
    return out


class _Kernels:
    """Row by row: buckets, counts, chances, then what `combine` and `measure` do with an element that is kept."""

    def merge(self, call: Call, raw: RawBlock, facts: Facts, elect: Elect, out: Array) -> None:
        from engine.kernels import della

        coefficients, weights = divisors(call, facts)
        della.merge(raw.rows, _ranks(call, raw, facts), coefficients, elect, weights, out, raw.work)

    def masses(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import della

        della.masses(raw.rows, raw.elements, _ranks(call, raw, facts), out, raw.work)


def _ranks(call: Call, raw: RawBlock, facts: Facts) -> Any:
    from engine.kernels import della

    room: Array = raw.room.view(np.uint32).reshape(len(call.source_ids), -1)
    return della.Ranks(call.columns, facts["odds"], np.uint32(raw.start & 0xFFFFFFFF), raw.keys, room)


def _workspace(call: Call) -> int:
    """The chances of a group, uint32."""
    columns = max(1, call.columns)
    return 4 * len(call.source_ids) * max(1, _GROUP // columns) * columns


def _odds(call: Call, partial: Any, facts: Facts) -> Array:
    """Fact "odds": int64[M, 2]: the least chance, and what half a rank adds to it, both times 2^48."""
    unit = 1 << (24 + _GUARD)
    rows = []
    for density, epsilon in zip(call.sources["density"], call.sources["epsilon"], strict=True):
        ranked = 0 < density < 1 and call.columns > 1
        least = density - epsilon if ranked else min(density, 1.0)
        rows.append((math.ceil(least * unit), int(epsilon * unit / (call.columns - 1)) if ranked else 0))
    return np.array(rows, np.int64).reshape(-1, 2)


def _check(call: Call) -> str | None:
    for density, epsilon in zip(call.sources["density"], call.sources["epsilon"], strict=True):
        low, high = density - epsilon, density + epsilon
        if 0 < density < 1 and not 0 < low <= high < 1:
            widest = min(density, 1 - density)
            return (
                f"density {density:g} and epsilon {epsilon:g} make chances from {low:g} to {high:g}, which must lie "
                f"strictly between 0 and 1. Give an epsilon below {widest:g}, or another density."
            )
    return None


TRIM = Trim(
    _kept,
    _Kernels(),
    stages=lambda call: (Stage("odds", _odds),),
    parameters=(DENSITY, EPSILON),
    scope="row",
    random=True,
    check=_check,
    workspace=_workspace,
)

METHOD = delta_method(
    "della_linear",
    "task vectors dropped at random, small elements more often, and rescaled, summed",
    TRIM,
    elects=False,
    defaults={"normalize": False, "rescale": True},
)
