"""The table of merge methods: one file and one line each."""

from __future__ import annotations

from collections.abc import Mapping

from engine.methods import (
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    consensus_ta,
    core_space,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    emr,
    fisher,
    iso_c,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    ramplus_tl,
    sce,
    slerp,
    task_arithmetic,
    ties,
    tsvm,
)
from engine.methods.contract import Block, Call, Method, Parameter, Stage

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        linear.METHOD,
        slerp.METHOD,
        nuslerp.METHOD,
        multislerp.METHOD,
        karcher.METHOD,
        model_stock.METHOD,
        task_arithmetic.METHOD,
        ties.METHOD,
        dare_linear.METHOD,
        dare_ties.METHOD,
        della.METHOD,
        della_linear.METHOD,
        breadcrumbs.METHOD,
        breadcrumbs_ties.METHOD,
        sce.METHOD,
        nearswap.METHOD,
        ram.METHOD,
        ramplus_tl.METHOD,
        arcee_fusion.METHOD,
        consensus_ta.METHOD,
        emr.METHOD,
        tsvm.METHOD,
        iso_c.METHOD,
        core_space.METHOD,
        fisher.METHOD,
        passthrough.METHOD,
    )
}


def methods_for(name: str, origin: str) -> Mapping[str, Method]:
    """The table, and beside it the user's own method called `name`, where the table has none and a package has one.

    Raises RecipeError, naming the recipe `origin`, where that method cannot be loaded.
    """
    if name in METHODS:
        return METHODS
    from engine.methods import own

    found = own.find(name, origin)
    return METHODS if found is None else {**METHODS, name: found}


__all__ = ["METHODS", "Block", "Call", "Method", "Parameter", "Stage", "methods_for"]
