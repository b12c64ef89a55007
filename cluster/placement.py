"""How many workers on which node, with how many threads. Pure: nodes and a request in, posts out."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.errors import ClusterError

_IN = re.compile(r"(!?)in\(([^()]*)\)")


@dataclass(frozen=True)
class Node:
    """A living node of the cluster, and what it lends, as Ray counts it (processors are a logical number)."""

    id: str
    host: str
    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Request:
    """What is asked of a cluster.

    Attributes:
        workers: how many in all; None: by default one on each node, also on nodes that join later.
        cpus: processors of each; None: those of its node are divided. A fraction lets several share a processor.
        gpus: of each; where there are some, as many workers as a node has GPUs for.
        labels: Ray's label selectors, which a node must meet: `VALUE`, `!VALUE`, `in(A,B)` or `!in(A,B)` by key.
        threads: of each; 0: its processors, at least one.
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0

    def __str__(self) -> str:
        """`a worker with 4 processors, 1 GPU and zone=eu`, to stand in an error."""
        asked = [f"{self.cpus:g} processors"] if self.cpus else []
        asked += [f"{self.gpus:g} GPU{'s' * (self.gpus > 1)}"] if self.gpus else []
        asked += [f"{key}={value}" for key, value in self.labels.items()]
        listed = [", ".join(asked[:-1]), asked[-1]] if len(asked) > 1 else asked
        return f"a worker with {' and '.join(listed)}" if asked else "a worker"


@dataclass(frozen=True)
class Post:
    """A place for one worker: Ray reserves `cpus` and `gpus`, it runs `threads`, `on_node` workers share the node."""

    node: Node
    cpus: float
    threads: int
    on_node: int
    gpus: float = 0.0


def posts(nodes: Sequence[Node], request: Request) -> list[Post]:
    """Spread workers over the nodes that meet the request; with sizes given at most as many as fit.

    Raises ClusterError where nothing fits: what was asked, and what the cluster has.
    """
    if not nodes:
        raise ClusterError("the cluster has no node with processors to lend: add one, or start Ray with --num-cpus.")
    fitting = [node for node in nodes if meets(node.labels, request.labels)]
    rooms = [_room(node, request) for node in fitting]
    if not any(rooms):
        has = _stock(nodes, request)
        raise ClusterError(f"{request} fits on no node of the cluster, which has {has}. Ask for less, or add nodes.")
    if request.cpus is None and not request.gpus:
        counts = [1] * len(fitting) if request.workers is None else _spread(fitting, request.workers, rooms)
    else:
        most = int(sum(rooms))
        counts = _spread(fitting, min(most, request.workers or most), rooms)
    found = []
    for node, count in zip(fitting, counts, strict=True):
        # Ray counts in ten-thousandths; rounded down, so that all of them fit
        cpus = request.cpus or (math.floor(node.cpus / count * 10_000) / 10_000 if count else 0.0)
        found += [Post(node, cpus, request.threads or max(1, int(cpus)), count, request.gpus)] * count
    return found


def without(nodes: Sequence[Node], idle: Sequence[Post], cordoned: Collection[str]) -> list[Node]:
    """The nodes but those of `cordoned` names, each less what the `idle` posts on it would take.

    All of them, as they are, where nothing else is left.
    """
    left = []
    for node in nodes:
        here = [post for post in idle if post.node.id == node.id]
        cpus = node.cpus - sum(post.cpus for post in here)
        if node.host not in cordoned and cpus > 1e-6:
            left.append(replace(node, cpus=cpus, gpus=node.gpus - sum(post.gpus for post in here)))
    return left or list(nodes)


def meets(labels: Mapping[str, str], selectors: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that Ray would choose (its label selectors, as of 2.60)."""
    return all(_meets(labels.get(key), selector) for key, selector in selectors.items())


def _meets(label: str | None, selector: str) -> bool:
    listed = _IN.fullmatch(selector)
    if listed:
        found = label in [value.strip() for value in listed[2].split(",")]
        return found != bool(listed[1])
    if selector.startswith("!"):
        return label != selector[1:]
    return label == selector


def _room(node: Node, request: Request) -> float:
    """How many such workers a node has room for."""
    by_cpus = math.floor(node.cpus / request.cpus + 1e-6) if request.cpus else math.inf
    by_gpus = math.floor(node.gpus / request.gpus + 1e-6) if request.gpus else math.inf
    return min(by_cpus, by_gpus)


def _stock(nodes: Sequence[Node], request: Request) -> str:
    """What nodes have of what was asked, to stand in an error."""
    shown = []
    for node in nodes[:4]:
        has = [f"{node.cpus:g} processors", f"{node.gpus:g} GPUs"] if request.gpus else [f"{node.cpus:g} processors"]
        has += [f"{key}={node.labels.get(key, 'nothing')}" for key in request.labels]
        shown.append(f"{node.host} ({', '.join(has)})")
    return ", ".join(shown) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")


def _spread(nodes: Sequence[Node], workers: int, rooms: Sequence[float]) -> list[int]:
    """Workers per node, each where most processors are left for it."""
    counts = [0] * len(nodes)
    for _ in range(workers):
        free = [place for place in range(len(nodes)) if counts[place] < rooms[place]]
        counts[max(free, key=lambda place: nodes[place].cpus / (counts[place] + 1))] += 1
    return counts
