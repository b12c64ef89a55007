"""Whole small campaigns over a formula: what a sampler's options promise is seen in the rows that they leave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, campaign_data, make_campaign, open_simulated

from search import steps
from search.coordinator import Coordinator
from search.inline import run_inline
from search.ports import Work
from search.space import Params, Space, coordinate_blocks, crossover
from search.store import schema

WEIGHT = {"weight": {"low": 0, "high": 1.2, "start": 0.5}}
LAYERED = {"name": "layers", "by": "layer_block", "blocks": 3, "population": 6}


def campaign(sampler: str, stage: dict[str, Any], *, candidates: int, options: dict[str, Any] | None = None) -> Any:
    return make_campaign(
        space={**campaign_data()["space"], "parameters": WEIGHT, "stages": [stage]},
        sampler=sampler,
        sampler_options=options or {},
        budget={"candidates": candidates},
        baselines=["uniform"],
        items={"window": {0: 6}, "selection": 6, "holdout": 6},
        selection={"top": 1, "means": 1, "soup": 0},
    )


def searched(folder: Path, *args: Any, **kwargs: Any) -> Coordinator:
    coordinator = open_simulated(folder, campaign(*args, **kwargs))
    assert run_inline(coordinator, SimulatedEvaluator()) is not None
    return coordinator


def drawn(coordinator: Coordinator) -> dict[int, list[Params]]:
    """The points that the sampler drew, by cohort."""
    found: dict[int, list[Params]] = {}
    for row in coordinator.run.store.rows(schema.CANDIDATES):
        if row["origin"] == "sampler" and row["cohort"] is not None:
            found.setdefault(row["cohort"], []).append(row["params"])
    return found


@pytest.mark.parametrize("sampler", ["cma", "quadratic"])
def test_draws_in_blocks_differ_within_a_cohort_in_one_block_each(sampler: str, tmp_path: Path) -> None:
    coordinator = searched(tmp_path, sampler, LAYERED | {"blocks_at_a_time": 1}, candidates=29)
    blocks = [{*block} for block in coordinate_blocks(coordinator.run.space.stages[0])]
    cohorts = drawn(coordinator)
    assert len(cohorts) == 4
    moved = Counter[int]()
    for points in cohorts.values():
        centre = {axis: Counter(point[axis] for point in points).most_common(1)[0][0] for axis in points[0]}
        for point in points:
            changed = {axis for axis, value in point.items() if value != centre[axis]}
            mine = [number for number, block in enumerate(blocks) if changed <= block]
            assert mine, changed
            moved.update(mine if changed else [])
    assert {*moved} == {0, 1, 2}  # every block has its turn


def splits(space: Space, child: Params, known: list[Params]) -> set[int]:
    """The layers at which two known points make this one: the first one's values before it, the second's from it on."""
    return {
        split
        for first in known
        for second in known
        for split in range(1, space.layers)
        if first != second and crossover(space, (0, first), (0, second), split=split) == child
    }


def test_children_of_niches_are_one_parent_up_to_a_layer_and_another_from_there_on(tmp_path: Path) -> None:
    coordinator = searched(tmp_path, "niches", LAYERED, candidates=29, options={"mutation": 1e-9})
    space, points = coordinator.run.space, [point for cohort in drawn(coordinator).values() for point in cohort]
    known = [
        point for baseline in coordinator.run.baselines if (point := space.point_of(baseline.recipe, baseline.weights))
    ]
    children, found = 0, Counter[int]()
    for place, point in enumerate(points):
        if place >= 12 - len(known):  # before, points of the Sobol sequence
            children += point not in [*known, *points[:place]]
            found.update(splits(space, point, [*known, *points[:place]]))
    assert children > 3
    assert {*found} == {1, 2}


def test_a_search_that_has_converged_starts_anew_with_twice_the_population(tmp_path: Path) -> None:
    narrow = {"name": "global", "population": 6, "sigma": 0.004}  # about one step of the grid
    coordinator = searched(tmp_path, "cma", narrow, candidates=149)
    cohorts = [row["capacity"] for row in coordinator.run.store.rows(schema.COHORTS)][1:]
    assert cohorts == sorted(cohorts)
    assert [*dict.fromkeys(cohorts)][:2] == [6, 12]
    off = searched(tmp_path / "off", "cma", narrow, candidates=149, options={"restarts": 0})
    assert {row["capacity"] for row in off.run.store.rows(schema.COHORTS)} == {5, 6}


def test_learning_rate_adaptation_changes_the_search_from_the_second_cohort_on(tmp_path: Path) -> None:
    plain, adapted = (
        drawn(searched(tmp_path / str(lr_adapt), "cma", LAYERED, candidates=23, options={"lr_adapt": lr_adapt}))
        for lr_adapt in (False, True)
    )
    assert plain[1] == adapted[1]
    assert plain[2] != adapted[2]


def run_by(workers: int, coordinator: Coordinator) -> None:
    """All workers ask, then all submit, in the other order: cohorts are told while the next one is half full."""
    evaluator = SimulatedEvaluator()
    while coordinator.verdict() is None:
        units = [(f"w{n}", coordinator.next_work(f"w{n}")) for n in range(workers)]
        for worker, unit in reversed(units):
            if isinstance(unit, Work):
                coordinator.submit(worker, evaluator.evaluate(unit))


@pytest.mark.parametrize("sampler", ["cma", "quadratic", "catcma"])
def test_the_population_is_the_stages_whatever_the_number_of_workers(sampler: str, tmp_path: Path) -> None:
    sizes = {}
    for workers in (1, 9):
        coordinator = open_simulated(tmp_path / str(workers), campaign(sampler, LAYERED, candidates=35))
        run_by(workers, coordinator)
        rows = coordinator.run.store.rows(schema.COHORTS)
        sizes[workers] = [(row["capacity"], len(drawn(coordinator).get(row["number"], []))) for row in rows]
        assert all(cohort.told for cohort in coordinator.live.state.cohorts)
    assert sizes[1] == sizes[9] == [(5, 0), *[(6, 6)] * 5]


@pytest.mark.parametrize("sampler", ["cma", "quadratic", "catcma"])
def test_candidates_that_are_drawn_together_are_those_that_are_drawn_one_by_one(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for ahead in (1, 4):
        monkeypatch.setattr(steps, "AHEAD", ahead)
        coordinator = open_simulated(tmp_path / str(ahead), campaign(sampler, LAYERED, candidates=17))
        run_by(4, coordinator)
        found.append([(row["recipe_hash"], row["params"]) for row in coordinator.run.store.rows(schema.CANDIDATES)])
    assert found[0] == found[1]
    assert len(found[0]) >= 17
