"""sce: select, calculate, erase (FuseChat, Wan et al. 2024, arXiv 2408.07990, with mergekit's guards).

    δ_j = x_j − b
    select      the k = ⌊select_topk · #(variance ≠ 0)⌋ elements with the largest variance between the δ_j stay
    calculate   c_j = mean(δ_j²) / Σ_i mean(δ_i²), means over the tensor, 0 where not selected; 1/M where Σ < 1e-6
    erase       out = b + Σ agreeing c_j δ_j / max(Σ agreeing c_j, 1e-6); the sign of Σ δ_j (unweighted) is elected

Where nothing is selected (identical fine-tunes) the result is the base. Deviations from mergekit: variances and means
are float64; variances are ranked as float32 (M³ times as large; 0 below 2^-126), and equal ones are selected in order
of their index (`magnitude`), where its choice is arbitrary. Of one fine-tune the variance is 0 everywhere, so a
`select_topk` below 1, which would leave the base, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods import magnitude
from engine.methods.contract import (
    INT8_MASK,
    Array,
    Block,
    Call,
    Facts,
    Method,
    Parameter,
    RawBlock,
    Stage,
    parameters,
)
from engine.methods.delta_family import ELECT_BY_COUNT
from engine.methods.deltas import deltas, elected_up, scalar
from engine.numerics import fold_blocks, lane_sum

if TYPE_CHECKING:
    from torch import Tensor

SELECT_TOPK = Parameter("select_topk", "global", default=1.0, low=0.0, high=1.0)
LEAST_SUM = 1e-6
"""mergekit's guard of both divisions."""
_LEAST_VARIANCE = 2.0**-126


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    chosen = _selected(block, facts)
    up = elected_up(chosen, by_count=bool(call.options["elect_by_count"]))
    mixed = share = torch.zeros_like(chosen[0])
    for delta, c in zip(chosen, facts["coefficients"].tolist(), strict=True):
        coefficient = scalar(c, delta)
        part = coefficient * delta
        agrees = torch.where(up, part > 0, part < 0)
        mixed = mixed + torch.where(agrees, part, scalar(0.0, part))
        share = share + torch.where(agrees, coefficient, scalar(0.0, part))
    least = scalar(LEAST_SUM, share)
    return block.values[0] + mixed / torch.where(share > least, share, least)


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import combine, sce

    way = combine.COUNT if call.options["elect_by_count"] else combine.SUM
    coefficients = facts["coefficients"].astype(np.float32)
    sce.merge(raw.rows, _cut(raw, facts), way, coefficients, np.float32(LEAST_SUM), out, raw.work)


def variance(block: Block) -> Tensor:
    """Σ_j (M · δ_j − Σ_i δ_i)² = M³ · variance of the δ_j of each element, in float64, as float32; 0 where subnormal.

    Ranks as the variance does, needs no division, and is exactly 0 for equal δ_j.
    """
    import torch

    wide = [delta.to(torch.float64) for delta in deltas(block)]
    count = scalar(float(len(wide)), wide[0])
    total = wide[0]
    for delta in wide[1:]:
        total = total + delta
    squares = torch.zeros_like(total)
    for delta in wide:
        away = count * delta - total
        squares = squares + away * away
    single = squares.to(torch.float32)
    return torch.where(single >= _LEAST_VARIANCE, single, scalar(0.0, single))


def _selected(block: Block, facts: Facts) -> list[Tensor]:
    """δ_j where the element is selected, else 0."""
    import torch

    if "trim" not in facts:
        return deltas(block)
    keep = magnitude.counted_off(block, variance(block), facts["trim"][:, 0, 0])
    return [torch.where(keep, delta, torch.zeros_like(delta)) for delta in deltas(block)]


def _cut(raw: RawBlock, facts: Facts) -> tuple[bool, int, int]:
    """The same for the kernels: (on, threshold bits, last index within the block)."""
    if "trim" not in facts:
        return False, 0, 0
    threshold, last = facts["trim"][:, 0, 0].tolist()
    return True, threshold, last - raw.start


def _stages(call: Call) -> tuple[Stage, ...]:
    weigh = Stage("coefficients", _finish, lambda call: (len(call.source_ids),), measure=_measure, kernel=_kernel)
    if call.options["select_topk"] >= 1:
        return (weigh,)
    cuts = magnitude.Cuts(
        _ks, guessed=False, rows=lambda call: 1, scores=lambda block: [variance(block)], raw_scores=_raw_scores
    )
    return (*cuts.stages(), weigh)


def _ks(call: Call, counts: Array) -> list[list[int]]:
    """Variances that are not 0 lie above the first bin, because subnormal ones are 0."""
    return [[int(int(counts[0, 1:].sum()) * call.options["select_topk"])]]


def _raw_scores(call: Call, raw: RawBlock) -> Array:
    from engine.kernels import sce

    rows: Array = raw.room.view(np.float32).reshape(2, -1)
    sce.variances(raw.rows, raw.elements, rows)
    return rows


def _measure(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    wide = [delta.to(torch.float64) for delta in _selected(block, facts)]
    return torch.stack([lane_sum(delta * delta) for delta in wide])


def _kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import sce

    sce.squares(raw.rows, raw.elements, _cut(raw, facts), out, raw.work)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    """float64[M]: c_j."""
    means = [total / max(1, call.elements) for total in fold_blocks(partial)]
    whole = sum(means)
    equal = [1.0 / len(means)] * len(means)
    return np.array(equal if abs(whole) < LEAST_SUM else [mean / whole for mean in means], np.float64)


def _check(call: Call) -> str | None:
    share = call.options["select_topk"]
    if len(call.source_ids) > 1 or share >= 1:
        return None
    return (
        f"select_topk {share:g} selects by the variance between models, and there is one besides the base. "
        "Give select_topk: 1, or more models."
    )


METHOD = Method(
    name="sce",
    summary="task vectors weighted by their size, where models differ most, with an elected sign",
    merge=merge,
    kernel=kernel,
    parameters=parameters(SELECT_TOPK, ELECT_BY_COUNT, INT8_MASK),
    stages=_stages,
    base="required",
    check=_check,
    workspace=lambda call: 8 * call.block if call.options["select_topk"] < 1 else 0,
)
