"""What is known of the arguments of Optuna's own samplers: values that a class takes at its construction without a
word, and that make no search (`TPESampler(n_startup_trials=-5)`), are refused with their key. Pure.

Argument names are those of Optuna 5; what is not in the table, the class itself is asked (optuna_samplers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _whole(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and value >= low, f"a whole number of {low} or more"


def _number(holds: Callable[[float], bool], words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) in (int, float) and holds(value), words


_SHARE = _number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_POSITIVE = _number(lambda value: 0 < value < float("inf"), "a number above 0")
_SWITCH: tuple[Callable[[Any], bool], str] = (lambda value: type(value) is bool, "true or false")
ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "n_startup_trials": _whole(0),
    "n_ei_candidates": _whole(1),
    "population_size": _whole(2),
    "popsize": _whole(2),
    "dividing_parameter": _whole(1),
    "prior_weight": _POSITIVE,
    "sigma0": _POSITIVE,
    "mutation_prob": _SHARE,
    "crossover_prob": _SHARE,
    "swapping_prob": _SHARE,
    **dict.fromkeys(("multivariate", "group", "constant_liar", "deterministic_objective"), _SWITCH),
    **dict.fromkeys(("use_separable_cma", "with_margin", "lr_adapt", "consider_pruned_trials", "scramble"), _SWITCH),
}
"""Argument → whether a value makes sense, and in words which ones do. `null` is always the class's own default."""


def refusal(cls: type, options: Mapping[str, Any]) -> str | None:
    """Why a class of Optuna's own cannot be given these options; None where nothing stands against it."""
    if not cls.__module__.startswith("optuna."):
        return None  # the same name may mean something else
    for name, value in options.items():
        holds, words = ARGUMENTS.get(name, (lambda value: True, ""))
        if value is not None and not holds(value):
            return f"sampler_options.{name}: {cls.__name__}: got {value!r}, {words} expected"
    return None
