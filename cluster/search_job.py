"""A campaign on Ray: evaluators on all nodes pull work from the coordinator actor; this process watches over both.

    evaluators load their tasks → the first one's items open the coordinator → pull, score, submit … → close → conclude

The driver restarts what dies, adds evaluators where nodes join, and gives up on workers that hang. When it dies itself,
Ray ends the rest; the same command with --resume goes on from the store.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster import ray_session
from cluster.actors import EvaluatorWorker, Ready, SearchTask
from cluster.address import check_address
from cluster.coordinator import CoordinatorActor, Report, answered
from cluster.placement import Post, posts
from cluster.ray_session import Session
from engine.errors import ClusterError, MergefleetError, WorkerLost
from search import takeover
from search.campaign_file import Campaign, campaign_to_dict, load_campaign
from search.ports import CampaignStatus
from search.run import RunDirectory
from search.session import Outcome, conclude, run_directory

POLL_S = 0.25
LEASE_S = 30.0
START_S = 300.0
LOOK_AROUND_S = 5.0
STOPPED_S = 3.0
UNANSWERED_S = 900.0
MAX_LOSSES = 8


def search_on_ray(
    path: str | Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    address: str = "local",
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run (or continue) a campaign with evaluators on a Ray, to its report and its published winner.

    Args:
        path, root, resume, on_progress, stop: as for `search.session.run_campaign`.
        address: `local`, `auto` or HOST:PORT (cluster.address).
        workers: evaluators in all; default: as many as fit, also on nodes that join later.
        cpus_per_worker: what each reserves; default: the campaign's `evaluator.threads`.

    Raises what `run_campaign` raises, and ClusterError (the cluster cannot be used), WorkerLost (evaluators died one
    after the other without a score in between).
    """
    campaign = load_campaign(path)
    directory = run_directory(campaign, root)
    check_address(address)
    with ray_session.session(address) as session, _shared(directory.root) as (place, probe):
        task = SearchTask(
            campaign=campaign_to_dict(campaign),
            origin=campaign.origin,
            directory=str(Path.cwd()),
            root=place,
            probe=probe,
            lease_s=LEASE_S,
        )
        crew = Crew(session, task, Wanted.of(campaign, workers=workers, cpus_per_worker=cpus_per_worker))
        try:
            _Drive(crew, resume=resume).go(on_progress, stop)
        finally:
            crew.dismiss()
    return conclude(campaign, directory)


class _Drive:
    """The driver's loop over a crew of evaluators and their coordinator."""

    def __init__(self, crew: Crew, *, resume: bool) -> None:
        self._crew = crew
        self._resume = resume
        self._coordinator: Any = None
        self._process: ProcessIdentity | None = None
        self._asked: tuple[Any, float] | None = None
        self._items = -1

    def go(self, on_progress: Callable[[CampaignStatus], None], stop: Callable[[], bool]) -> None:
        """Until every evaluator was told that the campaign is done or paused."""
        while not self._crew.finished:
            self._crew.hire(self._coordinator)
            for name in self._crew.watch(POLL_S):
                if self._coordinator is not None:
                    self._coordinator.lost.remote(name)
            if self._coordinator is None and self._crew.ready:
                self._open()
                self._crew.put_to_work(self._coordinator)
            if self._coordinator is not None:
                if stop():
                    self._coordinator.pause.remote()
                report = self._report()
                if report is not None:
                    self._heed(report)
                    on_progress(report.status)
        self._crew.see_off(LEASE_S)
        final: Report = answered(self._coordinator.report)
        on_progress(final.status)
        answered(self._coordinator.close)

    def _open(self) -> None:
        import ray

        # on this node, always: an SQLite store must not be written from two, and this process must outlive the actor
        actor = ray.remote(CoordinatorActor).options(
            name=f"coordinator of {self._crew.task.campaign['name']}",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            label_selector={"ray.io/node-id": ray_session.this_node()},
        )
        self._coordinator = self._crew.coordinator = actor.remote(self._crew.task, self._crew.inventory(), self._resume)
        self._process = answered(self._coordinator.open)

    def _report(self) -> Report | None:
        """The coordinator's answer, if there is one; a process that cannot answer is ended, and Ray starts another."""
        import ray

        now = time.monotonic()
        if self._asked is None:
            self._asked = self._coordinator.report.remote(), now
        call, since = self._asked
        ready, _ = ray.wait([call], timeout=0)
        if ready:
            self._asked = None
            report: Report = answered(lambda: call)
            return report
        hangs = now - since > STOPPED_S and self._process is not None and _is_stopped(self._process.pid)
        if self._process is not None and (hangs or now - since > UNANSWERED_S):
            takeover.end(self._process)
        return None
