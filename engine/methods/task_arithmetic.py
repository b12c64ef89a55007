"""task_arithmetic: the base plus weighted task vectors (Ilharco et al. 2023).

out = b + λ · Σ_j w_j · (x_j − b)    (÷ Σ w with normalize, off by default)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    RawBlock,
    normalize,
    parameters,
)

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    return deltas.summed(block, deltas.weighted(deltas.deltas(block), facts))


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import trim

    deltas.kernel(call, raw, facts, out, kind=trim.NO_TRIM, elect=False)


METHOD = Method(
    name="task_arithmetic",
    summary="base plus weighted task vectors",
    merge=merge,
    kernel=kernel,
    parameters=parameters(WEIGHT, normalize(False), LAMBDA, INT8_MASK),
    stages=lambda call: (deltas.coefficients_stage(elected=False),),
    base="required",
)
