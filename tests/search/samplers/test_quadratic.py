"""The quadratic sampler: its model against an exact one, and the whole against CMA-ES where scores are few items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import LAYERS, make_campaign

from search.samplers import Sampler, Setup, Told, make_sampler
from search.samplers.quadratic_model import Floats, Scores, advised_step
from search.space import Params, Space, make_space

AXES = 6


def scores_of(points: Floats, values: Floats, *, cohorts: int = 10, items: int = 400) -> Scores:
    numbers = np.arange(len(points)) * cohorts // len(points)
    return Scores(points, values, np.full(len(points), items), numbers)


def quadratic(points: Floats, peak: Floats, *, curvature: float = 0.02) -> Floats:
    return 0.7 - curvature / 2 * ((points - peak) ** 2).sum(axis=1)


@given(st.lists(st.floats(-0.7, 0.7), min_size=AXES, max_size=AXES), st.floats(0.01, 0.03))
def test_of_an_exact_quadratic_the_advised_step_leads_to_its_peak(peak: list[float], curvature: float) -> None:
    points = np.random.default_rng(0).standard_normal((300, AXES))
    step = advised_step(scores_of(points, quadratic(points, np.array(peak), curvature=curvature)), reach=3.0)
    assert np.abs(step - peak).max() <= 0.1


def test_a_peak_far_away_is_approached_by_no_more_than_the_reach() -> None:
    points = np.random.default_rng(0).standard_normal((300, AXES))
    peak = np.full(AXES, 4.0)
    step = advised_step(scores_of(points, quadratic(points, peak)), reach=2.0)
    assert np.linalg.norm(step) == pytest.approx(2.0)
    assert step @ peak / np.linalg.norm(peak) >= 1.9


def test_the_step_is_worth_it_even_where_scores_are_of_few_items() -> None:
    peak, left = np.full(AXES, 0.5), []
    for seed in range(8):
        draw = np.random.default_rng(seed)
        points = draw.standard_normal((400, AXES))
        noisy = quadratic(points, peak) + np.sqrt(0.2 / 15) * draw.standard_normal(400)
        step = advised_step(scores_of(points, noisy, items=15), reach=2.0)
        left.append(np.linalg.norm(step - peak) / np.linalg.norm(peak))
    assert np.mean(left) <= 0.65


@given(st.floats(0.1, 10.0))
def test_the_unit_of_the_scores_does_not_matter(unit: float) -> None:
    draw = np.random.default_rng(3)
    points = draw.standard_normal((200, AXES))
    values = quadratic(points, np.full(AXES, 0.4)) + 0.03 * draw.standard_normal(200)
    steps = [advised_step(scores_of(points, scale * values), reach=3.0) for scale in (1.0, unit)]
    assert np.abs(steps[0] - steps[1]).max() <= 1e-6


def test_equal_scores_advise_no_step() -> None:
    points = np.random.default_rng(4).standard_normal((60, AXES))
    assert np.abs(advised_step(scores_of(points, np.full(60, 0.5)), reach=3.0)).max() == 0


def test_a_cohort_on_easy_items_says_nothing_about_where_the_peak_lies() -> None:
    draw = np.random.default_rng(2)
    points = draw.standard_normal((300, AXES))
    points[:30] += 1.0  # the first cohort lies elsewhere, and its items are easy
    plain = quadratic(points, np.full(AXES, 0.4)) + 0.01 * draw.standard_normal(300)
    eased = plain + np.where(np.arange(300) < 30, 0.05, 0.0)
    steps = [advised_step(scores_of(points, values, items=100), reach=3.0) for values in (plain, eased)]
    assert np.abs(steps[0] - steps[1]).max() <= 0.15


# ----------------------------------------------------------------------------------- on few items, beside CMA-ES


def layered() -> Space:
    space = {
        "parameters": {"weight": {"low": 0, "high": 2, "start": 0.5}},
        "stages": [{"name": "layers", "by": "layer_block", "blocks": LAYERS, "population": 20}],
    }
    return make_space(make_campaign(space=space), layers=LAYERS)


SPACE = layered()


def chance(params: Params) -> float:
    """The true score of a point: at most .9, on a ridge that leaves the diagonal."""
    unit = SPACE.stages[0].to_unit(params)
    peak = np.linspace(0.3, 0.7, len(unit))
    return float(0.9 / (1 + 4 * ((unit - peak) ** 2).sum()))


def centre_after(name: str, *, seed: int, cohorts: int = 15, items: int = 15) -> float:
    """The true score of a sampler's last mean after cohorts of 20 candidates, each on a few items."""
    sampler: Sampler = make_sampler(name, Setup(SPACE, seed=seed), {}, origin="c.yml")
    draw = np.random.default_rng(seed)
    for cohort in range(cohorts):
        results = []
        for number in range(20 * cohort, 20 * cohort + 20):
            params = sampler.ask(0, number)
            right = draw.random(items) < chance(params)
            told = {f"i{k}": float(value) for k, value in enumerate(right)}
            results.append(Told(number, params, float(right.mean()), items=told))
        sampler.tell(0, results)
    return chance(sampler.means()[0][-1])


def test_with_few_items_a_candidate_its_centre_is_nearer_to_the_peak_than_that_of_cma_es() -> None:
    scores = {name: np.mean([centre_after(name, seed=seed) for seed in range(2)]) for name in ("quadratic", "cma")}
    assert scores["quadratic"] >= scores["cma"] + 0.02
    assert scores["quadratic"] >= 0.82
