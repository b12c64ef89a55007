"""Arguments of Optuna's samplers that they would take without a word, though they make no search."""

from __future__ import annotations

import inspect
from typing import Any

import optuna
import pytest

from search.samplers.arguments import ARGUMENTS, refusal
from search.samplers.optuna_samplers import with_objects

CLASSES = [
    getattr(optuna.samplers, name)
    for name in optuna.samplers.__all__
    if name.endswith("Sampler") and "Base" not in name
]
DEFAULTS = {cls: {n: p.default for n, p in inspect.signature(cls).parameters.items()} for cls in CLASSES}


def test_every_argument_in_the_table_is_one_of_optunas_and_no_default_is_refused() -> None:
    assert {name for defaults in DEFAULTS.values() for name in defaults} >= ARGUMENTS.keys()
    for cls, defaults in DEFAULTS.items():
        assert refusal(cls, defaults) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_ei_candidates": 0}, "got 0, a whole number of 1 or more expected"),
        ({"n_startup_trials": True}, "got True, a whole number of 0 or more expected"),
        ({"population_size": 1}, "got 1, a whole number of 2 or more expected"),
        ({"n_startup_trials": 3, "sigma0": 0}, "sigma0: TPESampler: got 0, a number above 0 expected"),
        ({"sigma0": float("nan")}, "got nan, a number above 0 expected"),
        ({"crossover_prob": 1.5}, "got 1.5, a number from 0 to 1 expected"),
        ({"multivariate": "no"}, "got 'no', true or false expected"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(options: dict[str, Any], words: str) -> None:
    assert words in str(refusal(optuna.samplers.TPESampler, options))


def test_a_class_of_somebody_else_may_mean_something_else() -> None:
    class Sampler(optuna.samplers.TPESampler):
        pass

    assert refusal(Sampler, {"population_size": 1}) is None


def test_an_argument_that_is_an_object_is_made_from_the_path_of_its_class() -> None:
    tpe = {"optuna.samplers:TPESampler": {"n_startup_trials": 3}}
    crossover = "optuna.samplers.nsgaii:SBXCrossover"
    found = with_objects({"base_sampler": tpe, "crossover": crossover, "fixed_params": {"weight/a": 0.5}, "x": 2}, 7)
    again = with_objects({"base_sampler": tpe}, 7)
    assert isinstance(found["base_sampler"], optuna.samplers.TPESampler)
    assert isinstance(found["crossover"], optuna.samplers.nsgaii.SBXCrossover)
    assert (found["fixed_params"], found["x"]) == ({"weight/a": 0.5}, 2)
    draws = [entry["base_sampler"]._rng.rng.random() for entry in (found, again)]
    assert draws[0] == draws[1]  # of one seed


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("optuna.samplers:TPSampler", "sampler_options.base_sampler: 'optuna.samplers:TPSampler' cannot be made: "),
        ({"optuna.samplers:TPESampler": {"gama": 1}}, "unexpected keyword argument 'gama'"),
        ({"os:system": {"command": "false"}}, "no class, and nothing else is called"),
    ],
)
def test_an_object_that_cannot_be_made_is_refused_with_its_key(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^sampler_options\.base_sampler: ") as caught:
        with_objects({"base_sampler": value}, 0)
    assert says in str(caught.value)
