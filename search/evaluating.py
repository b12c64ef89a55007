"""Any model on the items of a campaign, or of a tasks file: means with their intervals.

The holdout of a campaign is no exception, but what meets it is entered in the campaign's ledger first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import digest
from engine.errors import CampaignError, Refused, did_you_mean
from engine.models.checkpoint import open_checkpoint
from engine.models.places import local_path
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from engine.recipes.yamlfile import read_yaml
from search.campaign_file import Campaign, load_campaign, parse_campaign
from search.judging.scores import weighted_mean
from search.opening import items_digest
from search.pools import make_pools
from search.ports import Inventory, Split
from search.publishing.sentinels import Rescorer, rescored
from search.report.tables import Interval, interval_of_mean, mean_and_interval
from search.run import RunDirectory, open_store
from search.visits import Visit, make_visit

_TASKS_FILE = ("tasks", "include_path", "items", "seed", "evaluator", "contamination", "allow_public_test_sets")
_CAMPAIGN_ONLY = ("name", "base_model", "sources", "space", "budget")


@dataclass(frozen=True)
class Evaluation:
    """`tasks`: task → (mean, its 95 % interval, items); `mean` is weighted as in the campaign, as is its `interval`."""

    model: str
    split: Split
    mean: float
    interval: Interval
    tasks: Mapping[str, tuple[float, Interval, int]]


def evaluate(
    model: str, campaign: Campaign, *, split: Split, rescorer: Rescorer, directory: RunDirectory | None = None
) -> Evaluation:
    """Score a local directory or a model on the Hub, loaded as its users load it, on all items of `split`.

    `directory` is the campaign's run, which the holdout needs: without one it stays sealed (Refused).
    """
    inventory = rescorer.inventory()
    pools = make_pools(campaign, inventory)
    place = _directory(model)
    items = pools.all(split)
    if split == "holdout":
        if directory is None:
            raise Refused(f"--split: {campaign.origin} is no campaign, whose ledger could tell who met the holdout.")
        enter(make_visit(model, _weights(model), items), campaign, directory, inventory)
    scores = rescored(rescorer, place, pools.blocks(items))
    by_task: dict[str, list[float]] = {task.name: [] for task in campaign.tasks}
    for item, score in scores.items():
        by_task[pools.task_of[item]].append(score)
    found = {name: mean_and_interval(values) for name, values in by_task.items() if values}
    mean = weighted_mean(scores, task_of=pools.task_of, weights=campaign.task_weights)
    tasks = {name: (*scored, len(by_task[name])) for name, scored in found.items()}
    return Evaluation(model, split, mean, interval_of_mean(found, campaign.task_weights), tasks)


def enter(visit: Visit, campaign: Campaign, directory: RunDirectory, inventory: Inventory) -> None:
    """Write it into the ledger of the campaign's run, whatever runs there meanwhile.

    Raises CampaignError where there is no run, or one on other items: nobody would ever read the entry.
    """
    with open_store(campaign, directory) as store:
        row = store.find(campaign.name)
        if row is None:
            raise CampaignError(
                f"--split holdout: {directory.root} holds no run of campaign {campaign.name!r}, whose ledger would "
                "have to tell of it. Start the campaign, name its directory with --run-dir, or take --split selection."
            )
        if row["items_digest"] != items_digest(inventory):
            raise CampaignError(
                f"--split holdout: the items of {campaign.origin} are not those of the run in {directory.root}: its "
                "ledger says nothing of them. Take the campaign file and the items that it was run with."
            )
        store.visit(vars(visit))


def load_suite(path: str | Path) -> tuple[Campaign, bool]:
    """A campaign file, or a tasks file: `tasks`, and what else of a campaign's keys says how they are scored.

    The second is whether it is a whole campaign. CampaignError names file and key.
    """
    data = read_yaml(path, error=CampaignError)
    if not isinstance(data, Mapping) or set(data) & set(_CAMPAIGN_ONLY):
        return load_campaign(path), True
    strange = sorted(map(str, set(data) - set(_TASKS_FILE)))
    if strange:
        raise CampaignError(f"{path}: {strange[0]}: unknown key; {did_you_mean(strange[0], _TASKS_FILE)}")
    weight = {"low": 0, "high": 1, "start": 0}
    space = {"parameters": {"weight": weight}, "stages": [{"name": "none"}]}
    rest = {"name": "tasks", "base_model": "-", "sources": ["--"], "space": space, "budget": {"items": 1}}
    return parse_campaign({**rest, **data}, origin=str(path)), False


def _directory(model: str) -> Path:
    ref = parse_model(model, KeyPath("MODEL"))
    place = local_path(ref)
    if place is None:
        from engine.models.hub import download_model

        place, _ = download_model(ref)
    return place


def _weights(model: str) -> str:
    """The digest of its tensors."""
    checkpoint = open_checkpoint(parse_model(model, KeyPath("MODEL")))
    try:
        return digest.of_contents(checkpoint)
    finally:
        checkpoint.close()
