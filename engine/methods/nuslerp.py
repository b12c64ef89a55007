"""nuslerp: spherical interpolation (Shoemake 1985) of two models, or of their task vectors, by weight.

    out = sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b,    t = w_b / (w_a + w_b),    cos θ = a·b / (‖a‖‖b‖)

With a base_model (a third model) a and b are the task vectors, and the base is added to the result. Each tensor is one
vector (nuslerp_flatten, the default); or each row of its last dimension (nuslerp_flatten: false; a vector is one row);
or, with nuslerp_row_wise: true besides, each line along its first dimension: columns, despite the name, as in mergekit.

As in mergekit, weights that sum to less than 1e-6 mean t = 1/2, and a vector shorter than 1e-7 is not normalised.
Colinear vectors are interpolated linearly; mergekit's test, 1 − cos²θ ≤ 1e-16 in its own arithmetic, can only be true
where cos²θ rounds to 1, so here, where it is float64: 1 − cos²θ ≤ 2^-23. In bfloat16 recipes mergekit rounds cos θ to 8
bits, which makes most fine-tunes of one model colinear.
"""

from __future__ import annotations

import numpy as np

from engine.methods import spherical
from engine.methods.contract import WEIGHT, Array, Call, Method, Parameter, Stage, parameters


def _t(call: Call) -> float:
    first, second = call.sources["weight"]
    return 0.5 if abs(first + second) < 1e-6 else second / (first + second)


def _coefficients(call: Call, products: list[float]) -> tuple[float, float]:
    from engine.kernels import angles

    aa, ab, bb = products
    return angles.nuslerp(aa, ab, bb, _t(call))


def _group_coefficients(call: Call, products: Array) -> Array:
    from engine.kernels import angles

    coefficients = np.empty((len(products), 2), np.float64)
    angles.nuslerp_groups(products, _t(call), coefficients)
    return coefficients


def _stages(call: Call) -> tuple[Stage, ...]:
    if call.scope == "row":
        return (spherical.by_row(_group_coefficients),)
    return (spherical.by_column(_group_coefficients) if _columns(call) > 1 else spherical.whole(_coefficients),)


def _columns(call: Call) -> int:
    """How many lines along the first dimension are vectors of their own; a tensor of one dimension is one of them."""
    apart = call.options["nuslerp_row_wise"] and not call.options["nuslerp_flatten"]
    return spherical.columns_of(call) if apart else 1


METHOD = Method(
    name="nuslerp",
    summary="spherical interpolation by weight, of tensors, rows or columns",
    merge=spherical.merge,
    kernel=spherical.kernel,
    parameters=parameters(
        WEIGHT,
        Parameter("nuslerp_flatten", "global", default=True),
        Parameter("nuslerp_row_wise", "global", default=False),
    ),
    stages=_stages,
    base="optional",
    models=(2, 2),
    scope=lambda options, shape: "element" if options["nuslerp_flatten"] or options["nuslerp_row_wise"] else "row",
    drops_zero_weights=False,
    streams=lambda call: call.scope == "element" and _columns(call) == 1,
    workspace=lambda call: spherical.workspace(call, _columns(call)),
)
