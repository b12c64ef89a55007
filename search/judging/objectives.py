"""What a campaign maximizes, minimizes and must not lose: its `objectives` and `constraints`, and a candidate's values.

    of: score           the weighted mean over tasks (what a campaign without objectives maximizes)
    of: worst           the lowest of the tasks' means
    of: task:NAME       the mean of one task
    of: measure:NAME    the weighted mean over tasks of what else is measured of items (tokens, a second metric, ...)
    of: parameters      of the written model

Pure. Values are in the units of the file; *oriented* values are turned so that larger is better. A candidate's *score*,
by which it is ranked where one number is wanted, stays a matter of item scores: see `Goals.scalar`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import field_validator, model_validator

from engine.errors import CampaignError, did_you_mean
from search.judging.scores import weighted_mean
from search.part import Part, Weight

Direction = Literal["maximize", "minimize"]
KINDS = ("score", "worst", "task:NAME", "measure:NAME", "parameters")
DIRECTIONS: Mapping[str, Direction] = dict.fromkeys(
    ("tokens", "forwards", "seconds", "perplexity", "bits_per_byte"), "minimize"
)
"""Measures whose name says which way is better; an objective on any other one has to say it."""
TOLERANCE = 0.02
"""How much of a parent's skill may be lost where a constraint says nothing else: 2 points."""
Reference = Literal["best_parent", "base", "none"]


def _checked_of(of: str, known: Sequence[str]) -> str:
    kind, colon, name = of.partition(":")
    if of in DIRECTIONS:
        return f"measure:{of}"  # `of: tokens` for short
    if of not in known and not (kind in ("task", "measure") and colon and name):
        raise ValueError(f"got {of!r}, {did_you_mean(of, known)}")
    return of


def is_cost(of: str) -> bool:
    """Whether this is something that a model needs, and not something that it can."""
    return of.startswith("measure:") or of == "parameters"


class ObjectiveEntry(Part):
    """One thing to maximize or minimize; see the module. `weight` is what a unit of it is worth, in the choice of the
    model to publish and wherever one number is searched: given for all objectives, or for none."""

    of: str
    name: str = ""
    direction: Direction | None = None
    weight: Weight | None = None

    @field_validator("of")
    @classmethod
    def _known(cls, value: str) -> str:
        return _checked_of(value, KINDS)

    @model_validator(mode="after")
    def _direction_makes_sense(self) -> ObjectiveEntry:
        if self.direction == "minimize" and not is_cost(self.of):
            raise ValueError(f"of: {self.of} cannot be minimized: of item scores larger is better")
        if self.towards is None:
            raise ValueError(
                f"of: {self.of} needs a `direction`, maximize or minimize; only {', '.join(DIRECTIONS)} go without"
            )
        return self

    @property
    def towards(self) -> Direction | None:
        """Which way is better: as the file says, else as is known; None for a measure of which nobody knows."""
        if self.direction is not None or self.of.startswith("measure:"):
            return self.direction or DIRECTIONS.get(self.of.removeprefix("measure:"))
        return "minimize" if self.of == "parameters" else "maximize"

    @property
    def sign(self) -> float:
        """+1 where larger is better."""
        return 1.0 if self.towards == "maximize" else -1.0

    @property
    def title(self) -> str:
        """What reports call it."""
        return self.name or self.of.removeprefix("task:").removeprefix("measure:")


class ConstraintEntry(Part):
    """Something that must hold: `of` at least or at most a bound; `of: tasks` means every task by itself.

    With `relative_to` the bound is added to what the best parent (for each task another one), or the base, has.
    Without a bound a skill may fall 2 points below its reference.
    """

    of: str = "tasks"
    at_least: float | None = None
    at_most: float | None = None
    relative_to: Reference = "none"

    @field_validator("of")
    @classmethod
    def _known(cls, value: str) -> str:
        return _checked_of(value, ("tasks", *KINDS))

    @model_validator(mode="after")
    def _bounded(self) -> ConstraintEntry:
        if self.at_least is not None and self.at_most is not None:
            raise ValueError("give at_least or at_most, and a second constraint for the other bound")
        if self.at_least is None and self.at_most is None and (is_cost(self.of) or self.relative_to == "none"):
            raise ValueError(f"of: {self.of} needs at_least or at_most")
        return self

    @property
    def sign(self) -> float:
        """+1 for a lower bound, −1 for an upper one."""
        return -1.0 if self.at_most is not None else 1.0

    @property
    def offset(self) -> float:
        """The bound, or what is added to the reference."""
        if self.at_most is not None:
            return self.at_most
        return -TOLERANCE if self.at_least is None else self.at_least


