"""The recipes that are timed, one row per method; those for warming up differ in every number, and in the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.families import Family


@dataclass(frozen=True)
class Settings:
    """The numbers in a recipe: weights of (base, tune1, tune2), and values by the name of the parameter."""

    weights: tuple[float, float, float]
    values: Mapping[str, float]
    seed: int


TIMED = Settings(
    (0.2, 0.5, 0.3),
    {"density": 0.5, "epsilon": 0.1, "gamma": 0.01, "select_topk": 0.1, "t": 0.4, "lambda": 1.0, "rank": 16},
    seed=1234,
)
WARM_UP = Settings(
    (0.1, 0.35, 0.55),
    {"density": 0.6, "epsilon": 0.2, "gamma": 0.02, "select_topk": 0.2, "t": 0.3, "lambda": 0.9, "rank": 8},
    seed=99,
)


@dataclass(frozen=True)
class Case:
    """How a method is timed.

    Attributes:
        models: which are listed: "all" three, the two "tunes", or the base and "one" of them (slerp lists both).
        base: whether the recipe names the base model.
        per_model: parameters that every listed model gets.
        options: parameters of the whole method.
        mergekit: whether mergekit has the method too.
    """

    models: Literal["all", "tunes", "one"] = "tunes"
    base: bool = True
    per_model: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    mergekit: bool = True


_TRIMMED = Case(per_model=("weight", "density"), options=("lambda",))
_RANKED = Case(per_model=("weight", "density", "epsilon"), options=("lambda",))
_CRUMBS = Case(per_model=("weight", "density", "gamma"), options=("lambda",))
_OURS = Case(per_model=("weight",), options=("lambda",), mergekit=False)

CASES: dict[str, Case] = {
    "linear": Case("all", base=False, per_model=("weight",)),
    "slerp": Case("one", options=("t",)),
    "nuslerp": Case(per_model=("weight",)),
    "multislerp": Case(per_model=("weight",)),
    "karcher": Case("all", base=False),
    "model_stock": Case(),
    "task_arithmetic": Case(per_model=("weight",), options=("lambda",)),
    "ties": _TRIMMED,
    "dare_linear": _TRIMMED,
    "dare_ties": _TRIMMED,
    "della": _RANKED,
    "della_linear": _RANKED,
    "breadcrumbs": _CRUMBS,
    "breadcrumbs_ties": _CRUMBS,
    "sce": Case(options=("select_topk",)),
    "nearswap": Case("one", options=("t",)),
    "ram": Case(),
    "ramplus_tl": Case(),
    "arcee_fusion": Case("one"),
    "consensus_ta": _OURS,
    "emr": _OURS,
    "tsvm": _OURS,
    "iso_c": _OURS,
    "core_space": replace(_OURS, options=("lambda", "rank")),
    "fisher": Case(base=False, per_model=("weight", "importance"), mergekit=False),
    "passthrough": Case("one", base=False),
}


def recipe(method: str, family: Family, settings: Settings) -> dict[str, Any]:
    """A recipe of `method` (a key of CASES) over the family, in bfloat16, as mergekit's YAML data."""
    case = CASES[method]
    weights = dict(zip(family.models, settings.weights, strict=True))
    data: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if case.base:
        data["base_model"] = str(family.base)
    data["models"] = [_model(case, path, weights[path], settings) for path in _listed(method, family)]
    if case.options:
        data["parameters"] = {name: settings.values[name] for name in case.options}
    return data


def inputs(method: str, family: Family) -> tuple[Path, ...]:
    """The models that are read, importance files counting as one each."""
    case = CASES[method]
    listed = _listed(method, family)
    given = (family.base, *(path for path in listed if path != family.base)) if case.base else listed
    return (*given, *given) if "importance" in case.per_model else given


def _listed(method: str, family: Family) -> tuple[Path, ...]:
    if method == "passthrough":
        return family.tunes[:1]
    if method == "slerp":
        return family.models[:2]
    return {"all": family.models, "tunes": family.tunes, "one": family.tunes[:1]}[CASES[method].models]


def _model(case: Case, path: Path, weight: float, settings: Settings) -> dict[str, Any]:
    """One entry of `models`; a model is its own importance, whose negative numbers count as 0."""
    parameters = {
        name: weight if name == "weight" else settings.values[name] for name in case.per_model if name != "importance"
    }
    entry: dict[str, Any] = {"model": str(path)}
    if "importance" in case.per_model:
        entry["importance"] = str(path / "model.safetensors")
    return entry | ({"parameters": parameters} if parameters else {})
