"""emr: elect, mask and rescale (EMR-Merging; Huang et al. 2024, arXiv 2405.17461), made into one model.

    γ = sign of Σ_j δ_j;   ε = the largest |δ_j| of that sign;   τ = γ · ε  (elected, unified task vector)
    M_j = 1 where δ_j · τ > 0;   r_j = ‖δ_j‖₁ / ‖M_j τ‖₁;   out = b + λ · Σ_j w_j r_j M_j τ / Σ_j w_j

The paper keeps τ and, for every task, its mask and rescaler, and rebuilds the task's model from them when it is needed;
one model holds the weighted mean of what would be rebuilt. A source of weight 0 takes part in the election and not in
the mean, so weights of 1, 0, 0 rebuild the first task's model. Deviation: the paper's r_j spans all tensors, ours one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods import deltas
from engine.methods.contract import (
    LAMBDA,
    Array,
    Block,
    Call,
    Facts,
    Method,
    Parameter,
    RawBlock,
    Stage,
    parameters,
    weights_cancel,
)
from engine.methods.deltas import scalar
from engine.numerics import fold_blocks, lane_sum

if TYPE_CHECKING:
    from torch import Tensor


def _unified(own: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(τ, per source where δ_j has its sign); where Σ δ_j is 0 the sign is −, as in the authors' code."""
    import torch

    zero = torch.zeros_like(own[0])
    total, largest = zero, zero
    for delta in own:
        total = total + delta
    up = total > 0
    sizes = [torch.where(up, delta, -delta) for delta in own]
    for size in sizes:
        largest = torch.where(size > largest, size, largest)
    return torch.where(up, largest, -largest), [size > 0 for size in sizes]


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    unified, agree = _unified(deltas.deltas(block))
    zero = torch.zeros_like(unified)
    share = zero
    for agrees, c in zip(agree, facts["coefficients"].tolist(), strict=True):
        share = share + torch.where(agrees, scalar(c, unified), zero)
    return block.values[0] + unified * share


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    elements.rebuild(raw.rows, facts["coefficients"].astype(np.float32), out, raw.work)


def _shape(call: Call) -> tuple[int, ...]:
    return 2, len(call.source_ids)


def _measure(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    own = deltas.deltas(block)
    unified, agree = _unified(own)
    zero = torch.zeros_like(unified)
    masked = [lane_sum(torch.where(agrees, unified.abs(), zero)) for agrees in agree]
    return torch.stack([torch.stack([lane_sum(delta.abs()) for delta in own]), torch.stack(masked)])


def _kernel_measure(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    elements.unified_masses(raw.rows, raw.elements, raw.work, out)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    """float64[M]: λ · w_j · r_j / Σ w; a source that agrees nowhere needs no rescaler."""
    weights = call.sources["weight"]
    sums = fold_blocks(partial.reshape(len(partial), -1))
    pairs = zip(weights, sums[: len(weights)], sums[len(weights) :], strict=True)
    scale = call.options["lambda"] / sum(weights)
    return np.array([scale * w * (whole / kept if kept else 0.0) for w, whole, kept in pairs], np.float64)


METHOD = Method(
    name="emr",
    summary="one unified task vector, masked and rescaled for each model",
    merge=merge,
    kernel=kernel,
    parameters=parameters(Parameter("weight", "model", default=1.0), LAMBDA),
    stages=lambda call: (
        Stage("coefficients", _finish, _shape, measure=_measure, kernel=_kernel_measure, reuse="inputs"),
    ),
    base="required",
    drops_zero_weights=False,
    check=weights_cancel,
)
