"""Settings: constants, gradients over layers, choices by tensor name."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.recipes.keypath import KeyPath
from engine.recipes.settings import ByName, Gradient, constants, evaluate, lookup, parse_setting, setting_to_data

PLACE = KeyPath("r.yml", "parameters.t")

numbers = st.floats(-1e6, 1e6)
choices = st.one_of(numbers, st.booleans(), st.lists(numbers, min_size=1, max_size=6).map(lambda v: Gradient(tuple(v))))
patterns = st.one_of(st.none(), st.just("*"), st.text("abc.", max_size=3))
settings = st.one_of(
    choices, st.lists(st.tuples(patterns, choices), min_size=1, max_size=4).map(lambda c: ByName(tuple(c)))
)


@given(st.lists(numbers, min_size=1, max_size=8), st.floats(0, 1))
def test_a_gradient_is_linear_interpolation_between_evenly_spread_knots(knots: list[float], depth: float) -> None:
    oracle = np.interp(depth, np.linspace(0, 1, len(knots)), knots)
    assert evaluate(Gradient(tuple(knots)), "x", depth) == pytest.approx(oracle, rel=1e-9, abs=1e-6)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_a_gradient_starts_at_its_first_knot_and_ends_at_its_last(knots: list[float]) -> None:
    gradient = Gradient(tuple(knots))
    assert evaluate(gradient, "x", 0.0) == knots[0]
    assert evaluate(gradient, "x", 1.0) == knots[-1]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_of_switches_steps_at_its_knots(knots: list[bool], depth: float) -> None:
    value = evaluate(Gradient(tuple(knots)), "x", depth)
    assert isinstance(value, bool)
    assert value == knots[int(np.floor(depth * (len(knots) - 1)))]


@given(st.lists(st.tuples(patterns, numbers), min_size=1, max_size=5), st.text("abc.", max_size=6))
def test_the_first_filter_that_is_part_of_the_name_wins(entries: list[tuple[str | None, float]], name: str) -> None:
    matching = [value for pattern, value in entries if pattern in (None, "*") or pattern in name]
    assert evaluate(ByName(tuple(entries)), name, 0.5) == (matching[0] if matching else None)


def test_filters_tell_capitals_apart_and_know_no_wildcards_inside() -> None:
    setting = ByName((("MLP", 1.0), ("m*p", 2.0)))
    assert evaluate(setting, "model.layers.0.mlp.up_proj.weight", 0.0) is None


@given(settings)
def test_a_setting_reads_back_from_its_own_yaml(setting: object) -> None:
    text = yaml.safe_dump(setting_to_data(setting))  # type: ignore[arg-type]
    assert parse_setting(yaml.safe_load(text), where=PLACE) == setting


@given(settings, st.text("abc.", max_size=6), st.floats(0, 1))
def test_only_a_choice_by_name_may_have_no_value_and_every_value_lies_within_the_constants(
    setting: object, name: str, depth: float
) -> None:
    value = evaluate(setting, name, depth)  # type: ignore[arg-type]
    given_values = list(constants(setting))  # type: ignore[arg-type]
    if value is None:
        assert isinstance(setting, ByName)
        assert not any(pattern in (None, "*", "") for pattern, _ in setting.choices)
    else:
        slack = 1e-9 * max(map(abs, given_values)) + 1e-300
        assert min(given_values) - slack <= value <= max(given_values) + slack


def test_the_first_level_with_a_value_wins_and_a_filter_that_matches_nothing_falls_through() -> None:
    levels = ({"t": ByName((("mlp", 0.1),))}, {}, {"t": 0.3})
    assert lookup(levels, "t", "layers.3.mlp.up", 0.0) == 0.1
    assert lookup(levels, "t", "layers.3.attn", 0.0) == 0.3
    assert lookup(levels[:2], "t", "layers.3.attn", 0.0) is None
    assert lookup(levels, "weight", "layers.3.mlp.up", 0.0) is None


@pytest.mark.parametrize(
    ("data", "setting"),
    [
        (1, 1.0),
        (True, True),
        ([0, 1, True], Gradient((0.0, 1.0, 1.0))),
        ("1e-5", 1e-5),
        ("-3", -3.0),
        ([0, "1E2"], Gradient((0.0, 100.0))),
        ({"value": 0.5}, ByName(((None, 0.5),))),
        ({"filter": "mlp", "value": [0, 1]}, ByName((("mlp", Gradient((0.0, 1.0))),))),
        ([{"filter": "*", "value": False}], ByName((("*", False),))),
        ([{"filter": "", "value": 1}], ByName((("", 1.0),))),
    ],
)
def test_every_form_that_mergekit_accepts_is_read(data: object, setting: object) -> None:
    parsed = parse_setting(data, where=PLACE)
    assert parsed == setting
    assert type(parsed) is type(setting)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("0,5", "r.yml: parameters.t: got '0,5', a number expected: write 0.5"),
        ("1e999", "r.yml: parameters.t: got inf, a finite number expected."),
        ("True", "r.yml: parameters.t: got 'True', a number, true or false expected: write true without quotes."),
        ("union", "r.yml: parameters.t: got 'union', a number expected: no setting has text as its value."),
        ("inf", "r.yml: parameters.t: got 'inf', a number expected: no setting has text as its value."),
        (None, "r.yml: parameters.t: got nothing, a number expected."),
        (math.nan, "r.yml: parameters.t: got nan, a finite number expected."),
        (-math.inf, "r.yml: parameters.t: got -inf, a finite number expected."),
        (10**400, "r.yml: parameters.t: got a number beyond all bounds, a finite number expected."),
        ([], "r.yml: parameters.t: got an empty list, a list of numbers expected."),
        ([0, [1]], "r.yml: parameters.t[1]: got a list, a number expected."),
        ([0, "x"], "r.yml: parameters.t[1]: got 'x', a number expected: no setting has text as its value."),
        ([0, {"value": 1}], "r.yml: parameters.t[0]: got 0, a mapping with the keys filter, value expected."),
        ({"filter": "mlp"}, "r.yml: parameters.t: has no 'value'."),
        ({"filtre": "mlp", "value": 1}, "r.yml: parameters.t.filtre: unknown key; did you mean 'filter'?"),
        ({"filter": 7, "value": 1}, "r.yml: parameters.t.filter: got 7, text expected: write it in quotes."),
        (
            [{"filter": "a", "value": []}],
            "r.yml: parameters.t[0].value: got an empty list, a list of numbers expected.",
        ),
    ],
)
def test_what_is_no_setting_is_refused_by_file_and_key(data: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_setting(data, where=PLACE)
    assert str(caught.value) == message


def test_a_list_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(RecipeError, match=r"parameters\.t\[0\]: got a list, a number expected"):
        parse_setting(loop, where=PLACE)
