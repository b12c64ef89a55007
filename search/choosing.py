"""Objectives and constraints in the last phases: who is nominated, who wins, who meets the holdout, what holds.

Acts on the desk as steps.py does; a campaign with neither objectives nor constraints passes through unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from search import campaign as machine
from search.desk import Desk
from search.gauge import ROLES
from search.judging.holdout import Model, judge_bounds, judge_front, make_draws
from search.judging.objectives import Goals, Reference
from search.ports import Split, Verdict
from search.select import Contender, Searched, choose, worths

FRONT, REFERENCE = "front", "reference"
"""Reasons to meet the holdout other than to win or to be beaten."""


def searched(desk: Desk) -> list[Searched]:
    """Every scored point of the search, with its values where there are several objectives."""
    state, points, goals = desk.live.state, desk.live.points, desk.gauge.goals
    found, largest = [], _largest_window(desk)
    for number, estimate in desk.live.estimates().items():
        point = points[number]
        if point.stage < 0:
            continue
        violation = state.candidates[number].outcomes["search"].violation
        entry = Searched(number, point.stage, point.params, estimate, violation=violation)
        if goals.several and desk.live.window(number) >= largest:
            seen = desk.gauge.contender(state, number, "search", items=tuple(desk.search_items(number)))
            entry = dataclasses.replace(entry, values=seen.values, errors=seen.errors)
        found.append(entry)
    return found


def _largest_window(desk: Desk) -> int:
    """The window whose results make the front: the largest that as many candidates saw as the front may have.

    Values on a smaller one, which it holds, are the lucky ones: whoever lasted was scored again. Where windows are not
    nested there is no such difference.
    """
    if desk.live.state.rules.fresh:
        return 0
    outcomes = machine.outcomes(desk.live.state, "search")
    seen = sorted((desk.live.window(c.number) for c, outcome in outcomes if outcome.complete), reverse=True)
    return seen[min(desk.run.campaign.selection.front, len(seen)) - 1] if seen else 0


def references(desk: Desk) -> list[int]:
    """Base and parents, where values or bounds are measured by them, as far as they can be scored at all."""
    goals, state = desk.gauge.goals, desk.live.state
    roles: set[Reference] = {bound.relative_to for bound in goals.bounds} | ({*ROLES} if goals.several else set())
    numbers = sorted({number for role in roles for number in desk.gauge.sources(role)})
    return [number for number in numbers if state.candidates[number].outcomes["search"].cause is None]


def chosen_entrants(desk: Desk) -> tuple[tuple[int, str], ...]:
    """The winner by objectives and bounds, its comparators, the rest of the front, and whom the bounds refer to."""
    state, goals = desk.live.state, desk.gauge.goals
    ranked = [_on_selection(desk, candidate.number) for candidate in machine.contenders(state)]
    parents = [_on_selection(desk, n).values for n in references(desk) if _scored(state, n, "selection")]
    worth = worths(goals.objectives, parents, [entry.values for entry in ranked])
    winner, front = choose(ranked, worth=worth)
    entrants = list(machine.entrants_for(state, winner))
    hashes = {state.candidates[number].recipe_hash for number, _ in entrants}
    for number in front[: desk.run.campaign.selection.front]:
        if state.candidates[number].recipe_hash not in hashes:
            entrants.append((number, FRONT))
    met = {number for number, _ in entrants}
    bound_to: set[Reference] = {bound.relative_to for bound in goals.bounds}
    entrants += [(n, REFERENCE) for role in sorted(bound_to) for n in desk.gauge.sources(role) if n not in met]
    return tuple(entrants)


def with_goals(desk: Desk, verdict: Verdict) -> Verdict:
    """The verdict with the front and the bounds as the holdout sees them."""
    state, goals, unknown = desk.live.state, *_known_goals(desk)
    if desk.gauge.goals.plain:
        return verdict
    items = desk.run.pools.all("holdout")
    reasons = [(number, reason) for number, reason in state.entrants if _scored(state, number, "holdout")]
    models = [_model(desk, number, items) for number, _ in reasons]
    draws = make_draws(goals, models, seed=desk.run.campaign.seed)
    members = [index for index, (_, reason) in enumerate(reasons) if reason in ("winner", FRONT)]
    return dataclasses.replace(
        verdict,
        objectives=tuple(entry.title for entry in goals.objectives),
        front=judge_front(draws, members) if goals.several else (),
        bounds=judge_bounds(draws, members[0]),
        notes=(*verdict.notes, *(f"whether {title} is not known: its reference was lost there" for title in unknown)),
    )


def _known_goals(desk: Desk) -> tuple[Goals, list[str]]:
    """The goals without the bounds of which the holdout tells nothing, because a reference of theirs was lost there
    (such a winner is not significant, see steps.judge_entrants); the titles of these bounds."""
    goals, state = desk.gauge.goals, desk.live.state
    lost = {number for number, _ in state.entrants if not _scored(state, number, "holdout")}
    gone = {role for role in ROLES if lost.intersection(desk.gauge.sources(role))}
    unknown = [bound.title for bound in goals.bounds if bound.relative_to in gone]
    return dataclasses.replace(goals, bounds=tuple(b for b in goals.bounds if b.relative_to not in gone)), unknown


def _model(desk: Desk, number: int, items: Sequence[str]) -> Model:
    state, gauge = desk.live.state, desk.gauge
    role: Reference = next((role for role in ROLES if number in gauge.sources(role)), "none")
    label, recipe_hash = desk.live.points[number].label, state.candidates[number].recipe_hash
    return Model(number, label, recipe_hash, gauge.facts(state, number, items=items), role)


def _on_selection(desk: Desk, number: int) -> Contender:
    return desk.gauge.contender(desk.live.state, number, "selection", items=desk.run.pools.all("selection"))


def _scored(state: machine.State, number: int, split: Split) -> bool:
    outcome = state.candidates[number].outcomes.get(split)
    return outcome is not None and outcome.score is not None
