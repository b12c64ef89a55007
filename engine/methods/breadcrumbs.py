"""breadcrumbs: task vectors without their largest and smallest elements, summed (Model Breadcrumbs; arXiv 2312.06795).

    δ_j = x_j − b;   out = b + λ · Σ_j w_j · δ'_j    (÷ Σ w with normalize, off by default)

δ'_j keeps t = ⌊density_j · n⌋ elements of δ_j: the ⌊γ_j · n⌋ largest magnitudes are left out ("outliers"; γ is the
paper's β), and of the rest the t largest stay. Where fewer than t are left, fewer outliers are left out. As in
mergekit, a density of 1 keeps outliers too.

Deviation: equal magnitudes are ranked in order of their index (`magnitude`), where mergekit's choice is arbitrary.
"""

from __future__ import annotations

from engine.methods import magnitude
from engine.methods.contract import DENSITY, Array, Call, Parameter, Stage
from engine.methods.delta_family import ElementKernels, Trim, delta_method

GAMMA = Parameter("gamma", "model", default=0.01, low=0.0, high=1.0)


def ranks_kept(elements: int, density: float, gamma: float) -> tuple[int, int]:
    """(first, end) of the ranks that stay, from 0 = the largest magnitude."""
    if density >= 1:
        return 0, elements
    target = int(density * elements)
    outliers = min(int(gamma * elements), elements - target)
    return outliers, outliers + target


def _ks(call: Call, counts: Array) -> list[list[int]]:
    pairs = zip(call.sources["density"], call.sources["gamma"], strict=True)
    ranks = [ranks_kept(call.elements, density, gamma) for density, gamma in pairs]
    return [[end for _, end in ranks], [first for first, _ in ranks]]


def _stages(call: Call) -> tuple[Stage, ...]:
    cuts = magnitude.Cuts(_ks, ("density", "gamma"), cuts=2)
    return () if all(density >= 1 for density in call.sources["density"]) else cuts.stages()


TRIM = Trim(magnitude.kept, ElementKernels(magnitude.keep), stages=_stages, parameters=(DENSITY, GAMMA))

METHOD = delta_method(
    "breadcrumbs",
    "task vectors without their largest and smallest elements, summed",
    TRIM,
    elects=False,
    defaults={"normalize": False, "rescale": False},
)
