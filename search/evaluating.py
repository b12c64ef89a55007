"""Any model on the items of a campaign: means with their intervals. Never on the holdout: only a campaign opens it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.models.places import local_path
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from search.campaign_file import Campaign
from search.judging.scores import weighted_mean
from search.pools import make_pools
from search.ports import Split
from search.publishing.sentinels import Rescorer
from search.report.tables import Z95


@dataclass(frozen=True)
class Evaluation:
    """`tasks`: task → (mean, half of its 95 % interval, items); `mean` is weighted as in the campaign."""

    model: str
    split: Split
    mean: float
    tasks: Mapping[str, tuple[float, float, int]]


def evaluate(model: str, campaign: Campaign, *, split: Split, rescorer: Rescorer) -> Evaluation:
    """Score a local directory or a model on the Hub, loaded as its users load it, on all items of `split`."""
    assert split != "holdout"
    pools = make_pools(campaign, rescorer.inventory())
    scores = rescorer.rescore(_directory(model), pools.blocks(pools.all(split)))
    by_task: dict[str, list[float]] = {task.name: [] for task in campaign.tasks}
    for item, score in scores.items():
        by_task[pools.task_of[item]].append(score)
    tasks = {name: _summary(values) for name, values in by_task.items() if values}
    mean = weighted_mean(scores, task_of=pools.task_of, weights=campaign.task_weights)
    return Evaluation(model, split, mean, tasks)


def _summary(values: list[float]) -> tuple[float, float, int]:
    count, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return mean, Z95 * math.sqrt(variance / count), count


def _directory(model: str) -> Path:
    ref = parse_model(model, KeyPath("MODEL"))
    place = local_path(ref)
    if place is None:
        from engine.models.hub import download_model

        place, _ = download_model(ref)
    return place
