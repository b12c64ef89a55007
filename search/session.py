"""A campaign from file to published winner, in this process: open, run, report, publish."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.architecture import Layout
from engine.keypath import KeyPath
from engine.model_ref import parse_model
from search.campaign_file import Campaign, load_campaign
from search.coordinator import Coordinator
from search.inline import run_inline
from search.opening import Start, open_coordinator
from search.plans import Plans
from search.ports import CampaignStatus, Inventory, Verdict
from search.resident import open_evaluator
from search.results import Results, read_results
from search.run import RunDirectory, Services
from search.store import store_url

RUNS = Path("runs")


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `verdict` is None after a pause; `published` where there was a winner to publish."""

    directory: RunDirectory
    verdict: Verdict | None
    report: Path
    published: Path | None
    rescored: bool | None = None


def run_directory(campaign: Campaign, root: Path | None) -> RunDirectory:
    """Where a campaign's run lives: `runs/<name>` below the working directory, unless said otherwise."""
    return RunDirectory(root or RUNS / campaign.name)


def open_session(
    campaign: Campaign,
    inventory: Inventory,
    *,
    directory: RunDirectory,
    resume: bool,
    lease_s: float | None = None,
    plans: Plans | None = None,
) -> Coordinator:
    """The coordinator of a campaign on real models: hashes through the engine, layers from the base's headers."""
    plans = plans or Plans()
    base = plans.open(parse_model(campaign.base_model, KeyPath(campaign.origin).key("base_model")))
    layers = Layout.read(base.tensors, base.config, origin=campaign.base_model).layers
    start = Start(directory=directory, layers=layers, resume=resume)
    services = Services(hash_recipe=plans.hash_of, now=time.time, lease_s=lease_s)
    return open_coordinator(campaign, inventory, start=start, services=services)


def run_campaign(
    path: str | Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run (or continue) a campaign in this process, to its report and its published winner.

    Raises CampaignError and the other InputErrors before anything is scored, OutputExists where the run is there
    already and `resume` is False, InputsChanged, Busy, StaleEpoch where a successor took the campaign over.
    """
    campaign = load_campaign(path)
    directory = run_directory(campaign, root)
    plans = Plans()
    evaluator = open_evaluator(campaign, audit=directory.audit, plans=plans)
    try:
        coordinator = open_session(campaign, evaluator.inventory(), directory=directory, resume=resume, plans=plans)
        try:
            run_inline(coordinator, evaluator, on_progress=on_progress, stop=stop)
        finally:
            coordinator.close()
    finally:
        evaluator.close()
    return conclude(campaign, directory)


def conclude(campaign: Campaign, directory: RunDirectory) -> Outcome:
    """Write the report, and publish the winner if there is one and it is not published yet."""
    from search.publishing import publish_winner
    from search.report import write_html

    results = stored_results(campaign, directory)
    write_html(results, directory.report)
    verdict = results.verdict
    published = None
    if verdict is not None and verdict.significant:
        published = publish_winner(results, directory)
    return Outcome(directory, verdict, directory.report, published)


def stored_results(campaign: Campaign, directory: RunDirectory) -> Results:
    """What the store of a run holds. CampaignError where there is none."""
    return read_results(store_url(campaign.store, default=directory.database), name=campaign.name)
