"""dare_linear: randomly dropped and rescaled task vectors, summed (DARE, Yu et al. 2024).

    δ'_j = δ_j · m_j,   m_j ~ Bernoulli(density_j);   out = b + λ · Σ_j w_j · s_j · δ'_j

The paper's s_j is 1 / density_j; as in mergekit it restores the tensor's L1 norm, s_j = ‖δ_j‖₁ / ‖δ'_j‖₁ (close to
1 / density_j for large tensors). Masks come from `randomness`: nested in density, the same on any sharding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine import randomness
from engine.methods.contract import DENSITY, Block, Call, Facts, RawBlock
from engine.methods.delta_family import ElementKernels, Trim, delta_method
from engine.methods.deltas import deltas

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.trim import Keep


def _kept(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    """δ_j where the element's 24 random bits are below ⌈density · 2^24⌉, else 0."""
    import torch

    out = []
    for delta, key, density in zip(deltas(block), block.keys, call.sources["density"], strict=True):
        bits = randomness.bits_tensor(block.start, delta.numel(), key, device=delta.device)
        out.append(torch.where(bits < randomness.threshold(density), delta, torch.zeros_like(delta)))
    return out


def _keep(call: Call, raw: RawBlock, facts: Facts) -> Keep:
    from engine.kernels import trim

    return trim.keep_all(len(call.source_ids))._replace(
        kind=trim.RANDOM,
        first=np.uint32(raw.start & 0xFFFFFFFF),
        keys=raw.keys,
        below=np.array([randomness.threshold(density) for density in call.sources["density"]], np.uint32),
    )


TRIM = Trim(_kept, ElementKernels(_keep), parameters=(DENSITY,), random=True)

METHOD = delta_method(
    "dare_linear",
    "randomly dropped, rescaled task vectors, summed",
    TRIM,
    elects=False,
    defaults={"normalize": False, "rescale": True},
)
