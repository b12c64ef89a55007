"""The table of merge methods: one file and one line each."""

from __future__ import annotations

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
        passthrough.METHOD,
    )
}

__all__ = ["METHODS", "Block", "Call", "Method", "Parameter", "Stage"]
