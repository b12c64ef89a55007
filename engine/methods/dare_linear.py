"""dare_linear: randomly dropped and rescaled task vectors, summed (DARE, Yu et al. 2024).

    δ'_j = δ_j · m_j,   m_j ~ Bernoulli(density_j);   out = b + λ · Σ_j w_j · s_j · δ'_j

The paper's s_j is 1 / density_j; as in mergekit it restores the tensor's L1 norm, s_j = ‖δ_j‖₁ / ‖δ'_j‖₁ (close to
1 / density_j for large tensors), with sums in float64; no rescaling where either norm is below 1e-7.
Masks come from `randomness`: nested in density, the same on any sharding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine import randomness
from engine.methods import deltas
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
    rescale,
)
from engine.numerics import fold_blocks, lane_sum

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    return deltas.summed(block, deltas.weighted(deltas.trim_random(call, block, facts), facts))


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import trim

    deltas.kernel(call, raw, facts, out, kind=trim.RANDOM, elect=False)


def mass_stages(call: Call) -> tuple[Stage, ...]:
    """Fact "mass": float64[M] factors ‖δ_j‖₁ / ‖δ'_j‖₁; no stage without rescaling or with nothing dropped."""
    if not call.options["rescale"] or all(density >= 1 for density in call.sources["density"]):
        return ()
    return (Stage("mass", _finish_mass, _shape_mass, measure=_measure_mass, kernel=_kernel_mass),)


def _shape_mass(call: Call) -> tuple[int, ...]:
    return 2, len(call.source_ids)


def _measure_mass(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    whole = [lane_sum(delta.abs()) for delta in deltas.deltas(block)]
    kept = [lane_sum(delta.abs()) for delta in deltas.trim_random(call, block, facts)]
    return torch.stack([torch.stack(whole), torch.stack(kept)])


def _kernel_mass(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import measure

    below = np.array([randomness.threshold(density) for density in call.sources["density"]], np.uint32)
    measure.masses(raw.rows, raw.elements, np.uint32(raw.start & 0xFFFFFFFF), raw.keys, below, out)


def _finish_mass(call: Call, partial: Any, facts: Facts) -> Array:
    sums = fold_blocks(partial.reshape(partial.shape[0], -1))
    sources = len(call.source_ids)
    pairs = zip(sums[:sources], sums[sources:], strict=True)
    return np.array([1.0 if whole < 1e-7 or kept < 1e-7 else whole / kept for whole, kept in pairs], np.float64)


PARAMETERS = parameters(WEIGHT, DENSITY, normalize(False), rescale(True), LAMBDA, INT8_MASK)

METHOD = Method(
    name="dare_linear",
    summary="randomly dropped, rescaled task vectors, summed",
    merge=merge,
    kernel=kernel,
    parameters=PARAMETERS,
    stages=lambda call: (*mass_stages(call), deltas.coefficients_stage(elected=False)),
    base="required",
    random=True,
)
