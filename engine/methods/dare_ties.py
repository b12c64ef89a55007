"""dare_ties: DARE's random dropping and rescaling (Yu et al. 2024), then TIES' sign election (Yadav et al. 2023).

δ'_j as in `dare_linear`;   out = b + λ · Σ agreeing w_j s_j δ'_j    (÷ Σ agreeing w_j with normalize, off by default)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.methods import dare_linear, deltas
from engine.methods.contract import Array, Block, Call, Facts, Method, RawBlock

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    kept = deltas.trim_random(call, block, facts)
    return deltas.elected(call, block, deltas.weighted(kept, facts))


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import trim

    deltas.kernel(call, raw, facts, out, kind=trim.RANDOM, elect=True)


METHOD = Method(
    name="dare_ties",
    summary="randomly dropped, rescaled task vectors with an elected sign",
    merge=merge,
    kernel=kernel,
    parameters=dare_linear.PARAMETERS,
    stages=lambda call: (*dare_linear.mass_stages(call), deltas.coefficients_stage(elected=True)),
    base="required",
    random=True,
)
