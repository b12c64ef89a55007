"""ties: trim, elect sign, merge (TIES-Merging, Yadav et al. 2023, with mergekit's weights and defaults).

    δ_j = x_j − b;   keep the k_j = ⌊density_j · n⌋ largest |δ_j|;   out = b + λ · Σ agreeing w_j δ_j / Σ agreeing w_j

Exactly k_j elements survive (`magnitude`): ties at the threshold are broken by index, where mergekit's choice is
arbitrary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.methods import deltas, magnitude
from engine.methods.contract import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
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
)

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    kept = magnitude.trim_magnitude(block, facts)
    return deltas.elected(call, block, deltas.weighted(kept, facts))


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import trim

    kind = trim.MAGNITUDE if "trim" in facts else trim.NO_TRIM
    deltas.kernel(call, raw, facts, out, kind=kind, elect=True)


def _stages(call: Call) -> tuple[Stage, ...]:
    return (*magnitude.stages(call), deltas.coefficients_stage(elected=True))


METHOD = Method(
    name="ties",
    summary="trim to the largest deltas, elect a sign, average those that agree",
    merge=merge,
    kernel=kernel,
    parameters=parameters(WEIGHT, DENSITY, normalize(True), LAMBDA, INT8_MASK),
    stages=_stages,
    base="required",
)
