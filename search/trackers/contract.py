"""What trackers are told, and what a tracker is: a function that takes news.

`at` counts what is told of a campaign, from 1, the same at every start: a tracker that knows everything up to `at` 57
is told the rest. `items` are the search items spent so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """The campaign, by name, and what one wants to filter runs by: its seed, sampler, models, budget."""

    campaign: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class CandidateScored:
    """What came of a candidate on a split; `score` is None for a lost one, and `cause` says why. `best` is the highest
    estimate of all so far, `failed` counts the lost ones, `values` are those of the objectives by their titles."""

    at: int
    number: int
    label: str
    stage: str
    split: str
    score: float | None
    best: float | None
    items: int
    failed: int
    stopped: bool = False
    cause: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanMoved:
    """The centre of the sampler's distribution, after a cohort."""

    at: int
    stage: str
    items: int
    mean: Mapping[str, float]


@dataclass(frozen=True)
class Judged:
    """The verdict; `over` is comparator → (difference, its one-sided 95 % lower bound)."""

    at: int
    sentence: str
    significant: bool
    label: str
    score: float | None
    interval: tuple[float, float] | None
    over: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Ended:
    """This start is over: `done`, `paused`, `failed` (with an error) or `interrupted` (its process is gone)."""

    status: str


Told = CandidateScored | MeanMoved | Judged
News = Started | Told | Ended
Tell = Callable[[Sequence[News]], None]
"""The seam: the coordinator calls it after every commit, with what that commit made true. It must return at once and
raise nothing; only `Ended` may take a while. A test's fake is the `extend` of a list."""

Tracker = Callable[[Sequence[Told | Ended]], None]
"""One run of MLflow or Weights & Biases; may block, and raise what it likes."""


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with: its entry of the campaign file, the run to go on with (None: a new one), a
    directory of its own, and what the run is about."""

    settings: Mapping[str, Any]
    run: str | None
    place: Path
    started: Started


Opener = Callable[[Opening], tuple[str, Tracker]]
"""The id of the run, to be continued by, and the tracker."""

_KINDS: dict[str, type[News]] = {kind.__name__: kind for kind in (Started, CandidateScored, MeanMoved, Judged, Ended)}


def to_plain(news: News) -> dict[str, Any]:
    """JSON-able data that `from_plain` reads back."""
    return {"kind": type(news).__name__, **dataclasses.asdict(news)}


def from_plain(data: Mapping[str, Any]) -> News:
    """The inverse of `to_plain`, also after a trip through JSON (which has no tuples)."""
    return _KINDS[data["kind"]](**{name: _tuples(value) for name, value in data.items() if name != "kind"})


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


def metrics_of(news: Told) -> dict[str, float]:
    """The numbers of it by the names that both trackers show them under."""
    if isinstance(news, MeanMoved):
        return {"items": news.items, **{f"mean/{name}": value for name, value in news.mean.items()}}
    if isinstance(news, Judged):
        found: dict[str, float] = {}
        if news.score is not None and news.interval is not None:
            low, high = news.interval
            found |= {"holdout/winner": news.score, "holdout/winner_low": low, "holdout/winner_high": high}
        for label, (difference, lower) in news.over.items():
            found |= {f"holdout/over/{label}": difference, f"holdout/over_lower/{label}": lower}
        return found
    known: dict[str, float | None] = {f"{news.split}/score": news.score, "search/best": news.best}
    known |= {"items": news.items, "candidate": news.number, "failed": news.failed}
    known |= {f"{news.split}/{title}": value for title, value in news.values.items()}
    return {name: float(value) for name, value in known.items() if value is not None}
