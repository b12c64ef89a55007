"""Whole campaigns without models, by the hundred: is the verdict's level what it says, and is what workers do used?

    python tests/support/campaign_simulations.py null --repetitions 1000      (make simulate)
    python tests/support/campaign_simulations.py power --repetitions 200
    python tests/support/campaign_simulations.py fleet

Everything but the models is real: machine, sampler, queue, coordinator, store, selection, ledger, verdict. Seeded.

    null    every candidate answers every item right with the same probability, independently (T10)
    power   as null, but the distribution's mean is better by 3 points
    fleet   64 evaluators of which half are preempted every minute (T3), and 256 that stay (T4), on a simulated clock
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from simulated import LAYERS, Clock, campaign_data, hash_recipe, make_inventory

from search.campaign_file import Campaign, parse_campaign
from search.coordinator import Coordinator
from search.inline import run_inline
from search.opening import Start, open_coordinator
from search.ports import SPLITS, BlockResult, Failed, Finished, Inventory, Split, Verdict, Wait, Work
from search.run import RunDirectory, Services

P = 0.6
GAIN = 0.03
SHARED = 0.8
"""Power: how much of an answer is the item's own (correlation of two candidates' latent answers)."""


@dataclass(frozen=True)
class Size:
    """Items per skill and split (three skills), the search's budget of items, and its window from the 500th one on."""

    search: int = 120
    selection: int = 60
    holdout: int = 200
    budget: int = 1500
    late: int = 60

    @property
    def counts(self) -> dict[Split, int]:
        return {"search": self.search, "selection": self.selection, "holdout": self.holdout}


def make_simulated(folder: Path, size: Size, *, seed: int, **services: Any) -> Coordinator:
    """A coordinator with 12 baselines, two stages, small windows at first and windows with rungs later."""
    campaign = parse_campaign(
        campaign_data(
            seed=seed,
            items={"window": {0: 15, 500: size.late}, "block_size": 60},
            budget={"items": size.budget},
            selection={"top": 2, "means": 2, "soup": 3},
        ),
        origin="simulation",
    )
    return open_with(folder, campaign, make_inventory(size.counts), **services)


def open_with(folder: Path, campaign: Campaign, inventory: Inventory, **services: Any) -> Coordinator:
    """A coordinator of these, on a clock that stands still unless one is given."""
    given = {"hash_recipe": hash_recipe, "now": Clock()} | services
    return open_coordinator(campaign, inventory, start=Start(RunDirectory(folder), LAYERS), services=Services(**given))


class Chance:
    """An evaluator in which a candidate is right with probability P (one that `favours` says: P + GAIN).

    `shared` 0: all answers are independent. Else a candidate's answer to an item is partly the item's own: two
    candidates agree more often, as models that were merged of the same sources do.
    """

    def __init__(self, inventory: Inventory, *, seed: int, shared: float = 0.0) -> None:
        from scipy.stats import norm

        keys = [item.key for split in SPLITS for item in inventory.items[split]]
        self.places = {key: place for place, key in enumerate(keys)}
        self.seed = seed
        self.shared = shared
        self.bars = norm.ppf([1 - P, 1 - P - GAIN])
        self.ease = np.random.default_rng([seed, 0]).normal(size=len(keys))
        self.known: dict[tuple[str, bool], np.ndarray] = {}
        self.favours = lambda work: False

    def evaluate(self, work: Work) -> BlockResult | Failed:
        better = bool(self.favours(work))
        right = self.known.setdefault((work.recipe_hash, better), self._answers(work.recipe_hash, better))
        scores = {item: float(right[self.places[item]]) for item in work.items}
        return BlockResult(work.lease, work.recipe_hash, work.recipe_hash, scores)

    def _answers(self, recipe_hash: str, better: bool) -> np.ndarray:
        if (recipe_hash, better) in self.known:
            return self.known[recipe_hash, better]
        own = np.random.default_rng([self.seed, int(recipe_hash[:15], 16)]).normal(size=len(self.ease))
        latent = np.sqrt(self.shared) * self.ease + np.sqrt(1 - self.shared) * own
        return latent > self.bars[int(better)]

    def inventory(self) -> Inventory:
        raise NotImplementedError

    def close(self) -> None:
        pass


# ----------------------------------------------------------------------------------------------------- T10: the verdict


@dataclass(frozen=True)
class Judged:
    """What came of one campaign: is a winner named, was it the planted one, which parents does it beat."""

    named: bool
    planted: bool
    parents: tuple[bool, ...]
    stopped: int


