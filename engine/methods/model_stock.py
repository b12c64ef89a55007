"""model_stock: from the base towards the mean of the fine-tunes, as far as their agreement says (Jang et al. 2024).

    out = t · mean_j(x_j) + (1 − t) · b,    t = N cos θ / (1 + (N − 1) cos θ)    (arXiv 2403.19522, N models)

cos θ is the mean over all pairs of the N task vectors' cosines, of each tensor, or (filter_wise) of each row of its
last dimension; a vector is one row. The paper has positive cosines in mind. As in mergekit, a product of two lengths
below 1e-6 counts as 1e-6; t is not clamped (it is negative where cos θ is: away from the mean of models that disagree);
and where |1 + (N − 1) cos θ| < 1e-6 (two opposite task vectors, say) there is no t, and the base stays as it is.
Models that are equal to the base merge to it. Equal models that are not have cos θ = 1 and merge to themselves.
"""

from __future__ import annotations

import numpy as np

from engine.methods import spherical
from engine.methods.contract import Array, Call, Method, Parameter, Stage, parameters


def _coefficients(call: Call, products: list[float]) -> list[float]:
    from engine.kernels import angles

    models = spherical.vectors_of(call)
    return [angles.stock_share(products, models)] * models


def _row_coefficients(call: Call, products: Array) -> Array:
    from engine.kernels import angles

    models = spherical.vectors_of(call)
    shares = np.empty(len(products), np.float64)
    angles.stock_share_groups(products, models, shares)
    return np.repeat(shares[:, None], models, axis=1)


def _stages(call: Call) -> tuple[Stage, ...]:
    return (spherical.by_row(_row_coefficients) if call.scope == "row" else spherical.whole(_coefficients),)


METHOD = Method(
    name="model_stock",
    summary="between base and mean, by how well the fine-tunes agree",
    merge=spherical.merge,
    kernel=spherical.kernel,
    parameters=parameters(Parameter("filter_wise", "global", default=False)),
    stages=_stages,
    base="required",
    models=(2, None),
    scope=lambda options, shape: "row" if options["filter_wise"] else "element",
    streams=lambda call: call.scope == "element",
    workspace=lambda call: spherical.workspace(call, call.elements // call.columns if call.scope == "row" else 1),
)
