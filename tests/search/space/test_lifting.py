"""Each stage contains the one before it: points, means and covariances are lifted without loss, or it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import CONTAINED, DENSITY, GRID, LAYERS, NOT_CONTAINED, WEIGHT, bound, points, resolved, space_of

from engine.errors import CampaignError
from search.space import Gaussian
from search.space.depth import Depth, lift

BETWEEN_GRID_POINTS = ("knots3", "knots5", "module_knots3")  # linear knots: what lies between two is no grid point
ROUNDED_KNOTS = [("cubic3", "cubic5"), ("cubic3", "knots8")]


@pytest.mark.parametrize(("coarse", "fine"), CONTAINED)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_lifted_point_gives_every_tensor_the_same_value(coarse: str, fine: str, data: st.DataObject) -> None:
    space = space_of(coarse, fine)
    drawn = data.draw(points(space))
    if (coarse, fine) in ROUNDED_KNOTS:  # a spline that leaves the bounds is cut off there: half way to the middle
        drawn = {axis.name: drawn[axis.name] / 2 + (axis.low + axis.high) / 4 for axis in space.stages[0].axes}
    point = space.stages[0].rounded(drawn)
    before = resolved(space.recipe(0, point))
    after = resolved(space.recipe(1, space.lift(0, point)))
    if coarse not in BETWEEN_GRID_POINTS and (coarse, fine) not in ROUNDED_KNOTS:
        assert after == before  # bit for bit, so the recipe's hash is the same, too
        return
    for key, value in before.items():
        # the spline's values and the knots that it is lifted to are both rounded to the grid
        steps = 0.5 if coarse in BETWEEN_GRID_POINTS else 1.7
        assert after[key] == pytest.approx(value, abs=steps / GRID[key[1]] + 1e-9), key


@pytest.mark.parametrize(("coarse", "fine"), CONTAINED)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_before_rounding_a_lift_is_exact_whatever_the_curves(coarse: str, fine: str, data: st.DataObject) -> None:
    space = space_of(coarse, fine)
    # within the middle half of the range no spline leaves the bounds, where it would be cut off
    inner = {
        a.name: st.floats(0.75 * a.low + 0.25 * a.high, 0.25 * a.low + 0.75 * a.high) for a in space.stages[0].axes
    }
    point = data.draw(st.fixed_dictionaries(inner))
    before, after = space.values(0, point), space.values(1, space.lift(0, point))
    for name, fine_GL in after.items():
        coarse_GL = before[name]
        rows = [coarse_GL[0]] if len(coarse_GL) == 1 else coarse_GL
        for row in fine_GL:
            assert min(np.abs(row - other).max() for other in rows) < 1e-11


@pytest.mark.parametrize(("coarse", "fine"), CONTAINED)
def test_mean_and_covariance_are_lifted_by_one_matrix(coarse: str, fine: str) -> None:
    space, rng = space_of(coarse, fine), np.random.default_rng(0)
    matrix = space.lift_matrix(0)
    root = rng.normal(size=(matrix.shape[1],) * 2)
    given_ = Gaussian(rng.random(matrix.shape[1]), root @ root.T)
    lifted = space.lift_gaussian(0, given_, spread=0.01)
    stages = space.stages
    mean = {axis.name: axis.at(u) for axis, u in zip(stages[0].numeric, given_.mean, strict=True)}
    np.testing.assert_allclose(lifted.mean, stages[1].to_unit(space.lift(0, mean)), atol=1e-12)
    back = np.linalg.pinv(matrix)
    np.testing.assert_allclose(back @ lifted.covariance @ back.T, given_.covariance, atol=1e-9)  # nothing is lost
    new = np.eye(len(matrix)) - matrix @ back
    np.testing.assert_allclose(new @ lifted.covariance @ new, 1e-4 * new, atol=1e-9)  # and all else is narrow
    assert np.linalg.eigvalsh(lifted.covariance).min() > 0


@pytest.mark.parametrize(("coarse", "fine"), NOT_CONTAINED)
def test_a_stage_that_cannot_hold_the_one_before_it_is_refused(coarse: str, fine: str) -> None:
    with pytest.raises(CampaignError, match=r"c\.yml: space\.stages: .*from coarse to fine"):
        space_of(coarse, fine)


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (Depth("blocks", 3), Depth("cubic", 5)),
        (Depth("linear", 4), Depth("linear", 6)),
        (Depth("linear", 3), Depth("cubic", 5)),
    ],
)
def test_what_only_looks_finer_is_no_lift(coarse: Depth, fine: Depth) -> None:
    assert lift(coarse, fine, 12) is None


def test_a_cubic_gradient_is_the_natural_spline_of_its_knots() -> None:
    layers, knots = 13, np.array([0.2, 0.9, -0.3, 0.5])
    curve = Depth("cubic", 4).basis(layers) @ knots
    np.testing.assert_allclose(curve[[0, 4, 8, 12]], knots, atol=1e-12)
    # Stoer and Bulirsch 2.4: second derivatives m solve m[i-1] + 4 m[i] + m[i+1] = 6 Δ²y[i] / h², 0 at both ends
    h = 4.0
    right = 6 * (knots[:-2] - 2 * knots[1:-1] + knots[2:]) / h**2
    inner = np.linalg.solve(np.array([[4.0, 1.0], [1.0, 4.0]]), right)
    m = np.array([0.0, *inner, 0.0])
    for layer in range(layers):
        i = min(layer // 4, 2)
        t, u = layer - 4 * i, 4 * (i + 1) - layer
        expected = (m[i] * u**3 + m[i + 1] * t**3) / (6 * h)
        expected += (knots[i] / h - m[i] * h / 6) * u + (knots[i + 1] / h - m[i + 1] * h / 6) * t
        assert curve[layer] == pytest.approx(expected, abs=1e-12)


def test_a_spline_is_cut_off_at_the_bounds() -> None:
    space = space_of("cubic5", method="task_arithmetic", entry={"parameters": {"weight": WEIGHT}})
    knots = np.array([1.5, 1.5, -0.5, 1.5, 1.5])
    assert (Depth("cubic", 5).basis(LAYERS) @ knots).max() > 1.5
    recipe = space.recipe(0, {axis.name: knots[axis.index or 0] for axis in space.stages[0].axes})
    assert max(resolved(recipe).values()) == 1.5


def test_a_parameter_that_a_coarse_stage_leaves_alone_is_lifted_to_the_value_it_had_there() -> None:
    stages = [{"name": "weights", "search": ["weight"]}, {"name": "both", "by": "module"}]
    parameters = {"weight": WEIGHT, "density": DENSITY | {"start": 0.75}}
    space = bound({"method": "ties", "parameters": parameters, "stages": stages})
    assert {axis.parameter for axis in space.stages[0].axes} == {"weight"}
    point = {axis.name: 0.25 for axis in space.stages[0].axes}
    assert resolved(space.recipe(0, point)) == resolved(space.recipe(1, space.lift(0, point)))
    lifted = space.lift_gaussian(0, Gaussian(np.full(2, 0.5), np.eye(2)), spread=0.1)
    new = [axis.parameter == "density" for axis in space.stages[1].numeric]
    np.testing.assert_allclose(lifted.mean[new], (0.75 - 0.1) / 0.9)
    np.testing.assert_allclose(np.diag(lifted.covariance)[new], 0.01)


def test_categories_and_layer_sequences_are_lifted_as_they_are() -> None:
    stages = [{"name": "first"}, {"name": "second", "by": "layer_block", "blocks": LAYERS}]
    space = bound({"method": ["ties", "linear"], "subset": True, "parameters": {"weight": WEIGHT}, "stages": stages})
    point = space.stages[0].start() | {"method": "linear", "use/a": False}
    lifted = space.lift(0, point)
    assert (lifted["method"], lifted["use/a"], lifted["use/b"]) == ("linear", False, True)
    assert resolved(space.recipe(1, lifted)) == resolved(space.recipe(0, point))
