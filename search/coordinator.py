"""The campaign's one writer: hands out work under leases, takes scores, decides through campaign.py, stores all of it.

    campaign.py decides (pure) · samplers.py proposes · queue.py leases (pure) · store.py remembers · this file: clock + glue

In process the driver is `search.inline.run_inline`; on Ray an actor wraps a Coordinator and forwards the WorkSource calls.
Not thread safe: one thread calls it (a Ray actor with max_concurrency=1 does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.campaign_file import Campaign
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Inventory, Verdict, Wait, Work


@dataclass(frozen=True)
class RunDirectory:
    """Where a run lives: `runs/<name>` by default."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "campaign.sqlite"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def mirror(self) -> Path:
        return self.root / "optuna.sqlite"

    @property
    def scores(self) -> Path:
        return self.root / "items.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


@dataclass(frozen=True)
class Services:
    """What the coordinator needs from elsewhere, as functions: fakes in tests, the engine in production.

    hash_recipe   recipe mapping → canonical recipe hash (hex); raises InputError for a recipe that cannot work
    layers        number of decoder layers of the models
    now           seconds on a clock that only goes forward between two restarts (time.time)
    lease_s       a lease without a heartbeat for this long is given to another worker; None: never (in process)
    """

    hash_recipe: Callable[[Mapping[str, Any]], str]
    layers: int
    now: Callable[[], float]
    lease_s: float | None = None


class Coordinator:
    """Use `Coordinator.open`; see search.ports.WorkSource for what workers may call."""

    @classmethod
    def open(
        cls,
        campaign: Campaign,
        inventory: Inventory,
        *,
        services: Services,
        directory: RunDirectory,
        resume: bool = False,
    ) -> Coordinator:
        """Start or continue a run: check items, take over the store (epoch += 1), replay what it holds.

        Raises CampaignError (holdout overlaps other items; space does not fit), Refused (a run is there and `resume`
        is False), InputsChanged (resume with another campaign or evaluator), Busy (the store is locked by a process
        that cannot be ended from here).
        """
        raise NotImplementedError

    def next_work(self, worker: str) -> Work | Wait | Finished:
        raise NotImplementedError

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        raise NotImplementedError

    def heartbeat(self, worker: str) -> None:
        raise NotImplementedError

    def status(self) -> CampaignStatus:
        raise NotImplementedError

    def verdict(self) -> Verdict | None:
        """The answer, once the phase is `done`."""
        raise NotImplementedError

    def pause(self) -> None:
        """Hand out nothing more: workers get Finished("paused"); results of running leases are still taken."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the exports (Parquet matrix, Optuna mirror) and close the store."""
        raise NotImplementedError
