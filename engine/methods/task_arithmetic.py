"""task_arithmetic: the base plus weighted task vectors (Ilharco et al. 2023).

out = b + λ · Σ_j w_j · (x_j − b)    (÷ Σ w with normalize, off by default)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.methods import deltas
from engine.methods.contract import Block, Call, Facts, RawBlock
from engine.methods.delta_family import ElementKernels, Trim, delta_method

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.trim import Keep


def _kept(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    return deltas.deltas(block)


def _keep(call: Call, raw: RawBlock, facts: Facts) -> Keep:
    from engine.kernels import trim

    return trim.keep_all(len(call.source_ids))


METHOD = delta_method(
    "task_arithmetic",
    "base plus weighted task vectors",
    Trim(_kept, ElementKernels(_keep)),
    elects=False,
    defaults={"normalize": False},
)
