"""Restarts by doubling in a whole campaign: the machine's cohorts grow as the sampler's population does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from simulated import SimulatedEvaluator, make_campaign, open_simulated, resolved_weights

from search.coordinator import Coordinator
from search.inline import run_inline
from search.ports import BlockResult, Finished, Work
from search.samplers.restarts import converged

CAMPAIGN: dict[str, Any] = {
    "space": {
        "parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}},
        "stages": [{"name": "global", "by": "global", "population": 4, "sigma": 0.05, "sobol": 2}],
    },
    "sampler": "cma",
    "sampler_options": {"restarts": 2},
    "items": {"window": {0: 3}, "selection": 3, "holdout": 3},
    "budget": {"candidates": 160},
    "selection": {"top": 1, "means": 1, "soup": 0},
}


class Valley(SimulatedEvaluator):
    """The nearer all weights are to 0.7, the better; no item is harder than another, so the search converges."""

    def evaluate(self, work: Work) -> BlockResult:
        score = 1 - float(abs(resolved_weights(work.recipe) - 0.7).mean())
        return BlockResult(work.lease, work.recipe_hash, f"w{work.recipe_hash}", dict.fromkeys(work.items, score))


def test_a_distribution_has_converged_where_it_is_narrow_in_every_coordinate() -> None:
    assert converged(np.array([0.001, 0.002]), [0.01, 0.01])
    assert not converged(np.array([0.001, 0.02]), [0.01, 0.01])


def sizes(coordinator: Coordinator) -> list[int]:
    return [cohort.capacity for cohort in coordinator.live.state.cohorts[1:]]


def candidates(coordinator: Coordinator) -> list[tuple[str, Any]]:
    return [(point.label, point.params) for point in coordinator.live.points]


def test_a_converged_campaign_restarts_with_twice_the_population_and_so_does_one_that_was_killed_there(
    tmp_path: Path,
) -> None:
    whole = open_simulated(tmp_path / "whole", make_campaign(**CAMPAIGN))
    assert run_inline(whole, Valley()) is not None
    found = sizes(whole)
    assert found[0] == 4
    assert 8 in found
    assert found == sorted(found)

    first, evaluator = found.index(8), Valley()
    killed = open_simulated(tmp_path / "killed", make_campaign(**CAMPAIGN))
    for stop_at in (first, first + 1):  # as the first larger cohort is asked for, and once it is told
        while len(sizes(killed)) <= stop_at:
            work = killed.next_work("w")
            assert isinstance(work, Work)
            if len(sizes(killed)) <= stop_at:
                killed.submit("w", evaluator.evaluate(work))
        killed.run.store.close()
        killed = open_simulated(tmp_path / "killed", make_campaign(**CAMPAIGN), resume=True)
    run_inline(killed, evaluator)
    assert killed.next_work("w") == Finished("done")
    assert sizes(killed) == found
    assert candidates(killed) == candidates(whole)
