"""A coordinator that outlasts an outage of its database: it is opened anew from the rows when the server is back.

A commit that was cut off may have been made or not, and is never repeated: memory is given up with the connection, and
the next coordinator knows what the rows say. Scores that no commit is known to hold, and those that come in meanwhile,
are kept: what it gives out that is among them is answered from here, under the new lease, and not scored twice. Whoever
follows the campaign in a tracker sees one run that goes on. Everybody waits, for `PATIENCE_S` at most: then it is an
Outage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine.errors import Outage, StoreAway
from search.blame import NOBODY, Cordon
from search.coordinator import Coordinator
from search.outage import FIRST_WAIT_S, LONGEST_WAIT_S, PATIENCE_S, POLL_S
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Verdict, Wait, Work
from search.trackers.contract import Ended, Tell

if TYPE_CHECKING:
    from search.results import Results

_T = TypeVar("_T")
Open = Callable[[bool], Coordinator]
"""Opens the run; True: again, in a process that ran it already (Start.again)."""


@dataclass(frozen=True)
class _Away:
    since: float
    wait_s: float
    until: float
    cause: str


class LastingCoordinator:
    """Calls of `Coordinator`, for workers and drivers alike. The constructor opens the run, and raises what that does.

    `patient`: another process has run it already (Ray restarts an actor), so the very first opening is waited for, too.
    `tell`: what all of its coordinators tell; from here it only hears of an end that comes while there is none.
    """

    def __init__(
        self,
        name: str,
        open_run: Open,
        *,
        patient: bool = False,
        clock: Callable[[], float] = time.monotonic,
        tell: Tell | None = None,
    ) -> None:
        self._open, self._clock, self._tell = open_run, clock, tell
        self._now: Coordinator | None = None
        self._away: _Away | None = None
        self._again = self._paused = self._failed = False
        self._expected: Collection[str] = ()
        self._kept: list[BlockResult] = []  # came in, but no commit is known to hold it
        self._late: dict[tuple[str, frozenset[str]], BlockResult] = {}  # of leases that another coordinator gave
        self._name, self._status = name, _unknown(name)
        try:
            self._now = open_run(False)
        except StoreAway as failure:
            if not patient:
                raise
            self._leave(failure)

    # ------------------------------------------------------------------------------------------------ what workers call

    def next_work(self, worker: str) -> Work | Wait | Finished:
        """As Coordinator.next_work; Wait while the database is away. Raises Outage where that lasts too long."""
        return self._given(worker, self._asked(lambda coordinator: coordinator.next_work(worker)))

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        """As Coordinator.submit; scores are kept until they are committed."""
        if self._takes(result):
            self._asked(lambda coordinator: coordinator.submit(worker, result))

    def exchange(self, worker: str, result: BlockResult | Failed) -> Work | Wait | Finished:
        """As Coordinator.exchange; scores are kept until they are committed."""
        if not self._takes(result):
            return self.next_work(worker)
        return self._given(worker, self._asked(lambda coordinator: coordinator.exchange(worker, result)))

    def foresee(self, limit: int) -> list[Work]:
        """As Coordinator.foresee; nothing while something came in that may answer for it."""
        return self._now.foresee(limit) if self._now is not None and not self._late else []

    def heartbeat(self, worker: str) -> None:
        """As Coordinator.heartbeat. A coordinator that is opened anew sends all leases back."""
        try:
            if self._now is not None:
                self._now.heartbeat(worker)
        except StoreAway as failure:
            self._leave(failure)

    # ------------------------------------------------------------------------------------------------ what drivers call

    def status(self) -> CampaignStatus:
        """As Coordinator.status; the last one known while the database is away."""
        try:
            if self._now is not None:
                self._status = self._now.status()
        except StoreAway as failure:
            self._leave(failure)
        if self._away is not None:
            self._status = replace(self._status, outage=self._sentence())
        return self._status

    def expect(self, workers: Collection[str]) -> None:
        """As Coordinator.expect."""
        self._expected = workers
        if self._now is not None:
            self._now.expect(workers)

    def cordon(self) -> Cordon:
        """As Coordinator.cordon; nobody while the database is away."""
        return NOBODY if self._now is None else self._now.cordon()

    def verdict(self) -> Verdict | None:
        """As Coordinator.verdict."""
        return None if self._now is None else self._now.verdict()

    def pause(self) -> None:
        """As Coordinator.pause."""
        self._paused = True
        if self._now is not None:
            self._now.pause()

    def save(self) -> None:
        """As Coordinator.save; nothing while the database is away."""
        try:
            if self._now is not None:
                self._now.save()
        except StoreAway as failure:
            self._leave(failure)

    def close(self) -> Results | None:
        """As Coordinator.close. Raises Outage where the database is away."""
        try:
            if self._now is not None:
                return self._now.close()
        except StoreAway as failure:
            raise self._given_up(failure.message) from None
        if self._tell is not None:
            self._tell([Ended("failed" if self._failed else "paused")])
        if self._failed:
            return None  # what opening it raised is on its way
        raise self._given_up(self._sentence())

    # --------------------------------------------------------------------------------------------- the database is away

    def _asked(self, call: Callable[[Coordinator], _T]) -> _T | None:
        """The coordinator's answer, which is opened anew if it is time to try; None while the database is away."""
        try:
            if self._now is None and self._away is not None and self._clock() >= self._away.until:
                self._return()
            if self._now is None:
                return None
            return call(self._now)
        except StoreAway as failure:
            self._leave(failure)
            return None

    def _takes(self, result: BlockResult | Failed) -> bool:
        """Whether there is somebody to hand it in to. A coordinator that did not give the lease takes scores that it
        waits for; for when it asks for them later, they are kept. A failure is tried again."""
        now, scored = self._now, [result] if isinstance(result, BlockResult) else []
        if now is None or not result.lease.startswith(f"{now.run.store.epoch}."):
            self._late |= {_scored(each): each for each in scored}
        if now is not None:
            if not now.uncommitted:  # whichever call committed it
                self._kept.clear()
            self._kept += scored
        return now is not None

    def _given(self, worker: str, work: Work | Wait | Finished | None) -> Work | Wait | Finished:
        """What the worker gets to do: nothing that is scored already."""
        while isinstance(work, Work):
            late = self._late.pop((work.recipe_hash, frozenset(work.items)), None)
            if late is None:
                return work
            result = replace(late, lease=work.lease)
            self._kept.append(result)
            work = self._asked(partial(_exchanged, worker, result))
        return self._meanwhile() if work is None else work

    def _return(self) -> None:
        """Open the run again. Raises StoreAway, and what opening does."""
        try:
            coordinator = self._open(self._again)
        except BaseException as failure:
            self._failed = not isinstance(failure, StoreAway)
            raise
        self._now, self._away = coordinator, None
        coordinator.expect(self._expected)
        if self._paused:
            coordinator.pause()

    def _leave(self, failure: StoreAway) -> None:
        """Give the coordinator up, memory and connections, and wait, longer each time."""
        if self._now is not None:
            self.status()
            self._now.abandon()
            self._now, self._again = None, True
            self._late |= {_scored(result): result for result in self._kept}
            self._kept = []
        now, before = self._clock(), self._away
        wait_s = FIRST_WAIT_S if before is None else min(LONGEST_WAIT_S, 2 * before.wait_s)
        self._away = _Away(now if before is None else before.since, wait_s, now + wait_s, failure.message)

    def _meanwhile(self) -> Wait | Finished:
        if self._paused:
            return Finished("paused")
        if self._away is not None and self._clock() - self._away.since > PATIENCE_S:
            raise self._given_up(self._sentence())
        return Wait(POLL_S)

    def _given_up(self, cause: str) -> Outage:
        return Outage(
            f"campaign {self._name!r} is paused: {cause} When the database is back, run the same command with --resume."
        )

    def _sentence(self) -> str:
        away = self._away
        return "" if away is None else f"outage for {self._clock() - away.since:.0f} s: {away.cause}"


def _exchanged(worker: str, result: BlockResult, coordinator: Coordinator) -> Work | Wait | Finished:
    return coordinator.exchange(worker, result)


def _scored(result: BlockResult) -> tuple[str, frozenset[str]]:
    """What a unit of work and its result have in common, whoever gave the lease."""
    return result.recipe_hash, frozenset(result.scores)


def _unknown(name: str) -> CampaignStatus:
    """How a campaign stands of which nobody has read a row yet."""
    return CampaignStatus(
        name=name,
        phase="search",
        stage="",
        candidates=0,
        failed=0,
        best_score=None,
        best_candidate=None,
        items_done=0,
        items_total=0,
        items_per_s=None,
        seconds_left=None,
        workers=0,
        epoch=0,
    )