@dataclass(frozen=True)
class Facts:
    """What is known of a candidate: item scores, further measures (measure → item → value), parameters of the model."""

    scores: Mapping[str, float]
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parameters: float | None = None

    def restricted(self, items: Sequence[str]) -> Facts:
        """The same on these items only."""
        measures = {
            name: {item: known[item] for item in items if item in known} for name, known in self.measures.items()
        }
        scores = {item: self.scores[item] for item in items if item in self.scores}
        return Facts(scores, measures, self.parameters)


@dataclass(frozen=True)
class Bound:
    """A constraint on one thing: `of` as in the module, sign · (value − reference − offset) ≥ 0."""

    of: str
    sign: float
    offset: float
    relative_to: Reference

    @property
    def title(self) -> str:
        """In words: `letters at least best parent -0.02`."""
        side = "at least" if self.sign > 0 else "at most"
        what = self.of.removeprefix("task:").removeprefix("measure:")
        relation = "" if self.relative_to == "none" else f"{self.relative_to.replace('_', ' ')} "
        return f"{what} {side} {relation}{self.offset:+g}" if relation else f"{what} {side} {self.offset:g}"


@dataclass(frozen=True)
class Goals:
    """The objectives and bounds of a campaign, bound to its tasks. Without objectives: the score."""

    objectives: tuple[ObjectiveEntry, ...]
    bounds: tuple[Bound, ...]
    task_of: Mapping[str, str]
    weights: Mapping[str, float]

    @property
    def several(self) -> bool:
        """Whether there is a front to look for."""
        return len(self.objectives) > 1

    @property
    def measures(self) -> set[str]:
        """The measures that these are about."""
        named = {*(entry.of for entry in self.objectives), *(bound.of for bound in self.bounds)}
        return {of.removeprefix("measure:") for of in named if of.startswith("measure:")}

    @property
    def parts(self) -> int:
        """Into how many parts the items fall where objectives are compared: tasks, where one is about tasks."""
        return len(self.weights) if any(e.of.startswith(("task:", "worst")) for e in self.objectives) else 1

    @property
    def plain(self) -> bool:
        """Nothing but the weighted mean score."""
        return not self.objectives and not self.bounds

    def values(self, facts: Facts) -> tuple[float, ...]:
        """One number per objective, in the units of the file; nothing where the campaign names no objectives."""
        return tuple(self.value(entry.of, facts)[0] for entry in self.objectives)

    def oriented(self, values: Sequence[float]) -> tuple[float, ...]:
        """The values turned so that larger is better."""
        return tuple(entry.sign * value for entry, value in zip(self.objectives, values, strict=True))

    def scalar(self, facts: Facts) -> float:
        """One number to rank by: with weights Σ weight · oriented value, else the mean of those that are item scores.

        Without weights costs stay out of it: nobody said what a token is worth. Divided by the weights of the scores,
        so that scores from 0 to 1 give a number of that size.
        """
        if not self.objectives:
            return weighted_mean(facts.scores, task_of=self.task_of, weights=self.weights)
        entries = self.objectives
        skills = [entry for entry in entries if not is_cost(entry.of)]
        counted = entries if entries[0].weight is not None else skills or entries
        total = sum(entry.sign * (entry.weight or 1.0) * self.value(entry.of, facts)[0] for entry in counted)
        return total / (sum(entry.weight or 1.0 for entry in skills) or 1.0)

    def value(self, of: str, facts: Facts) -> tuple[float, float]:
        """The value and its standard error over items."""
        if of == "parameters":
            return (math.nan if facts.parameters is None else facts.parameters), 0.0
        known = facts.measures.get(of.removeprefix("measure:"), {}) if of.startswith("measure:") else facts.scores
        by_task: dict[str, list[float]] = defaultdict(list)
        for item, value in known.items():
            by_task[self.task_of[item]].append(value)
        means = {task: _mean_and_error(values) for task, values in by_task.items()}
        if of.startswith("task:"):
            return means.get(of.removeprefix("task:"), (math.nan, 0.0))
        if not means:
            return math.nan, 0.0
        if of == "worst":
            return min(means.values())
        total = sum(self.weights[task] for task in means)
        shares = {task: self.weights[task] / total for task in means}
        error = math.sqrt(sum((shares[task] * error) ** 2 for task, (_, error) in means.items()))
        return sum(shares[task] * mean for task, (mean, _) in means.items()), error

    def reference(self, bound: Bound, references: Sequence[Facts]) -> Facts | None:
        """Of these models the one that a bound is about: the best there. None where nothing is known."""
        known = [(bound.sign * self.value(bound.of, facts)[0], facts) for facts in references]
        known = [(value, facts) for value, facts in known if not math.isnan(value)]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def shortfall(self, bound: Bound, facts: Facts, reference: Facts | None) -> tuple[float, float]:
        """By how much a bound is broken (below 0: kept), and the standard error; paired where the items are the same.

        NaN where nothing is known: no item of the task, a reference that is not scored yet.
        """
        if bound.relative_to == "none":
            value, error = self.value(bound.of, facts)
            return bound.sign * (bound.offset - value), error
        if reference is None:
            return math.nan, 0.0
        paired = _difference(reference, facts) if facts.scores.keys() <= reference.scores.keys() else None
        if paired is not None and bound.of not in ("worst", "parameters"):
            lost, error = self.value(bound.of, paired)
            return bound.sign * (lost + bound.offset), error
        mine, own_error = self.value(bound.of, facts)
        theirs, their_error = self.value(bound.of, reference)
        return bound.sign * (theirs + bound.offset - mine), math.hypot(own_error, their_error)

    def violation(self, facts: Facts, references: Mapping[Reference, Sequence[Facts]], *, errors: float) -> float:
        """How far the candidate is out of bounds, summed; 0 is feasible.

        Only what exceeds `errors` standard errors counts: of a window of few items nearly half would otherwise look
        infeasible by chance. Costs count in units of their bound, scores as they are.
        """
        total = 0.0
        for bound in self.bounds:
            reference = self.reference(bound, references.get(bound.relative_to, ()))
            lost, error = self.shortfall(bound, facts, reference)
            unit = 1.0
            if is_cost(bound.of):
                level = 0.0 if reference is None else self.value(bound.of, reference)[0]
                unit = abs(level + bound.offset) or 1.0
            excess = 0.0 if math.isnan(lost) else lost - errors * error
            total += max(0.0, excess) / unit if excess > 1e-12 else 0.0
        return total


