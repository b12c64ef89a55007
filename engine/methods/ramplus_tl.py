"""ramplus_tl: ram, with a source's lone changes scaled up the more of its changes it shares (RAM+, arXiv 2601.13572).

    ρ_j = shared_j / max(alone_j, ε);   λ_j = 1 + r · clamp(ρ_j, 0, α);   lone changes of source j are multiplied by λ_j

shared_j and alone_j count the elements that source j changed together with others, and alone. The paper counts over
the whole model; as in mergekit, whose name for it this is (tensor-local), each tensor counts for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods import ram
from engine.methods.contract import Array, Block, Call, Facts, Method, Parameter, RawBlock, Stage, parameters

if TYPE_CHECKING:
    from torch import Tensor


def _shape(call: Call) -> tuple[int, ...]:
    return 2, len(call.source_ids)


def _measure(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    changes = torch.stack(ram.changed(call, block))
    changers = torch.count_nonzero(changes, dim=0)
    shared = torch.count_nonzero(changes & (changers > 1), dim=1)
    return torch.stack([shared, torch.count_nonzero(changes & (changers == 1), dim=1)])


def _kernel_measure(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import elements

    elements.overlap_counts(raw.rows, raw.elements, np.float32(call.options["epsilon"]), raw.work, out)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    """float64[M]: λ_j."""
    r, alpha, epsilon = (call.options[name] for name in ("r", "alpha", "epsilon"))
    factors = []
    for shared, alone in partial.T.tolist():
        least = alone if alone > epsilon else epsilon
        ratio = shared / least if least else alpha
        factors.append(1.0 + r * max(0.0, min(ratio, alpha)))
    return np.array(factors, np.float64)


METHOD = Method(
    name="ramplus_tl",
    summary="ram, lone changes scaled up by how much a model shares",
    merge=ram.merge,
    kernel=ram.kernel,
    parameters=parameters(
        Parameter("r", "global", default=0.1),
        Parameter("alpha", "global", default=0.2, low=0.0),
        ram.EPSILON,
    ),
    stages=lambda call: (
        Stage(
            *("factors", _finish, _shape, np.int64, "counts", _measure, _kernel_measure),
            reuse="inputs",
            settings=("epsilon",),
        ),
    ),
    base="required",
)
