"""Who proposes: the one table, name → sampler, and what each of them can do.

`auto` chooses: several objectives → nsga2 (nsga3 from 4 on); categories or whole numbers → catcma; constraints, or
too many axes for a quadratic model → cma; else quadratic.
Any other Optuna sampler is named by its import path, `optuna.samplers:TPESampler`, its arguments by `sampler_options`.

Samplers that are told cohorts rank within a cohort, so that every cohort may see other items. The others compare all
candidates with each other: all are scored on one window, the first. Several objectives come to a sampler that knows
one as `Goals.scalar`, the weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.errors import CampaignError, did_you_mean
from search.part import Part
from search.samplers.catcma import CatCmaOptions, StagedCatCma
from search.samplers.cma import CmaOptions, StagedCma
from search.samplers.contract import Sampler, Setup, Told
from search.samplers.evolution import EvolutionOptions, Niches, SteadyNsga2, SteadyNsga3
from search.samplers.optuna_samplers import OptionsRefused, OptunaSampler, gp, imported, random, tpe
from search.samplers.points import Places
from search.samplers.quadratic import QuadraticOptions, StagedQuadratic
from search.samplers.quadratic_model import MOST_AXES
from search.samplers.sobol import Sobol

__all__ = ["GP_CANDIDATES", "NAMES", "TABLE", "OptunaSampler", "Sampler", "Setup", "Told", "choose", "make_sampler"]

GP_CANDIDATES = 300
"""A Gaussian process takes seconds per proposal from here on (cubic in the candidates)."""
MANY = 4  # objectives from which fronts and crowding tell too little


@dataclass(frozen=True)
class Row:
    """How a sampler is made, and what it can do. `options` is None where Optuna checks them itself."""

    make: Callable[[Setup, Any], Sampler]
    options: type[Part] | None = None
    by_cohort: bool = False
    stages: bool = True
    objectives: tuple[int, int] = (1, 1)
    categories: bool = True
    most: int | None = None  # candidates


TABLE: dict[str, Row] = {
    "quadratic": Row(StagedQuadratic, QuadraticOptions, by_cohort=True, categories=False),
    "cma": Row(StagedCma, CmaOptions, by_cohort=True, categories=False),
    "catcma": Row(StagedCatCma, CatCmaOptions, by_cohort=True),
    "nsga2": Row(SteadyNsga2, EvolutionOptions, objectives=(2, 8)),
    "nsga3": Row(SteadyNsga3, EvolutionOptions, objectives=(2, 8)),
    "niches": Row(Niches, EvolutionOptions),
    "tpe": Row(tpe, stages=False, objectives=(1, 8)),
    "gp": Row(gp, stages=False, objectives=(1, 4), most=GP_CANDIDATES),
    "random": Row(random, stages=False, objectives=(1, 8)),
    "sobol": Row(Sobol, Part, stages=False, objectives=(1, 8)),
}
NAMES = ("auto", *TABLE)


def row_of(name: str, *, origin: str) -> Row:
    """The table's row, or one for an import path."""
    if ":" in name:
        return Row(imported(name, origin=origin), stages=False, objectives=(1, 8))
    if name not in TABLE:
        raise CampaignError(f"{origin}: sampler: got {name!r}, {did_you_mean(name, NAMES)}; or an import path")
    return TABLE[name]


def choose(name: str, setup: Setup) -> str:
    """What `auto` stands for in this campaign."""
    if name != "auto":
        return name
    if setup.objectives > 1:
        return "nsga2" if setup.objectives < MANY else "nsga3"
    if any(axis.kind != "float" for stage in setup.space.stages for axis in stage.axes):
        return "catcma"
    small = all(len(stage.axes) <= MOST_AXES for stage in setup.space.stages)
    return "quadratic" if small and not setup.constrained else "cma"


def make_sampler(name: str, setup: Setup, options: Mapping[str, Any], *, origin: str) -> Sampler:
    """The sampler of a campaign. CampaignError where it does not fit the space or the objectives."""
    chosen = choose(name, setup)
    row = row_of(chosen, origin=origin)
    refuse_misfit(chosen, row, setup, origin=origin)
    checked = _checked_options(row, options, origin=origin)
    try:
        return row.make(setup, checked)
    except OptionsRefused as failure:
        raise CampaignError(f"{origin}: {failure}") from None


def refuse_misfit(name: str, row: Row, setup: Setup, *, origin: str) -> None:
    """What a sampler cannot do is said before anything is scored."""
    few, many = row.objectives
    if not row.stages and len(setup.space.stages) > 1:
        staged = ", ".join(known for known, other in TABLE.items() if other.stages)
        raise CampaignError(f"{origin}: sampler: {name} searches one stage; {staged} know more")
    if setup.objectives < few:
        raise CampaignError(
            f"{origin}: sampler: {name} looks for a front of {few} objectives or more, the campaign has "
            f"{setup.objectives}; take cma, or name objectives"
        )
    if setup.objectives > many > 1:
        raise CampaignError(f"{origin}: sampler: {name} knows {many} objectives at most, got {setup.objectives}")
    if row.most is not None and (setup.candidates or 0) > row.most:
        raise CampaignError(
            f"{origin}: sampler: {name} takes seconds a proposal beyond {row.most} candidates, and the budget allows "
            f"{setup.candidates}; set budget.candidates to {row.most} at most, or take cma or tpe"
        )
    categories = [name for stage in setup.space.stages for name in Places(stage).categories]
    if categories and not row.categories:
        raise CampaignError(
            f"{origin}: sampler: {name} knows numbers only, {categories[0]!r} is a category; catcma and tpe know both"
        )


def _checked_options(row: Row, options: Mapping[str, Any], *, origin: str) -> Any:
    if row.options is None:
        return options
    try:
        return row.options.model_validate(dict(options))
    except ValidationError as failure:
        first = failure.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = sorted(row.options.model_fields)
        told = did_you_mean(key, known) if first["type"] == "extra_forbidden" and known else first["msg"]
        raise CampaignError(f"{origin}: sampler_options.{key}: got {first['input']!r}: {told}") from None
