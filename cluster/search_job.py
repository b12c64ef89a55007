"""A campaign on Ray: evaluators on all nodes pull work from the coordinator actor; this process watches over both.

    evaluators load their tasks → the first one's items open the coordinator → pull, score, submit … → close → conclude

The driver replaces evaluators that die, hires more where nodes join, gives up those that hang, and ends a coordinator
that was stopped, which Ray then restarts. When the driver dies, Ray ends the rest; --resume goes on from the store.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import ray_session
from cluster.address import check_address
from cluster.coordinator import CoordinatorActor, Report, answered, keep_inventory, report_of
from cluster.crew import Crew, Wanted
from cluster.evaluator_worker import SearchTask
from search.campaign_file import Campaign, campaign_to_dict
from search.evaluators.plans import Plans
from search.outage import refuse_given_up
from search.ports import CampaignStatus
from search.session import Outcome, conclude, load_run, wait_for_predecessor
from search.starting import check_start
from search.store import takeover

POLL_S = 1.0
LEASE_S = 30.0
STOPPED_S = 3.0
SAVE_S = 3.0
UNANSWERED_S = 900.0
INVENTORY = "inventory.json"
"""In the run directory while the campaign runs: its items, for a coordinator that is restarted."""


@dataclass(frozen=True)
class Hire:
    """Which Ray evaluators run on, and how many of them.

    Attributes:
        address: `local`, `auto` or HOST:PORT (cluster.address).
        workers: evaluators in all; default: as many as fit, also on nodes that join later.
        cpus_per_worker: what each reserves; default: the campaign's `evaluator.threads`.
    """

    address: str = "local"
    workers: int | None = None
    cpus_per_worker: float | None = None


def search_on_ray(
    path: str | Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    allow_public_test_sets: bool = False,
    hire: Hire | None = None,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run (or continue) a campaign with evaluators on a Ray, to its report and its published winner.

    Args:
        path, root, resume, allow_public_test_sets, on_progress, stop: as for `search.session.run_campaign`.
        hire: where evaluators run, and how many.

    Raises what `run_campaign` raises, and ClusterError (the cluster cannot be used), WorkerLost (evaluators died one
    after the other without a score in between).
    """
    campaign, directory = load_run(path, root=root, resume=resume, allow_public_test_sets=allow_public_test_sets)
    hire = hire or Hire()
    check_address(hire.address)
    check_start(campaign, directory, Plans())
    wait_for_predecessor(campaign, directory, resume=resume)
    with ray_session.session(hire.address) as session, _shared(directory.root) as (place, probe):
        task = _task(campaign, place, probe)
        crew = Crew(session, task, Wanted.of(campaign, workers=hire.workers, cpus_per_worker=hire.cpus_per_worker))
        drive = _Drive(crew, resume=resume)
        try:
            ended = drive.go(on_progress, stop)
        finally:
            drive.dismiss()
    outcome = conclude(campaign, directory)
    refuse_given_up(ended)
    return outcome


def _task(campaign: Campaign, place: Path, probe: str) -> SearchTask:
    """What all actors are told."""
    return SearchTask(
        campaign=campaign_to_dict(campaign),
        origin=campaign.origin,
        directory=str(Path.cwd()),
        root=place,
        probe=probe,
        lease_s=LEASE_S,
        homes=campaign.homes,
    )


class _Drive:
    """The driver's loop over a crew of evaluators and their coordinator."""

    def __init__(self, crew: Crew, *, resume: bool) -> None:
        self._crew = crew
        self._resume = resume
        self._coordinator: Any = None
        self._process: takeover.ProcessIdentity | None = None
        self._asked: tuple[Any, float] | None = None
        self._progress: tuple[Any, ...] = ()

    def go(self, on_progress: Callable[[CampaignStatus], None], stop: Callable[[], bool]) -> CampaignStatus:
        """Until every evaluator was told that the campaign is done or paused; how it then stands."""
        while not self._crew.finished:
            self._crew.hire()
            self._forget(self._crew.watch(POLL_S))
            if self._coordinator is None:
                self._open()
                continue
            if stop():
                self._coordinator.pause.remote()  # again and again: a restarted coordinator does not know
            report = self._report()
            if report is not None:
                self._heed(report)
                on_progress(report.status)
        ended: CampaignStatus = answered(self._coordinator.report, self._crew.hired).status
        on_progress(ended)
        answered(self._coordinator.close)
        return ended

    def dismiss(self) -> None:
        """End all actors."""
        import ray

        self._crew.dismiss()
        if self._coordinator is not None:
            ray.wait([self._coordinator.save.remote()], timeout=SAVE_S)
            ray.kill(self._coordinator)

    def _open(self) -> None:
        """Start the coordinator, once an evaluator can tell its items."""
        import ray

        inventory = self._crew.inventory()
        if inventory is None:
            return
        # On this node, always: it must not outlive this process on a node of its own, and two nodes must never write
        # one SQLite file.
        actor = ray.remote(CoordinatorActor).options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            label_selector={"ray.io/node-id": ray_session.this_node()},
        )
        items = self._crew.task.root / INVENTORY
        keep_inventory(items, inventory)
        self._coordinator = actor.remote(self._crew.task, items, self._resume)
        # before anybody asks: what the first one fails is for those to try who are not ready yet
        self._process = answered(self._coordinator.report, self._crew.hired).process
        self._crew.coordinator = self._coordinator
        self._crew.send_to_work()

    def _report(self) -> Report | None:
        """What the coordinator says, if it has answered."""
        import ray

        now = time.monotonic()
        if self._asked is None:
            self._asked = self._coordinator.report.remote(self._crew.hired), now
        call, since = self._asked
        if ray.wait([call], timeout=0)[0]:
            self._asked = None
            return report_of(call)
        process = self._process
        if process is not None and (
            now - since > UNANSWERED_S or (now - since > STOPPED_S and _is_stopped(process.pid))
        ):
            takeover.end(process)  # and Ray starts another, which answers this call
            self._asked = call, now
        return None

    def _heed(self, report: Report) -> None:
        status = report.status
        progress = (status.phase, status.stage, status.candidates, status.items_done)
        if progress != self._progress:
            self._progress = progress
            self._crew.went_well()
        self._process = report.process
        self._forget(self._crew.silent(report.silent, limit_s=2 * LEASE_S))
        self._forget(self._crew.leave_out(report.cordon))

    def _forget(self, names: list[str]) -> None:
        for name in names:
            if self._coordinator is not None:
                self._coordinator.lost.remote(name)


def _is_stopped(pid: int) -> bool:
    """Whether a process of this node was stopped (SIGSTOP), so that it will answer nothing."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in "tT"
    return False


@contextmanager
def _shared(root: Path) -> Iterator[tuple[Path, str]]:
    """The run directory, with a file by which evaluators on all nodes know it; an empty one does not stay."""
    place, probe = root.absolute(), secrets.token_hex(16)
    place.mkdir(parents=True, exist_ok=True)
    (place / "probe").write_text(probe)
    try:
        yield place, probe
    finally:
        for name in ("probe", INVENTORY):
            (place / name).unlink(missing_ok=True)
        with suppress(OSError):
            place.rmdir()
