"""The steady-state CMA-ES: it climbs, lifts mean and covariance, and restarts with twice the population."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulated import LAYERS, make_campaign

from search.samplers.cma import CmaOptions, StagedCma
from search.samplers.contract import Setup, Told
from search.samplers.points import few_blocks, sobol_point
from search.space import Space, coordinate_blocks, make_space


def space_of(**stage: object) -> Space:
    entry = make_campaign().space.model_dump()
    entry["stages"] = [{**part, **stage} for part in entry["stages"]]
    return make_space(make_campaign(space=entry), layers=LAYERS)


def staged(seed: int = 0, space: Space | None = None, **options: Any) -> StagedCma:
    return StagedCma(Setup(space or space_of(), seed=seed), CmaOptions(**options))


def value(space: Space, stage: int, params: dict[str, float], target: float) -> float:
    unit = space.stages[stage].to_unit(params)
    return -float(((unit - target) ** 2).mean())


def cohort(sampler: StagedCma, stage: int, first: int, target: float = 0.8) -> list[Told]:
    """One population asked for and scored by its distance from `target` in the unit cube."""
    space = sampler.space
    drawn = [sampler.ask(stage, first + n) for n in range(space.stages[stage].population)]
    return [Told(first + n, params, value(space, stage, params, target)) for n, params in enumerate(drawn)]


def run(sampler: StagedCma, *, cohorts: int, stage: int = 0, first: int = 0, target: float = 0.8) -> int:
    for _ in range(cohorts):
        members = cohort(sampler, stage, first, target)
        sampler.tell(stage, members)
        first += len(members)
    return first


def test_the_mean_climbs_to_the_optimum_stage_by_stage() -> None:
    sampler = staged()
    first = run(sampler, cohorts=6)
    run(sampler, cohorts=40, stage=1, first=first)
    for stage, tolerance in ((0, 0.15), (1, 0.12)):
        unit = sampler.space.stages[stage].to_unit(sampler.mean(stage))
        assert np.sqrt(((unit - 0.8) ** 2).mean()) < tolerance


def test_a_proposal_depends_on_what_was_told_the_seed_and_the_number_alone() -> None:
    told = staged(3)
    run(told, cohorts=3)
    replayed = staged(3)
    asked_otherwise = staged(3)
    first = 0
    for _ in range(3):
        source = staged(3)
        run(source, cohorts=first // 6)
        members = cohort(source, 0, first)
        replayed.tell(0, members)
        asked_otherwise.ask(0, 999)
        asked_otherwise.tell(0, members)
        first += len(members)
    for number in (18, 40, 1000):
        assert told.ask(0, number) == replayed.ask(0, number) == asked_otherwise.ask(0, number)
    assert told.ask(0, 18) != told.ask(0, 19)
    assert told.ask(0, 18) != staged(4).ask(0, 18)
    assert told.mean(0) == replayed.mean(0)


def test_a_fine_stage_starts_at_the_lifted_mean_of_the_coarse_one() -> None:
    sampler = staged()
    run(sampler, cohorts=4)
    lifted = sampler.space.lift(0, sampler.mean(0))
    for name, number in sampler.mean(1).items():
        assert number == pytest.approx(lifted[name], abs=1 / 256)


def test_late_results_of_the_coarse_stage_still_move_the_start_of_a_fine_stage_that_was_told_nothing() -> None:
    sampler = staged()
    first = run(sampler, cohorts=2)
    before = sampler.mean(1)
    first = run(sampler, cohorts=2, first=first)
    assert sampler.mean(1) != before
    first = run(sampler, cohorts=1, stage=1, first=first)
    fixed = sampler.mean(1)
    run(sampler, cohorts=1, first=first)
    assert sampler.mean(1) == fixed


def test_lost_candidates_rank_last() -> None:
    one, other = staged(), staged()
    members = cohort(one, 0, 0)
    worst = min(members, key=lambda member: member.score or 0.0)
    one.tell(0, members)
    other.tell(0, [Told(m.number, m.params, None if m is worst else m.score) for m in members])
    assert one.mean(0) == other.mean(0)


def test_a_cohort_that_was_lost_altogether_teaches_nothing() -> None:
    sampler = staged()
    before = sampler.mean(0), sampler.ask(0, 5)
    sampler.tell(0, [Told(m.number, m.params, None) for m in cohort(sampler, 0, 0)])
    assert (sampler.mean(0), sampler.ask(0, 5)) == before
    assert sampler.history[0] == []


def test_the_first_stage_starts_among_the_better_half_of_baselines_and_sobol_points() -> None:
    sampler = staged()
    points = [sobol_point(sampler.space, 0, index, seed=0) for index in range(8)]
    scored = [Told(n, params, value(sampler.space, 0, params, 0.9)) for n, params in enumerate(points)]
    before = value(sampler.space, 0, sampler.mean(0), 0.9)
    sampler.tell_start(scored)
    assert value(sampler.space, 0, sampler.mean(0), 0.9) > before
    sampler.tell_start([Told(0, points[0], None)])  # nothing scored: the start stays


def test_a_sobol_sequence_goes_on_beyond_a_thousand_points() -> None:
    space = staged().space
    indices = [*range(8), *range(1020, 1032), 5000]
    points = [tuple(sobol_point(space, 0, index, seed=0).values()) for index in indices]
    assert len(set(points)) == len(indices)


def test_sobol_points_fill_the_cube_evenly() -> None:
    sampler = staged()
    units = np.array(
        [sampler.space.stages[0].to_unit(sobol_point(sampler.space, 0, index, seed=0)) for index in range(64)]
    )
    counts = np.stack([(units < 0.5).sum(axis=0), (units >= 0.5).sum(axis=0)])
    assert abs(counts - 32).max() <= 1  # rounding to the grid may carry one point over the middle
    assert len({tuple(row) for row in units.tolist()}) == 64


def test_every_proposal_lies_on_the_grid_and_within_the_bounds() -> None:
    sampler = staged(space=space_of(sigma=1.0))
    for number in range(50):
        for axis in sampler.space.stages[1].axes:
            drawn = sampler.ask(1, number)[axis.name]
            assert axis.low <= drawn <= axis.high
            assert drawn * 256 == int(drawn * 256)


def test_the_linear_map_of_a_lift_is_the_lift_itself() -> None:
    space = space_of()
    coarse, fine = space.stages[0], space.stages[1]
    map_FK, draw = space.lift_matrix(0), np.random.default_rng(0)
    origin = fine.to_unit(space.lift(0, {axis.name: axis.low for axis in coarse.axes}))
    for _ in range(5):
        unit = draw.random(len(coarse.axes))
        point = {a.name: a.low + float(u) * (a.high - a.low) for a, u in zip(coarse.axes, unit, strict=True)}
        assert fine.to_unit(space.lift(0, point)) == pytest.approx(origin + map_FK @ unit)


def test_a_lifted_covariance_is_the_coarse_one_in_its_directions_and_fresh_in_all_others() -> None:
    sampler = staged(lift_covariance=True)
    run(sampler, cohorts=8)
    coarse, fine = sampler.distribution(0), sampler.distribution(1)
    map_FK = sampler.space.lift_matrix(0)
    back = np.linalg.pinv(map_FK)
    full = fine.sigma**2 * np.asarray(fine.covariance)
    assert back @ full @ back.T == pytest.approx(coarse.sigma**2 * np.asarray(coarse.covariance), rel=1e-6)
    new = np.eye(len(full)) - map_FK @ back
    assert new @ full @ new == pytest.approx(fine.sigma**2 * new, abs=1e-12)


def test_draws_have_the_mean_and_covariance_that_a_distribution_says() -> None:
    sampler = staged()
    run(sampler, cohorts=12, target=0.5)  # until it is narrow enough for the bounds to play no part
    drawn = np.array([sampler.space.stages[0].to_unit(sampler.ask(0, number)) for number in range(1000)])
    told = sampler.distribution(0)
    assert np.abs(drawn.mean(axis=0) - told.mean).max() < 4 * told.deviations.max() / np.sqrt(1000)
    assert np.abs(drawn.std(axis=0) / told.deviations - 1).max() < 0.15


def converging(sampler: StagedCma, *, cohorts: int) -> tuple[list[list[Told]], list[int]]:
    """Cohorts of the population that the sampler asks for, and that population after each."""
    told, sizes, first = [], [], 0
    for _ in range(cohorts):
        drawn = [(first + n, sampler.ask(0, first + n)) for n in range(sampler.population(0))]
        members = [Told(n, params, value(sampler.space, 0, params, 0.7)) for n, params in drawn]
        sampler.tell(0, members)
        told.append(members)
        sizes.append(sampler.population(0))
        first += len(members)
    return told, sizes


def test_a_converged_stage_restarts_wide_with_twice_the_population_near_its_best_points() -> None:
    sampler = staged(restarts=1)
    told, sizes = converging(sampler, cohorts=50)
    assert sizes[0] == 6
    restart = sizes.index(12)
    assert set(sizes[restart:]) == {12}  # no second restart: the option says one
    again = staged(restarts=1)
    for members in told[: restart + 1]:
        again.tell(0, members)
    fresh = again.distribution(0)
    assert fresh.sigma == sampler.space.stages[0].entry.sigma
    assert np.abs(fresh.mean - 0.7).max() < 0.1
    assert again.ask(0, 10_000) == pytest.approx(again.ask(0, 10_000))


def test_a_restart_follows_from_what_was_told() -> None:
    live = staged(restarts=2)
    told, sizes = converging(live, cohorts=50)
    replayed = staged(restarts=2)
    for members, size in zip(told, sizes, strict=True):
        replayed.tell(0, members)
        assert replayed.population(0) == size
    assert replayed.ask(0, 5000) == live.ask(0, 5000)


def test_cohorts_opened_before_a_restart_are_told_together_once_they_make_a_population() -> None:
    sampler = staged(restarts=1)
    told, sizes = converging(sampler, cohorts=50)
    late = staged(restarts=1)
    for members in told[: sizes.index(12) + 1]:
        late.tell(0, members)
    fresh = late.mean(0)
    rule = late.space.stages[0]
    good, bad = (rule.from_unit(np.full(len(rule.numeric), unit)) for unit in (0.9, 0.5))
    small = [Told(900 + n, bad if n % 2 else good, (5.0 if n < 6 else 1.0) - n % 2) for n in range(12)]
    late.tell(0, small[:6])
    assert late.mean(0) == fresh
    late.tell(0, small[6:])
    # by their places within each cohort, whatever its items were worth: all that counts lies at one point
    assert [late.mean(0)[name] for name in good] == pytest.approx(list(good.values()), abs=0.02)


def test_a_stage_with_elites_starts_at_their_distribution_whatever_the_stage_before_found() -> None:
    space = space_of()
    elites = [
        (space.stages[1].from_unit(np.full(len(space.stages[1].axes), 0.3 + step / 20)), 1.0) for step in range(5)
    ]
    sampler = StagedCma(Setup(space, elites={1: elites}))
    run(sampler, cohorts=3)
    assert sampler.distribution(1).mean == pytest.approx(0.4, abs=0.01)


def test_draws_in_blocks_leave_all_other_coordinates_at_the_mean() -> None:
    sampler = staged(space=space_of(blocks_at_a_time=1))
    centre = sampler.mean(1)
    blocks = [set(block) for block in coordinate_blocks(sampler.space.stages[1])]
    for number in range(12):
        drawn = sampler.ask(1, number)
        moved = {name for name, value in drawn.items() if value != centre[name]}
        assert any(moved <= block for block in blocks)
    run(sampler, cohorts=10)
    run(sampler, cohorts=25, stage=1, first=60)
    assert value(sampler.space, 1, sampler.mean(1), 0.8) > value(sampler.space, 1, centre, 0.8) / 4


def test_a_draw_in_blocks_is_as_long_as_one_in_all_coordinates_is_expected_to_be() -> None:
    stage = space_of(blocks_at_a_time=1).stages[1]
    centre, whole = np.full(len(stage.numeric), 0.5), np.full(len(stage.numeric), 0.51)
    for seed in range(6):
        step = few_blocks(stage, whole, around=centre, draw=np.random.default_rng(seed)) - centre
        assert 0 < np.count_nonzero(step) < len(step)
        assert np.linalg.norm(step) == pytest.approx(np.linalg.norm(whole - centre))


def test_without_restarts_the_population_stays() -> None:
    assert set(converging(staged(restarts=0), cohorts=50)[1]) == {6}
