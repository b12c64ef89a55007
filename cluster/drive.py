"""The driver's loop: hand out chunks, take what was made, and lose nothing when workers hang, die, leave and join.

Everything that is decided here is decided by pure parts: `Queues` (who takes what), `Giant` (what is measured
together), `Suspects` (what may have killed a worker), `Pace` (what takes too long).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster import ray_session
from cluster.actors import Failed, Made, Present
from cluster.giants import Giant
from cluster.locality import homes
from cluster.merge_status import Tally
from cluster.pace import Pace
from cluster.queues import Queues
from cluster.roster import Died, Member, Roster, Task
from cluster.sharding import Chunk, Unit, file_units, giants, units
from cluster.suspects import Suspects
from engine.errors import ClusterError, MergefleetError, TileFailed, WorkerLost
from engine.execution.execute import Executed
from engine.methods.contract import Array, Facts
from engine.outputs.job import Job, Progress

START_S = 120.0
"""In this time the first worker must be ready, or the cluster is too busy to wait for."""
MUSTER_S = 20.0
"""So long those who are ready wait for the others of the start: what is wrong on one node is found before any work."""
DESERTED_S = 3600.0
"""So long a merge waits for nodes after the last one was taken away (spot machines)."""
POLL_S = 1.0
MAX_LOSSES = 4
"""Losses in a row beyond the number of workers: then it is not the nodes that come and go."""


@dataclass(eq=False)
class Errand:
    """A chunk on its way, and who has it. With several holders the first answer counts, for all.

    `suspect`: it may have killed a worker. So it is sent only to who answers, or the next death would prove nothing;
    `alone`: and with nothing beside it.
    """

    number: int
    chunk: Chunk
    suspect: bool = False
    alone: bool = False
    answered: bool = False
    holders: list[Member] = field(default_factory=list)


class Drive:
    """Makes the missing tiles of one job with the workers of a roster."""

    def __init__(self, job: Job, roster: Roster, tally: Tally, progress: Progress | None) -> None:
        self.job = job
        self.made: dict[int, list[bytes]] = {}
        self._roster = roster
        self._hooks = job.hooks(progress)
        self._tally = tally
        self._facts: dict[int, Facts] = dict(job.facts)
        self._nonfinite: Counter[tuple[str, str]] = Counter()
        self._missing = {tile.number for tile in job.plan.tiles} - set(job.done)
        self._giants: dict[int, Giant] = {}
        self._queues = Queues([], [])
        self._suspects = Suspects()
        self._pace = Pace()
        self._overdue: list[Errand] = []
        self._errands = 0
        self._losses = 0
        self._mustered = False
        self._began = self._inhabited = self._ticked = time.monotonic()

    def go(self) -> Executed:
        """Make all missing tiles."""
        if self._missing:
            self._roster.look_around(now=time.monotonic())
        while self._missing:
            for member, call in self._roster.wait(POLL_S):
                self._take(member, call)
            now = time.monotonic()
            if now - self._ticked >= POLL_S:
                self._ticked = now
                self._tick(now)
        return Executed({**self.job.done, **self.made}, dict(self._nonfinite))

    def dismiss(self) -> None:
        """End all workers."""
        for member in list(self._roster.members):
            self._roster.dismiss(member)

    # -- who is there ------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        """What no answer tells: nodes that came or go, workers that hang, a start that takes too long."""
        self._roster.look_around(now=now)
        for member in list(self._roster.members):
            if member.leaving and not member.calls:
                self._part(member)
        self._check_start(now)
        self._check_pace(now)
        self._muster(now)
        self._feed_all()

    def _check_start(self, now: float) -> None:
        members = self._roster.members
        if any(member.present for member in members):
            self._inhabited = now
        elif not self._mustered and now - self._began > START_S:
            wants = ", ".join(sorted({f"{member.post.cpus:g} processors" for member in members}))
            has = ", ".join(f"{node.host} ({node.cpus:g})" for node in ray_session.alive_nodes()[:4])
            raise ClusterError(
                f"no worker could be started within {START_S:g} s; each asks for {wants}, the cluster has {has}. Is it "
                "busy (`ray status`)? Fewer --workers or --cpus-per-worker, or none of its jobs, help."
            )
        elif now - self._inhabited > DESERTED_S:
            raise WorkerLost(
                f"no node has had a worker for {DESERTED_S / 60:.0f} minutes. What is finished is kept: run the same "
                "command again to resume."
            )

    def _muster(self, now: float) -> None:
        """When all of the start are ready, or some have waited long enough, share out the work."""
        ready = [member for member in self._roster.members if member.present]
        waiting = len(ready) < len(self._roster.members)
        if self._mustered or not ready or (waiting and now - self._began < MUSTER_S):
            return
        self._mustered = True
        lanes = [member.post.threads for member in ready]
        plan, done = self.job.plan, self.job.done
        if self.job.url is not None:  # a file is made by one worker, in the order of its bytes
            cut, work = frozenset[int](), file_units(plan, done=done)
        else:
            cut = giants(plan, lanes, done=done, measured=self._facts)
            work = units(plan, done=done, measured=self._facts, cut=cut)
        self._giants = {index: Giant(plan, index, done=done) for index in sorted(cut)}
        shares = [share for giant in self._giants.values() for share in giant.go_on()]
        # shares of giants first: their tiles wait for them
        self._queues = Queues(shares + [unit for unit in work if unit.tensor not in cut], lanes)
        for number, member in enumerate(ready):
            member.queue = number
        self._deal()
        self._feed_all()

    def _welcome(self, member: Member, answer: Present | BaseException) -> None:
        """A worker is ready, or cannot be: then the job ends before any work, or goes on without its node."""
        if not isinstance(answer, Present):
            if not self._mustered:
                raise answer from None
            said = f"node {member.name}: {type(answer).__name__}: {answer}."
            self._roster.shun(member, answer if isinstance(answer, MergefleetError) else ClusterError(said))
            return
        member.present = answer
        if self._mustered:
            member.queue = self._queues.join(member.post.threads)
            self._deal()
            self._feed(member)
        else:
            self._muster(time.monotonic())

    def _deal(self) -> None:
        """Tiles to those who have their sources near."""
        plan, sources = self.job.plan, [self.job.checkpoints[ref] for ref in self.job.plan.sources]
        near = {member.queue: member.present.near for member in self._roster.members if member.present}
        where = homes(plan, sources, near)
        if where is not None:
            self._queues.deal(where)

    def _part(self, member: Member) -> None:
        """A worker goes, and others do what it would have done."""
        self._roster.dismiss(member)
        if member.queue >= 0:
            self._queues.leave(member.queue)

    # -- who does what -----------------------------------------------------------------------------------------------

    def _feed_all(self) -> None:
        for member in self._roster.members:
            self._feed(member)

    def _feed(self, member: Member) -> None:
        """An errand for every thread of a worker that has none."""
        if not self._mustered or not member.present or member.leaving or member.late:
            return
        while len(member.calls) < member.post.threads and not any(errand.alone for errand in member.errands):
            errand = self._next(member)
            if errand is None:
                return
            self._give(member, errand)

    def _next(self, member: Member) -> Errand | None:
        """What a worker does next: what hangs elsewhere, what may have killed another, or what is next in its queue."""
        nodes = self._roster.nodes
        for errand in self._overdue:
            beside = any(holder.place.node == member.place.node for holder in errand.holders)
            if member not in errand.holders and (not beside or len(nodes) == 1):
                self._overdue.remove(errand)
                return errand
        suspect = self._suspects.take(member.place, nodes, idle=not member.calls)
        chunk = self._queues.take(member.queue) if suspect is None else Chunk((suspect[0],))
        if chunk is None:
            return None
        self._errands += 1
        return Errand(self._errands, chunk, suspect is not None, suspect is not None and suspect[1])

    def _give(self, member: Member, errand: Errand) -> None:
        errand.holders.append(member)
        if errand.suspect:
            member.calls[member.handle.here.remote()] = Task(errand, time.monotonic(), sent=False)
        else:
            self._send(member, errand)

    def _send(self, member: Member, errand: Errand) -> None:
        first = errand.chunk.units[0]
        if first.stage is not None:
            facts: Any = dict(self._giants[first.tensor].facts)
            call = member.handle.measure.remote(errand.number, (first.tensor, first.stage, first.blocks), facts)
        else:
            tiles = [unit.tiles for unit in errand.chunk.units]
            call = member.handle.run.remote(errand.number, tiles, self._known(errand.chunk))
        member.calls[call] = Task(errand, time.monotonic())

    def _known(self, chunk: Chunk) -> dict[int, Facts]:
        """Facts of the chunk's tensors; those that need no data are made here, once: the workers' libms may differ."""
        tensors = {self.job.plan.tiles[number].tensor for number in chunk.tiles}  # a file has several
        for index in sorted(tensors):
            call = self.job.plan.tensors[index].call
            if call is not None and index not in self._facts and not self.job.plan.passes[index].at_most:
                facts: dict[str, Array] = {}
                for stage in self.job.plan.method.stages(call):
                    facts[stage.name] = stage.finish(call, None, facts)
                self._learn(index, facts)
        return {index: self._facts[index] for index in tensors if index in self._facts}

    def _learn(self, index: int, facts: Facts) -> None:
        if index not in self._facts:
            self._hooks.on_facts(index, facts)
            self._facts[index] = facts

    # -- what comes back ---------------------------------------------------------------------------------------------

    def _take(self, member: Member, call: Any) -> None:
        """One call of a worker has ended: well, with an error of the merge, or with the worker."""
        answer = self._roster.answer(member, call)
        if isinstance(answer, Died):
            self._lose(member, answer.said)
            return
        task = member.calls.pop(call)
        member.late = False
        if task.errand is None:
            self._welcome(member, answer)
        elif not task.sent:
            self._send(member, task.errand)
        else:
            self._heed(member, task, answer)
            self._feed(member)

    def _heed(self, member: Member, task: Task, answer: Made | BaseException) -> None:
        """Keep what was made, unless another was faster, and see to the rest. Raises an error of the merge."""
        errand: Errand = task.errand
        errand.holders.remove(member)
        if errand.answered:
            return
        if isinstance(answer, MergefleetError):
            raise answer from None
        made = answer if isinstance(answer, Made) else Made(failed=Failed((), f"{type(answer).__name__}: {answer}"))
        if made.failed is None and not made.leaving:
            self._pace.took(errand.chunk.weight, time.monotonic() - task.since)
        if made.leaving and not member.leaving:
            self._roster.send_home(member)
        self._record(member, errand, made)
        left = self._left(errand.chunk, made)
        if made.failed is not None:
            self._fail(member, left, made.failed)
        elif left and not errand.holders:
            self._put_back(member, left)
        if not left or made.failed is not None:
            self._settle(errand)

    def _settle(self, errand: Errand) -> None:
        """It is done with: others who are at it need not go on."""
        errand.answered = True
        if errand in self._overdue:
            self._overdue.remove(errand)
        for other in errand.holders:
            other.handle.drop.remote(errand.number)

    def _record(self, member: Member, errand: Errand, made: Made) -> None:
        self._tally.read(member.name, made.bytes_read)
        for index, facts in made.facts.items():
            self._learn(index, facts)
        for number, blocks in made.blocks.items():
            if number in self._missing:
                self._hooks.on_tile(self.job.plan.tiles[number], blocks)
                self._tally.made(member.name, number)
        self.made.update(made.blocks)
        self._missing.difference_update(made.blocks)
        self._nonfinite.update(made.nonfinite)
        if made.blocks or made.partial is not None:
            self._losses = 0
        if made.partial is not None:
            self._measured(errand.chunk.units[0], made.partial)
        self._tally.tell(len(self._roster.members))

    def _measured(self, share: Unit, partial: Array) -> None:
        giant = self._giants[share.tensor]
        if giant.add(share, partial):
            more = giant.go_on()
            if giant.measured:
                self._learn(share.tensor, giant.facts)
            self._queues.add(more)
            self._feed_all()

    def _left(self, chunk: Chunk, made: Made | None = None) -> list[Unit]:
        """What of a chunk has yet to be made."""
        if chunk.units[0].stage is not None:
            return list(chunk.units) if made is None or made.partial is None else []
        rest = ((unit, tuple(number for number in unit.tiles if number in self._missing)) for unit in chunk.units)
        return [unit if unit.tiles == tiles else replace(unit, tiles=tiles) for unit, tiles in rest if tiles]

    def _put_back(self, member: Member, left: Sequence[Unit]) -> None:
        rest = [unit for unit in left if not self._suspects.put_back(unit)]
        if rest:
            self._queues.give_back(member.queue, rest)

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _fail(self, member: Member, left: Sequence[Unit], failed: Failed) -> None:
        """A worker lived through an error: what it was at is suspect, what it had not begun is not."""
        guilty = [unit for unit in left if not failed.tiles or set(unit.tiles) & set(failed.tiles)]
        self._put_back(member, [unit for unit in left if unit not in guilty])
        self._accuse(member, guilty, failed.said, certain=len(guilty) == 1, error=failed.error)
        self._feed_all()

    def _lose(self, member: Member, said: str) -> None:
        """A worker is dead, or given up; what it had in hand and nobody else has is suspect."""
        in_hand = [task for task in member.calls.values() if task.errand is not None]
        for task in in_hand:
            task.errand.holders.remove(member)
        orphans = [task for task in in_hand if not task.errand.answered and not task.errand.holders]
        suspect = [unit for task in orphans if task.sent for unit in self._left(task.errand.chunk)]
        self._put_back(member, [unit for task in orphans if not task.sent for unit in task.errand.chunk.units])
        self._overdue = [errand for errand in self._overdue if errand.holders]
        self._tally.lost(member.name)
        self._losses += 1
        certain = len(suspect) == 1 and all(task.errand.suspect for task in orphans) and not member.leaving
        self._accuse(member, suspect, said, certain=certain)
        self._part(member)
        if self._losses > len(self._roster.members) + MAX_LOSSES:
            raise self._ended(WorkerLost, f"workers died {self._losses} times in a row, last on", member, said)
        self._feed_all()

    def _accuse(
        self, member: Member, suspect: Sequence[Unit], said: str, *, certain: bool, error: MergefleetError | None = None
    ) -> None:
        self._tally.retried(member.name, sum(max(1, len(unit.tiles)) for unit in suspect))
        poisoned = self._suspects.accuse(suspect, member.place, certain=certain, nodes=self._roster.nodes)
        if poisoned is None:
            return
        if error is not None:
            raise error
        raise self._ended(TileFailed, f"{self._named(poisoned)} failed wherever it was tried, last on", member, said)

    def _named(self, unit: Unit) -> str:
        tensor = self.job.plan.tensors[unit.tensor]
        if unit.stage is not None:
            return f"tensor {tensor.name!r}, measuring its blocks {unit.blocks.start} to {unit.blocks.stop - 1},"
        tiles = [self.job.plan.tiles[number] for number in unit.tiles]
        which = f"tile {tiles[0].number}" if len(tiles) == 1 else f"tiles {tiles[0].number} to {tiles[-1].number}"
        blocks = f"blocks {tiles[0].first} to {tiles[-1].first + tiles[-1].count - 1}"
        return f"tensor {tensor.name!r}, {which} ({blocks}),"

    def _ended(self, kind: type[MergefleetError], what: str, member: Member, said: str) -> MergefleetError:
        tail = self._roster.last_words(member)
        return kind(
            f"{what} {member.name}: {said} What is finished is kept: run the same command again to resume."
            f"{ray_session.indented(tail)}",
            node=member.name,
            log=tail,
        )

    def _check_pace(self, now: float) -> None:
        """Give what takes too long to another worker as well, and give up those who are far beyond that."""
        for member in list(self._roster.members):
            for task in [task for task in member.calls.values() if task.errand is not None]:
                waited, errand = now - task.since, task.errand
                if waited > self._pace.patience_s(errand.chunk.weight):
                    self._lose(member, f"it has not answered for {waited:.0f} s.")
                    break
                if waited > self._pace.overdue_s(errand.chunk.weight):
                    member.late = True
                    if len(errand.holders) == 1 and not (errand.alone or errand.answered or errand in self._overdue):
                        self._overdue.append(errand)
