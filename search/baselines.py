"""The fixed recipes that every campaign scores first, and that its winner has to beat. Pure.

base              the base model as it is            parents       each source as it is
uniform           the plain average of the sources   task_arithmetic:λ   base + λ · Σ (source − base)
ties, dare_ties   density 0.5, equal weights, normalized (the mean of the task vectors that agree in sign)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from search.campaign_file import Campaign

AUTO = ("base", "parents", "uniform", "task_arithmetic", "ties", "dare_ties")
SCALES = (0.3, 0.5, 0.7, 0.85, 1.0)
DENSITY = 0.5


@dataclass(frozen=True)
class Baseline:
    """A fixed candidate; `kind` decides which comparator group it belongs to.

    `weights` are those of the task arithmetic that gives the same model (None where none does): in such a space the
    baseline is a known point, and its score helps to choose the start of the search.
    """

    label: str
    kind: Literal["base", "parent", "baseline"]
    recipe: Mapping[str, Any]
    weights: tuple[float, ...] | None = None


def make_baselines(campaign: Campaign) -> tuple[Baseline, ...]:
    """The campaign's baselines in the order in which they are scored.

    Base and parents are always among them: they are comparators of every campaign.
    """
    names = AUTO if campaign.baselines == "auto" else ("base", "parents", *campaign.baselines)
    found: dict[str, Baseline] = {}
    for name in names:
        for baseline in _expand(name, campaign):
            found.setdefault(baseline.label, baseline)
    return tuple(found.values())


def _expand(name: str, campaign: Campaign) -> list[Baseline]:
    """One entry of the file → the baselines it stands for."""
    stem, _, scale = name.partition(":")
    count = len(campaign.sources)
    if stem == "base":
        return [Baseline("base", "base", _alone(campaign.base_model, campaign), (0.0,) * count)]
    if stem == "parents":
        return [_parent(index, campaign) for index in range(count)]
    if stem == "uniform":
        recipe = _merge("linear", campaign, {"weight": 1.0}, {"normalize": True})
        return [Baseline("uniform", "baseline", recipe, (1 / count,) * count)]
    if stem == "task_arithmetic":
        return [_scaled(float(text), campaign) for text in ([scale] if scale else SCALES)]
    settings = {"weight": 1.0, "density": DENSITY}
    return [Baseline(stem, "baseline", _merge(stem, campaign, settings, {"normalize": True}))]


def _parent(index: int, campaign: Campaign) -> Baseline:
    weights = tuple(float(other == index) for other in range(len(campaign.sources)))
    recipe = _alone(campaign.sources[index].model, campaign)
    return Baseline(f"parent {campaign.source_names[index]}", "parent", recipe, weights)


def _scaled(scale: float, campaign: Campaign) -> Baseline:
    recipe = _merge("task_arithmetic", campaign, {"weight": scale}, {"normalize": False})
    weights = (scale,) * len(campaign.sources)
    return Baseline(f"task arithmetic {scale:g}", "baseline", recipe, weights)


def _alone(model: str, campaign: Campaign) -> dict[str, Any]:
    """One model as it is, cast like every candidate."""
    return {"merge_method": "passthrough", "models": [{"model": model}], **_common(campaign)}


def _merge(method: str, campaign: Campaign, each: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """All sources with equal settings."""
    recipe: dict[str, Any] = {"merge_method": method}
    if method != "linear":
        recipe["base_model"] = campaign.base_model
    models = [{"model": source.model, "parameters": dict(each)} for source in campaign.sources]
    seed = {"seed": campaign.seed} if method == "dare_ties" and campaign.seed else {}
    return recipe | {"models": models, "parameters": options, **_common(campaign), **seed}


def _common(campaign: Campaign) -> dict[str, Any]:
    named = {"dtype": campaign.dtype, "out_dtype": campaign.out_dtype}
    return {name: value for name, value in named.items() if value is not None}
