"""Who is compared with whom: candidates on one window, and results that a larger window has taken over. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from search.campaign import Candidate, Cohort, State, scored
from search.judging.fronts import front_of
from search.judging.objectives import Goals


def rivals(state: State, cohort: Cohort) -> list[tuple[Candidate, float]]:
    """Feasible candidates with a score on all of the window of this cohort, in this cohort or another with the same.

    One that is out of bounds is nobody's rival, however high its score: a feasible candidate goes before it.
    """
    alike = [other for other in state.cohorts if (other.start, other.size) == (cohort.start, cohort.size)]
    members = (state.candidates[number] for other in alike for number in other.members)
    found = ((member, member.outcomes["search"]) for member in members)
    return [
        (member, outcome.score)
        for member, outcome in found
        if outcome.complete and outcome.score is not None and outcome.violation <= 0
    ]


def nobody_beats(state: State, goals: Goals, known: Sequence[tuple[Candidate, float]]) -> list[int]:
    """Those of some feasible rivals that are on the front of all objectives: whoever is dominated, is so by these."""
    values = [goals.oriented(member.outcomes["search"].values) for member, _ in known]
    if not values:
        return []
    return [known[index][0].number for index in front_of(np.array(values), np.zeros(len(values)))]


def outgrown(state: State) -> set[int]:
    """Candidates of the search whose recipe was scored again on a larger window that holds theirs."""
    cohorts = state.cohorts
    return superseded(
        (entry.number, entry.recipe_hash, (cohorts[entry.cohort].start, cohorts[entry.cohort].size))
        for entry, _ in scored(state, "search")
        if entry.cohort is not None
    )


def superseded(results: Iterable[tuple[int, str, tuple[int, int]]]) -> set[int]:
    """Of (candidate, recipe hash, (start, size) of its window) those of which a larger window tells more: one of the
    same recipe that begins with the same item."""
    known = list(results)
    largest: dict[tuple[str, int], int] = {}
    for _, recipe_hash, (start, size) in known:
        largest[recipe_hash, start] = max(size, largest.get((recipe_hash, start), 0))
    return {number for number, recipe_hash, (start, size) in known if size < largest[recipe_hash, start]}