def make_goals(
    objectives: Sequence[ObjectiveEntry],
    constraints: Sequence[ConstraintEntry],
    *,
    task_of: Mapping[str, str],
    weights: Mapping[str, float],
) -> Goals:
    """The goals of a campaign with these tasks (task → weight); `of: tasks` becomes one bound per task."""
    bounds = [
        Bound(of, entry.sign, entry.offset, entry.relative_to)
        for entry in constraints
        for of in ([f"task:{task}" for task in weights] if entry.of == "tasks" else [entry.of])
    ]
    return Goals(tuple(objectives), tuple(bounds), task_of, weights)


def refuse_unknown(entries: Sequence[ObjectiveEntry | ConstraintEntry], *, key: str, tasks: Sequence[str]) -> None:
    """ValueError where an entry is about a task that the campaign does not have, or two objectives are one."""
    for index, entry in enumerate(entries):
        kind, _, name = entry.of.partition(":")
        if kind == "task" and name not in tasks:
            raise ValueError(f"{key}[{index}].of: the campaign has no task {name!r}, {did_you_mean(name, tasks)}")
    objectives = [entry for entry in entries if isinstance(entry, ObjectiveEntry)]
    titles = [entry.title for entry in objectives]
    if len(set(titles)) < len(titles):
        twice = next(title for title in titles if titles.count(title) > 1)
        raise ValueError(f"{key}: two objectives are called {twice!r}: give one a `name` of its own")
    if len({entry.weight is None for entry in objectives}) > 1:
        raise ValueError(f"{key}: give every objective a weight, or none")