def judge_once(repetition: int, *, size: Size, planted: bool, shared: float) -> Judged:
    """One campaign to its verdict, in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        coordinator = make_simulated(Path(folder), size, seed=repetition)
        chance = Chance(make_inventory(size.counts), seed=repetition, shared=shared)
        state = lambda: coordinator._desk.live.state  # noqa: E731
        if planted:  # who is scored ahead (search/ahead.py) is no candidate yet, and no mean
            known = lambda work: work.candidate < len(state().candidates)  # noqa: E731
            chance.favours = lambda work: known(work) and _is_planted(state().candidates[work.candidate])
        verdict = run_inline(coordinator, chance)
        coordinator.run.store.close()
    assert verdict is not None
    return Judged(
        named=verdict.significant,
        planted=_is_planted(state().candidates[verdict.winner]),
        parents=tuple(entry.beaten for entry in _parents(verdict)),
        stopped=sum(c.outcomes["search"].stopped for c in state().candidates if "search" in c.outcomes),
    )


def _is_planted(candidate: Any) -> bool:
    """The means of the last stage; that of the first one is the best global candidate, whom they have to beat."""
    return bool(candidate.origin == "mean" and candidate.stage > 0)


def _parents(verdict: Verdict) -> Iterator[Any]:
    return (entry for entry in verdict.comparisons if entry.label.startswith("parent "))


def judged(repetitions: int, *, size: Size, planted: bool = False, shared: float = 0.0, first: int = 0) -> list[Judged]:
    """So many campaigns, on as many processors as there are for it."""
    once = partial(judge_once, size=size, planted=planted, shared=shared)
    if repetitions < 20:
        return [once(first + number) for number in range(repetitions)]
    found: list[Judged] = []
    with ProcessPoolExecutor(2) as pool:
        for entry in pool.map(once, range(first, first + repetitions), chunksize=5):
            found.append(entry)
            if len(found) % 50 == 0:
                beaten = [sum(each.parents[place] for each in found) for place in range(3)]
                print(f"  {len(found)}: {sum(e.named for e in found)} named, parents beaten {beaten}", file=sys.stderr)
    return found


# --------------------------------------------------------------------------------------------------------- T3, T4: work


@dataclass
class Fleet:
    """Workers on a simulated clock: unit times are lognormal, some are preempted at the end of every minute.

    A preempted one is gone without a word (its lease runs out) or, `graceful`, gives its lease back; another starts in
    its place after `start_s`.
    """

    coordinator: Coordinator
    clock: Clock
    workers: int
    seed: int = 0
    mean_s: float = 10.0
    preempted: float = 0.0
    graceful: bool = False
    start_s: float = 15.0
    heartbeat_s: float = 6.0
    used_s: float = 0.0
    alive_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    evaluator: Any = None

    def run(self, evaluator: Chance) -> None:
        """Until the first worker has to wait: the budget is handed out, the rest is the tail of the search."""
        self._rng = random.Random(self.seed)
        self._events: list[tuple[float, int, str, str]] = []
        self._born: dict[str, float] = {}
        self._work: dict[str, tuple[Work, float]] = {}
        self._number = 0
        for _ in range(self.workers):
            self._start(self.clock.time)
        self._at(self.clock.time + 60, "minute", "")
        self._at(self.clock.time + self.heartbeat_s, "heartbeat", "")
        while not self.counts["waits"]:
            self.clock.time, _, kind, worker = heapq.heappop(self._events)
            getattr(self, f"_on_{kind}")(worker, evaluator)
        for born in self._born.values():
            self.alive_s += self.clock.time - born

    def _at(self, when: float, kind: str, worker: str) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, kind, worker))

    def _start(self, when: float) -> None:
        self._number += 1
        self._at(when, "ready", f"node{self._number}-1")

    def _on_ready(self, worker: str, evaluator: Chance) -> None:
        self._born[worker] = self.clock.time
        self._on_ask(worker, evaluator)

    def _on_ask(self, worker: str, evaluator: Chance) -> None:
        if worker not in self._born:
            return
        work = self.coordinator.next_work(worker)
        if isinstance(work, Wait):
            self.counts["waits"] += 1
        elif isinstance(work, Work):
            took = self.mean_s * self._rng.lognormvariate(-0.06, 0.35)
            self._work[worker] = work, took
            self._at(self.clock.time + took, "done", worker)
        else:
            assert isinstance(work, Finished)

    def _on_done(self, worker: str, evaluator: Chance) -> None:
        if worker not in self._work:
            return
        work, took = self._work.pop(worker)
        self.coordinator.submit(worker, evaluator.evaluate(work))
        self.used_s += took
        self.counts["units"] += 1
        self._on_ask(worker, evaluator)

    def _on_heartbeat(self, worker: str, evaluator: Chance) -> None:
        for busy in self._work:
            self.coordinator.heartbeat(busy)
        self._at(self.clock.time + self.heartbeat_s, "heartbeat", "")

    def _on_minute(self, worker: str, evaluator: Chance) -> None:
        for gone in self._rng.sample(sorted(self._born), int(self.preempted * len(self._born))):
            self.alive_s += self.clock.time - self._born.pop(gone)
            work = self._work.pop(gone, None)
            self.counts["preempted"] += 1
            if work is not None and self.graceful:
                self.coordinator.submit(gone, Failed(work[0].lease, "preempted", retryable=True, blameless=True))
            self._start(self.clock.time + self.start_s)
        self._at(self.clock.time + 60, "minute", "")


def fleet(folder: Path, *, workers: int, budget: int, **changes: Any) -> Fleet:
    """A search by such a fleet, as long as there is work for all."""
    size, clock = Size(budget=budget), Clock()
    coordinator = make_simulated(folder, size, seed=1, now=clock, lease_s=30.0)
    made = Fleet(coordinator, clock, workers, **changes)
    made.evaluator = Chance(make_inventory(size.counts), seed=1)
    made.run(made.evaluator)
    return made


def finish(coordinator: Coordinator, evaluator: Chance) -> float:
    """Score what is out, and then: of the search candidates that were scored, the share that the sampler was told."""
    coordinator._desk.queue.lease_s = 0.0
    for lease in coordinator._desk.queue.leases.values():
        lease.deadline = 0.0
    while coordinator._desk.live.state.phase == "search":
        work = coordinator.next_work("last")
        assert isinstance(work, Work)
        coordinator.submit("last", evaluator.evaluate(work))
    state = coordinator._desk.live.state
    told = sum(len(cohort.members) for cohort in state.cohorts if cohort.told)
    return told / sum("search" in candidate.outcomes for candidate in state.candidates)


# -------------------------------------------------------------------------------------------------------------- command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["null", "power", "fleet"])
    parser.add_argument("--repetitions", type=int, default=1000)
    arguments = parser.parse_args()
    started = time.process_time()
    {"null": _print_null, "power": _print_power, "fleet": _print_fleet}[arguments.what](arguments.repetitions)
    print(f"{time.process_time() - started:.0f} CPU-s in this process")


def _print_null(repetitions: int) -> None:
    size = Size(search=240, budget=4500, late=120)  # 120 items have rungs at which candidates are stopped
    found = judged(repetitions, size=size)
    named = sum(entry.named for entry in found) / repetitions
    print(f"null: {repetitions} campaigns, holdout of {3 * size.holdout} items, nominal 5 %")
    print(f"  a winner named: {named:.1%}")
    for place, name in enumerate(("letters", "numerals", "plurals")):
        print(f"  parent {name} beaten: {sum(entry.parents[place] for entry in found) / repetitions:.1%}")
    print(f"  candidates stopped early per campaign: {sum(entry.stopped for entry in found) / repetitions:.1f}")


def _print_power(repetitions: int) -> None:
    size = Size(selection=500, holdout=1200)
    found = judged(repetitions, size=size, planted=True, shared=SHARED)
    named = sum(entry.named and entry.planted for entry in found) / repetitions
    chosen = sum(entry.planted for entry in found) / repetitions
    print(
        f"power: +{GAIN:.0%}, shared {SHARED}, selection {3 * size.selection}, holdout {3 * size.holdout} items: "
        f"chosen on selection {chosen:.1%}, declared {named:.1%} of {repetitions}"
    )


def _print_fleet(repetitions: int) -> None:
    for workers, preempted, graceful in ((64, 0.5, False), (64, 0.5, True), (256, 0.0, False)):
        with tempfile.TemporaryDirectory() as folder:
            found = fleet(Path(folder), workers=workers, budget=60_000, preempted=preempted, graceful=graceful)
            share, minutes = found.used_s / found.alive_s, (found.clock.time - 1000) / 60
            used = finish(found.coordinator, found.evaluator)
            state = found.coordinator._desk.live.state
            lost = sum(c.outcomes["search"].cause is not None for c in state.candidates if "search" in c.outcomes)
            print(
                f"{workers} evaluators, {preempted:.0%} preempted every minute{', gracefully' if graceful else ''}: "
                f"{share:.1%} of the surviving time used, {used:.1%} of the results told, {lost} candidates lost "
                f"({found.counts['units']} units in {minutes:.0f} min, {found.counts['preempted']} preemptions)",
                flush=True,
            )


if __name__ == "__main__":
    main()
