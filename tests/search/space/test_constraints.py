"""Constraints are read by a small safe reader, hold for every tensor, and every proposal can be made to keep them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import DENSITY, LAYERS, TENSORS, WEIGHT, bound, points, resolved, space_of

from engine.errors import CampaignError
from search.space.constraints import Interval, parse_constraint, unreached

NAMES = ("weight/a", "weight/b-2", "weight/b", "lambda")
GROUPS = {"weight": ("weight/a", "weight/b-2", "weight/b")}
Expression = tuple[str, Any]


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> Expression:
    """(text, values → value): the oracle is built beside the text, from Python's own operators."""
    kind = draw(
        st.sampled_from(["number", "name"] if not depth else ["number", "name", "+", "-", "*", "/", "neg", "sum"])
    )
    if kind == "number":
        number = draw(st.floats(0.25, 4).map(lambda x: round(x, 3)))
        return f"{number}", lambda values: number
    if kind == "name":
        name = draw(st.sampled_from(NAMES))
        return name, lambda values: values[name]
    if kind == "sum":
        call, fold = draw(st.sampled_from([("sum", sum), ("min", min), ("max", max)]))
        return f"{call}(weight)", lambda values: fold([values[name] for name in GROUPS["weight"]])
    left, of_left = draw(expressions(depth=depth - 1))
    if kind == "neg":
        return f"-({left})", lambda values: -of_left(values)
    right, of_right = draw(expressions(depth=depth - 1))
    made = {
        "+": lambda values: of_left(values) + of_right(values),
        "-": lambda values: of_left(values) - of_right(values),
        "*": lambda values: of_left(values) * of_right(values),
        "/": lambda values: of_left(values) / of_right(values) if of_right(values) else math.nan,
    }
    return f"({left}) {kind} ({right})", made[kind]


@settings(max_examples=60, deadline=None)
@given(left=expressions(), right=expressions(), data=st.data())
def test_a_constraint_says_what_python_says(left: Expression, right: Expression, data: st.DataObject) -> None:
    if not any(name in left[0] + right[0] for name in ("weight", "lambda")):
        return
    values = {name: data.draw(st.floats(0.25, 4)) for name in NAMES}
    excess = left[1](values) - right[1](values)
    text = f"{left[0]} <= {right[0]}"
    try:
        constraint = parse_constraint(text, NAMES, GROUPS)
    except ValueError:
        assert math.isnan(excess)
        with pytest.raises(ValueError, match="divides by 0"):  # a divisor like 1 - 1, whatever the values are
            parse_constraint(text, NAMES, GROUPS)
        return
    expected = math.inf if math.isnan(excess) else max(0.0, excess)
    assert constraint.violation(values) == pytest.approx(expected, abs=2e-9)
    bounds = {name: Interval(value, value) for name, value in values.items()}
    if expected == 0:
        assert constraint.satisfiable(bounds)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weight/a", "a comparison with <= or >="),
        ("weight/a < 1", "a comparison with <= or >="),
        ("weight/a == 1", "a comparison with <= or >="),
        ("weight <= 1", "write weight/a or sum"),
        ("weight/c <= 1", "unknown name 'weight/c'"),
        ("wieght/a <= 1", "unknown name 'wieght/a', did you mean 'weight/a'?"),
        ("sum(lambda) <= 1", "sum takes one parameter"),
        ("sum(weight, weight) <= 1", "sum takes one parameter"),
        ("weight/a ** 2 <= 1", "are allowed"),
        ("weight/a <= __import__('os').system('true')", "are allowed"),
        ("weight/a.real <= 1", "unknown name"),
        ("(lambda: 1)() <= weight/a", "are allowed"),
        ("[weight/a] <= 1", "are allowed"),
        ("True <= weight/a", "are allowed"),
        ("1 <= 2", "names no parameter"),
        ("weight/a <= ", "cannot be read"),
        ("weight/a <= '1'", "are allowed"),
        ("(" * 400 + "weight/a" + ")" * 400 + " <= 1", "characters"),
    ],
)
def test_whatever_is_no_arithmetic_on_parameters_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_constraint(text, NAMES, GROUPS)
    assert says in str(caught.value)


def constrained(*texts: str, kind: str = "module_blocks2", **entry: Any) -> Any:
    return space_of(kind, entry={"constraints": list(texts)} | entry)


