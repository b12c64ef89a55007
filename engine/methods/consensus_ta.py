"""consensus_ta: task arithmetic of the weights that several tasks use (Wang et al. 2024, arXiv 2405.07813).

    τ = Σ_j w_j δ_j;   m_j = 1 where |δ_j| > s_j · |τ − δ_j|  (TALL mask);   out = b + λ · τ where Σ_j m_j ≥ k, else b

δ_j = x_j − b; s_j, the paper's λ_t, is `mask_share`: the larger it is, the fewer weights a task calls its own. The
paper picks it from 0.2 to 0.6 for each task, on validation data; the default lies in the middle. k = 2 leaves out
weights that no task uses (catastrophic) or one alone (selfish). The weights w_j are ours, 1 in the paper; > is the
authors' code's, where the paper has ≥, so that an element that nobody changed belongs to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.methods import deltas
from engine.methods.contract import LAMBDA, Array, Block, Call, Facts, Method, Parameter, RawBlock, parameters
from engine.methods.deltas import scalar

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    own = deltas.deltas(block)
    zero = torch.zeros_like(block.values[0])
    total, votes = zero, zero
    for delta, weight in zip(own, call.sources["weight"], strict=True):
        total = total + scalar(weight, delta) * delta
    for delta, share in zip(own, call.sources["mask_share"], strict=True):
        votes = votes + (delta.abs() > scalar(share, delta) * (total - delta).abs()).to(delta.dtype)
    kept = torch.where(votes >= scalar(call.options["k"], total), total, zero)
    return block.values[0] + scalar(call.options["lambda"], total) * kept


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    weights, shares = (np.array(call.sources[name], np.float32) for name in ("weight", "mask_share"))
    k, scale = np.float32(call.options["k"]), np.float32(call.options["lambda"])
    elements.consensus(raw.rows, weights, shares, k, scale, out, raw.work)


def _check(call: Call) -> str | None:
    weights, k = call.sources["weight"], int(call.options["k"])
    if k <= len(weights) or not any(weights):
        return None
    return (
        f"k is {k}, but only {len(weights)} models have a weight other than 0: no element can be used by more. "
        "Give a smaller k."
    )


METHOD = Method(
    name="consensus_ta",
    summary="task arithmetic where several task vectors matter",
    merge=merge,
    kernel=kernel,
    parameters=parameters(
        Parameter("weight", "model", default=1.0),
        Parameter("mask_share", "model", default=0.4, low=0.0),
        Parameter("k", "global", default=2.0, low=1.0, whole=True),
        LAMBDA,
    ),
    base="required",
    check=_check,
)
