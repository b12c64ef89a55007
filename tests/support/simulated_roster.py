"""A merge's workers without Ray: real ones, called in this process, that die, fail and leave by a seeded chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.actors import MergeTask, MergeWorker
from cluster.placement import Node, Post, Request
from cluster.roster import Died, Member, Roster, Task
from engine.errors import MergefleetError


@dataclass
class Chances:
    """How often a call ends with its worker, or its worker leaves.

    `deadly` tiles kill whoever makes them, at `broken` ones an error comes that nobody foresaw.
    """

    die: float = 0.0
    leave: float = 0.0
    deadly: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()


@dataclass(eq=False)
class Call:
    """Something that was asked of a worker, and is done when somebody waits for it."""

    method: str
    arguments: tuple[Any, ...]


@dataclass
class _Asked:
    worker: MergeWorker
    method: str

    def remote(self, *arguments: Any) -> Call:
        call = Call(self.method, arguments)
        if self.method in ("leave", "drop"):
            getattr(self.worker, self.method)(*arguments)
        return call


@dataclass
class Handle:
    worker: MergeWorker

    def __getattr__(self, method: str) -> _Asked:
        return _Asked(self.worker, method)


class BrokenWorker(MergeWorker):
    """Raises what nobody foresaw at some tiles."""

    broken: frozenset[int] = frozenset()

    def make(self, tiles: Any, facts: Any) -> Any:
        if self.broken & set(tiles):
            raise OSError(5, "Input/output error")
        return super().make(tiles, facts)


@dataclass
class SimulatedRoster(Roster):
    """`nodes_there` posts of one worker each; who died is replaced. `tried`: (tile, node) of every start."""

    task: Callable[[Post], MergeTask]
    nodes_there: int
    threads: int
    chances: Chances
    chance: random.Random
    tried: list[tuple[int, str]] = field(default_factory=list)
    deaths: int = 0

    def __post_init__(self) -> None:
        super().__init__(None, Request(), self.task)  # type: ignore[arg-type]

    def look_around(self, *, now: float) -> None:
        taken = {member.post.node.id for member in self.members if not member.leaving}
        for number in range(self.nodes_there):
            node = Node(f"n{number}", f"node{number}", 1.0)
            if node.id not in taken | self._shunned:
                self._hire(Post(node, 1.0, self.threads, 1), now)

    def _hire(self, post: Post, now: float) -> None:
        worker = BrokenWorker(replace(self.task(post), own_process=False))
        worker.broken = self.chances.broken
        handle = Handle(worker)
        self._hired += 1
        self.members.append(Member(self._hired, post, handle, now, calls={handle.prepare.remote(): Task(None, now)}))

    def dismiss(self, member: Member) -> None:
        self.members.remove(member)

    def wait(self, timeout_s: float) -> list[tuple[Member, Any]]:
        owner = [(member, call) for member in self.members for call in member.calls]
        return [self.chance.choice(owner)] if owner else []

    def answer(self, member: Member, call: Any) -> Any:
        chance, chances = self.chance.random(), self.chances
        tiles = [number for unit in call.arguments[1] for number in unit] if call.method == "run" else []
        self.tried += [(number, member.post.node.id) for number in tiles]
        if chance < chances.die or chances.deadly & set(tiles):
            self.deaths += 1
            return Died("it was killed.")
        if call.method != "prepare" and chance < chances.die + chances.leave:
            member.handle.worker.leave()
        try:
            return getattr(member.handle.worker, call.method)(*call.arguments)
        except MergefleetError as error:
            return error

    def last_words(self, member: Member) -> str:
        return "last words"
