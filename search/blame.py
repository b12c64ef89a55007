"""Whose fault is a failure: the candidate's, the worker's, or its node's? Pure, and rebuilt from the leases' rows.

    two workers fail one candidate         the candidate is quarantined, with both causes; where there are several nodes
                                           it takes workers of two
    a worker fails three candidates that   the worker is cordoned: it gets no further work, and its failures count
    others score                           against no candidate
    workers of a node fail three that      the node is cordoned, if two of its workers did or it has only one, and none
    other nodes score                      of the others scores anything

A failure counts until its worker has scored ten other candidates: what fails once a day would else end the best machine
in a long campaign. A worker that went away (preempted, killed, cut off) failed nothing: queue.py counts such losses.

Who failed nothing of late and has been silent while `REMEMBERED` others asked for work or answered is forgotten, and a
node with the last of its workers: where machines come and go for days, those that were here once would take a gigabyte.
No decision is another for it, unless they come back after so many: what they scored before speaks for them no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CORDON_AFTER = 3
FORGOTTEN_AFTER = 10
REMEMBERED = 8192
QUARANTINED = "quarantined: "
"""How the cause of a quarantined candidate begins."""


def node_of(worker: str) -> str:
    """Workers are called NODE-NUMBER; one without a number is a node of its own."""
    return worker.rpartition("-")[0] or worker


@dataclass(frozen=True)
class Cordon:
    """Nodes and single workers that get no further work, and why."""

    nodes: Mapping[str, str]
    workers: Mapping[str, str]

    def holds(self, worker: str) -> bool:
        """Whether this worker, or its node, is cordoned."""
        return worker in self.workers or node_of(worker) in self.nodes

    def without(self, workers: Iterable[str]) -> set[str]:
        """Those of `workers` that are not cordoned."""
        return {worker for worker in workers if not self.holds(worker)}

    @property
    def sentences(self) -> list[str]:
        """For people: who, and why."""
        whole = [f"node {node} was cordoned: {why}" for node, why in self.nodes.items()]
        return whole + [f"evaluator {worker} was cordoned: {why}" for worker, why in self.workers.items()]

    def __str__(self) -> str:
        """All names in one line, to stand in a status."""
        return ", ".join([*(f"node {node}" for node in self.nodes), *self.workers])


NOBODY = Cordon({}, {})


class _Answer(NamedTuple):
    """`cause` of a failure, None: it was scored."""

    number: int
    cause: str | None


class Blame:
    """Failures by recipe and worker, and who passed what somebody failed."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, str]] = defaultdict(dict)  # recipe hash → worker → cause
        self._passed: dict[str, set[str]] = defaultdict(set)
        self._recent: dict[str, dict[str, _Answer]] = {}  # worker, last heard last → recipe hash → its last answer
        self._failing: set[str] = set()  # who has a failure among its last answers
        self._answers = 0
        self._members: dict[str, set[str]] = defaultdict(set)  # of a node
        self._gone: dict[str, bool] = {}  # node that has members → whether one that is forgotten scored anything
        self._cordon: Cordon | None = NOBODY

    def meet(self, worker: str) -> None:
        """This worker asks for work."""
        self._recent[worker] = self._recent.pop(worker, {})
        self._members[node_of(worker)].add(worker)
        if len(self._recent) - len(self._failing) > REMEMBERED:
            self._forget()

    def _forget(self) -> None:
        """Whoever was silent for longest and has no failure that counts; those that have are few."""
        worker = next(worker for worker in self._recent if worker not in self._failing)
        node, scored = node_of(worker), bool(self._recent.pop(worker))
        self._members[node].remove(worker)
        self._gone[node] = scored or self._gone.get(node, False)
        if not self._members[node]:
            del self._members[node], self._gone[node]

    def fail(self, worker: str, recipe_hash: str, cause: str) -> None:
        """This worker could not score this recipe."""
        self._failed[recipe_hash].setdefault(worker, cause)
        self._note(worker, recipe_hash, cause)

    def succeed(self, worker: str, recipe_hash: str) -> None:
        """This worker scored items of this recipe."""
        self._passed[recipe_hash].add(worker)
        self._note(worker, recipe_hash, None)

    def _note(self, worker: str, recipe_hash: str, cause: str | None) -> None:
        self.meet(worker)
        recent = self._recent[worker]
        recent.pop(recipe_hash, None)
        self._answers += 1
        recent[recipe_hash] = _Answer(self._answers, cause)
        if cause is None and sum(answer.cause is None for answer in recent.values()) > FORGOTTEN_AFTER:
            while recent.pop(next(iter(recent))).cause is not None:
                pass  # failures before the eleventh last candidate that was scored
        self._failing.discard(worker)
        if any(answer.cause is not None for answer in recent.values()):
            self._failing.add(worker)
        self._cordon = None if self._failed else NOBODY

    def to_avoid(self, worker: str, others: Collection[str]) -> set[str]:
        """Recipes for `others` to try: what this worker failed or, if some of them are on other nodes, its node."""
        if not others:
            return set()
        node = node_of(worker)
        elsewhere = any(node_of(other) != node for other in others)

        def mine(other: str) -> bool:
            return other == worker or (elsewhere and node_of(other) == node)

        return {recipe_hash for recipe_hash, workers in self._failed.items() if any(map(mine, workers))}

    def failed_by(self, worker: str) -> set[str]:
        """Recipes that this worker has failed."""
        return {recipe_hash for recipe_hash, workers in self._failed.items() if worker in workers}

    def quarantine(self, recipe_hash: str, present: Collection[str] = ()) -> str | None:
        """Why nobody should try this recipe again, or None; `present` are workers that might."""
        cordon = self.cordon()
        causes = {w: cause for w, cause in self._failed.get(recipe_hash, {}).items() if not cordon.holds(w)}
        nodes = {node_of(worker) for worker in causes}
        if len(causes) < 2 or (len(nodes) < 2 and {node_of(worker) for worker in present} - nodes):
            return None
        return f"{QUARANTINED}it failed on " + " and on ".join(f"{w} ({cause})" for w, cause in causes.items())

    def cordon(self) -> Cordon:
        """Who gets no further work."""
        if self._cordon is None:
            # only who failed something can be to blame: thousands may have come and gone
            failed = sorted({worker for causes in self._failed.values() for worker in causes})
            workers = {worker: self._alone({worker}) for worker in failed}
            workers = {worker: causes for worker, causes in workers.items() if len(causes) >= CORDON_AFTER}
            homes = dict.fromkeys(map(node_of, failed))
            nodes = {node: causes for node in homes if (causes := self._failed_alone(node, workers.keys()))}
            self._cordon = Cordon(
                {node: f"its evaluators failed {_said(causes)}" for node, causes in nodes.items()},
                {w: f"it failed {_said(causes)}" for w, causes in workers.items() if node_of(w) not in nodes},
            )
        return self._cordon

    def _failed_alone(self, node: str, cordoned: Collection[str]) -> list[str]:
        """Why a node is to be cordoned, given the workers that are; [] where it is not."""
        members, gone = self._members.get(node, set()), self._gone.get(node)
        if members == {node} and gone is None:
            return []  # a worker without a number
        causes = self._alone(members, node=node)
        culprits = {worker for worker in members if self._alone({worker}, node=node)}
        scores = gone or any(w not in cordoned and self._scores(w) for w in members)
        whole = len(culprits) > 1 or (culprits == members and gone is None)
        return causes if len(causes) >= CORDON_AFTER and whole and not scores else []

    def _alone(self, workers: Collection[str], *, node: str | None = None) -> list[str]:
        """The causes of what these workers failed of late, and somebody scored who is not of them (nor of their node,
        where that is given)."""
        found: dict[str, tuple[int, str]] = {}
        for worker in workers:
            for recipe_hash, (number, cause) in self._recent.get(worker, {}).items():
                if cause is not None and self._is_scored(recipe_hash, workers, node):
                    found[recipe_hash] = max(found.get(recipe_hash, (0, "")), (number, cause))
        return [cause for _, cause in sorted(found.values())]

    def _is_scored(self, recipe_hash: str, without: Collection[str], node: str | None) -> bool:
        others = (worker for worker in self._passed[recipe_hash] if worker not in self._failed[recipe_hash])
        return any(worker not in without if node is None else node_of(worker) != node for worker in others)

    def _scores(self, worker: str) -> bool:
        return any(answer.cause is None for answer in self._recent.get(worker, {}).values())


def _said(causes: Sequence[str]) -> str:
    return f"{len(causes)} candidates that others scored, the last with: {causes[-1]}"
