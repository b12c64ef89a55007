"""passthrough: one model's tensors as they are, times an optional scale.

    out = scale · x

Without a scale (or with 1) and without a change of dtype the stored bytes are copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods import linear
from engine.methods.contract import Array, Block, Call, Facts, Method, Parameter, Stage, parameters

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    return linear.merge(call, block, facts)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    return np.array(call.sources["scale"], np.float64)


METHOD = Method(
    name="passthrough",
    summary="one model's tensors, optionally scaled",
    merge=merge,
    kernel=linear.kernel,
    parameters=parameters(Parameter("scale", "model", default=1.0)),
    stages=lambda call: (Stage("coefficients", _finish),),
    models=(1, 1),
    drops_zero_weights=False,
)
