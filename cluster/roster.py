"""A merge's workers on Ray: hired where there is room, also on nodes that join later, and sent home from those that go.

This is the one place of a merge that speaks with Ray; who does what is decided in `cluster.drive`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster import ray_session
from cluster.actors import MergeTask, MergeWorker, Present
from cluster.placement import Node, Post, Request, posts
from cluster.ray_session import Session
from cluster.suspects import Place
from engine.errors import ClusterError, MergefleetError

LOOK_AROUND_S = 2.0
PENDING_S = 60.0
"""So long a worker waits for room on its node while others work; then it is looked for anew where there is some."""
CALL_TRIES = 5
"""A call that is lost on its way to a worker that lives is made again, by Ray: what it asks for may be done twice."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Died:
    """A call that ended with its worker: what Ray says of it."""

    said: str


@dataclass(frozen=True)
class Task:
    """An unfinished call: what it is about (None: `prepare`), since when on a clock, and whether it was sent out yet.

    What is not sent waits for a word of the worker that it is there.
    """

    errand: Any
    since: float
    sent: bool = True


@dataclass(eq=False)
class Member:
    """A worker: which post it fills, since when, and what it is at.

    Attributes:
        number: of all workers that there ever were.
        queue: whose work it does first.
        present: what it said when it was ready.
        leaving: it finishes what it is at and gets nothing more.
        late: something it is at takes far too long; it gets nothing more before it answers.
        calls: unfinished calls, by Ray's references.
    """

    number: int
    post: Post
    handle: Any
    since: float
    queue: int = -1
    present: Present | None = None
    leaving: bool = False
    late: bool = False
    calls: dict[Any, Task] = field(default_factory=dict)

    @property
    def errands(self) -> list[Any]:
        return [task.errand for task in self.calls.values() if task.errand is not None]

    @property
    def place(self) -> Place:
        return Place(self.post.node.id, self.number)

    @property
    def name(self) -> str:
        return self.post.node.host


class Roster:
    """`task` says what a worker at a post is told; `members` are those who were hired and have not gone."""

    def __init__(self, session: Session, request: Request, task: Callable[[Post], MergeTask]) -> None:
        self.members: list[Member] = []
        self._session = session
        self._request = request
        self._task = task
        self._hired = 0
        self._looked = 0.0
        self._shunned: set[str] = set()
        self._short = 0

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes that have workers who are ready and stay."""
        return {member.post.node.id for member in self.members if member.present and not member.leaving}

    def look_around(self, *, now: float) -> None:
        """Hire where workers are missing, send home whose node is drained, forget those who wait in vain for theirs.

        Raises ClusterError where no node fits and none ever did.
        """
        if now - self._looked < LOOK_AROUND_S:
            return
        self._looked = now
        alive = {node.id: node for node in ray_session.alive_nodes()}
        draining = ray_session.draining_nodes()
        for member in list(self.members):
            if member.post.node.id in draining and not member.leaving:
                _LOG.info("%s is drained: its worker leaves", member.name)
                self.send_home(member)
            waits = self.nodes and now - member.since > PENDING_S
            if member.present is None and (waits or member.post.node.id not in alive):
                self.dismiss(member)
        usable = [node for node in alive.values() if node.id not in draining | self._shunned]
        for post in self._missing(usable):
            self._hire(post, now)

    def shun(self, member: Member, cause: MergefleetError) -> None:
        """No worker of this node any more: it cannot do what is asked. Raises `cause` where it was the last."""
        self._shunned.add(member.post.node.id)
        self.dismiss(member)
        if not self.members:
            raise cause
        _LOG.warning("%s The merge goes on without this node.", cause.message)

    def send_home(self, member: Member) -> None:
        """It finishes the tile at hand."""
        member.leaving = True
        member.handle.leave.remote()

    def dismiss(self, member: Member) -> None:
        """End a worker, whatever it is at."""
        import ray

        self.members.remove(member)
        ray.kill(member.handle)

    def wait(self, timeout_s: float) -> list[tuple[Member, Any]]:
        """The calls that have ended, at most one; waits for that."""
        import ray

        owner = {call: member for member in self.members for call in member.calls}
        if not owner:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(owner), num_returns=1, timeout=timeout_s)
        return [(owner[call], call) for call in ready]

    def answer(self, member: Member, call: Any) -> Any:
        """What a call that has ended returned, an error that it raised, or Died."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(call)
        except RayTaskError as failure:
            return failure.cause
        except RayError as failure:
            if member.present is None and "creation task" in str(failure):
                return ray_session.cannot_start(member.name, str(failure))
            return Died(str(failure).strip().splitlines()[0])

    def last_words(self, member: Member) -> str:
        """The end of a worker's log."""
        if member.present is None:
            return ""
        return ray_session.log_of(self._session.logs, member.present.pid, member.post.node)

    def _missing(self, nodes: list[Node]) -> list[Post]:
        """Posts that nobody fills; nobody is moved for the sake of a node that came later."""
        try:
            wanted = posts(nodes, self._request)
        except ClusterError:
            if not self._hired:
                raise
            return []  # the last node was taken away: another may come
        self._tell_short((self._request.workers or 0) - len(wanted))
        staying = [member for member in self.members if not member.leaving]
        filled = Counter(member.post.node.id for member in staying)
        missing = []
        for post in wanted:
            if filled[post.node.id]:
                filled[post.node.id] -= 1
            else:
                missing.append(post)
        if self._request.workers is None:
            return missing
        return missing[: max(0, self._request.workers - len(staying))]

    def _tell_short(self, short: int) -> None:
        """Say, whenever that changes, how many of the workers that were asked for do not fit."""
        if short > 0 and short != self._short:
            asked = self._request.workers or 0
            _LOG.warning("%d of %d workers fit; the others start when nodes join.", asked - short, asked)
        self._short = short

    def _hire(self, post: Post, now: float) -> None:
        import ray

        actor = ray.remote(MergeWorker).options(
            num_cpus=post.cpus,
            num_gpus=post.gpus,
            max_concurrency=post.threads + 1,  # one more than work is given to: `leave` and `drop` must get through
            max_restarts=0,
            max_task_retries=CALL_TRIES,
            label_selector={**self._request.labels, "ray.io/node-id": post.node.id},
        )
        handle = actor.remote(self._task(post))
        self._hired += 1
        self.members.append(Member(self._hired, post, handle, now, calls={handle.prepare.remote(): Task(None, now)}))