def refuse_contradictions(constraints: Sequence[ConstraintEntry], *, tasks: Sequence[str]) -> None:
    """ValueError where one thing has to be above what it has to stay below: no model could be published.

    With a reference an upper bound counts from the lowest of the parents and a lower one from the highest, so the
    offsets alone can tell.
    """
    for one, other in itertools.permutations(range(len(constraints)), 2):
        floor, ceiling = constraints[one], constraints[other]
        if floor.sign < 0 or ceiling.sign > 0 or floor.relative_to != ceiling.relative_to:
            continue
        shared = _kept_up(floor, tasks) & _kept_down(ceiling, tasks)
        if shared and floor.offset > ceiling.offset:
            bounds = [Bound(min(shared), entry.sign, entry.offset, entry.relative_to) for entry in (floor, ceiling)]
            raise ValueError(
                f"constraints[{max(one, other)}]: contradicts constraints[{min(one, other)}]: nothing is "
                f"{bounds[0].title} and {bounds[1].title}"
            )


def _kept_up(entry: ConstraintEntry, tasks: Sequence[str]) -> set[str]:
    """What cannot be below a lower bound. References of different things are different ones."""
    each = {f"task:{task}" for task in tasks} if entry.of == "tasks" else {entry.of}
    if entry.relative_to != "none":
        return each
    return {"worst", "score", *(f"task:{task}" for task in tasks)} if entry.of in ("tasks", "worst") else each


def _kept_down(entry: ConstraintEntry, tasks: Sequence[str]) -> set[str]:
    """What cannot be above an upper bound."""
    each = {f"task:{task}" for task in tasks} if entry.of == "tasks" else {entry.of}
    if entry.relative_to != "none" or is_cost(entry.of):
        return each
    return each | {"worst"} | ({"score"} if entry.of == "tasks" else set())


def refuse_unmeasured(
    objectives: Sequence[ObjectiveEntry],
    constraints: Sequence[ConstraintEntry],
    *,
    known: Collection[str],
    origin: str,
) -> None:
    """CampaignError where an objective or a constraint is about a measure that no task reports."""
    named = {"objectives": [entry.of for entry in objectives], "constraints": [entry.of for entry in constraints]}
    for key, whats in named.items():
        for index, what in enumerate(whats):
            kind, _, name = what.partition(":")
            if kind != "measure" or name in known:
                continue
            told = did_you_mean(name, known) if known else "they report scores only."
            if told.endswith("?"):
                told = f"{told} They report {', '.join(sorted(known))}."
            raise CampaignError(
                f"{origin}: {key}[{index}].of: no task reports the measure {name!r}; {told}",
                measure=name,
                known=sorted(known),
            )


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; equal values, or a single one, tell nothing about their error: 0."""
    count = len(values)
    mean = sum(values) / count
    spread = sum((value - mean) ** 2 for value in values)
    if spread > 0 and count > 1:
        return mean, math.sqrt(spread / (count - 1) / count)
    return mean, 0.0


def _difference(reference: Facts, facts: Facts) -> Facts:
    """Reference minus candidate, item by item."""
    scores = {item: reference.scores[item] - score for item, score in facts.scores.items()}
    measures = {
        name: {item: known[item] - value for item, value in values.items() if item in known}
        for name, values in facts.measures.items()
        if (known := reference.measures.get(name)) is not None
    }
    return Facts(scores, measures)
