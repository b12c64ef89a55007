"""From item scores to what a candidate is worth: its score, its values, how far it is out of bounds.

A reader of the board, of the machine's state and of the campaign's goals; it keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search.board import Board
from search.campaign import State
from search.judging.forwards import FORWARDS, with_forwards
from search.judging.objectives import Facts, Goals, Reference, make_goals, refuse_unmeasured
from search.ports import Split
from search.run import Run, Services
from search.select import Contender

SEARCH_ERRORS = 1.0
"""In the search a bound is broken by what exceeds one standard error: windows are small. Elsewhere by anything."""


ROLES: Mapping[Reference, str] = {"base": "base", "best_parent": "parent"}
"""Whom a bound is relative to → the kind of baseline that stands for it."""


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
        if self.goals.plain:  # nobody asks for what else was measured
            scores = self.board.scores[state.candidates[number].recipe_hash]
            return Measured(self.goals.scalar(Facts(scores).restricted(items)))
        facts = self.facts(state, number, items=items)
        campaign = self.run.campaign
        if not self.goals.measures <= facts.measures.keys():  # where the evaluator could not tell before scoring
            refuse_unmeasured(
                campaign.objectives, campaign.constraints, known=facts.measures.keys(), origin=campaign.origin
            )
        errors = SEARCH_ERRORS if split == "search" else 0.0
        violation = self.goals.violation(facts, self.references(state, split), errors=errors)
        return Measured(self.goals.scalar(facts), self.goals.values(facts), violation)

    def unknown(self, measured: Measured) -> str | None:
        """Why a candidate has no place among the others: an objective of which its items tell nothing."""
        for entry, value in zip(self.goals.objectives, measured.values, strict=False):
            if math.isnan(value) and entry.of != "parameters":
                return f"none of its items has a value of {entry.title!r}, an objective: report it for every item"
        return None

    def facts(self, state: State, number: int, *, items: Sequence[str]) -> Facts:
        """Scores and measures of a candidate on these items, and its size where somebody asks for that."""
        recipe_hash = state.candidates[number].recipe_hash
        known = Facts(self.board.scores[recipe_hash], self.board.measures[recipe_hash], self._parameters(number))
        known = known.restricted(items)
        layers_of = self.services.layers_of
        if FORWARDS not in self.goals.measures or layers_of is None:
            return known
        return with_forwards(known, layers=layers_of(self.recipes[number]), read=self._texts)

    def contender(self, state: State, number: int, split: Split, *, items: Sequence[str]) -> Contender:
        """A candidate as selection compares it."""
        facts, goals = self.facts(state, number, items=items), self.goals
        measured = self.measure(state, number, split, items=items)
        return Contender(
            number=number,
            score=measured.score,
            values=goals.oriented(measured.values),
            errors=tuple(goals.value(entry.of, facts)[1] for entry in goals.objectives),
            violation=measured.violation,
        )

    def references(self, state: State, split: Split) -> Mapping[Reference, Sequence[Facts]]:
        """Base and parents on all items of the split that they were scored on."""
        if not any(bound.relative_to != "none" for bound in self.goals.bounds):
            return {}
        items = self.run.pools.all(split)
        return {
            role: [
                self.facts(state, number, items=items)
                for number in self.sources(role)
                if number < len(state.candidates)
            ]
            for role in ROLES
        }

    def sources(self, role: Reference) -> list[int]:
        """The candidates that stand for the base, or for the parents."""
        kinds = [baseline.kind for baseline in self.run.baselines]
        return [number for number, kind in enumerate(kinds) if kind == ROLES.get(role)]

    @cached_property
    def _texts(self) -> frozenset[str]:
        """Items that are read, not answered."""
        texts = {entry.name for entry in self.run.campaign.tasks if entry.kind == "text"}
        return frozenset(item for item, task in self.run.pools.task_of.items() if task in texts)

    def _parameters(self, number: int) -> float | None:
        objectives, bounds = self.goals.objectives, self.goals.bounds
        named = {*(entry.of for entry in objectives), *(bound.of for bound in bounds)}
        if "parameters" not in named or self.services.parameters_of is None:
            return None
        return float(self.services.parameters_of(self.recipes[number]))
