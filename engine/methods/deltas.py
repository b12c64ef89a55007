"""What the delta methods share: task vectors δ_j = x_j − b, trimmed, weighted, summed or elected, added to the base.

Legend: M sources besides the base b, n elements of a block. Facts used here: "coefficients" float32[M] multiplies δ_j;
"trim" int64[2, P, M] = (threshold bits, last kept index) of P cuts (`magnitude`); "mass" float64[M] = the factors that
restore ‖δ_j‖₁.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine import randomness
from engine.methods.contract import Array, Block, Call, Facts, RawBlock, Stage, numbers

if TYPE_CHECKING:
    from torch import Tensor


def coefficients_stage(*, elected: bool) -> Stage:
    """Fact "coefficients": float32[M] weights (× rescaling; × λ and ÷ Σ weights where nothing is elected)."""

    def finish(call: Call, partial: Any, facts: Facts) -> Array:
        weights = call.sources["weight"]
        factors = facts["mass"].tolist() if "mass" in facts else [1.0] * len(weights)
        scale = 1.0
        if not elected:
            total = sum(weights)
            divisor = total if call.options["normalize"] and abs(total) >= 1e-8 else 1.0
            scale = call.options["lambda"] / divisor
        return np.array([w * f * scale for w, f in zip(weights, factors, strict=True)], np.float64)

    return Stage("coefficients", finish)


def deltas(block: Block) -> list[Tensor]:
    base = block.values[0]
    return [value - base for value in block.values[1:]]


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A 0-d tensor in the compute dtype of `like`: settings and facts meet tensor data in its own precision."""
    import torch

    if not isinstance(value, torch.Tensor):
        value = torch.full((), value, dtype=torch.float64, device=like.device)
    return value.to(like.dtype)


def trim_random(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    """DARE: δ_j where the element's 24 random bits are below ⌈density · 2^24⌉, else 0."""
    import torch

    out = []
    for delta, key, density in zip(deltas(block), block.keys, call.sources["density"], strict=True):
        bits = randomness.bits_tensor(block.start, delta.numel(), key, device=delta.device)
        out.append(torch.where(bits < randomness.threshold(density), delta, torch.zeros_like(delta)))
    return out


def weighted(kept: list[Tensor], facts: Facts) -> list[Tensor]:
    return [scalar(c, delta) * delta for delta, c in zip(kept, numbers(facts["coefficients"]), strict=True)]


def summed(block: Block, parts: list[Tensor]) -> Tensor:
    """b + Σ_j parts_j, in order of j."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return block.values[0] + total


def elected(call: Call, block: Block, parts: list[Tensor]) -> Tensor:
    """b + λ · Σ_j agreeing parts_j (÷ Σ_j agreeing weights_j): TIES' elect and disjoint merge (Yadav et al. 2023).

    The elected sign is that of Σ_j parts_j, with 0 as +. A part of 0 agrees with nobody; where nobody agrees the
    divisor is 1.
    """
    import torch

    total = parts[0]
    for part in parts[1:]:
        total = total + part
    up = total >= 0
    zero = torch.zeros_like(total)
    mixed, share = zero, zero
    for part, weight in zip(parts, call.sources["weight"], strict=True):
        agrees = torch.where(up, part > 0, part < 0)
        mixed = mixed + torch.where(agrees, part, zero)
        share = share + torch.where(agrees, scalar(weight, part), zero)
    if call.options["normalize"]:
        mixed = mixed / torch.where(share != 0, share, scalar(1.0, share))
    return block.values[0] + scalar(call.options["lambda"], mixed) * mixed


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array, *, kind: int, elect: bool) -> None:
    """One block through `kernels.combine.delta`; `kind` is one of `kernels.trim`."""
    from engine.kernels import combine

    combine.delta(
        raw.rows,
        raw_trim(call, raw, facts, kind),
        facts["coefficients"].astype(np.float32),
        (elect, bool(call.options["normalize"]), np.float32(call.options["lambda"])),
        np.array(call.sources["weight"], np.float32),
        out,
        raw.work,
    )


def raw_trim(call: Call, raw: RawBlock, facts: Facts, kind: int) -> tuple[Any, ...]:
    """How elements of this block are kept, as `kernels.trim` takes it."""
    from engine.kernels import trim

    sources = len(call.source_ids)
    cuts, below = np.zeros((2, 1, sources), np.int64), np.zeros(sources, np.uint32)
    if kind in (trim.MAGNITUDE, trim.BAND):
        cuts = facts["trim"]
    elif kind == trim.RANDOM:
        below = np.array([randomness.threshold(density) for density in call.sources["density"]], np.uint32)
    first = np.uint32(raw.start & 0xFFFFFFFF)
    return kind, cuts[0].astype(np.int32), cuts[1] - raw.start, first, raw.keys, below
