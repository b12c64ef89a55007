"""A campaign's evaluators on Ray: hired where there is room, watched, replaced when they die."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import ray_session
from cluster.coordinator import Hired, answer_of
from cluster.evaluator_worker import PREEMPTED, EvaluatorWorker, Ready, SearchTask
from cluster.placement import Post, Request, posts, without
from cluster.ray_session import Session
from engine.errors import ClusterError, MergefleetError, WorkerLost
from search.blame import Cordon
from search.campaign_file import Campaign
from search.ports import Inventory

_LOG = logging.getLogger(__name__)
START_S = 300.0
DESERTED_S = 3600.0
LOOK_AROUND_S = 5.0
MAX_LOSSES = 8


@dataclass(frozen=True)
class Wanted:
    """How many evaluators (None: as many as fit), and what each of them reserves."""

    workers: int | None
    cpus: float | None
    gpus: int

    @classmethod
    def of(cls, campaign: Campaign, *, workers: int | None, cpus_per_worker: float | None) -> Wanted:
        """By default as many processors as an evaluator has threads, and a GPU where it runs on one."""
        threads = None if workers else float(campaign.evaluator.threads)
        return cls(workers, cpus_per_worker or threads, int(campaign.evaluator.device.startswith("cuda")))

    def posts(self, idle: Sequence[Post] = (), cordoned: Collection[str] = ()) -> list[Post]:
        """Where they go on the nodes of now: on none of a cordoned name, and leaving room for posts that stay idle."""
        nodes = ray_session.alive_nodes()
        room = max((node.cpus for node in nodes), default=0.0)
        cpus = min(self.cpus, room) if self.cpus else None
        return posts(without(nodes, idle, cordoned), Request(self.workers, cpus, gpus=self.gpus))


@dataclass
class _Member:
    """An evaluator: `call` is what it is at (preparing, until `ready`, then working, until `reason`)."""

    post: Post
    handle: Any
    call: Any
    since: float
    ready: Ready | None = None
    reason: str | None = None


class Crew:
    """`coordinator` is the actor's handle, once there is one: whoever is ready is sent to work for it."""

    def __init__(self, session: Session, task: SearchTask, wanted: Wanted) -> None:
        self.task = task
        self.coordinator: Any = None
        self._session = session
        self._wanted = wanted
        self._members: dict[str, _Member] = {}
        self._hired = 0
        self._looked = 0.0
        self._inhabited = 0.0
        self._losses = 0
        self._like: Ready | None = None
        self._idle: list[Post] = []  # of cordoned evaluators: their processors and GPUs may be what is wrong
        self._cordoned: set[str] = set()  # nodes, by their names

    @property
    def finished(self) -> bool:
        """Somebody was told that there is nothing left to do, and nobody is still at work."""
        working = any(member.ready and member.reason is None for member in self._members.values())
        return not working and any(member.reason for member in self._members.values())

    @property
    def hired(self) -> Hired:
        """Who gets ready (but who takes too long for it may never be), and who is at work."""
        there = {name: member for name, member in self._members.items() if member.reason is None}
        working = tuple(name for name, member in there.items() if member.ready is not None and member.call is not None)
        late = time.monotonic() - START_S
        return Hired(tuple(n for n, member in there.items() if n not in working and member.since > late), working)

    def hire(self) -> None:
        """Start evaluators where some are missing: at first, after losses, and where nodes have joined."""
        now = time.monotonic()
        if now - self._looked < LOOK_AROUND_S or any(member.reason for member in self._members.values()):
            return
        self._looked = now
        present = Counter(member.post.node.id for member in self._members.values())
        for post in self._posts(now):
            if present[post.node.id]:
                present[post.node.id] -= 1
            else:
                self._start(post)
        members = self._members.values()
        if members and all(member.ready is None and now - member.since > START_S for member in members):
            raise ClusterError(
                f"{self._session.address}: no evaluator was ready within {START_S:g} s; each asks for "
                f"{next(iter(members)).post.cpus:g} processors. Is the cluster busy (`ray status`)?"
            )

    def _posts(self, now: float) -> list[Post]:
        """Where evaluators should be; nowhere, for an hour, when the last node was taken away (spot machines)."""
        try:
            found = self._wanted.posts(self._idle, self._cordoned)
        except ClusterError:
            if not self._hired or now - self._inhabited > DESERTED_S:
                raise
            return []
        self._inhabited = now
        return found

    def watch(self, timeout_s: float) -> list[str]:
        """Wait for something to happen; the names of those who died.

        Raises what an evaluator raises (CampaignError, StaleEpoch ...), WorkerLost.
        """
        import ray

        calls = {member.call: name for name, member in self._members.items() if member.call and not member.reason}
        ended, _ = ray.wait(list(calls), num_returns=1, timeout=timeout_s) if calls else ([], [])
        return [calls[call] for call in ended if not self._heed(calls[call])]

    def inventory(self) -> Inventory | None:
        """The items that the first ready evaluator measures; None: nobody is ready. Raises what it raises."""
        import ray

        for name, member in list(self._members.items()):
            if member.ready is not None:
                try:
                    found: Inventory = answer_of(member.handle.inventory.remote())
                except ray.exceptions.RayActorError as failure:
                    self._lose(name, str(failure))
                else:
                    return found
        return None

    def send_to_work(self) -> None:
        """Everybody who is ready and idle."""
        for member in self._members.values():
            if member.ready is not None and member.call is None:
                member.call = member.handle.work.remote(self.coordinator)

    def dismiss(self, names: list[str] | None = None) -> None:
        """End these evaluators, or all."""
        import ray

        for name in list(self._members) if names is None else names:
            ray.kill(self._members.pop(name).handle)

    def silent(self, since_s: dict[str, float], *, limit_s: float) -> list[str]:
        """Give up those who are at work and were not heard of for so long; their names."""
        hung = [
            name
            for name, quiet_s in since_s.items()
            if quiet_s > limit_s and name in self._members and self._members[name].reason is None
        ]
        for name in hung:
            self._lose(name, f"it was not heard of for {since_s[name]:.0f} s")
        return hung

    def leave_out(self, cordon: Cordon) -> list[str]:
        """Dismiss cordoned evaluators: others take their places where there is room elsewhere; their names.

        The last one stays, whatever it did.
        """
        held = [name for name in self._members if cordon.holds(name)]
        if len(held) == len(self._members):
            return []
        self._idle += [self._members[name].post for name in held if name in cordon.workers]
        self._cordoned |= cordon.nodes.keys()
        if held:
            self.dismiss(held)
            self._looked = 0.0
        return held

    def went_well(self) -> None:
        """Scores came in: what died before is forgotten."""
        self._losses = 0

    def _start(self, post: Post) -> None:
        import ray

        self._hired += 1
        name = f"{post.node.host}-{self._hired}"
        actor = ray.remote(EvaluatorWorker).options(
            num_cpus=post.cpus,
            num_gpus=self._wanted.gpus,
            max_restarts=0,
            label_selector={"ray.io/node-id": post.node.id},
        )
        handle = actor.remote(self.task, name)
        self._members[name] = _Member(post, handle, handle.prepare.remote(), time.monotonic())

    def _heed(self, name: str) -> bool:
        """Take the answer of a member whose call has ended; False: it died."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        member = self._members[name]
        try:
            answer = ray.get(member.call)
        except RayTaskError as failure:
            if isinstance(failure.cause, MergefleetError):
                raise failure.cause from None
            raise
        except RayError as failure:
            if member.ready is None and "creation task" in str(failure):
                raise ray_session.cannot_start(member.post.node.host, str(failure)) from None
            self._lose(name, str(failure))
            return False
        if member.ready is not None and answer == PREEMPTED:
            self.dismiss([name])  # no loss: its node was taken away, and it gave its work back
            self._looked = 0.0
            return False
        if member.ready is not None:
            member.reason = answer
            return True
        member.ready, member.call = answer, None
        self._check_alike(answer)
        if self.coordinator is not None:
            self.send_to_work()
        return True

    def _check_alike(self, ready: Ready) -> None:
        self._like = self._like or ready
        if (ready.key, ready.items_digest) != (self._like.key, self._like.items_digest):
            what = "items" if ready.key == self._like.key else "evaluation key (versions, settings or processor)"
            raise ClusterError(
                f"nodes {self._like.host} and {ready.host} would not score alike: their {what} differ. Give all nodes "
                "the same files, versions and kind of processor, or leave one out.",
                nodes=[self._like.host, ready.host],
            )

    def _lose(self, name: str, cause: str) -> None:
        member = self._members[name]
        self.dismiss([name])
        self._losses += 1
        self._looked = 0.0
        if self._losses <= MAX_LOSSES:
            why = cause.strip().splitlines()[0].rstrip(".")
            _LOG.warning(
                "evaluator %s was lost: %s. Another one takes its place, and its work is done again.", name, why
            )
            return
        tail = "" if member.ready is None else ray_session.log_tail(self._session.logs, member.ready.pid)
        raise WorkerLost(
            f"{self._losses} evaluators died with no score in between, the last on {member.post.node.host}: "
            f"{cause.strip().splitlines()[0]} Finished work is kept: --resume goes on.{ray_session.indented(tail)}",
            log=tail,
        )
