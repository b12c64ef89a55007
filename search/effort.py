"""What each candidate took, and which attempts came to nothing: read from the leases, for reports. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.ports import Split
from search.store.transaction import Row


@dataclass(frozen=True)
class Effort:
    """A candidate on a split.

    needed   items of its whole window, or of the split
    seen     items that its score comes from: all of them, unless it was stopped early or lost
    paid     items that were evaluated for it; the others were known, from an equal recipe or another campaign
    seconds  for which evaluators held its work, attempts that failed included
    """

    candidate: int
    split: Split
    state: str  # open, scored, stopped, lost
    needed: int
    seen: int
    paid: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """A work unit that came back without scores. `state`: failed, expired, returned, outage or
    lost, as in the leases' rows."""

    candidate: int
    split: Split
    worker: str
    state: str
    cause: str


def efforts_of(
    outcomes: Mapping[tuple[int, str], Row],
    *,
    sizes: Mapping[tuple[int, str], int],
    leases: Sequence[Row],
    paid: Counter[str],
) -> tuple[Effort, ...]:
    """One per assessment. `sizes` is how many items each would take in full, `paid` counts item scores by lease."""
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    items: Counter[tuple[int, str]] = Counter()
    for lease in leases:
        place = lease["candidate"], lease["split"]
        seconds[place] += max(0.0, lease["ended"] - lease["taken"]) if lease["ended"] is not None else 0.0
        items[place] += paid[lease["lease"]]
    return tuple(
        Effort(
            candidate=place[0],
            split=row["split"],
            state=row["state"],
            needed=sizes[place],
            seen={"scored": sizes[place], "stopped": row["items"] or 0}.get(row["state"], 0),
            paid=items[place],
            seconds=seconds[place],
        )
        for place, row in sorted(outcomes.items())
    )


def attempts_of(leases: Iterable[Row]) -> tuple[Attempt, ...]:
    """Those that came to nothing, in the order in which they were begun."""
    ended = [lease for lease in leases if lease["state"] not in ("running", "done")]
    return tuple(
        Attempt(lease["candidate"], lease["split"], lease["worker"], lease["state"], lease["cause"] or "")
        for lease in sorted(ended, key=lambda lease: lease["taken"])
    )
