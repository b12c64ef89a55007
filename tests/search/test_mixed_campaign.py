"""Whole campaigns over spaces with categories, conditions and constraints: the same after every interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search.coordinator import Coordinator
from search.inline import run_inline
from search.store import schema

MIXED = {
    "method": ["task_arithmetic", "ties"],
    "subset": True,
    "parameters": {
        "weight": {"low": 0.125, "high": 1.25, "start": 0.5},
        "density": {"low": 0.25, "high": 1.0, "start": 0.5},
        "elect_by_count": [False, True],
    },
    "constraints": ["sum(weight) <= 2.5"],
}
ONE = [{"name": "mixed", "population": 10, "sobol": 6}]
TWO = [
    {"name": "mixed", "population": 8, "sobol": 6, "candidates": 14},
    {"name": "layers", "by": "gradient", "knots": 3, "curve": "cubic", "population": 10},
]


def mixed(stages: Any, sampler: str) -> Any:
    return make_campaign(
        space=MIXED | {"stages": stages},
        sampler=sampler,
        budget={"items": 260},
        baselines=["uniform"],
        items={"window": {0: 6}, "block_size": 40, "selection": 6, "holdout": 6},
        selection={"top": 1, "means": 1, "soup": 2},
    )


def points(coordinator: Coordinator) -> list[tuple[int, dict[str, Any]]]:
    return [(row["stage"], row["params"]) for row in coordinator.run.store.rows(schema.CANDIDATES) if row["params"]]


def interrupted(folder: Path, campaign: Any, *, every: int) -> Coordinator:
    """Run with a pause and a fresh start after so many units of work."""
    coordinator = open_simulated(folder, campaign)
    for _ in range(200):
        units = iter(range(every))
        verdict = run_inline(coordinator, SimulatedEvaluator(), stop=lambda left=units: next(left, None) is None)
        if verdict is not None:
            return coordinator
        coordinator.close()
        coordinator = open_simulated(folder, campaign, resume=True)
    raise AssertionError("it never ends")


@pytest.mark.parametrize(("stages", "sampler"), [(ONE, "auto"), (TWO, "auto")], ids=["tpe", "catcma"])
def test_restarts_change_no_candidate_and_every_one_may_be(tmp_path: Path, stages: Any, sampler: str) -> None:
    campaign = mixed(stages, sampler)
    whole = open_simulated(tmp_path / "whole", campaign)
    run_inline(whole, SimulatedEvaluator())
    parts = interrupted(tmp_path / "parts", campaign, every=25)
    found = points(whole)
    assert json.dumps(points(parts)) == json.dumps(found)
    assert {stage for stage, _ in found} == {*range(len(stages))}
    space = whole.run.space
    assert all(space.violation(stage, params) == 0 for stage, params in found)
    assert {params["method"] for _, params in found} == {"task_arithmetic", "ties"}
    states = {row["state"] for row in whole.run.store.rows(schema.ASSESSMENTS)}
    assert states == {"scored"}  # nothing was proposed that the engine would refuse
    whole.close()
    parts.close()
