"""`python -m bench.search_overhead`: what a campaign costs besides evaluating, in CPU-seconds of its one process.

The demo's campaign with its own evaluator (lm-eval, one thread), after start-up: time inside `evaluate` (merging,
generating, checking) against all time from the first proposal to the last result. `--profile` lists what the rest is.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from search.campaign_file import load_campaign
from search.evaluators.plans import Plans
from search.evaluators.resident import open_evaluator
from search.inline import run_inline
from search.ports import BlockResult, Evaluator, Failed, Inventory, Work
from search.run import RunDirectory
from search.session import open_session

CAMPAIGN = Path(__file__).resolve().parent.parent / "configs" / "campaigns" / "demo.yml"
ITEMS = 4_000


class Timed:
    """An evaluator and the CPU-seconds that it took; profiles what runs outside of it, if wanted."""

    def __init__(self, evaluator: Evaluator, profile: cProfile.Profile | None) -> None:
        self._evaluator, self._profile = evaluator, profile
        self.seconds, self.units = 0.0, 0

    def inventory(self) -> Inventory:
        return self._evaluator.inventory()

    def evaluate(self, work: Work) -> BlockResult | Failed:
        if self._profile is not None:
            self._profile.disable()
        started = time.process_time()
        try:
            return self._evaluator.evaluate(work)
        finally:
            self.seconds += time.process_time() - started
            self.units += 1
            if self._profile is not None:
                self._profile.enable()

    def close(self) -> None:
        self._evaluator.close()


@dataclass(frozen=True)
class Overhead:
    """CPU-seconds of a campaign, all of it and inside its evaluator, and the work units in them."""

    all_s: float
    evaluating_s: float
    units: int

    @property
    def share(self) -> float:
        """What is not evaluation, of all."""
        return 1 - self.evaluating_s / self.all_s

    def __str__(self) -> str:
        outside = self.all_s - self.evaluating_s
        return (
            f"{self.all_s:.1f} CPU-s, {self.evaluating_s:.1f} of them in {self.units} evaluations; outside "
            f"{outside:.2f} s = {self.share:.1%}, {1000 * outside / self.units:.1f} ms per work unit"
        )


def measure(*, items: int, profile: cProfile.Profile | None = None) -> Overhead:
    """The search phase of the demo's campaign with that budget of items."""
    campaign = load_campaign(CAMPAIGN)
    budget = campaign.budget.model_copy(update={"items": items})
    campaign = campaign.model_copy(update={"budget": budget})
    plans = Plans()
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        timed = Timed(open_evaluator(campaign, audit=directory.audit, plans=plans), profile)
        coordinator = open_session(campaign, timed.inventory(), directory=directory, resume=False, plans=plans)
        work = coordinator.next_work("warm")  # the first evaluation loads libraries and compiles kernels
        assert isinstance(work, Work)
        coordinator.submit("warm", timed.evaluate(work))
        timed.seconds, timed.units = 0.0, 0
        started = time.process_time()
        run_inline(coordinator, timed, stop=lambda: coordinator.live.state.phase != "search")
        found = Overhead(time.process_time() - started, timed.seconds, timed.units)
        coordinator.run.store.close()
        timed.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_overhead", description=__doc__)
    parser.add_argument("--items", type=int, default=ITEMS, help="budget of item evaluations")
    parser.add_argument("--profile", action="store_true", help="what the time outside evaluation goes to")
    options = parser.parse_args()
    profile = cProfile.Profile() if options.profile else None
    print(measure(items=options.items, profile=profile))
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(40)


if __name__ == "__main__":
    main()
