"""What runs in a campaign's worker processes: a resident model that pulls work; made an actor elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cluster.actors import check_shared
from engine.errors import MergefleetError

if TYPE_CHECKING:
    from search.campaign_file import Campaign
    from search.ports import BlockResult, Evaluator, Failed, Inventory, WorkSource

PREEMPTED = "preempted"
GRACE_S = 10.0
"""Kubernetes kills 30 s after SIGTERM, spot machines as soon after it: time for the next heartbeat or two is left."""


@dataclass(frozen=True)
class SearchTask:
    """All that a coordinator or an evaluator is told.

    Attributes:
        campaign: as `campaign_to_dict` gives it; its relative paths start at `directory`, the driver's.
        homes: folders of the modules of its functions.
        root: the run directory, absolute, the same on every node: `probe` is the text of its file `probe`.
        lease_s: a worker that is not heard of for so long loses its work.
    """

    campaign: Mapping[str, Any]
    origin: str
    directory: str
    root: Path
    probe: str
    lease_s: float
    homes: tuple[str, ...] = ()

    def parsed(self) -> Campaign:
        """The campaign, as the driver has it."""
        from search.campaign_file import parse_campaign

        return parse_campaign(self.campaign, origin=self.origin, homes=self.homes)


@dataclass(frozen=True)
class Ready:
    """An evaluator that can score, and what it would score: two that differ must not work for one campaign."""

    host: str
    pid: int
    key: str
    items_digest: str


class EvaluatorWorker:
    """A resident model that pulls work units from the coordinator until it is told that there are no more."""

    def __init__(self, task: SearchTask, name: str) -> None:
        self._task = task
        self._name = name
        self._evaluator: Evaluator

    def prepare(self) -> Ready:
        """Load the tasks. Raises ClusterError where this node does not see the run directory, CampaignError."""
        from search.opening import items_digest

        host = socket.gethostname()
        if Path(self._task.directory).is_dir():
            os.chdir(self._task.directory)
        check_shared(self._task.root, self._task.probe, what="the run directory (--run-dir)")
        self._evaluator = self._open()
        inventory = self._evaluator.inventory()
        return Ready(host, os.getpid(), inventory.key, items_digest(inventory))

    def inventory(self) -> Inventory:
        """What this evaluator measures, with a rehearsal where it needs one; after `prepare`."""
        from search.ports import rehearsed

        return rehearsed(self._evaluator)

    def work(self, coordinator: Any) -> str:
        """Score until the campaign is done or paused, and say which; `coordinator` is the handle of its actor.

        SIGTERM (a preempted node) ends it after the present block, or without it if that takes too long: "preempted".
        """
        from cluster.coordinator import RemoteCoordinator
        from search.ports import Finished, Wait

        source = RemoteCoordinator(coordinator)
        with _heartbeats(source, self._name, every_s=self._task.lease_s / 5), leaving(source, self._name) as leave:
            result: BlockResult | Failed | None = None
            while not leave.asked.is_set():
                work = source.next_work(self._name) if result is None else source.exchange(self._name, result)
                result = None
                if isinstance(work, Finished):
                    return work.reason
                if isinstance(work, Wait):
                    leave.asked.wait(work.after_s)
                    continue
                leave.lease = work.lease
                result = self._evaluator.evaluate(work)
                leave.lease = None
            if result is not None:
                source.submit(self._name, result)
        return PREEMPTED

    def _open(self) -> Evaluator:
        from search.evaluators.resident import open_evaluator
        from search.run import RunDirectory

        return open_evaluator(self._task.parsed(), audit=RunDirectory(self._task.root).audit)


@dataclass
class Leave:
    """Whether this worker was asked to go, and the lease that it has in hand."""

    asked: threading.Event
    lease: str | None = None


@contextmanager
def leaving(source: WorkSource, name: str, *, grace_s: float = GRACE_S) -> Iterator[Leave]:
    """SIGTERM asks to leave; a lease still in hand after `grace_s` is given back, so that others have it at once.

    A result that comes later is taken all the same, if the process lives that long.
    """
    from search.ports import Failed

    leave = Leave(threading.Event())

    def give_back() -> None:
        if leave.lease is not None:
            with suppress(MergefleetError):
                source.submit(name, Failed(leave.lease, f"worker {name} was preempted", retryable=True, blameless=True))

    def ask(number: int, frame: FrameType | None) -> None:
        if not leave.asked.is_set():
            leave.asked.set()
            timer = threading.Timer(grace_s, give_back)
            timer.daemon = True
            timer.start()

    if threading.current_thread() is not threading.main_thread():  # Python takes handlers from there only
        yield leave
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield leave
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _heartbeats(source: WorkSource, name: str, *, every_s: float) -> Iterator[None]:
    """Tell the coordinator from a thread of its own that this worker lives, however long a block of items takes."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            with suppress(MergefleetError):  # the main thread meets the same, and says so
                source.heartbeat(name)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
