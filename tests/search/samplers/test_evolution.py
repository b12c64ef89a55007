"""Steady-state evolution: better fronts than chance, niches for specialists, children inside the bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypervolume import hypervolume
from simulated import LAYERS, make_campaign

from search.samplers import Setup, Told, make_sampler
from search.samplers.evolution import Niches
from search.samplers.variation import on_the_line, polynomial_mutation, simulated_binary
from search.space import make_space

STAGES = [
    {"name": "global", "population": 6},
    {"name": "layers", "by": "module_layer", "blocks": 3, "population": 6},
]
SPACE = make_space(
    make_campaign(space={"parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}}, "stages": STAGES}),
    layers=LAYERS,
)


def trade(stage: int, number: int, params: Any) -> Told:
    """Two aims that cannot be met at once: all weights near .2 of their range, or near .8."""
    unit = SPACE.stages[stage].to_unit(params)
    values = tuple(1.0 - float(np.sqrt(((unit - aim) ** 2).mean())) for aim in (0.2, 0.8))
    return Told(number, params, sum(values), values)


def front_volume(name: str, *, seed: int, stage: int = 1, count: int = 240) -> float:
    names = SPACE.stages[stage].name
    data = {"parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}}, "stages": [STAGES[stage]]}
    setup = Setup(make_space(make_campaign(space=data), layers=LAYERS), seed=seed, objectives=2)
    sampler, found = make_sampler(name, setup, {}, origin=names), []
    for number in range(count):
        params = sampler.ask(0, number)
        sampler.enter(0, number, params)
        found.append(trade(stage, number, params))
        sampler.tell(0, found[-1:])
    return hypervolume(np.array([told.values for told in found]), np.zeros(2))


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_a_steady_state_covers_more_than_even_draws_do(name: str) -> None:
    volumes = {who: np.mean([front_volume(who, seed=seed) for seed in range(3)]) for who in (name, "sobol")}
    assert volumes[name] > 1.05 * volumes["sobol"]


def test_the_archive_of_a_finer_stage_begins_with_the_lifted_members_of_the_coarser_one() -> None:
    sampler = make_sampler("nsga2", Setup(SPACE, objectives=2), {}, origin="c.yml")
    for number in range(12):
        sampler.tell(0, [trade(0, number, sampler.ask(0, number))])
    child = sampler.ask(1, 12)
    assert set(child) == {axis.name for axis in SPACE.stages[1].axes}
    own = trade(1, 12, child)
    assert max(own.values) > 0.4  # near what the members knew, not a point of the Sobol sequence


def specialist(number: int, right: set[str]) -> Told:
    items = {f"i{k}": float(f"i{k}" in right) for k in range(6)}
    point = SPACE.stages[0].from_unit(np.full(3, (number + 1) / 12))
    return Told(number, point, sum(items.values()) / 6, items=items)


def test_being_right_where_nobody_else_is_keeps_a_poor_candidate_alive() -> None:
    sampler = make_sampler("niches", Setup(SPACE), {"population": 4}, origin="c.yml")
    assert isinstance(sampler, Niches)
    easy = {"i0", "i1", "i2"}
    for number in range(4):
        sampler.tell(0, [specialist(number, easy)])
    sampler.tell(0, [specialist(4, {"i5"})])  # one item right, and alone with it
    for number in range(5, 9):
        sampler.tell(0, [specialist(number, easy)])
    assert 4 in [member.number for member in sampler.members(0)]


def test_scores_below_0_have_niches_too() -> None:
    """Minus nats per token: who is far better on one item stays, and who is worse on all of them goes."""
    sampler = make_sampler("niches", Setup(SPACE), {"population": 4}, origin="c.yml")
    assert isinstance(sampler, Niches)
    # the fourth is worst by its sum, and best on one item; the fifth is best on none
    nats = [(2.0, 2.0), (2.1, 2.1), (1.9, 2.2), (9.0, 1.8), (3.0, 3.0), (9.0, 9.0)]
    for number, (first, second) in enumerate(nats):
        told = {"i0": -first, "i1": -second}
        sampler.tell(0, [Told(number, specialist(number, set()).params, sum(told.values()) / 2, items=told)])
    assert [member.number for member in sampler.members(0)] == [0, 1, 2, 3]


def test_children_stay_in_the_cube_and_equal_parents_have_equal_children() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        first, second = draw.random(7), draw.random(7)
        for child in (
            simulated_binary(first, second, draw),
            on_the_line(first, second, draw),
            polynomial_mutation(first, draw, rate=1.0),
        ):
            assert ((child >= 0) & (child <= 1)).all()
        assert simulated_binary(first, first, draw) == pytest.approx(first)
        assert on_the_line(first, first, draw) == pytest.approx(first)
        assert (polynomial_mutation(first, draw, rate=0.0) == first).all()


def test_a_mutation_changes_the_share_of_axes_that_it_says() -> None:
    draw = np.random.default_rng(1)
    moved = [(polynomial_mutation(np.full(10, 0.5), draw, rate=0.3) != 0.5).mean() for _ in range(400)]
    assert np.mean(moved) == pytest.approx(0.3, abs=0.03)
