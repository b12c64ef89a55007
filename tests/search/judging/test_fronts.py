"""Dominance, fronts, spread, hypervolume: against brute force over random points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypervolume import hypervolume

from search.judging.fronts import (
    Floats,
    crowding,
    directions,
    dominance,
    front_of,
    knee,
    niche_of,
    sorted_ranks,
    thinned,
    worst_by_crowding,
    worst_by_niche,
)


def cloud(seed: int, count: int, objectives: int) -> tuple[Floats, Floats]:
    """Points on a coarse grid (so that many are equal somewhere), a third of them infeasible."""
    draw = np.random.default_rng(seed)
    violations = np.where(draw.random(count) < 1 / 3, draw.integers(1, 4, count) / 4, 0.0)
    return draw.integers(0, 5, (count, objectives)).astype(float), violations


def beats(one: int, other: int, values: Floats, violations: Floats) -> bool:
    """Deb's constrained domination, word by word."""
    if violations[one] == 0 and violations[other] > 0:
        return True
    if violations[one] > 0 and violations[other] > 0 and violations[one] != violations[other]:
        return bool(violations[one] < violations[other])
    if violations[one] > 0 and violations[other] == 0:
        return False
    mine, theirs = values[one], values[other]
    return all(mine >= theirs) and any(mine > theirs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_sorting_peels_fronts_as_brute_force_does(seed: int, objectives: int) -> None:
    values, violations = cloud(seed, 30, objectives)
    left, expected, rank = set(range(30)), {}, 0
    while left:
        front = {i for i in left if not any(beats(j, i, values, violations) for j in left)}
        expected |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert sorted_ranks(values, violations).tolist() == [expected[i] for i in range(30)]
    matrix = dominance(values, violations)
    assert all(matrix[i, j] == beats(i, j, values, violations) for i, j in itertools.product(range(30), repeat=2))


def test_a_front_holds_feasible_points_only() -> None:
    values = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]])
    assert front_of(values, np.array([0.0, 0.5, 0.0])) == [0, 2]
    assert front_of(values, np.array([0.1, 0.5, 0.2])) == []


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_is_the_share_of_random_points_below_the_front(objectives: int) -> None:
    draw = np.random.default_rng(objectives)
    values = draw.random((9, objectives))
    below = draw.random((40_000, objectives))
    inside = (below[:, None, :] <= values[None, :, :]).all(axis=2).any(axis=1)
    assert hypervolume(values, np.zeros(objectives)) == pytest.approx(inside.mean(), abs=0.01)


def test_the_hypervolume_of_boxes_is_what_a_ruler_says() -> None:
    values = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [1.0, 1.0], [-1.0, 9.0]])
    assert hypervolume(values, np.zeros(2)) == 6.0
    assert hypervolume(values[4:], np.zeros(2)) == 0.0


def test_the_ends_of_a_front_are_never_crowded_and_the_nearest_pair_is_most_so() -> None:
    values = np.array([[0.0, 10.0], [4.9, 5.1], [5.0, 5.0], [5.2, 4.8], [10.0, 0.0]])
    alone = crowding(values)
    assert np.isinf(alone[[0, 4]]).all()
    # the sides of the box between both neighbours, as shares of each objective's range
    assert alone[1:4] == pytest.approx([0.5 + 0.5, 0.03 + 0.03, 0.5 + 0.5])
    assert alone.argmin() == 2
    assert worst_by_crowding(values, np.zeros(5)) == 2
    assert worst_by_crowding(values, np.array([0, 0, 0, 0, 0.1])) == 4


def test_reference_directions_are_the_even_points_of_the_simplex() -> None:
    found = directions(3, divisions=4)
    assert len(found) == 15
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert len({tuple(row) for row in found.tolist()}) == 15


def test_nsga3_lets_go_of_the_fullest_niche() -> None:
    values = np.array([[0.0, 1.0], [0.02, 0.99], [0.5, 0.5], [1.0, 0.0]])
    rays = directions(2, divisions=2)
    assert niche_of(values, rays)[0].tolist() == [2, 2, 1, 0] or niche_of(values, rays)[0].tolist() == [0, 0, 1, 2]
    assert worst_by_niche(values, np.zeros(4), directions_RK=rays) == 1


def test_a_steady_state_keeps_a_front_that_is_as_good_as_all_it_has_seen() -> None:
    """Hypervolume of μ+1 over a stream of points on an arc: within 5 % of that of every point ever seen."""
    draw = np.random.default_rng(0)
    angles = draw.random(400) * np.pi / 2
    stream = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (0.7 + 0.3 * draw.random((400, 1)))
    kept = np.zeros((0, 2))
    for point in stream:
        kept = np.vstack([kept, point])
        if len(kept) > 16:
            kept = np.delete(kept, worst_by_crowding(kept, np.zeros(len(kept))), axis=0)
    assert hypervolume(kept, np.zeros(2)) > 0.95 * hypervolume(stream, np.zeros(2))


def test_the_knee_gives_up_least() -> None:
    assert knee(np.array([[0.0, 1.0], [0.8, 0.8], [1.0, 0.0]])) == 1


def test_points_within_the_noise_of_a_kept_one_are_left_out() -> None:
    values = np.array([[0.50, 10.0], [0.51, 9.9], [0.60, 5.0], [0.505, 10.05]])
    assert thinned(values, np.array([0.02, 0.5]), order=[0, 1, 2, 3]) == [0, 2]
    assert thinned(values, np.zeros(2), order=[0, 1, 2, 3]) == [0, 1, 2, 3]
