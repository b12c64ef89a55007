"""The campaign in one process: coordinator and evaluator take turns. The oracle of every other way to run it."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.coordinator import Coordinator
from search.ports import CampaignStatus, Evaluator, Finished, Verdict, Wait, WorkSource

PROGRESS_EVERY_S = 0.25


def work_once(source: WorkSource, evaluator: Evaluator, *, worker: str) -> Wait | Finished | None:
    """Ask, evaluate, submit once. None after a unit of work; Wait and Finished are passed on to the caller's loop."""
    work = source.next_work(worker)
    if isinstance(work, Wait | Finished):
        return work
    source.submit(worker, evaluator.evaluate(work))
    return None


def run_inline(
    coordinator: Coordinator,
    evaluator: Evaluator,
    *,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Verdict | None:
    """Run the campaign to its end; the verdict, or None where `stop` said so first (a pause; resume goes on).

    `on_progress` gets a status a few times a second and at the end; `stop` is asked before every unit. The coordinator
    stays open: the caller closes it.
    """
    shown = 0.0
    while True:
        if stop():
            coordinator.pause()
        outcome = work_once(coordinator, evaluator, worker="inline")
        if isinstance(outcome, Finished):
            on_progress(coordinator.status())
            return coordinator.verdict()
        if isinstance(outcome, Wait):
            time.sleep(outcome.after_s)
        if time.monotonic() - shown > PROGRESS_EVERY_S:
            on_progress(coordinator.status())
            shown = time.monotonic()
