"""fisher: the average of models, every element weighted by its importance (Fisher merging, Matena & Raffel 2022).

    out = Σ_j w_j F_j x_j / Σ_j w_j F_j,   or Σ_j w_j x_j / Σ_j w_j where no model has an importance above 0

F_j is what the user gives for model j (`importance`), for the paper the diagonal of its Fisher information: the mean of
squared gradients. Numbers below 0 count as 0. Products and sums are float64, because squared gradients may be too small
for float32. Deviations: the authors' code divides F_j by its norm over the whole model, and puts a floor of 1e-6 under
that of the first one; here F_j counts as it is given, and w_j scales it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.methods.contract import (
    Array,
    Block,
    Call,
    Facts,
    Method,
    Parameter,
    RawBlock,
    parameters,
    weights_cancel,
)

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    models = len(call.source_ids)
    zero = torch.zeros_like(block.values[0], dtype=torch.float64)
    total, divisor, plain, weight_sum = zero, zero, zero, zero
    weights = call.sources["weight"]
    for value, importance, weight in zip(block.values[:models], block.values[models:], weights, strict=True):
        w = torch.as_tensor(weight, dtype=torch.float64, device=zero.device)
        x, share = value.double(), w * torch.where(importance > 0, importance, 0 * importance).double()
        total, divisor = total + share * x, divisor + share
        plain, weight_sum = plain + w * x, weight_sum + w
    return torch.where(divisor > 0, total / divisor, plain / weight_sum).to(block.values[0].dtype)


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    elements.by_importance(raw.rows, np.array(call.sources["weight"], np.float64), out)


METHOD = Method(
    name="fisher",
    summary="average weighted by the importance of every element",
    merge=merge,
    kernel=kernel,
    parameters=parameters(Parameter("weight", "model", default=1.0, low=0.0)),
    importance=True,
    check=weights_cancel,
)
