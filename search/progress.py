"""How far a campaign is and how fast it goes: counts for progress bars."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from search import campaign as machine
from search.desk import Desk
from search.ends import devices, is_counted, items_after, seconds_allowed
from search.ports import SPLITS, CampaignStatus

RECENT_S = 60.0
SETTLED_S = 15.0
"""An estimate of the time left is given once scores have come in for this long."""


class Progress:
    """Counts item evaluations over the last minute, and workers heard of in it."""

    def __init__(self, *, started: float, seconds_before: float) -> None:
        self._started = started
        self._seconds_before = seconds_before
        self._recent: deque[tuple[float, int]] = deque()
        self._items = 0  # of all in `_recent`
        self._workers: dict[str, float] = {}
        self._expected: frozenset[str] = frozenset()
        self._searching = True
        self.lease_seconds = 0.0  # for which workers held work, over the campaign's life

    def saw(self, worker: str, *, now: float) -> None:
        """A worker was heard of."""
        self._workers[worker] = now

    def expect(self, workers: Collection[str]) -> None:
        """These are there or on their way; any that were expected before are not."""
        self._expected = frozenset(workers)

    def others(self, worker: str, *, now: float) -> set[str]:
        """Other workers that are expected or were heard of in the last minute; the rest is forgotten, for on spot
        machines they are many."""
        for name in [name for name, seen in self._workers.items() if seen <= now - RECENT_S]:
            del self._workers[name]
        return (self._workers.keys() | self._expected) - {worker}

    def count(self, items: int, *, now: float) -> None:
        """So many item scores came in."""
        self._recent.append((now, items))
        self._items += items

    def used(self, seconds: float) -> None:
        """A worker held a lease for so long."""
        self.lease_seconds += seconds

    def seconds(self, now: float) -> float:
        """How long the campaign has run, earlier runs included."""
        return self._seconds_before + now - self._started

    def rate(self, now: float) -> float | None:
        """Items per second of the last minute; None before the first ones."""
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._items -= self._recent.popleft()[1]
        if not self._recent:
            return None
        since, first = self._recent[0]
        elapsed, total = now - since, self._items - first  # from the first score on: start-up does not count
        return total / elapsed if total and elapsed > 0 else None

    def seconds_left(self, items: int, *, now: float) -> float | None:
        """Time for so many more items; None until the rate has settled."""
        rate = self.rate(now)
        settled = bool(self._recent) and now - self._recent[0][0] > SETTLED_S
        return items / rate if rate and settled else None

    def _left(self, desk: Desk, items: int, *, now: float) -> float | None:
        """Time for so many more items of this phase and for the phases after it; a search may end before, by hours."""
        after = self.seconds_left(_items_after(desk), now=now)
        if after is None:
            return None
        allowed = None
        if desk.live.state.phase == "search":
            gpus = devices(desk.run.campaign)
            allowed = seconds_allowed(
                desk.run.campaign.budget,
                seconds=self.seconds(now),
                device_seconds=self.lease_seconds * gpus,
                busy=sum(seen > now - RECENT_S for seen in self._workers.values()) * gpus,
            )
        counted = allowed is None or is_counted(desk.live.state.rules)
        bounds = [self.seconds_left(items, now=now)] if counted else []
        return after + min(bound for bound in (*bounds, allowed) if bound is not None)

    def status(self, desk: Desk, *, paused: bool, now: float) -> CampaignStatus:
        """The snapshot that progress bars show."""
        state = desk.live.state
        if self._searching and state.phase != "search":  # larger blocks of fewer models: another rate altogether
            self._searching = False
            self._recent.clear()
            self._items = 0
        done, total = _items(desk)
        best = desk.live.best()
        rate = self.rate(now)
        cordoned = str(desk.blame.cordon())
        stage = desk.run.space.stages[machine.stage_of(state)].name
        return CampaignStatus(
            name=desk.run.campaign.name,
            phase=state.phase,
            stage=stage if state.cohorts[1:] else "baselines",
            candidates=len(state.candidates),
            failed=desk.live.losses,
            best_score=None if best is None else best[1],
            best_candidate=None if best is None else best[0],
            items_done=done,
            items_total=total,
            items_per_s=rate,
            seconds_left=self._left(desk, total - done, now=now),
            workers=sum(seen > now - RECENT_S for seen in self._workers.values()),
            epoch=desk.run.store.epoch,
            paused=paused,
            note="judged" if state.phase == "done" else cordoned and f"cordoned: {cordoned}",
        )


def _items(desk: Desk) -> tuple[int, int]:
    """Item evaluations of this phase: (done, in all)."""
    state, pools = desk.live.state, desk.run.pools
    if state.phase == "done":
        entrants = len(state.entrants) * pools.size("holdout")
        return entrants, entrants
    missing = desk.board.missing(state.phase)
    if state.phase == "search":
        return state.spent - missing, max(state.spent, _search_total(desk))
    total = len(list(machine.outcomes(state, state.phase))) * pools.size(state.phase)
    return total - missing, total


def _search_total(desk: Desk) -> int:
    """Items that the search will take: its budget, or what its candidates take at the present window."""
    state, budget = desk.live.state, desk.run.campaign.budget
    bounds = [] if budget.items is None else [budget.items]
    quotas = [rule.quota for rule in state.rules.stages]
    most = budget.candidates
    if all(quota is not None for quota in quotas):
        planned = len(state.rules.kinds) + state.rules.sobol + sum(quota or 0 for quota in quotas)
        most = planned if most is None else min(most, planned)
    if most is not None:
        left = max(0, most - len(state.candidates))
        bounds.append(state.spent + left * state.rules.items(state.rules.window_size(state.spent)))
    return min(bounds, default=state.spent)


def _items_after(desk: Desk) -> int:
    """A guess at what the phases after this one take."""
    state = desk.live.state
    sizes: dict[str, int] = {split: desk.run.pools.size(split) for split in SPLITS}
    return items_after(state.phase, desk.run.campaign, baselines=len(state.rules.kinds), sizes=sizes)
