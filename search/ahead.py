"""Units that are scored before they are handed out, so that the coordinator's turns come together.

A forward pass drives all else from the processor's caches: a turn after it takes half as long again as one after
another turn. What the next candidates of a cohort are is known while one is out: they were drawn together (drafts.py),
and where none may be stopped in mid-window, no result changes them. So a worker in the coordinator's process scores a
few in a row. The coordinator notices nothing: it hands units out one by one, and each result comes in when it was asked
for. Rows, leases and their order are those of a worker that scores unit by unit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from search import campaign as machine
from search.desk import Desk
from search.drafts import Drafts
from search.ports import BlockResult, Evaluator, Failed, Work
from search.queue import lease_key

AHEAD_S = 5.0
"""Units are scored together as long as they do not take longer; a kill or a second ctrl-C loses no more than that."""
LEAST_S = 0.05  # a unit counts as no shorter: at most a hundred at once
NO_LEASE = "ahead"
"""In the audit file, of a unit that was scored ahead: which lease it gets shows when it is handed out. An earlier unit
that is tried again, or the end of the search by its hours, may take the one that was foreseen."""
_Asked = tuple[str, tuple[str, ...]]


def foreseen(desk: Desk, drafts: Drafts, *, leases: int, limit: int) -> list[Work]:
    """The units that will be handed out after the one that is out, as far as nothing can change them.

    Args:
        leases: how many the coordinator gave in its epoch.
        limit: the most to tell.
    """
    ask = None if desk.queue.pending or desk.shared else machine.plan_next(desk.live.state)
    if not isinstance(ask, machine.Ask):  # of a shared store, others may have scored them by then
        return []
    blocks, epoch = desk.blocks_of_draw(ask.cohort), desk.run.store.epoch
    if len(blocks) != 1:
        return []
    recipes, found = desk.queue.recipes_out(), list[Work]()
    for number, entry in drafts.waiting(ask, lessons=desk.live.lessons):
        if len(found) >= limit or entry.cause or entry.recipe_hash in recipes or entry.recipe_hash in desk.board.scores:
            break  # a recipe that is known wants other items, or none
        recipes.add(entry.recipe_hash)
        lease = lease_key(epoch, leases + 1 + len(found))
        found.append(Work(number, entry.recipe, entry.recipe_hash, "search", 0, blocks[0], lease, 1, epoch))
    return found


class Foresees(Protocol):
    """A coordinator, as Ahead sees it."""

    def foresee(self, limit: int) -> list[Work]:
        """`foreseen` here and now."""


class Ahead:
    """Scores units together with those that are foreseen, and keeps their results until they are asked for; once
    `stop` says so it begins no further one."""

    def __init__(self, coordinator: Foresees, evaluator: Evaluator, *, stop: Callable[[], bool]) -> None:
        self._coordinator, self._evaluator, self._stop = coordinator, evaluator, stop
        self._each_s = math.inf
        self._results: dict[_Asked, BlockResult | Failed] = {}
        self._due: set[_Asked] = set()

    @property
    def waiting(self) -> bool:
        """Whether there are results that will be asked for next."""
        return not self._due.isdisjoint(self._results)

    def evaluate(self, work: Work) -> BlockResult | Failed:
        """As Evaluator.evaluate."""
        known = self._results.pop(_asked(work), None)
        if known is not None:
            return replace(known, lease=work.lease)
        foreseen = self._coordinator.foresee(int(AHEAD_S / max(self._each_s, LEAST_S)) - 1)
        self._due = {_asked(unit) for unit in foreseen}  # nothing of a search that ended meanwhile
        if foreseen:  # where nothing is for now (a store that was away), the last row may be asked for yet
            self._results = {asked: result for asked, result in self._results.items() if asked in self._due}
        began, result = time.monotonic(), self._timed(work)
        latest = result
        for unit in (unit for unit in foreseen if _asked(unit) not in self._results):
            if _met_outage(latest) or time.monotonic() - began > AHEAD_S or self._stop():
                break
            latest = self._timed(replace(unit, lease=NO_LEASE))
            if not _met_outage(latest):  # that may be over when the unit is due
                self._results[_asked(unit)] = latest
        return result

    def _timed(self, unit: Work) -> BlockResult | Failed:
        began = time.monotonic()
        result = self._evaluator.evaluate(unit)
        self._each_s = time.monotonic() - began
        return replace(result, took_s=self._each_s)


def _met_outage(result: BlockResult | Failed) -> bool:
    return isinstance(result, Failed) and result.outage


def _asked(work: Work) -> _Asked:
    """What a result answers, under whatever lease."""
    return work.recipe_hash, work.items
