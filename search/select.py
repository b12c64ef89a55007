"""Who goes from the search to selection: the distribution's means, the best candidates, and a soup of them. Pure.

The mean of a CMA-ES distribution usually beats its best sample, because the sample's score is the best of many noisy
ones; it is nominated, and selection items decide. Where there are several stages the coarsest one sends its mean and
its best candidate too: the better of the two is the comparator that finer stages have to beat.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeVar

import numpy as np

from search.campaign_file import SelectionEntry
from search.judging.fronts import crowding, front_of, knee, thinned
from search.judging.objectives import ObjectiveEntry
from search.samplers.points import allowed
from search.space import Params, Space


@dataclass(frozen=True)
class Searched:
    """A scored candidate of the search (no baseline): its stage, point and shrunk estimate; of several objectives the
    oriented values with their standard errors, and how far it is out of bounds."""

    number: int
    stage: int
    params: Params
    estimate: float
    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    violation: float = 0.0


@dataclass(frozen=True)
class Nominee:
    """`number` is the candidate's own where it was in the search already, None for a new one."""

    label: str
    stage: int
    origin: Literal["mean", "soup", "sampler"]
    params: Params
    number: int | None = None


_Point = TypeVar("_Point", Searched, Nominee)


def nominate(
    space: Space,
    candidates: Sequence[Searched],
    *,
    means: Sequence[Sequence[Params]],
    rules: SelectionEntry,
) -> list[Nominee]:
    """The nominees, means first, then the front where there is one; who is out of bounds comes after all who are not.

    `means[stage]` holds the distribution's mean after every told cohort, oldest first.
    """
    names = [stage.name for stage in space.stages]
    ranked = sorted(candidates, key=lambda entry: (entry.violation, -entry.estimate, entry.number))
    reached = [stage for stage, history in enumerate(means) if history]
    found: list[Nominee] = []
    for stage in reached[-1:]:
        found += _last_means(means[stage], stage=stage, name=names[stage], count=rules.means)
    if len(space.stages) > 1:
        found += [Nominee(f"mean of {names[0]}", 0, "mean", means[0][-1])] if 0 in reached[:-1] else []
        found += [_promoted(entry) for entry in ranked if entry.stage == 0][:1]
    found += [_promoted(entry) for entry in _spread_front(ranked, count=rules.front)]
    best = list(islice(_different(space, ranked), max(rules.top, rules.soup)))
    found += [_promoted(entry) for entry in best[: rules.top]]
    if rules.soup > 1 and len(best) > 1:
        found.append(_soup(space, best[: rules.soup]))
    found = found or [_promoted(entry) for entry in ranked[:1]]  # `top: 0`, of a sampler without means
    return list(_different(space, [_allowed(space, nominee) for nominee in found]))


def _allowed(space: Space, nominee: Nominee) -> Nominee:
    """A mean of points that keep the space's constraints need not keep them itself."""
    if nominee.number is not None or not space.constrained:
        return nominee
    return replace(nominee, params=space.repair(nominee.stage, nominee.params))


def _spread_front(ranked: Sequence[Searched], *, count: int) -> list[Searched]:
    """Up to `count` feasible members of the front of several objectives, thinned by noise: the knee, then those far
    apart first."""
    known = [entry for entry in ranked if len(entry.values) > 1]
    if not known:
        return []
    values_CK = np.array([entry.values for entry in known])
    members = front_of(values_CK, np.array([entry.violation for entry in known]))
    if not members:
        return []
    alone = dict(zip(members, crowding(values_CK[members]), strict=True))
    middle = members[knee(values_CK[members])]
    order = sorted(members, key=lambda index: (index != middle, -alone[index], known[index].number))
    kept = thinned(values_CK, np.median([entry.errors for entry in known], axis=0), order=order)
    return [known[index] for index in kept[:count]]


def _promoted(entry: Searched) -> Nominee:
    return Nominee("", entry.stage, "sampler", entry.params, entry.number)


def _last_means(history: Sequence[Params], *, stage: int, name: str, count: int) -> list[Nominee]:
    """The last mean and earlier ones, a tenth of the history apart: late steps may only follow noise."""
    step = max(1, len(history) // 10)
    nominees = [Nominee(f"mean of {name}", stage, "mean", history[-1])]
    for back in range(step, min(len(history), step * count), step):
        nominees.append(
            Nominee(f"mean of {name}, {back} cohort{'s' if back > 1 else ''} before", stage, "mean", history[-1 - back])
        )
    return nominees


def _soup(space: Space, best: Sequence[Searched]) -> Nominee:
    """The average of the best points, lifted to the finest stage among them."""
    stage = max(entry.stage for entry in best)
    lifted = [space.lift_to(entry.stage, stage, entry.params) for entry in best]
    average = allowed(space, stage, space.stages[stage].average(lifted))
    return Nominee(f"soup of the best {len(best)}", stage, "soup", average)


def _different(space: Space, points: Iterable[_Point]) -> Iterator[_Point]:
    """Of a stage's points that make the same recipe the first: they may differ in what its method does not have."""
    seen: set[str] = set()
    for point in points:
        recipe = json.dumps([point.stage, space.recipe(point.stage, point.params)], sort_keys=True)
        if recipe not in seen:
            seen.add(recipe)
            yield point


# ------------------------------------------------------------------------------------------------ several objectives


@dataclass(frozen=True)
class Contender:
    """A nominee on selection items: oriented values with their standard errors, violation, score."""

    number: int
    score: float
    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    violation: float = 0.0


def choose(contenders: Sequence[Contender], *, worth: Sequence[float]) -> tuple[int, list[int]]:
    """The number of the winner, and those of the front (winner first; empty for one objective).

    Feasible contenders come first; without any the least infeasible stands alone. `worth` is what a unit of each
    objective is worth: of the front, thinned by one standard error, the member that is worth most wins.
    """
    least = min(contender.violation for contender in contenders)
    feasible = [contender for contender in contenders if contender.violation <= max(0.0, least)]
    if len(worth) < 2:
        return min(feasible, key=lambda contender: (-contender.score, contender.number)).number, []
    values_CK = np.array([contender.values for contender in feasible])
    members = front_of(values_CK, np.zeros(len(feasible)))
    total_C = values_CK @ np.array(worth)
    order = sorted(members, key=lambda index: (-total_C[index], feasible[index].number))
    errors_K = np.median([contender.errors for contender in feasible], axis=0)
    kept = thinned(values_CK, errors_K, order=order)
    return feasible[kept[0]].number, [feasible[index].number for index in kept]


def worths(
    entries: Sequence[ObjectiveEntry], parents: Sequence[Sequence[float]], contenders: Sequence[Sequence[float]]
) -> list[float]:
    """What a unit of each objective is worth: as the file says, else all ranges of the parents are worth the same.

    An objective in which the parents do not differ is measured by the range of the contenders. What is minimized is
    worth nothing beside what is maximized where no weight says what: else the model that says nothing would win by the
    tokens that it saves.
    """
    given = [entry.weight for entry in entries if entry.weight is not None]
    if len(given) == len(entries):
        return given
    skills = any(entry.sign > 0 for entry in entries)
    found = []
    for column, entry in enumerate(entries):
        if skills and entry.sign < 0:
            found.append(0.0)
            continue
        ranges = [
            max(row[column] for row in rows) - min(row[column] for row in rows)
            for rows in (parents, contenders)
            if rows
        ]
        found.append(next((1.0 / width for width in ranges if width > 0), 1.0))
    return found
