"""What the delta methods do, in torch: task vectors δ_j = x_j − b, weighted, summed or elected, added to the base.

Legend: M sources besides the base b, n elements of a block. The fact "coefficients" [M] multiplies the δ_j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.methods.contract import Block, Call, Facts

if TYPE_CHECKING:
    from torch import Tensor


def deltas(block: Block) -> list[Tensor]:
    base = block.values[0]
    return [value - base for value in block.values[1:]]


def scalar(value: float, like: Tensor) -> Tensor:
    """A 0-d tensor in the compute dtype of `like`: settings and facts meet tensor data in its own precision."""
    import torch

    return torch.full((), value, dtype=torch.float64, device=like.device).to(like.dtype)


def weighted(kept: list[Tensor], facts: Facts) -> list[Tensor]:
    return [scalar(c, delta) * delta for delta, c in zip(kept, facts["coefficients"].tolist(), strict=True)]


def summed(block: Block, parts: list[Tensor]) -> Tensor:
    """b + Σ_j parts_j, in order of j."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return block.values[0] + total


def elected(call: Call, block: Block, parts: list[Tensor]) -> Tensor:
    """b + λ · Σ_j agreeing parts_j (÷ Σ_j agreeing weights_j): TIES' elect and disjoint merge (Yadav et al. 2023).

    A part of 0 agrees with nobody; where nobody agrees the divisor is 1.
    """
    import torch

    up = elected_up(parts, by_count=bool(call.options["elect_by_count"]))
    mixed = share = torch.zeros_like(parts[0])
    for part, weight in zip(parts, call.sources["weight"], strict=True):
        agrees = torch.where(up, part > 0, part < 0)
        mixed = mixed + torch.where(agrees, part, scalar(0.0, part))
        share = share + torch.where(agrees, scalar(weight, part), scalar(0.0, part))
    if call.options["normalize"]:
        mixed = mixed / torch.where(share != 0, share, scalar(1.0, share))
    return block.values[0] + scalar(call.options["lambda"], mixed) * mixed


def elected_up(parts: list[Tensor], *, by_count: bool) -> Tensor:
    """Where the elected sign is +: that of Σ_j parts_j, or of Σ_j sign(parts_j) by count; a sum of 0 elects +."""
    votes = [part.sign() for part in parts] if by_count else parts
    total = votes[0]
    for vote in votes[1:]:
        total = total + vote
    return total >= 0