def test_a_constraint_holds_for_every_group_and_layer() -> None:
    space = constrained("weight/a + weight/b <= 1.5")
    point = space.stages[0].start()
    assert space.violation(0, point) == 0
    assert space.violation(0, point | {"weight/a/mlp/1": 1.25}) == pytest.approx(0.25)
    curved = constrained("weight/a <= 1", kind="cubic5")
    knots = curved.stages[0].start() | {"weight/a/0": 1.0, "weight/a/1": 1.0}
    assert curved.violation(0, knots) > 0  # between its knots the spline goes beyond them


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_repaired_point_keeps_the_constraints_and_a_good_one_is_left_alone(data: st.DataObject) -> None:
    space = constrained("0.5 <= sum(weight) <= 1.5", "density/a * 2 >= density/b", "max(weight) <= 1")
    point = space.stages[0].rounded(data.draw(points(space)))
    repaired = space.repair(0, point)
    assert space.violation(0, repaired) == 0
    assert (repaired == point) == (space.violation(0, point) == 0)
    assert repaired == space.stages[0].rounded(repaired)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_the_recipe_says_of_every_layer_keeps_the_constraint(data: st.DataObject) -> None:
    space = constrained("weight/a + weight/b <= 1.5", "weight/a >= -0.25", kind="cubic5")
    values = resolved(space.recipe(0, space.repair(0, data.draw(points(space)))))
    for tensor in TENSORS:
        a, b = values[0, "weight", tensor], values[1, "weight", tensor]
        assert a + b <= 1.5
        assert a >= -0.25


def test_a_repair_goes_no_further_than_it_has_to() -> None:
    space = constrained("weight/a + weight/b <= 1.5", kind="global")
    repaired = space.repair(0, space.stages[0].start() | {"weight/a": 1.5, "weight/b": 1.5})
    assert 1.5 - 2 / 256 <= repaired["weight/a"] + repaired["weight/b"] <= 1.5


def test_a_method_may_refuse_settings_that_no_constraint_forbids() -> None:
    entry = {"parameters": {"weight": WEIGHT, "density": DENSITY, "epsilon": {"low": 0, "high": 0.4, "start": 0.1}}}
    space = space_of("global", method="della", entry=entry)
    assert space.constrained
    bad = space.stages[0].start() | {"density/a": 0.25, "epsilon/a": 0.375}  # chances below 0
    assert space.violation(0, bad) > 0
    assert space.violation(0, space.repair(0, bad)) == 0
    assert not space_of("global", method="task_arithmetic", entry={"parameters": {"weight": WEIGHT}}).constrained


def test_a_source_that_is_switched_off_has_no_weight() -> None:
    space = constrained("weight/a + weight/b <= 1.1", kind="global", subset=True)
    point = space.stages[0].start() | {"weight/a": 1.0}
    assert space.violation(0, point) == pytest.approx(0.4)
    assert space.violation(0, point | {"use/b": False}) == 0


def test_values_are_what_the_recipe_gives_to_the_layers() -> None:
    space = space_of("module_blocks2")
    values = space.values(0, space.stages[0].start() | {"weight/a/mlp/1": 1.0})
    assert values["weight/a"].shape == (3, LAYERS)
    np.testing.assert_array_equal(values["weight/a"][1], [0.5] * 4 + [1.0] * 4)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["weight/a >= 2"], "space.constraints[0]: 'weight/a >= 2': nothing within the bounds"),
        (["sum(weight) <= 2", "sum(weight) >= 3.5"], "space.constraints[1]"),
        (["weight/a <= 0.25"], "the start of the search breaks it by 0.25"),
        (["weight/x <= 1"], "unknown name 'weight/x'"),
        (["gamma <= 1"], "unknown name 'gamma'"),
    ],
)
def test_constraints_that_cannot_be_are_refused_at_the_start(texts: list[str], says: str) -> None:
    with pytest.raises(CampaignError) as caught:
        constrained(*texts)
    assert "c.yml: space.constraints" in caught.value.message
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_constraints_over_fixed_parameters_and_of_other_methods() -> None:
    space = bound(
        {
            "method": ["ties", "linear"],
            "parameters": {"weight": WEIGHT, "density": DENSITY},
            "constraints": ["density/a >= 0.5"],
            "stages": [{"name": "s"}],
        }
    )
    point = space.stages[0].start() | {"density/a": 0.25}
    assert space.violation(0, point) > 0
    assert space.violation(0, point | {"method": "linear"}) == 0  # which has no density


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 2), min_size=4, max_size=4), st.floats(0.01, 0.5))
def test_where_some_point_satisfies_all_constraints_one_is_found(point: list[float], room: float) -> None:
    values = dict(zip(NAMES, point, strict=True))
    a, b, c, scale = point
    curve, middle = "weight/a * weight/a + weight/b * weight/b-2", a * a + b * c
    texts = [f"{curve} <= {middle + room:.9f}", f"{curve} >= {middle - room:.9f}"]
    texts += [f"lambda * max(weight) <= {scale * max(a, b, c) + room:.9f}"]
    entries = [parse_constraint(text, NAMES, GROUPS) for text in texts]
    assert all(entry.violation(values) == 0 for entry in entries)  # the point that shows it
    assert unreached(entries, dict.fromkeys(NAMES, Interval(-1.0, 2.0))) == ()


def test_of_constraints_that_no_point_satisfies_the_fewest_are_named() -> None:
    texts = ["sum(weight) >= -9", "weight/a * weight/b >= 3", "lambda <= 1", "max(weight) <= 1.5"]
    entries = [parse_constraint(text, NAMES, GROUPS) for text in texts]
    clash = unreached(entries, dict.fromkeys(NAMES, Interval(0.0, 2.0)))
    assert [entry.text for entry in clash] == ["weight/a * weight/b >= 3", "max(weight) <= 1.5"]
