"""Who goes from the search to selection: the distribution's means, the best candidates, and a soup of them. Pure.

The mean of a CMA-ES distribution usually beats its best sample, because the sample's score is the best of many noisy
ones; it is nominated, and selection items decide. Where there are several stages the coarsest one sends its mean and
its best candidate too: the better of the two is the comparator that finer stages have to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from search.campaign_file import SelectionEntry
from search.space import Params, Space, Value


@dataclass(frozen=True)
class Searched:
    """A scored candidate of the search (no baseline): its stage, point and shrunk estimate."""

    number: int
    stage: int
    params: Params
    estimate: float


@dataclass(frozen=True)
class Nominee:
    """`number` is the candidate's own where it was in the search already, None for a new one."""

    label: str
    stage: int
    origin: Literal["mean", "soup", "sampler"]
    params: Params
    number: int | None = None


def nominate(
    space: Space,
    candidates: Sequence[Searched],
    *,
    means: Sequence[Sequence[Params]],
    rules: SelectionEntry,
) -> list[Nominee]:
    """The nominees, means first. `means[stage]` holds the distribution's mean after every told cohort, oldest first."""
    names = [stage.name for stage in space.stages]
    ranked = sorted(candidates, key=lambda entry: (-entry.estimate, entry.number))
    reached = [stage for stage, history in enumerate(means) if history]
    found: list[Nominee] = []
    for stage in reached[-1:]:
        found += _last_means(means[stage], stage=stage, name=names[stage], count=rules.means)
    if len(space.stages) > 1:
        found += [Nominee(f"mean of {names[0]}", 0, "mean", means[0][-1])] if 0 in reached[:-1] else []
        found += [_promoted(entry) for entry in ranked if entry.stage == 0][:1]
    found += [_promoted(entry) for entry in ranked[: rules.top]]
    if rules.soup > 1 and len(ranked) > 1:
        found.append(_soup(space, ranked[: rules.soup]))
    return _distinct(found)


def _promoted(entry: Searched) -> Nominee:
    return Nominee("", entry.stage, "sampler", entry.params, entry.number)


def _last_means(history: Sequence[Params], *, stage: int, name: str, count: int) -> list[Nominee]:
    """The last mean and earlier ones, a tenth of the history apart: late steps may only follow noise."""
    step = max(1, len(history) // 10)
    nominees = [Nominee(f"mean of {name}", stage, "mean", history[-1])]
    for back in range(step, min(len(history), step * count), step):
        nominees.append(Nominee(f"mean of {name}, {back} cohorts before", stage, "mean", history[-1 - back]))
    return nominees


def _soup(space: Space, best: Sequence[Searched]) -> Nominee:
    """The average of the best points, lifted to the finest stage among them."""
    stage = max(entry.stage for entry in best)
    lifted = [space.lift_to(entry.stage, stage, entry.params) for entry in best]
    return Nominee(f"soup of the best {len(best)}", stage, "soup", space.stages[stage].average(lifted))


def _distinct(nominees: Sequence[Nominee]) -> list[Nominee]:
    """Each point once, under its first name; a candidate of the search keeps its number."""
    found: dict[tuple[int, tuple[tuple[str, Value], ...]], Nominee] = {}
    for nominee in nominees:
        key = (nominee.stage, tuple(sorted(nominee.params.items())))
        found.setdefault(key, nominee)
    return list(found.values())
