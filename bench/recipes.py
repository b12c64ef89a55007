"""The recipes that are timed, as mergekit YAML data; the warm-up ones differ in weights, densities and seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.families import Family


@dataclass(frozen=True)
class Settings:
    """The numbers in a recipe: weights of (base, tune1, tune2), density, slerp's t, λ, random seed."""

    weights: tuple[float, float, float]
    density: float
    t: float
    scale: float
    seed: int


TIMED = Settings(weights=(0.2, 0.5, 0.3), density=0.5, t=0.4, scale=1.0, seed=1234)
WARM_UP = Settings(weights=(0.1, 0.3, 0.4), density=0.6, t=0.3, scale=1.0, seed=99)
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")


def recipe(method: str, family: Family, settings: Settings) -> dict[str, Any]:
    """A recipe of `method` (one of METHODS) over the family's base and two fine-tunes, in bfloat16."""
    base, *tunes = map(str, family.models)
    weights = settings.weights
    common: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "linear":
        return common | {"models": [_model(path, weight=w) for path, w in zip((base, *tunes), weights, strict=True)]}
    common |= {"base_model": base}
    if method == "slerp":
        return common | {"models": [_model(base), _model(tunes[0])], "parameters": {"t": settings.t}}
    density = {} if method == "task_arithmetic" else {"density": settings.density}
    models = [_model(path, weight=w, **density) for path, w in zip(tunes, weights[1:], strict=True)]
    return common | {"models": models, "parameters": {"lambda": settings.scale}}


def inputs(method: str, family: Family) -> tuple[Any, ...]:
    """The models that a recipe of `method` reads: slerp takes two, the others all three."""
    return family.models[:2] if method == "slerp" else family.models


def _model(path: str, **parameters: float) -> dict[str, Any]:
    return {"model": path, "parameters": parameters} if parameters else {"model": path}
