"""What must hold for every method of the table, from tensors of one element up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from method_blocks import call_of, merged
from numpy.typing import NDArray

from engine.methods import METHODS
from engine.methods.contract import Call, Method

SHAPES = [(), (1,), (2,), (3,), (1, 1), (1, 5), (5, 1), (3, 4), (2, 3, 4), (64,), (65, 33)]


def call_for(method: Method, shape: tuple[int, ...], *, models: int, seed: int = 0) -> Call:
    """Settings drawn from the choices that the tests have; weights that do not cancel."""
    low, high = method.models
    count = max(low, min(high or models, models))
    inputs = count * (1 + method.importance) + (method.base == "required")
    call = call_of(method, inputs, shape, np.random.default_rng(seed))
    if "weight" in call.sources and abs(sum(call.sources["weight"])) < 0.1:
        call = replace(call, sources={**call.sources, "weight": (0.5,) * count})
    return call


def plain(method: Method, call: Call) -> Call:
    """Settings under which a model merged with itself is itself: normalised weights, no scale."""
    settings = {"normalize": 1.0, "normalize_weights": 1.0, "eps": 1e-8}
    options = {**call.options} | {name: value for name, value in settings.items() if name in call.options}
    sources = {**call.sources} | ({"scale": (1.0,) * len(call.source_ids)} if "scale" in call.sources else {})
    return replace(call, options=options, sources=sources)


def inputs_of(call: Call) -> int:
    return len(call.source_ids) * (1 + METHODS[call.method].importance) + call.base


def normal(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 0.5, -3e-5])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_constant_tensors_give_finite_values(name: str, value: float) -> None:
    for seed, shape in enumerate(SHAPES):
        call = call_for(METHODS[name], shape, models=3, seed=seed)
        same = np.full(shape, value, np.float32)
        zeros = np.zeros(shape, np.float32)
        for inputs in ([same] * inputs_of(call), [zeros] + [same] * (inputs_of(call) - 1)):
            assert np.isfinite(merged(METHODS[name], call, inputs)).all(), (shape, call)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_model_merged_with_itself_is_itself(name: str) -> None:
    for seed, shape in enumerate(SHAPES):
        call = plain(METHODS[name], call_for(METHODS[name], shape, models=3, seed=seed))
        model = normal(shape, seed)
        result = merged(METHODS[name], call, [model] * inputs_of(call))
        np.testing.assert_allclose(result, model, rtol=1e-6, atol=1e-9, err_msg=str((shape, call)))


MANY = [name for name, method in sorted(METHODS.items()) if method.models[1] is None]


@pytest.mark.parametrize("name", MANY)
def test_the_order_of_the_models_does_not_matter_beyond_rounding(name: str) -> None:
    for seed, shape in enumerate([(1,), (7,), (33, 20)]):
        call = call_for(METHODS[name], shape, models=3, seed=seed)
        base = [normal(shape, 100)] if call.base else []
        count = len(call.source_ids)
        models = [normal(shape, 100) + normal(shape, 10 * seed + j) / 10 for j in range(count)]
        importances = [abs(normal(shape, 50 + j)) for j in range(count)] if METHODS[name].importance else []
        turned: Any = replace(
            call,
            source_ids=call.source_ids[::-1],
            sources={key: values[::-1] for key, values in call.sources.items()},
        )
        first = merged(METHODS[name], call, [*base, *models, *importances])
        second = merged(METHODS[name], turned, [*base, *models[::-1], *importances[::-1]])
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6, err_msg=str((shape, call)))
