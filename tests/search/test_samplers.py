"""The steady-state sampler: proposals are a function of what was told, seed and number; and it climbs."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import LAYERS, make_campaign

from search.campaign_file import SamplerName
from search.samplers import Proposer, StagedCma, Told
from search.space import Space, make_space


def space_of(**stage: object) -> Space:
    entry = make_campaign().space.model_dump()
    entry["stages"] = [{**part, **stage} for part in entry["stages"]]
    return make_space(make_campaign(space=entry), layers=LAYERS)


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
    sampler = StagedCma(space_of(), seed=0)
    first = run(sampler, cohorts=6)
    run(sampler, cohorts=40, stage=1, first=first)
    for stage, tolerance in ((0, 0.15), (1, 0.12)):
        unit = sampler.space.stages[stage].to_unit(sampler.mean(stage))
        assert np.sqrt(((unit - 0.8) ** 2).mean()) < tolerance


def test_a_proposal_depends_on_what_was_told_the_seed_and_the_number_alone() -> None:
    told = StagedCma(space_of(), seed=3)
    run(told, cohorts=3)
    replayed = StagedCma(space_of(), seed=3)
    asked_otherwise = StagedCma(space_of(), seed=3)
    first = 0
    for _ in range(3):
        source = StagedCma(space_of(), seed=3)
        run(source, cohorts=first // 6)
        members = cohort(source, 0, first)
        replayed.tell(0, members)
        asked_otherwise.ask(0, 999)
        asked_otherwise.tell(0, members)
        first += len(members)
    for number in (18, 40, 1000):
        assert told.ask(0, number) == replayed.ask(0, number) == asked_otherwise.ask(0, number)
    assert told.ask(0, 18) != told.ask(0, 19)
    assert told.ask(0, 18) != StagedCma(space_of(), seed=4).ask(0, 18)
    assert told.mean(0) == replayed.mean(0)


def test_a_fine_stage_starts_at_the_lifted_mean_of_the_coarse_one() -> None:
    sampler = StagedCma(space_of(), seed=0)
    run(sampler, cohorts=4)
    lifted = sampler.space.lift(0, sampler.mean(0))
    for name, number in sampler.mean(1).items():
        assert number == pytest.approx(lifted[name], abs=1 / 256)


def test_late_results_of_the_coarse_stage_still_move_the_start_of_a_fine_stage_that_was_told_nothing() -> None:
    sampler = StagedCma(space_of(), seed=0)
    first = run(sampler, cohorts=2)
    before = sampler.mean(1)
    first = run(sampler, cohorts=2, first=first)
    assert sampler.mean(1) != before
    first = run(sampler, cohorts=1, stage=1, first=first)
    fixed = sampler.mean(1)
    run(sampler, cohorts=1, first=first)
    assert sampler.mean(1) == fixed


def test_lost_candidates_rank_last() -> None:
    one, other = StagedCma(space_of(), seed=0), StagedCma(space_of(), seed=0)
    members = cohort(one, 0, 0)
    worst = min(members, key=lambda member: member.score or 0.0)
    one.tell(0, members)
    other.tell(0, [Told(m.number, m.params, None if m is worst else m.score) for m in members])
    assert one.mean(0) == other.mean(0)


def test_a_cohort_that_was_lost_altogether_teaches_nothing() -> None:
    sampler = StagedCma(space_of(), seed=0)
    before = sampler.mean(0), sampler.ask(0, 5)
    sampler.tell(0, [Told(m.number, m.params, None) for m in cohort(sampler, 0, 0)])
    assert (sampler.mean(0), sampler.ask(0, 5)) == before
    assert sampler.history[0] == []


def test_the_first_stage_starts_among_the_better_half_of_baselines_and_sobol_points() -> None:
    sampler = StagedCma(space_of(), seed=0)
    points = [sampler.ask_sobol(index) for index in range(8)]
    scored = [Told(n, params, value(sampler.space, 0, params, 0.9)) for n, params in enumerate(points)]
    before = value(sampler.space, 0, sampler.mean(0), 0.9)
    sampler.tell_start(scored)
    assert value(sampler.space, 0, sampler.mean(0), 0.9) > before
    sampler.tell_start([Told(0, points[0], None)])  # nothing scored: the start stays


def test_sobol_points_fill_the_cube_evenly() -> None:
    sampler = StagedCma(space_of(), seed=0)
    units = np.array([sampler.space.stages[0].to_unit(sampler.ask_sobol(index)) for index in range(64)])
    counts = np.stack([(units < 0.5).sum(axis=0), (units >= 0.5).sum(axis=0)])
    assert abs(counts - 32).max() <= 1  # rounding to the grid may carry one point over the middle
    assert len({tuple(row) for row in units.tolist()}) == 64


def test_every_proposal_lies_on_the_grid_and_within_the_bounds() -> None:
    sampler = StagedCma(space_of(sigma=1.0), seed=0)
    for number in range(50):
        for axis in sampler.space.stages[1].axes:
            drawn = sampler.ask(1, number)[axis.name]
            assert axis.low <= drawn <= axis.high
            assert drawn * 256 == int(drawn * 256)


@pytest.mark.parametrize("name", ["auto", "cma", "tpe", "random", "sobol"])
def test_every_sampler_proposes_the_same_after_a_replay_of_the_rows(name: SamplerName) -> None:
    single = make_space(
        make_campaign(
            space={"parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}}, "stages": [{"name": "global"}]}
        ),
        layers=LAYERS,
    )

    def index(number: int) -> int | None:
        return number if name == "sobol" else None

    live = Proposer(single, sampler=name, seed=5)
    points = []
    for number in range(14):
        points.append(live.ask(number, stage=0, sobol=index(number)))
        live.finish(number, None if number == 3 else sum(points[-1].values()))
    replayed = Proposer(single, sampler=name, seed=5)
    for number, point in enumerate(points):
        replayed.restore(stage=0, params=point)
        replayed.finish(number, None if number == 3 else sum(point.values()))
    assert replayed.ask(14, stage=0, sobol=index(14)) == live.ask(14, stage=0, sobol=index(14))
    assert len({tuple(point.values()) for point in points}) == 14


def test_a_study_that_lost_its_rows_is_noticed() -> None:
    proposer = Proposer(space_of(), sampler="cma", seed=0)
    with pytest.raises(AssertionError, match="trial 0 stands for candidate 7"):
        proposer.ask(7, stage=0, sobol=None)
