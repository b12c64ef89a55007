"""multislerp: weighted mean direction of any number of models, or of their task vectors, at their weighted mean length.

    u_i = t_i / (‖t_i‖ + ε),    m = Σ W_i u_i,    out = cos(ε) · m/‖m‖ · Σ W_i ‖t_i‖   (+ b),    t_i = x_i (− b)

(Goddard, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea; W = w / Σ w with normalize_weights, the default.)
The original also adds τ = Σ W_i (u_i − (u_i·m̂) m̂), the mean in the tangent space at m̂ = m/‖m‖, and goes along it on the
sphere. But τ = m − (m·m̂) m̂ = 0 for any weights; what mergekit computes there is rounding. cos(ε) is what is left.

Where ‖m‖ < ε there is no mean direction: two models are interpolated linearly, as in mergekit, more are an error that
names the tensor. Deviations: where no ‖t_i‖ is above ε (a tensor that nobody trained) they are interpolated linearly,
too, which mergekit refuses; one model alone follows the formula, so its weight counts if it is not normalised.
"""

from __future__ import annotations

import math

from engine.errors import MergefleetError
from engine.methods import spherical
from engine.methods.contract import WEIGHT, Call, Method, Parameter, parameters, weights_cancel

ROUNDING = 2.0**-23
"""Of Σ |W|: a mean direction shorter than this is what rounding left of one that cancels."""


def _coefficients(call: Call, products: list[float]) -> list[float]:
    weights, epsilon = call.sources["weight"], call.options["eps"]
    if call.options["normalize_weights"]:
        total = sum(weights)
        weights = tuple(weight / total for weight in weights)
    gram = spherical.symmetric(products, len(weights))
    lengths = [math.sqrt(row[i]) for i, row in enumerate(gram)]
    parts = [w / (length + epsilon) if length > 0 else 0.0 for w, length in zip(weights, lengths, strict=True)]
    mean = spherical.length_of(parts, gram)
    if mean <= max(epsilon, ROUNDING * sum(map(abs, weights))):
        if len(weights) > 2 and max(lengths) > epsilon:
            raise _no_direction(call, mean)
        return list(weights)
    scale = math.cos(epsilon) / mean * sum(w * length for w, length in zip(weights, lengths, strict=True))
    return [scale * part for part in parts]


def _no_direction(call: Call, mean: float) -> MergefleetError:
    return MergefleetError(
        f"tensor {call.tensor!r}: the weighted directions of its {len(call.source_ids)} models cancel (their mean has "
        f"length {mean:.3g}, 'eps' is {call.options['eps']:g}), so multislerp has no direction to go in. Give other "
        "weights, for this tensor by a filter.",
        tensor=call.tensor,
    )


METHOD = Method(
    name="multislerp",
    summary="weighted mean direction, weighted mean length",
    merge=spherical.merge,
    kernel=spherical.kernel,
    parameters=parameters(
        WEIGHT,
        Parameter("normalize_weights", "global", default=True),
        Parameter("eps", "global", default=1e-8, low=0),
    ),
    stages=lambda call: (spherical.whole(_coefficients),),
    base="optional",
    check=weights_cancel,
    streams=lambda call: True,
)
