"""The family of delta methods (mergekit's generalised task arithmetic): how they trim × whether they elect a sign.

    δ_j = x_j − b;   δ'_j = s_j · trim(δ_j);   out = b + λ · Σ w_j δ'_j (÷ Σ w_j with normalize),

both sums over all j, or, where a sign is elected, over the j that agree with it (`deltas.elected`). s_j is 1, or with
rescale ‖δ_j‖₁ / ‖trim(δ_j)‖₁ over the whole tensor, which restores the L1 norm; summed in float64, where mergekit sums
in the tensor's dtype. As there, no rescaling where either norm is below 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.methods import deltas
from engine.methods.contract import (
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    Array,
    Block,
    Call,
    Facts,
    Method,
    Parameter,
    RawBlock,
    Scope,
    Stage,
    normalize,
    parameters,
    rescale,
)
from engine.numerics import fold_blocks, lane_sum

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.trim import Keep

LEAST_NORM = 1e-7
"""A norm below this is not restored."""
ELECT_BY_COUNT = Parameter("elect_by_count", "global", default=False)
"""Elect the sign that more of the trimmed task vectors have, not that of their weighted sum (our extension)."""


Elect = tuple[int, bool, np.float32]
"""For the kernels: (`combine`'s ALL, SUM or COUNT, normalize, λ)."""


class Kernels(Protocol):
    """A way to trim, in compiled loops."""

    def merge(self, call: Call, raw: RawBlock, facts: Facts, elect: Elect, out: Array) -> None:
        """out[n] = b + what the trimmed, weighted task vectors are combined to."""

    def masses(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        """out[2, M] = L1 norms of the task vectors, whole and trimmed."""


@dataclass(frozen=True)
class ElementKernels:
    """Kernels of a way to trim that looks at one element at a time; `keep` says which a block keeps."""

    keep: Callable[[Call, RawBlock, Facts], Keep]

    def merge(self, call: Call, raw: RawBlock, facts: Facts, elect: Elect, out: Array) -> None:
        from engine.kernels import combine

        coefficients, weights = divisors(call, facts)
        combine.delta(raw.rows, self.keep(call, raw, facts), coefficients, elect, weights, out, raw.work)

    def masses(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.masses(raw.rows, raw.elements, self.keep(call, raw, facts), out, raw.work)


@dataclass(frozen=True)
class Trim:
    """One way to thin task vectors out.

    Attributes:
        kept: (call, block, facts) → the M trimmed task vectors: the definition.
        kernels: the same in compiled loops.
        stages: call → the facts that these two take.
        parameters: per model, beside the weight; scope, random, check, workspace: as in `Method`.
    """

    kept: Callable[[Call, Block, Facts], list[Tensor]]
    kernels: Kernels
    stages: Callable[[Call], tuple[Stage, ...]] = lambda call: ()
    parameters: tuple[Parameter, ...] = ()
    scope: Scope = "element"
    random: bool = False
    check: Callable[[Call], str | None] = lambda call: None
    workspace: Callable[[Call], int] = lambda call: 0


def divisors(call: Call, facts: Facts) -> tuple[Array, Array]:
    """float32[M] each, for the kernels: what multiplies δ_j, and what an agreeing source adds to the divisor."""
    return facts["coefficients"].astype(np.float32), np.array(call.sources["weight"], np.float32)


def delta_method(name: str, summary: str, trim: Trim, *, elects: bool, defaults: dict[str, bool]) -> Method:
    """A row of the table of methods; `defaults` of normalize and, where there is anything to rescale, of rescale."""

    def merge(call: Call, block: Block, facts: Facts) -> Tensor:
        parts = deltas.weighted(trim.kept(call, block, facts), facts)
        return deltas.elected(call, block, parts) if elects else deltas.summed(block, parts)

    def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import combine

        way = combine.ALL if not elects else combine.COUNT if call.options["elect_by_count"] else combine.SUM
        elect = way, bool(call.options["normalize"]), np.float32(call.options["lambda"])
        trim.kernels.merge(call, raw, facts, elect, out)

    def stages(call: Call) -> tuple[Stage, ...]:
        return (*trim.stages(call), *_mass(call, trim), coefficients(elects=elects))

    switches = [normalize(defaults["normalize"])]
    switches += [rescale(defaults["rescale"])] if "rescale" in defaults else []
    switches += [ELECT_BY_COUNT] if elects else []
    return Method(
        name=name,
        summary=summary,
        merge=merge,
        kernel=kernel,
        parameters=parameters(WEIGHT, *trim.parameters, *switches, LAMBDA, INT8_MASK),
        stages=stages,
        base="required",
        random=trim.random,
        scope=trim.scope,
        streams=lambda call: isinstance(trim.kernels, ElementKernels) and not call.options.get("elect_by_count"),
        check=trim.check,
        workspace=trim.workspace,
    )


def coefficients(*, elects: bool) -> Stage:
    """Fact "coefficients": float64[M] = w_j · s_j, without election also × λ and ÷ Σ w."""

    def finish(call: Call, partial: Any, facts: Facts) -> Array:
        weights = call.sources["weight"]
        factors = facts["mass"].tolist() if "mass" in facts else [1.0] * len(weights)
        scale = 1.0
        if not elects:
            total = sum(weights)
            divisor = total if call.options["normalize"] and abs(total) >= 1e-8 else 1.0
            scale = call.options["lambda"] / divisor
        return np.array([w * f * scale for w, f in zip(weights, factors, strict=True)], np.float64)

    return Stage("coefficients", finish)


def _mass(call: Call, trim: Trim) -> tuple[Stage, ...]:
    """The stage of the fact "mass": float64[M] = s_j; none without rescaling, or where nothing is trimmed."""
    if not call.options.get("rescale") or all(density >= 1 for density in call.sources["density"]):
        return ()

    def measure(call: Call, block: Block, facts: Facts) -> Tensor:
        import torch

        whole = [lane_sum(delta.abs()) for delta in deltas.deltas(block)]
        kept = [lane_sum(delta.abs()) for delta in trim.kept(call, block, facts)]
        return torch.stack([torch.stack(whole), torch.stack(kept)])

    return (
        Stage(
            "mass",
            _finish_mass,
            lambda call: (2, len(call.source_ids)),
            measure=measure,
            kernel=trim.kernels.masses,
            reuse="source",
            settings=tuple(parameter.name for parameter in trim.parameters),
        ),
    )


def _finish_mass(call: Call, partial: Any, facts: Facts) -> Array:
    sums = fold_blocks(partial.reshape(partial.shape[0], -1))
    sources = len(call.source_ids)
    norms = zip(sums[:sources], sums[sources:], strict=True)
    factors = [1.0 if whole < LEAST_NORM or kept < LEAST_NORM else whole / kept for whole, kept in norms]
    return np.array(factors, np.float64)
