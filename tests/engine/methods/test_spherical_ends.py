"""Where angles and directions come to an end: equal, opposite, zero and short tensors; what lengths come out."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from method_blocks import merged
from numpy.typing import NDArray

from engine.errors import MergefleetError
from engine.kernels import gram
from engine.methods import METHODS
from engine.methods.contract import Call

Values = NDArray[np.float32]
SHAPES = [(), (1,), (3,), (5, 1), (1, 5), (7, 4), (2, 3, 4), (65, 33)]
WHOLE, ROWS, COLUMNS = {}, {"nuslerp_flatten": 0.0}, {"nuslerp_flatten": 0.0, "nuslerp_row_wise": 1.0}


def merge(method: str, models: list[Values], *, base: Values | None = None, **settings: Any) -> Values:
    """`models` through a method, with its defaults but for `settings` (weight: of each model)."""
    row = METHODS[method]
    weights = settings.pop("weight", (0.6, 0.3, 0.5)[: len(models)])
    options = {p.name: float(p.default or 0) for p in row.parameters.values() if p.scope == "global"} | settings
    call = Call(
        method=method,
        tensor="model.norm.weight",
        shape=models[0].shape,
        base=base is not None,
        source_ids=tuple(range(len(models))),
        sources={"weight": weights} if "weight" in row.parameters else {},
        options=options,
        scope=row.scope_of(options, models[0].shape),
    )
    return merged(row, call, models if base is None else [base, *models])


def normal(shape: tuple[int, ...], seed: int, size: float = 0.02) -> Values:
    return np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)


def length(values: Values) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_models_merge_to_themselves_exactly(shape: tuple[int, ...]) -> None:
    model, base = normal(shape, 1), normal(shape, 2)
    for settings in (WHOLE, ROWS, COLUMNS):
        assert np.array_equal(merge("nuslerp", [model, model], **settings), model)
        assert np.array_equal(merge("nuslerp", [base, base], base=base, **settings), base)
    for models in (1, 2, 3):
        assert np.array_equal(merge("karcher", [model] * models), model)
        assert np.array_equal(merge("multislerp", [model] * models), model)
        assert np.array_equal(merge("multislerp", [base] * models, base=base), base)
    for filter_wise in (0.0, 1.0):
        assert np.array_equal(merge("model_stock", [base] * 3, base=base, filter_wise=filter_wise), base)
        ours = merge("model_stock", [model] * 3, base=base, filter_wise=filter_wise)
        np.testing.assert_allclose(ours, model, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mean_direction_comes_at_the_mean_length(shape: tuple[int, ...]) -> None:
    base = normal(shape, 9)
    models = [base + normal(shape, seed, 0.005) for seed in range(3)]
    assert length(merge("karcher", models)) == pytest.approx(np.mean([length(x) for x in models]), rel=1e-5)
    weights = np.array([0.6, 0.3, 0.5])
    expected = float(np.dot(weights, [length(x) for x in models]))
    ours = merge("multislerp", models, normalize_weights=0.0)
    assert length(ours) == pytest.approx(expected, rel=1e-5)


def test_the_karcher_mean_of_two_lies_in_the_middle_of_their_arc() -> None:
    one, other = normal((40, 30), 1), normal((40, 30), 2)
    other *= np.float32(length(one) / length(other))
    middle = merge("nuslerp", [one, other], weight=(1, 1))
    np.testing.assert_allclose(merge("karcher", [one, other]), middle, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(1,), (64,), (7, 4), (2, 3, 4), (65, 33)])
def test_columns_are_the_rows_of_the_transposed(shape: tuple[int, ...]) -> None:
    models = [normal(shape, seed) for seed in range(2)]
    rows = merge("nuslerp", [np.ascontiguousarray(model.T) for model in models], **ROWS)
    np.testing.assert_allclose(merge("nuslerp", models, **COLUMNS), rows.T, rtol=1e-6, atol=1e-9)


def test_every_row_has_an_angle_of_its_own() -> None:
    models, base = [normal((20, 30), seed) for seed in range(2)], normal((20, 30), 9)
    together = merge("nuslerp", models, base=base, **ROWS)
    stock = merge("model_stock", models, base=base, filter_wise=1.0)
    for row in range(20):
        alone = [model[row] for model in models]
        np.testing.assert_array_equal(together[row], merge("nuslerp", alone, base=base[row], **ROWS))
        np.testing.assert_array_equal(stock[row], merge("model_stock", alone, base=base[row], filter_wise=1.0))


@pytest.mark.parametrize(("weights", "end"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_a_weight_of_zero_leaves_the_other_model(weights: tuple[float, float], end: int) -> None:
    models, base = [normal((9, 8), seed) for seed in range(2)], normal((9, 8), 9)
    for origin, settings in product((None, base), (WHOLE, ROWS, COLUMNS)):
        ours = merge("nuslerp", models, base=origin, weight=weights, **settings)
        np.testing.assert_allclose(ours, models[end], rtol=1e-6, atol=1e-8)


def test_weights_that_cancel_mean_the_middle() -> None:
    models = [normal((9, 8), seed) for seed in range(2)]
    middle = merge("nuslerp", models, weight=(1.0, 1.0))
    assert np.array_equal(merge("nuslerp", models, weight=(0.5, -0.5)), middle)
    assert np.array_equal(merge("nuslerp", models, weight=(5e-7, 4e-7)), middle)


def test_opposite_models_are_interpolated_linearly() -> None:
    model = normal((9, 8), 1)
    for settings in (WHOLE, ROWS, COLUMNS):
        ours = merge("nuslerp", [model, -model], weight=(0.7, 0.3), **settings)
        np.testing.assert_allclose(ours, 0.4 * model, rtol=1e-5)
    np.testing.assert_allclose(merge("multislerp", [model, -model], weight=(0.5, 0.5)), 0 * model, atol=1e-9)


def test_opposite_task_vectors_leave_the_base_of_model_stock() -> None:
    base, delta = np.round(normal((9, 8), 1), 3), np.float32(2.0**-9)
    for filter_wise in (0.0, 1.0):
        assert np.array_equal(merge("model_stock", [base + delta, base - delta], base=base), base), filter_wise


def test_unrelated_task_vectors_leave_the_base_of_model_stock_and_disagreeing_ones_push_away() -> None:
    base = np.zeros(4, np.float32)
    one, other = np.array([1, 0, 0, 0], np.float32), np.array([0, 1, 0, 0], np.float32)
    assert np.array_equal(merge("model_stock", [one, other], base=base), base)
    away = np.array([-0.5, 0.75**0.5, 0, 0], np.float32)  # cos θ = −1/2, t = −2
    np.testing.assert_allclose(merge("model_stock", [one, away], base=base), -(one + away), rtol=1e-5)


def test_directions_that_cancel_are_an_error_that_names_the_tensor() -> None:
    model = normal((9, 8), 1)
    with pytest.raises(MergefleetError, match=r"tensor 'model.norm.weight': the weighted directions of its 3 models"):
        merge("multislerp", [model, model, -model], weight=(0.5, 0.5, 1.0))


def test_tensors_that_nobody_trained_keep_the_base_where_mergekit_fails() -> None:
    base = normal((9, 8), 1)
    for weights in ((0.5, 0.2, 0.3), (1.0, -0.5, 0.1)):
        assert np.array_equal(merge("multislerp", [base] * 3, base=base, weight=weights), base)


def test_one_model_is_taken_times_its_weight_unless_that_is_normalised() -> None:
    base, model = normal((9, 8), 1), normal((9, 8), 2)
    np.testing.assert_allclose(merge("multislerp", [model], base=base, weight=(0.5,)), model, rtol=1e-6, atol=1e-8)
    half = merge("multislerp", [model], base=base, weight=(0.5,), normalize_weights=0.0)
    np.testing.assert_allclose(half, (base + model) / 2, rtol=1e-6, atol=1e-8)


def test_the_karcher_mean_of_opposite_models_has_the_direction_of_the_first() -> None:
    model = normal((9, 8), 1)
    np.testing.assert_allclose(merge("karcher", [model, -3 * model]), 2 * model, rtol=1e-5)


def test_zeros_have_no_direction_but_count_in_the_mean_length() -> None:
    model, zero = normal((9, 8), 1), np.zeros((9, 8), np.float32)
    np.testing.assert_allclose(merge("karcher", [zero, model]), model / 2, rtol=1e-6)
    assert np.array_equal(merge("karcher", [zero, zero, zero]), zero)
    np.testing.assert_allclose(merge("nuslerp", [zero, model], weight=(1, 1)), np.float32(0.5**0.5) * model, rtol=1e-6)
    np.testing.assert_allclose(merge("multislerp", [zero, model], weight=(1, 1)), model / 2, rtol=1e-5)


def test_a_short_tensor_is_no_zero() -> None:
    models = [normal((3,), seed, 1e-6) for seed in (1, 1)]
    assert np.array_equal(merge("karcher", models), models[0])


def test_the_dot_products_of_small_changes_are_exact() -> None:
    """From those of the models, even in float64, one would get five bits of them."""
    generator = np.random.default_rng(5)
    base = generator.normal(1000, 1, 4096).astype(np.float32)
    steps = generator.integers(-2, 3, (2, 4096))  # in units of the last place
    rows = np.stack([base, *(base + step.astype(np.float32) * np.float32(2.0**-14) for step in steps)])
    out = np.zeros(3)
    gram.of_block(rows, 4096, out, based=True)
    exact = [np.dot(steps[0], steps[0]), np.dot(steps[0], steps[1]), np.dot(steps[1], steps[1])]
    assert np.array_equal(out, np.array(exact) * 2.0**-28)
