"""From item scores to what a candidate is worth: its score, its values, how far it is out of bounds.

A reader of the board, of the machine's state and of the campaign's goals; it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search.board import Board
from search.campaign import State
from search.objectives import Facts, Goals, Reference, make_goals
from search.ports import Split
from search.run import Run, Services

SEARCH_ERRORS = 1.0
"""In the search a bound is broken by what exceeds one standard error: windows are small. Elsewhere by anything."""


@dataclass(frozen=True)
class Measured:
    """What a candidate is worth on some items."""

    score: float
    values: tuple[float, ...] = ()
    violation: float = 0.0


@dataclass(frozen=True)
class Gauge:
    """`run` says what counts, `board` what is known; `recipes` are those of all candidates, by number."""

    run: Run
    board: Board
    services: Services
    recipes: Sequence[Mapping[str, Any]]

    @cached_property
    def goals(self) -> Goals:
        """The campaign's objectives and bounds, bound to its tasks."""
        campaign = self.run.campaign
        return make_goals(
            campaign.objectives,
            campaign.constraints,
            task_of=self.run.pools.task_of,
            weights=campaign.task_weights,
        )

    def measure(self, state: State, number: int, split: Split, *, items: Sequence[str]) -> Measured:
        """What is known of a candidate on these items of a split."""
        facts = self.facts(state, number, items=items)
        if self.goals.plain:
            return Measured(self.goals.scalar(facts))
        errors = SEARCH_ERRORS if split == "search" else 0.0
        violation = self.goals.violation(facts, self.references(state, split), errors=errors)
        return Measured(self.goals.scalar(facts), self.goals.values(facts), violation)

    def facts(self, state: State, number: int, *, items: Sequence[str]) -> Facts:
        """Scores and measures of a candidate on these items, and its size where somebody asks for that."""
        recipe_hash = state.candidates[number].recipe_hash
        known = Facts(self.board.scores[recipe_hash], self.board.measures[recipe_hash], self._parameters(number))
        return known.restricted(items)

    def references(self, state: State, split: Split) -> Mapping[Reference, Sequence[Facts]]:
        """Base and parents on all items of the split that they were scored on."""
        if not any(bound.relative_to != "none" for bound in self.goals.bounds):
            return {}
        items = self.run.pools.all(split)
        kinds = {"base": "base", "parent": "best_parent"}
        found: dict[Reference, list[Facts]] = {"base": [], "best_parent": []}
        for number, baseline in enumerate(self.run.baselines):
            if baseline.kind in kinds and number < len(state.candidates):
                found["base" if baseline.kind == "base" else "best_parent"].append(
                    self.facts(state, number, items=items)
                )
        return found

    def _parameters(self, number: int) -> float | None:
        objectives, bounds = self.goals.objectives, self.goals.bounds
        named = {*(entry.of for entry in objectives), *(bound.of for bound in bounds)}
        if "parameters" not in named or self.services.parameters_of is None:
            return None
        return float(self.services.parameters_of(self.recipes[number]))
