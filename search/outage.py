"""What evaluators need and cannot reach, a judge that is down: nobody's fault, waited for, but not for ever. Pure.

A unit that met an outage goes back to the queue, and the attempt counts for nothing: no candidate is lost by it. Its
worker waits, longer each time, and tries again; the outage is over when a unit that met one is scored. When everybody
who is there has waited for `PATIENCE_S`, the campaign pauses: a later start with --resume tries the same units again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from engine.errors import Outage
from search.ports import CampaignStatus

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
POLL_S = 1.0
"""A waiting worker asks again this often, so that a pause is heard of in the meantime."""
PATIENCE_S = 600.0


@dataclass(frozen=True)
class _Waiting:
    since: float
    wait_s: float
    until: float
    cause: str


class Outages:
    """Which workers wait for what."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def meet(self, worker: str, cause: str, *, now: float) -> None:
        """This worker met an outage, again perhaps."""
        before = self._waiting.get(worker)
        since = now if before is None else before.since
        wait_s = FIRST_WAIT_S if before is None else min(LONGEST_WAIT_S, 2 * before.wait_s)
        self._waiting[worker] = _Waiting(since, wait_s, now + wait_s, cause)

    def end(self, worker: str) -> None:
        """This worker scored what had met an outage."""
        self._waiting.pop(worker, None)

    def wait_s(self, worker: str, *, now: float) -> float | None:
        """For how long this worker shall not try (s); None: it may."""
        mine = self._waiting.get(worker)
        return None if mine is None or mine.until <= now else min(POLL_S, mine.until - now)

    def sentence(self, *, now: float) -> str:
        """What is waited for, for how long now; "" for nothing."""
        if not self._waiting:
            return ""
        first = min(self._waiting.values(), key=lambda waiting: waiting.since)
        return f"outage for {now - first.since:.0f} s: {first.cause.rstrip('.')}."

    def hopeless(self, present: Collection[str], *, now: float) -> bool:
        """Whether all who are there have waited long enough."""
        ages = [now - self._waiting[name].since if name in self._waiting else 0.0 for name in present]
        return bool(ages) and min(ages) > PATIENCE_S


def refuse_given_up(status: CampaignStatus) -> None:
    """Raise Outage where the campaign paused because of one."""
    if status.gave_up:
        raise Outage(
            f"campaign {status.name!r} is paused: {status.gave_up} No candidate was lost by it. When that is mended, "
            "run the same command with --resume: it tries again what is missing."
        )
