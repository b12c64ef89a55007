"""What is fixed about a run once it is open: where it lives, what it searches, and the services it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.baselines import Baseline
from search.campaign_file import Campaign
from search.pools import Pools
from search.space import Params, Space
from search.store.store import Store, store_url
from search.trackers.contract import Tell

_OWN = ("audit", "campaign", "inventory", "items", "optuna", "outbox", "probe", "report", "run", "trackers")
"""How names in a run's directory begin, to the first dot or dash, that are the run's own."""


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder, `runs/<name>` by default."""

    root: Path

    @property
    def database(self) -> Path:
        """The store, where the campaign names no other."""
        return self.root / "campaign.sqlite"

    @property
    def note(self) -> Path:
        """Which campaign this is a run of, and where its store is (search.whereabouts)."""
        return self.root / "run.json"

    @property
    def audit(self) -> Path:
        """Attempts at scoring, written by evaluators before they start (search.evaluators.audit)."""
        return self.root / "audit.jsonl"

    @property
    def mirror(self) -> Path:
        """A copy of the search as an Optuna study, for optuna-dashboard."""
        return self.root / "optuna.sqlite"

    @property
    def scores(self) -> Path:
        """The item matrix, exported."""
        return self.root / "items.parquet"

    @property
    def report(self) -> Path:
        """The report as one HTML page."""
        return self.root / "report.html"

    def is_own(self, place: Path) -> bool:
        """Whether `place` is the run's directory, a folder around it, or something in it that the run makes itself."""
        root, place = self.root.resolve(), place.resolve()
        if not place.is_relative_to(root) or place == root:
            return root.is_relative_to(place)
        return re.split("[.-]", place.relative_to(root).parts[0])[0] in _OWN


def open_store(campaign: Campaign, directory: RunDirectory) -> closing[Store]:
    """The store of a campaign's run, to be used in a `with`; opening one that is not there makes nothing."""
    return closing(Store(store_url(campaign.store, default=directory.database)))


def has_scores(campaign: Campaign, directory: RunDirectory) -> bool:
    """Whether there is a run that has something to continue."""
    with open_store(campaign, directory) as store:
        return store.find(campaign.name) is not None and store.scored()


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 by the clock of now, which go on evenly whatever the machine's clock is set to later: leases
    and budgets of hours are no matter of that, nor of the time for which a machine sleeps."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()


@dataclass(frozen=True)
class Services:
    """What the coordinator needs from elsewhere, as functions: fakes in tests, the engine in production.

    hash_recipe   recipe mapping → canonical recipe hash (hex); raises MergefleetError for a recipe that cannot work
    former_hash   the same as earlier versions had it, by which they began runs (None: it was the same)
    now           seconds; goes forward (steady_clock)
    parameters_of recipe mapping → parameters of the model that it gives (None: nobody can say)
    layers_of     recipe mapping → layers of the model that it gives (None: nobody can say)
    beside        what lies beside the models' weights: model → file → digest (None: nobody can say)
    tell          what trackers are told, after every commit (None: nobody listens)
    lease_s       a lease without a heartbeat for this long goes to another worker; None: leases do not run out
    commit_every_s  rows may wait in memory for so long to be committed together; 0: a commit per call
    """

    hash_recipe: Callable[[Mapping[str, Any]], str]
    now: Callable[[], float]
    lease_s: float | None = None
    parameters_of: Callable[[Mapping[str, Any]], int] | None = None
    layers_of: Callable[[Mapping[str, Any]], int] | None = None
    former_hash: Callable[[Mapping[str, Any]], str] | None = None
    beside: Callable[[], Mapping[str, Mapping[str, str]]] | None = None
    tell: Tell | None = None
    commit_every_s: float = 0.0

    def hashes(self, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """What a recipe may be called in the rows of a run: the hash of now, and the former one."""
        return tuple(hash_of(recipe) for hash_of in (self.hash_recipe, self.former_hash) if hash_of is not None)


@dataclass(frozen=True)
class Run:
    """An open run; `search.opening.open_run` makes it. `seconds_before` is the time that earlier starts took, `elites`
    are points of earlier campaigns, by stage, with their scores there; `stored_config` is the campaign as the store has
    it, before what this start may change; `notes` are what the verdict should tell of the items (Inventory.notes)."""

    campaign: Campaign
    directory: RunDirectory
    space: Space
    pools: Pools
    baselines: tuple[Baseline, ...]
    eval_key: str
    store: Store
    seconds_before: float = 0.0
    elites: Mapping[int, Sequence[tuple[Params, float]]] = field(default_factory=dict)
    stored_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
