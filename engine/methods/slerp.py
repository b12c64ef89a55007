"""slerp: spherical interpolation of two models (Shoemake 1985), each tensor as one flat vector.

    out = sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b,    cos θ = a·b / (‖a‖‖b‖)

a is the base (t = 0), b the other model (t = 1). Nearly colinear tensors (|cos θ| > 0.9995) are interpolated linearly.
Only the Gram matrix of the two is needed from the data; coefficients are scalar arithmetic (`numerics`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods import linear
from engine.methods.contract import Array, Block, Call, Facts, Method, Parameter, RawBlock, Stage, parameters
from engine.numerics import fold_blocks, lane_sum, slerp_coefficients

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.files import Stream


def _measure(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    a, b = (value.to(torch.float64) for value in block.values)
    return torch.stack([lane_sum(a * a), lane_sum(a * b), lane_sum(b * b)])


def _kernel_measure(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import gram

    gram.of_block(raw.rows, raw.elements, out, based=False)


def _stream_measure(call: Call, stream: Stream, elements: int, out: Array) -> bool:
    from engine.kernels import gram

    return gram.of_blocks(stream, elements, out, based=False)


def _finish(call: Call, partial: Any, facts: Facts) -> Array:
    aa, ab, bb = fold_blocks(partial)
    return np.array(slerp_coefficients(aa, ab, bb, call.options["t"]), np.float64)


METHOD = Method(
    name="slerp",
    summary="spherical interpolation of two models",
    merge=linear.merge,
    kernel=linear.kernel,
    parameters=parameters(Parameter("t", "global", required=True)),
    stages=lambda call: (
        Stage(
            "coefficients",
            _finish,
            lambda call: (3,),
            measure=_measure,
            kernel=_kernel_measure,
            stream=_stream_measure,
            reuse="inputs",
        ),
    ),
    base="required",
    models=(1, 1),
    streams=lambda call: True,
)
