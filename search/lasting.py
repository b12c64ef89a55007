"""A coordinator that outlasts an outage of its database: it is opened anew from the rows when the server is back.

A commit that was cut off may have been made or not, and is never repeated: memory is given up with the connection, and
the next coordinator knows what the rows say: what came in within `commit_every_s` before is scored again. What workers
hand in meanwhile is kept and handed in then; scores that are there already stay (Coordinator.submit). Everybody waits,
for `PATIENCE_S` at most: then it is an Outage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.errors import Outage, StoreAway
from search.blame import NOBODY, Cordon
from search.coordinator import Coordinator
from search.outage import FIRST_WAIT_S, LONGEST_WAIT_S, PATIENCE_S, POLL_S
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Verdict, Wait, Work

if TYPE_CHECKING:
    from search.results import Results

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
    """

    def __init__(
        self, name: str, open_run: Open, *, patient: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open, self._clock = open_run, clock
        self._now: Coordinator | None = None
        self._away: _Away | None = None
        self._again = False
        self._paused = False
        self._late: list[tuple[str, BlockResult | Failed]] = []
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
        try:
            coordinator = self._present()
            if coordinator is not None:
                return coordinator.next_work(worker)
        except StoreAway as failure:
            self._leave(failure)
        return self._meanwhile()

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        """As Coordinator.submit; kept while the database is away."""
        try:
            coordinator = self._present()
            if coordinator is not None:
                coordinator.submit(worker, result)
                return
        except StoreAway as failure:
            self._leave(failure)
        self._late.append((worker, result))

    def exchange(self, worker: str, result: BlockResult | Failed) -> Work | Wait | Finished:
        """As Coordinator.exchange; the result is kept while the database is away."""
        try:
            coordinator = self._present()
            if coordinator is not None:
                return coordinator.exchange(worker, result)
        except StoreAway as failure:
            self._leave(failure)
        self._late.append((worker, result))
        return self._meanwhile()

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
        if self._now is not None:
            self._now.save()

    def close(self) -> Results | None:
        """As Coordinator.close. Raises Outage where the database is away."""
        try:
            if self._now is not None:
                return self._now.close()
        except StoreAway as failure:
            raise self._given_up(failure.message) from None
        raise self._given_up(self._sentence())

    # --------------------------------------------------------------------------------------------- the database is away

    def _present(self) -> Coordinator | None:
        """The coordinator, opened anew if it is time to try; None: not yet. Raises StoreAway, and what opening does."""
        if self._now is None and self._away is not None and self._clock() >= self._away.until:
            coordinator = self._open(self._again)
            self._now, self._away = coordinator, None
            if self._paused:
                coordinator.pause()
            while self._late:
                coordinator.submit(*self._late[0])
                del self._late[0]
        return self._now

    def _leave(self, failure: StoreAway) -> None:
        """Give the coordinator up, memory and connections, and wait, longer each time."""
        if self._now is not None:
            self.status()
            self._now.close()  # a broken one only lets go
            self._now, self._again = None, True
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
