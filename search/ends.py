"""What ends a search besides its items and candidates, what opens it again, and how far a budget reaches. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search import campaign as machine
from search.campaign_file import BudgetEntry, Campaign
from search.ports import Phase

STOP = "stop"
"""The wish that ends the search now (`mergefleet stop`)."""


def reason_to_end(budget: BudgetEntry, *, seconds: float, device_seconds: float, wished: bool) -> str | None:
    """Why the search ends here, or None."""
    if wished:
        return "somebody said `mergefleet stop`"
    if budget.hours is not None and seconds > budget.hours * 3600:
        return f"the budget of {budget.hours:g} hours is spent"
    if budget.gpu_hours is not None and device_seconds > budget.gpu_hours * 3600:
        return f"the budget of {budget.gpu_hours:g} GPU-hours is spent"
    return None


def reaches_further(now: BudgetEntry, then: Mapping[str, Any]) -> bool:
    """Whether a budget allows more than another one, in any of its parts (a part that is not there has no end)."""
    for name, value in now.model_dump().items():
        before = then.get(name)
        if before is not None and (value is None or value > before):
            return True
    return False


def devices(campaign: Campaign) -> int:
    """GPUs that one evaluator holds."""
    return int(campaign.evaluator.device != "cpu")


# ----------------------------------------------------------------------------------------------------------- forecast


def seconds_allowed(budget: BudgetEntry, *, seconds: float, device_seconds: float, busy: float) -> float | None:
    """How long the search may still go on by its hours, and by its GPU-hours where so many GPUs are `busy` on average;
    None where neither is an end in sight."""
    ends = [] if budget.hours is None else [budget.hours * 3600 - seconds]
    if budget.gpu_hours is not None and busy > 0:
        ends.append((budget.gpu_hours * 3600 - device_seconds) / busy)
    return max(0.0, min(ends)) if ends else None


def is_counted(rules: machine.Rules) -> bool:
    """Whether items, candidates or the stages' own quotas end the search, so that its items can be foreseen."""
    counted = rules.budget_items is not None or rules.budget_candidates is not None
    return counted or all(stage.quota is not None for stage in rules.stages)


def items_after(phase: Phase, campaign: Campaign, *, baselines: int, sizes: Mapping[str, int]) -> int:
    """A guess at the item evaluations of the phases after this one; `sizes` are items by split."""
    holdout = (baselines + 2) * sizes.get("holdout", 0)
    selection = (campaign.selection.top + campaign.selection.means + 3) * sizes.get("selection", 0)
    return {"search": selection + holdout, "selection": holdout, "holdout": 0, "done": 0}[phase]


@dataclass(frozen=True)
class Planned:
    """What a stage will take, if nothing is stopped early or lost."""

    stage: str
    cohorts: int
    candidates: int
    items: int


def forecast(rules: machine.Rules, names: tuple[str, ...]) -> list[Planned]:
    """The cohorts that the budget of items and candidates pays for, by stage; the first row is the baselines' cohort.

    The machine itself is driven, with results that come at once. A search that only hours end is not foreseen: the
    list then ends where its stages' quotas do, or with the baselines.
    """
    if not is_counted(rules):
        rules = replace(rules, budget_candidates=len(rules.kinds) + rules.sobol)
    state = machine.begin(rules)
    while isinstance(plan := machine.plan_next(state), machine.Ask):
        event = machine.Proposed(plan.number, plan.stage, plan.origin, str(plan.number), "search", plan.cohort)
        state, _ = machine.advance(state, event)
        state, _ = machine.advance(state, machine.Scored(plan.number, "search", 0.0))
    found: dict[str, Planned] = {}
    for cohort in state.cohorts:
        name = "baselines" if cohort.number == 0 else names[cohort.stage]
        so_far = found.get(name, Planned(name, 0, 0, 0))
        size = len(cohort.members)
        found[name] = Planned(
            name, so_far.cohorts + 1, so_far.candidates + size, so_far.items + size * rules.items(cohort.size)
        )
    return list(found.values())
