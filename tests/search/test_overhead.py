"""What a campaign does besides evaluating, counted and not timed: transactions, statements, hashes, fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, hash_recipe, make_campaign, open_simulated
from sqlalchemy import event

from search.inline import WORKER
from search.ports import Finished, Work
from search.samplers import quadratic


@pytest.mark.parametrize("together", [False, True])
def test_work_units_cost_one_transaction_candidates_one_hash_and_cohorts_one_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(quadratic, "advised_step", counted("fits", quadratic.advised_step))
    campaign = make_campaign(budget={"items": 1500}, items={"window": {0: 15}, "block_size": 60})
    every_s = 0.5 if together else 0.0  # the clock stands still: commits wait for what must be written at once
    coordinator = open_simulated(tmp_path, campaign, hash_recipe=counted("hashes", hash_recipe), commit_every_s=every_s)
    engine = coordinator.run.store._engine
    event.listen(engine, "begin", lambda connection: counts.update(transactions=1))
    event.listen(engine, "before_cursor_execute", lambda *_: counts.update(statements=1))
    evaluator = SimulatedEvaluator()
    work, units = coordinator.next_work(WORKER), 0
    while isinstance(work, Work) and work.split == "search":
        work = coordinator.exchange(WORKER, evaluator.evaluate(work))
        units += 1
    assert not isinstance(work, Finished)
    state = coordinator.live.state
    searched = [candidate for candidate in state.candidates if "search" in candidate.outcomes]
    assert units >= 90
    assert counts["hashes"] == len(state.candidates)
    assert len(searched) >= units
    assert counts["fits"] == sum(cohort.told for cohort in state.cohorts[1:])
    # beside them: the read of wishes, and the one call in which the nominees of selection enter
    assert counts["transactions"] <= (5 if together else units + 5)
    # BEGIN, the epoch; lease, assessment, block, a look at what is there and scores of what came in; candidate,
    # assessment, lease of what goes out
    assert counts["statements"] <= (0 if together else 10 * units + 4 * len(state.cohorts)) + 60
    coordinator.close()
