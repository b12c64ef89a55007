"""nearswap: the other model's values where they are near the base's, less of them the farther away they are.

    w = clamp(t / max(|b − x|, 1e-6), 0, 1);   out = w · x + (1 − w) · b

After alchemonaut's QuartetAnemoi-70B-t0.0001; no paper. t is a distance between weights: up to it the other model's
value is taken whole, beyond it the result stays a distance of t from the base. A negative t, which in mergekit gives
the base, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.methods.contract import Array, Block, Call, Facts, Method, Parameter, RawBlock, parameters
from engine.methods.deltas import scalar

if TYPE_CHECKING:
    from torch import Tensor

CLOSEST = 1e-6
"""What |b − x| is at least, in the divisor."""


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    b, x = block.values
    zero, one, closest = (scalar(value, b) for value in (0.0, 1.0, CLOSEST))
    apart = (b - x).abs()
    w = scalar(call.options["t"], b) / torch.where(apart < closest, closest, apart)
    w = torch.where(w < zero, zero, w)
    w = torch.where(w > one, one, w)
    return w * x + (one - w) * b


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    elements.nearswap(raw.rows, np.float32(call.options["t"]), np.float32(CLOSEST), out)


METHOD = Method(
    name="nearswap",
    summary="the other model where it is near the base",
    merge=merge,
    kernel=kernel,
    parameters=parameters(Parameter("t", "global", required=True, low=0.0)),
    base="required",
    models=(1, 1),
)
