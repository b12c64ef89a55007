"""The fixed recipes that every campaign scores first, and that its winner has to beat. Pure.

base              the base model as it is            parents       each source as it is
uniform           the plain average of the sources   task_arithmetic:λ   base + λ · Σ (source − base)
ties, dare_ties   density 0.5, equal weights, normalized (the mean of the task vectors that agree in sign)
slerp:t           of two sources (or base and one)   METHOD        any other one, weights 1, all else as it comes

`auto` is the first two rows, λ of .3 .5 .7 .85 and 1, TIES and DARE-TIES, and every method of the space itself that
needs no setting to be found (slerp at ½, karcher, model_stock, ...): a search has to beat its method's own default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import CampaignError, did_you_mean
from search.space.methods import MergeMethod, merge_method

if TYPE_CHECKING:
    from search.campaign_file import Campaign

AUTO = ("base", "parents", "uniform", "task_arithmetic", "ties", "dare_ties")
SAID = ("linear", "task_arithmetic", "ties", "dare_ties", "dare_linear", "passthrough")
"""Methods of which `auto` has a recipe by another name, or none that a search would not start at."""
SCALED = {"task_arithmetic": (0.3, 0.5, 0.7, 0.85, 1.0), "slerp": (0.5,)}
"""Baselines with a number of their own behind a colon, and the numbers where none is given."""
DENSITY = 0.5
PARENT = "parent "
"""What the label of a parent begins with; its source's name follows."""


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
    names = ("base", "parents", *campaign.baselines) if campaign.baselines != "auto" else _auto(campaign)
    found: dict[str, Baseline] = {}
    for name in names:
        for baseline in _expand(name, campaign):
            found.setdefault(baseline.label, baseline)
    return tuple(found.values())


def check_baseline(name: str, campaign: Campaign) -> None:
    """Raise CampaignError for a baseline that is not there, or that these sources do not make."""
    stem, _, number = name.partition(":")
    key = f"{campaign.origin}: baselines"
    if number and (stem not in SCALED or not _is_positive(number)):
        owners = " and ".join(f"'{known}:'" for known in SCALED)
        raise CampaignError(f"{key}: got {name!r}, a number above 0 after {owners} expected", key="baselines")
    if stem in AUTO:
        return
    try:
        method = merge_method(stem, use_base=campaign.space.use_base, origin=campaign.origin, key="baselines")
    except CampaignError as error:
        from engine.methods import METHODS

        raise CampaignError(f"{key}: got {name!r}, {did_you_mean(stem, {*AUTO, *METHODS})}", key="baselines") from error
    missing = _missing(method, campaign)
    if missing is not None:
        raise CampaignError(f"{key}: {name!r} {missing}", key="baselines")


def _auto(campaign: Campaign) -> tuple[str, ...]:
    own = [name for name in campaign.space.methods if name not in SAID]
    methods = [merge_method(name, use_base=campaign.space.use_base, origin=campaign.origin) for name in own]
    return (*AUTO, *(method.name for method in methods if _missing(method, campaign) is None))


def _missing(method: MergeMethod, campaign: Campaign) -> str | None:
    """Why a method has no baseline with these sources; None where it has."""
    if not method.accepts(len(campaign.sources)):
        return f"takes {method.count()}, got {len(campaign.sources)}"
    if method.engine.importance and any(source.importance is None for source in campaign.sources):
        return "needs an `importance` for every source"
    needed = [name for name, row in method.parameters.items() if row.required and name not in ("weight", "t")]
    if needed or (method.name != "slerp" and "t" in method.parameters):
        return f"needs {needed[0] if needed else 't'!r}, of which no value is better than any other"
    return None


def _expand(name: str, campaign: Campaign) -> list[Baseline]:
    """One entry of the file → the baselines it stands for."""
    stem, _, number = name.partition(":")
    count = len(campaign.sources)
    if stem == "base":
        return [Baseline("base", "base", _alone(campaign.base_model, campaign), (0.0,) * count)]
    if stem == "parents":
        return [_parent(index, campaign) for index in range(count)]
    if stem == "uniform":
        recipe = _merge("linear", campaign, {"weight": 1.0}, {"normalize": True})
        return [Baseline("uniform", "baseline", recipe, (1 / count,) * count)]
    if stem in SCALED:
        numbers = [float(number)] if number else SCALED[stem]
        return [(_scaled if stem == "task_arithmetic" else _slerp)(value, campaign) for value in numbers]
    if stem in ("ties", "dare_ties"):
        settings = {"weight": 1.0, "density": DENSITY}
        return [Baseline(stem, "baseline", _merge(stem, campaign, settings, {"normalize": True}))]
    method = merge_method(stem, use_base=campaign.space.use_base, origin=campaign.origin, key="baselines")
    settings = {"weight": 1.0} if "weight" in method.parameters else {}
    return [Baseline(stem.replace("_", " "), "baseline", _merge(stem, campaign, settings, {}))]


def _parent(index: int, campaign: Campaign) -> Baseline:
    weights = tuple(float(other == index) for other in range(len(campaign.sources)))
    recipe = _alone(campaign.sources[index].model, campaign)
    return Baseline(f"{PARENT}{campaign.source_names[index]}", "parent", recipe, weights)


def _scaled(scale: float, campaign: Campaign) -> Baseline:
    recipe = _merge("task_arithmetic", campaign, {"weight": scale}, {"normalize": False})
    weights = (scale,) * len(campaign.sources)
    return Baseline(f"task arithmetic {scale:g}", "baseline", recipe, weights)


def _slerp(t: float, campaign: Campaign) -> Baseline:
    return Baseline(f"slerp {t:g}", "baseline", _merge("slerp", campaign, {}, {"t": t}))


def _alone(model: str, campaign: Campaign) -> dict[str, Any]:
    """One model as it is, cast like every candidate."""
    return {"merge_method": "passthrough", "models": [{"model": model}], **_common(campaign)}


def _merge(name: str, campaign: Campaign, each: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """All sources with equal settings."""
    method = merge_method(name, use_base=campaign.space.use_base, origin=campaign.origin, key="baselines")
    recipe: dict[str, Any] = {"merge_method": name}
    if method.base == "first" and len(campaign.sources) == 2:
        recipe["base_model"] = campaign.sources[0].model
    elif method.base != "none" and name != "linear":
        recipe["base_model"] = campaign.base_model
    models = []
    for source in campaign.sources:
        model: dict[str, Any] = {"model": source.model}
        model |= {"importance": source.importance} if method.engine.importance else {}
        models.append(model | ({"parameters": dict(each)} if each else {}))
    recipe["models"] = models
    recipe |= {"parameters": options} if options else {}
    seed = {"seed": campaign.seed} if method.engine.random and campaign.seed else {}
    tokenizer = campaign.space.tokenizer_source
    return recipe | _common(campaign) | ({"tokenizer_source": tokenizer} if tokenizer else {}) | seed


def _common(campaign: Campaign) -> dict[str, Any]:
    named = {"dtype": campaign.dtype, "out_dtype": campaign.out_dtype}
    return {name: value for name, value in named.items() if value is not None}


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
