"""The campaign in one process: coordinator and evaluator take turns. The oracle of every other way to run it."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.ahead import Ahead
from search.coordinator import Coordinator
from search.lasting import LastingCoordinator
from search.ports import CampaignStatus, Evaluator, Finished, Verdict, Wait, WorkSource

PROGRESS_EVERY_S = 2.0
WORKER = "inline"


def work_once(source: WorkSource, evaluator: Evaluator, *, worker: str) -> Wait | Finished | None:
    """Ask, evaluate, submit once. None after a unit of work; Wait and Finished are passed on to the caller's loop."""
    work = source.next_work(worker)
    if isinstance(work, Wait | Finished):
        return work
    source.submit(worker, evaluator.evaluate(work))
    return None


def run_inline(
    coordinator: Coordinator | LastingCoordinator,
    evaluator: Evaluator,
    *,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Verdict | None:
    """Run the campaign to its end; the verdict, or None where `stop` said so first (a pause; resume goes on).

    `on_progress` gets a status every two seconds and at the end; `stop` is asked after every unit of work. The
    coordinator stays open: the caller closes it.
    """
    shown, ahead = 0.0, Ahead(coordinator, evaluator, stop=stop)
    work = coordinator.next_work(WORKER)
    while not isinstance(work, Finished):
        result = None if isinstance(work, Wait) else ahead.evaluate(work)
        if (result is None or not ahead.waiting) and stop():
            coordinator.pause()
        if isinstance(work, Wait):
            time.sleep(work.after_s)
        work = coordinator.next_work(WORKER) if result is None else coordinator.exchange(WORKER, result)
        if time.monotonic() - shown > PROGRESS_EVERY_S:
            on_progress(coordinator.status())
            shown = time.monotonic()
    on_progress(coordinator.status())
    return coordinator.verdict()
