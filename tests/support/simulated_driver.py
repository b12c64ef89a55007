"""A driver of a simulated campaign on Ray that is killed (-9): `python simulated_driver.py CAMPAIGN ADDRESS ITEMS`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from simulated_actors import SimulatedCoordinator, SimulatedWorker

from cluster import crew, search_job
from search.ports import CampaignStatus


def run_until_killed(campaign: Path, address: str, items: int) -> None:
    """Search in a process of its own, killed once so many items are scored."""
    ended = subprocess.run(
        [sys.executable, __file__, str(campaign), address, str(items)],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr


def _search_and_die(campaign: Path, address: str, items: int) -> None:
    crew.EvaluatorWorker = SimulatedWorker  # type: ignore[misc]
    search_job.CoordinatorActor = SimulatedCoordinator  # type: ignore[misc]
    search_job.check_start = lambda *_: None
    search_job.POLL_S = 0.1

    def watch(status: CampaignStatus) -> None:
        if status.items_done >= items:
            os.kill(os.getpid(), signal.SIGKILL)

    root = campaign.parent / "run"
    hire = search_job.Hire(address, 1, cpus_per_worker=0.2)
    search_job.search_on_ray(campaign, root=root, hire=hire, on_progress=watch)


if __name__ == "__main__":
    _search_and_die(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
