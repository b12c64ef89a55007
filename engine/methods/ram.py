"""ram: what one model changed is kept whole, what several changed is averaged (RAM, arXiv 2601.13572).

    δ_j = x_j − b where |x_j − b| > ε, else 0;   c = how many of them are not 0;   out = b + Σ_j δ_j / max(c, 1)

`ramplus_tl` shares the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.methods.contract import Array, Block, Call, Facts, Method, Parameter, RawBlock, parameters
from engine.methods.deltas import deltas, scalar

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = Parameter("epsilon", "global", default=1e-5, low=0.0)


def changed(call: Call, block: Block) -> list[Tensor]:
    """Per source, where |δ_j| > ε."""
    return [delta.abs() > scalar(call.options["epsilon"], delta) for delta in deltas(block)]


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    """b + the mean of the changes where there are several, the lone one times its source's factor elsewhere."""
    import torch

    zero = torch.zeros_like(block.values[0])
    total, lone, changers = zero, zero, zero
    for delta, change, factor in zip(deltas(block), changed(call, block), _factors(call, facts), strict=True):
        kept = torch.where(change, delta, zero)
        total = total + kept
        lone = lone + scalar(factor, delta) * kept
        changers = changers + change.to(delta.dtype)
    return block.values[0] + torch.where(changers > 1, total / changers, lone)


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    factors = np.array(_factors(call, facts), np.float32)
    elements.overlap(raw.rows, np.float32(call.options["epsilon"]), factors, out, raw.work)


def _factors(call: Call, facts: Facts) -> list[float]:
    """What a lone change of each source is multiplied by: 1, unless a stage says otherwise."""
    return facts["factors"].tolist() if "factors" in facts else [1.0] * len(call.source_ids)


METHOD = Method(
    name="ram",
    summary="lone changes whole, shared ones averaged",
    merge=merge,
    kernel=kernel,
    parameters=parameters(EPSILON),
    base="required",
)
