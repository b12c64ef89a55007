"""The campaign's one writer: hands out work under leases, takes scores, and stores everything. Clock and glue only.

    campaign.py decides (pure)  ·  samplers/ proposes  ·  board.py and queue.py keep count (pure)
    desk.py is the memory with its pending rows  ·  steps.py acts on the machine's plans  ·  store/ remembers

In process the driver is `search.inline.run_inline`; on Ray an actor wraps a Coordinator and forwards the calls of
`WorkSource`. Not thread safe: one thread at a time (a Ray actor with max_concurrency=1).

Every call changes memory first; commits.py writes what it changed. A commit that fails (a newer coordinator, a full
disk) leaves memory ahead of the rows, so such a coordinator answers nothing more; a new one starts from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import StoreAway
from search import campaign as machine
from search import ends, steps
from search.ahead import foreseen
from search.blame import CORDON_AFTER, Cordon
from search.commits import Commits
from search.desk import Desk
from search.judging.verdicts import verdict_from_dict, verdict_to_dict
from search.live import LiveCampaign, stored_events
from search.outage import Outages
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Verdict, Wait, Work
from search.progress import Progress
from search.queue import Lease, Unit, lease_key
from search.refusal import refusal
from search.run import Run, Services
from search.store import schema
from search.store.transaction import Row
from search.trackers.contract import Ended
from search.trackers.newsroom import Newsroom

if TYPE_CHECKING:
    from search.results import Results

WAIT_S = 0.2
WISHES_EVERY_S = 10.0
CORDONED_WAIT_S = 30.0
DOUBTED_WAIT_S = 1.0


class Coordinator:
    """Made by `search.opening.open_coordinator`; `next_work`, `submit`, `heartbeat` are search.ports.WorkSource."""

    def __init__(self, run: Run, services: Services) -> None:
        self.run = run
        self._services = services
        self._desk = Desk(run, services)
        self._drafts = steps.drafts_of(self._desk)
        self._news = None if services.tell is None else Newsroom(run, self._desk.live)
        self._progress = Progress(started=services.now(), seconds_before=run.seconds_before)
        self._commits = Commits(self._desk, self._progress, self._news)
        self._leases = 0
        self._taken: dict[str, float] = {}  # running leases, since when
        self._asked_for_wishes: float | None = None
        self._outages, self._gave_up = Outages(), ""
        self._paused = False
        self._verdict: Verdict | None = None
        with self._commits.after(at_once=True):
            self._restore()

    # ------------------------------------------------------------------------------------------------ what workers call

    def next_work(self, worker: str) -> Work | Wait | Finished:
        """A unit under a fresh lease for this worker. EvaluationError where nothing can be scored at all."""
        with self._commits.after():
            return self._next(worker)

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        """Hand in the result of a lease; one that was answered already is ignored, unless it has new scores."""
        with self._commits.after():
            self._take(worker, result)

    def exchange(self, worker: str, result: BlockResult | Failed) -> Work | Wait | Finished:
        """`submit` and `next_work` in one transaction, for a worker in this process."""
        with self._commits.after():
            self._take(worker, result)
            return self._next(worker)

    def foresee(self, limit: int) -> list[Work]:
        """At most so many units that will be handed out after the one that is out (ahead.py); changes nothing. None in
        a run that was just continued: a unit that ends its process is to be the one that is out."""
        if self._paused or self._commits.careful:
            return []
        return foreseen(self._desk, self._drafts, leases=self._leases, limit=limit)

    def heartbeat(self, worker: str) -> None:
        """This worker is alive: extend its leases (in memory only; a restart sends running leases back anyway)."""
        now = self._services.now()
        self._progress.saw(worker, now=now)
        self._desk.queue.extend(worker, now=now)
        self._commits.late()

    # ------------------------------------------------------------------------------------------------ what drivers call

    def status(self) -> CampaignStatus:
        """A snapshot for progress bars."""
        self._commits.late()
        now = self._services.now()
        found = self._progress.status(self._desk, paused=self._paused, now=now)
        return replace(found, outage=self._outages.sentence(now=now), gave_up=self._gave_up)

    def expect(self, workers: Collection[str]) -> None:
        """Who works for this campaign or is about to: what one worker fails, these are to try before it is given up."""
        self._progress.expect(workers)

    def cordon(self) -> Cordon:
        """Nodes and workers that get no further work."""
        return self._desk.blame.cordon()

    @property
    def live(self) -> LiveCampaign:
        """Machine and sampler as they are now, to look at."""
        return self._desk.live

    def verdict(self) -> Verdict | None:
        """The answer, once the phase is `done`."""
        return self._verdict

    def pause(self) -> None:
        """Hand out nothing more: workers get Finished("paused"); results of running leases are still taken."""
        self._paused = True

    def save(self) -> None:
        """Commit what waits, now."""
        self._commits.late(at_once=True)

    @property
    def uncommitted(self) -> bool:
        """Whether something that came in waits to be committed."""
        return bool(self._desk.pending)

    def abandon(self) -> None:
        """Let go of the store, and tell nobody: the campaign goes on with another coordinator (lasting.py)."""
        self.run.store.close()

    def close(self) -> Results | None:
        """Note the time used, write the exports (item matrix, Optuna mirror), close the store. Returns what the exports
        were made of; None after a failure."""
        from search.exports import export_run

        try:
            if self._commits.broken is not None:
                return None
            with self._commits.after(at_once=True):
                self._commits.note_time(every_s=0.0)
            return export_run(self.run)
        finally:
            self.run.store.close()
            if self._services.tell is not None:
                self._services.tell([Ended(self._ending())])

    def _ending(self) -> str:
        """How this start ends, for trackers. An outage of the store is a pause (lasting.py)."""
        broken = self._commits.broken
        if broken is not None and not isinstance(broken, StoreAway):
            return "failed"
        return "paused" if self._verdict is None or broken is not None else "done"

    # ------------------------------------------------------------------------------------------------ leases and scores

    def _next(self, worker: str) -> Work | Wait | Finished:
        now = self._services.now()
        self._progress.saw(worker, now=now)
        self._expire(now)
        self._check_end(now)
        blame, others = self._desk.blame, self._others(worker, now)
        blame.meet(worker)
        if not self._paused and self._outages.hopeless({worker, *others}, now=now):
            self._paused, self._gave_up = True, self._outages.sentence(now=now)
        held_s = self._outages.wait_s(worker, now=now) or self._held_back(worker, others)
        if held_s is not None and not self._paused and self._desk.live.state.phase != "done":
            return Wait(held_s)
        while not self._paused:
            avoid = blame.to_avoid(worker, others)
            lease = self._desk.queue.take(
                worker, key=lease_key(self.run.store.epoch, self._leases + 1), now=now, avoid=avoid
            )
            if lease is not None:
                return self._hand_out(lease, now)
            after = self._plan()
            if after is not None:
                return after
        return Finished("paused")

    def _take(self, worker: str, result: BlockResult | Failed) -> None:
        now = self._services.now()
        self._progress.saw(worker, now=now)
        if result.took_s is not None and result.lease in self._taken:
            self._taken[result.lease] = taken = now - result.took_s
            self._desk.pending.change(schema.LEASES, {"taken": taken}, lease=result.lease)
        unit = self._desk.queue.release(result.lease)
        if isinstance(result, BlockResult):
            refused = refusal(result, unit, self._desk.digests)
            if refused is None:
                self._take_scores(result, unit, now)
                self._desk.blame.succeed(worker, result.recipe_hash)
                if unit is not None and unit.outages:
                    self._outages.end(worker)
                return
            result = Failed(result.lease, refused, retryable=True)
        if unit is not None:
            self._fail(unit, result, worker=worker, now=now)

    def _hand_out(self, lease: Lease, now: float) -> Work:
        self._leases += 1
        self._taken[lease.key] = now
        unit, epoch = lease.unit, self.run.store.epoch
        row = {"lease": lease.key, "candidate": unit.candidate, "split": unit.split, "block": unit.block}
        row |= {"worker": lease.worker, "attempt": unit.attempts, "epoch": epoch, "state": "running", "taken": now}
        self._desk.pending.add(schema.LEASES, row)
        return Work(
            candidate=unit.candidate,
            recipe=self._desk.recipes[unit.candidate],
            recipe_hash=unit.recipe_hash,
            split=unit.split,
            block=unit.block,
            items=unit.items,
            lease=lease.key,
            attempt=unit.attempts,
            epoch=epoch,
        )

    def _end_lease(self, key: str, state: str, *, now: float, **facts: str) -> None:
        self._progress.used(now - self._taken.pop(key, now))
        self._desk.pending.change(schema.LEASES, {"state": state, "ended": now, **facts}, lease=key)

    def _expire(self, now: float) -> None:
        for lease in self._desk.queue.run_out(now=now):
            cause = f"worker {lease.worker} was not heard of for {self._services.lease_s:g} s"
            self._end_lease(lease.key, "expired", now=now, cause=cause)
            if not self._desk.queue.retry(lease.unit, lost=True):
                self._desk.lose(lease.unit.recipe_hash, cause)

    def _fail(self, unit: Unit, failed: Failed, *, worker: str, now: float) -> None:
        """Another attempt, here or elsewhere, or the end of the candidate: see blame.py."""
        desk, recipe_hash = self._desk, unit.recipe_hash
        if failed.outage:
            self._end_lease(failed.lease, "outage", now=now, cause=failed.cause)
            self._outages.meet(worker, failed.cause, now=now)
            desk.queue.put_back(unit)
            return
        self._end_lease(failed.lease, "returned" if failed.blameless else "failed", now=now, cause=failed.cause)
        if failed.blameless:
            if not desk.queue.retry(unit, lost=True):
                desk.lose(recipe_hash, failed.cause)
            return
        desk.blame.fail(worker, recipe_hash, failed.cause)
        others = self._others(worker, now)
        quarantine = desk.blame.quarantine(recipe_hash, others)
        # what no other attempt can mend here may still be this worker's fault, as long as there are others
        again = quarantine is None and (failed.retryable or bool(others))
        if not again or not desk.queue.retry(unit):
            desk.lose(recipe_hash, quarantine or failed.cause)

    def _held_back(self, worker: str, others: set[str]) -> float | None:
        """For how long this worker shall not get anything (s), because others do better; None: it may work.

        A cordoned one is better than none. One that failed three candidates which others have yet to try waits for
        these: what fails at once would else use the search up, candidate by candidate, before anybody has scored one.
        """
        blame = self._desk.blame
        if others and blame.cordon().holds(worker):
            return CORDONED_WAIT_S
        doubtful = blame.failed_by(worker) if others else set()
        if len(doubtful) >= CORDON_AFTER and len(doubtful & self._desk.queue.recipes_out()) >= CORDON_AFTER:
            return DOUBTED_WAIT_S
        return None

    def _others(self, worker: str, now: float) -> set[str]:
        """Other workers that are there and not cordoned."""
        return self._desk.blame.cordon().without(self._progress.others(worker, now=now))

    def _take_scores(self, result: BlockResult, unit: Unit | None, now: float) -> None:
        """Store what is new, close the lease, and finish the assessments that are complete now."""
        desk, recipe_hash = self._desk, result.recipe_hash
        fresh = desk.board.take(recipe_hash, result.scores, result.measures)
        desk.keep(result, fresh)
        self._progress.count(len(fresh), now=now)
        if unit is not None:
            self._end_lease(result.lease, "done", now=now, weights_digest=result.weights_digest)
        desk.digests[recipe_hash] = result.weights_digest
        desk.queue.drop_scored(recipe_hash, desk.board.scores[recipe_hash])
        desk.finish(recipe_hash)
        desk.proceed(recipe_hash)

    # -------------------------------------------------------------------------------------------------- plans and hours

    def _plan(self) -> Wait | Finished | None:
        """Let the machine say what is next and do it; None when there may be work now."""
        plan = machine.plan_next(self._desk.live.state)
        if plan is None:
            return Finished("done")
        if isinstance(plan, machine.Idle):
            return Wait(WAIT_S)
        if isinstance(plan, machine.GiveUp):
            raise steps.given_up(self._desk, plan.cause)
        if isinstance(plan, machine.Ask):
            steps.propose(self._desk, plan, self._drafts)
        elif isinstance(plan, machine.Nominate):
            steps.nominate_candidates(self._desk)
        elif isinstance(plan, machine.OpenHoldout):
            steps.open_holdout(self._desk, plan.entrants)
        elif isinstance(plan, machine.TryAgain):
            steps.try_again(self._desk, plan.numbers)
        else:
            self._finish(steps.judge_entrants(self._desk))
        return None

    def _finish(self, verdict: Verdict) -> None:
        self._desk.pending.change(schema.CAMPAIGNS, {"verdict": verdict_to_dict(verdict)})
        self._desk.pending.empty(schema.WISHES)
        self._commits.note_time(every_s=0.0)
        self._judged(verdict)

    def _judged(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._desk.live.apply(machine.Judged())
        if self._news is not None:
            self._news.judged(verdict)

    def _check_end(self, now: float) -> None:
        state = self._desk.live.state
        if state.ended or state.phase != "search":
            return
        budget, progress = self.run.campaign.budget, self._progress
        device_seconds = progress.lease_seconds * ends.devices(self.run.campaign)
        wished = self._stop_is_wished(now)
        seconds = progress.seconds(now)
        reason = ends.reason_to_end(budget, seconds=seconds, device_seconds=device_seconds, wished=wished)
        if reason is not None:
            self._desk.note(machine.SearchEnded(reason))
            self._desk.pending.empty(schema.WISHES)

    def _stop_is_wished(self, now: float) -> bool:
        """Whether another process said so; the store is asked every few seconds."""
        if self._asked_for_wishes is not None and now - self._asked_for_wishes < WISHES_EVERY_S:
            return False
        self._asked_for_wishes = now
        return steps.is_stopped(self.run.store)

    # ---------------------------------------------------------------------------------------------------------- restart

    def _restore(self) -> None:
        """Rebuild memory from the rows, and send the leases of earlier epochs back to the queue."""
        desk, store = self._desk, self.run.store
        again = steps.try_lost_again(store)
        candidates = store.rows(schema.CANDIDATES)
        desk.recipes += [row["recipe"] for row in candidates]
        desk.recall(sorted({row["recipe_hash"] for row in candidates}))
        for sequence, event, point in stored_events(store):
            desk.live.apply(event, point=point)
            desk.sequence = max(desk.sequence, sequence)
        steps.reopen(desk)
        self._restore_queue(store.rows(schema.LEASES), again=again)
        verdict = store.rows(schema.CAMPAIGNS, id=store.campaign)[0]["verdict"]
        if verdict is not None:
            self._judged(verdict_from_dict(verdict))

    def _restore_queue(self, leases: Sequence[Row], *, again: frozenset[int]) -> None:
        """Queue what open assessments still need, with the attempts that their units have behind them; who is tried
        `again` on the holdout has none."""
        desk, now = self._desk, self._services.now()
        attempts: dict[tuple[int, str, int], list[str]] = {}
        tried_at = steps.tried_again_at(self.run.store)
        for row in sorted(leases, key=lambda row: row["ended"] or math.inf):
            if row["ended"] is not None and row["state"] != "lost":  # nobody knows how long a lost one was worked at
                self._progress.used(row["ended"] - row["taken"])
            if row["split"] == "holdout" and row["candidate"] in again:
                continue
            desk.remember(row)
            if row["split"] != "holdout" or row["taken"] > tried_at:
                attempts.setdefault((row["candidate"], row["split"], row["block"]), []).append(row["state"])
            if row["state"] == "running":
                self._end_lease(row["lease"], "lost", now=now, cause="its coordinator ended")
        places = {number: place for place, (number, _) in enumerate(desk.live.state.entrants)}
        opened = self.run.store.rows(schema.ASSESSMENTS, state="open")
        for row in sorted(opened, key=lambda row: (row["asked"], places.get(row["number"], 0))):
            desk.start(row["number"], row["split"])
        for unit in list(desk.queue.pending):
            states = attempts.get((unit.candidate, unit.split, unit.block), [])
            unit.attempts, unit.failures = len(states), states.count("failed")
            unit.losses, unit.outages = states.count("expired") + states.count("returned"), states.count("outage")
            if unit.spent:
                desk.lose(unit.recipe_hash, "its work units failed, or ended their process, too often")
