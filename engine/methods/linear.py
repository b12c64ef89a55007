"""linear: the weighted average of models (Model Soups, Wortsman et al. 2022).

    out = Σ_j c_j · x_j,    c_j = w_j / Σ w  (normalize, the default)  or  c_j = w_j

Coefficients are made in float64 and rounded to float32 once; the sum runs in float32, in the recipe's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods.contract import (
    WEIGHT,
    Array,
    Block,
    Call,
    Facts,
    Method,
    RawBlock,
    Stage,
    normalize,
    parameters,
    weights_cancel,
)
from engine.methods.deltas import scalar

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    coefficients = facts["coefficients"].tolist()
    total = scalar(coefficients[0], block.values[0]) * block.values[0]
    for value, c in zip(block.values[1:], coefficients[1:], strict=True):
        total = total + scalar(c, value) * value
    return total


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import combine

    combine.linear(raw.rows, facts["coefficients"].astype(np.float32), out, raw.work)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    weights = call.sources["weight"]
    divisor = sum(weights) if call.options["normalize"] else 1.0
    return np.array([w / divisor for w in weights], np.float64)


METHOD = Method(
    name="linear",
    summary="weighted average",
    merge=merge,
    kernel=kernel,
    parameters=parameters(WEIGHT, normalize(True)),
    stages=lambda call: (Stage("coefficients", _finish),),
    streams=lambda call: True,
    check=weights_cancel,
)
