"""ties: trim, elect sign, merge (TIES-Merging, Yadav et al. 2023, with mergekit's weights and defaults).

    δ_j = x_j − b;   keep the k_j = ⌊density_j · n⌋ largest |δ_j|;   out = b + λ · Σ agreeing w_j δ_j / Σ agreeing w_j

Exactly k_j elements survive (`magnitude`), at least one unless the density is 0: ties at the threshold are broken by
index, where mergekit's choice is arbitrary.
"""

from __future__ import annotations

from engine.methods import magnitude
from engine.methods.contract import DENSITY, Array, Call, Stage
from engine.methods.delta_family import ElementKernels, Trim, delta_method


def kept_count(elements: int, density: float) -> int:
    """⌊density · n⌋, as mergekit counts; at least one element of a tensor, unless density is 0."""
    return 0 if density <= 0 else min(elements, max(1, int(density * elements)))


def _ks(call: Call, counts: Array) -> list[list[int]]:
    return [[kept_count(call.elements, density) for density in call.sources["density"]]]


def _stages(call: Call) -> tuple[Stage, ...]:
    cuts = magnitude.Cuts(_ks, ("density",))
    return () if all(density >= 1 for density in call.sources["density"]) else cuts.stages()


TRIM = Trim(magnitude.kept, ElementKernels(magnitude.keep), stages=_stages, parameters=(DENSITY,))

METHOD = delta_method(
    "ties",
    "trim to the largest deltas, elect a sign, average those that agree",
    TRIM,
    elects=True,
    defaults={"normalize": True, "rescale": False},
)
