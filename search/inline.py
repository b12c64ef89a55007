"""The campaign in one process: coordinator and evaluator take turns. The oracle of every other way to run it."""

from __future__ import annotations

from collections.abc import Callable

from search.ports import CampaignStatus, Evaluator, Finished, Wait, WorkSource


def work_once(source: WorkSource, evaluator: Evaluator, *, worker: str) -> Wait | Finished | None:
    """Ask, evaluate, submit once. None after a unit of work; Wait and Finished are passed on to the caller's loop."""
    work = source.next_work(worker)
    if isinstance(work, Wait | Finished):
        return work
    source.submit(worker, evaluator.evaluate(work))
    return None
