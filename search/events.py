"""What happens to a campaign: events that the machine (campaign.py) is fed, and that a restart replays from rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search.ports import Split

Origin = Literal["baseline", "sobol", "sampler", "mean", "soup"]


@dataclass(frozen=True)
class Cohort:
    """Candidates that share a window of search items (positions start to start + size of pools.window)."""

    number: int
    stage: int
    capacity: int
    start: int
    size: int
    members: tuple[int, ...] = ()
    told: bool = False

    @property
    def full(self) -> bool:
        """All places are taken."""
        return len(self.members) == self.capacity


@dataclass(frozen=True)
class Proposed:
    """A new candidate, to be scored on `split`: in its cohort (search), or as a nominee (selection)."""

    number: int
    stage: int
    origin: Origin
    recipe_hash: str
    split: Split = "search"
    cohort: Cohort | None = None


@dataclass(frozen=True)
class Nominated:
    """A candidate of the search goes on to selection."""

    number: int


@dataclass(frozen=True)
class Scored:
    """`values` is one per objective and `violation` how far out of bounds, where the campaign has such."""

    number: int
    split: Split
    score: float
    values: tuple[float, ...] = ()
    violation: float = 0.0


@dataclass(frozen=True)
class Stopped:
    """Enough was seen in the search: `score` is the mean of the first `items` of its window; the rest is not spent."""

    number: int
    score: float
    items: int
    values: tuple[float, ...] = ()
    violation: float = 0.0


@dataclass(frozen=True)
class Lost:
    """No score, for good: failed for a reason that another attempt cannot mend, or too often."""

    number: int
    split: Split
    cause: str


@dataclass(frozen=True)
class Resized:
    """The sampler of a stage wants cohorts of another size from now on. That follows from what was told: not stored."""

    stage: int
    population: int


@dataclass(frozen=True)
class HoldoutOpened:
    entrants: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class SearchEnded:
    """The budget's hours are over, or somebody said so: nothing new is proposed, what runs is finished."""

    reason: str


@dataclass(frozen=True)
class Reopened:
    """The budget was extended after the search ended and before the holdout opened: the search goes on."""


@dataclass(frozen=True)
class SelectionOpened:
    """All nominees have been on selection before (the search was reopened and found nobody else)."""


@dataclass(frozen=True)
class LostTriedAgain:
    """All else is scored on the holdout: whoever was lost there is tried once more."""


@dataclass(frozen=True)
class Judged:
    pass


Event = (
    Proposed
    | Nominated
    | Scored
    | Stopped
    | Lost
    | Resized
    | HoldoutOpened
    | SearchEnded
    | Reopened
    | SelectionOpened
    | LostTriedAgain
    | Judged
)
