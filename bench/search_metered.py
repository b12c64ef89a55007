"""A campaign's processes with a ledger each: which function's time goes to which account, and the actors of a Ray that
write theirs down when they end. For `bench.search_overhead`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bench.ledger import Ledger
from cluster.coordinator import CoordinatorActor
from cluster.evaluator_worker import EvaluatorWorker, Ready
from search.lasting import LastingCoordinator

SCORING, MERGING, FLOOR = "forward passes and scoring", "merge arithmetic", "floor: norms and logits"
PUBLISHING, AGAIN = "publishing", "sentinel items scored again from the published files"
EVALUATION = (SCORING, AGAIN, MERGING)
END_OF_IT = ("exports", "report", PUBLISHING, "selection and verdict")
WITHIN = {(PUBLISHING, SCORING): AGAIN}
START_UP = "start-up"
REST = "coordinator, queue and loop"
FOLDER = "MERGEFLEET_BENCH_LEDGERS"  # where actors leave theirs
COARSE = "MERGEFLEET_BENCH_COARSE"  # set: no more accounts than `places` needs

PLACES = {
    "search.evaluators.contract:Suite.score": SCORING,
    "search.evaluators.floor:Watch._see": f"={FLOOR}",
    "search.evaluators.resident:ResidentModel.blown_up": f"={FLOOR}",
    "search.evaluators.resident:ResidentEvaluator._check_text": "=floor: text",
    "search.evaluators.resident:execute": MERGING,
    "search.evaluators.resident:ResidentModel.load": "loading a candidate, digests included",
    "search.evaluators.resident:ResidentModel.is_intact": "=are the weights still those",
    "search.evaluators.resident:record_attempt": "audit file",
    "search.evaluators.plans:Plans.__call__": "=plans and recipe hashes",
    "search.samplers.quadratic:StagedQuadratic.ask": "proposing",
    "search.steps:sobol_point": "proposing",
    "search.space.codec:Space.recipe": "proposing",
    "search.samplers.quadratic:StagedQuadratic.tell": "fitting",
    "search.steps:nominate": "selection and verdict",
    "search.steps:judge": "selection and verdict",
    "search.coordinator:Coordinator.status": "progress",
    "search.commits:Commits._commit": "=store",
    "search.store.store:Store.rows": "=store",
    "search.exports:export_run": "=exports",
    "search.report.report:write_html": "=report",
    "search.publishing.publish:publish": PUBLISHING,
}
"""What a function, exclusive of those below it, is charged to; those with = with everything below them but imports."""


def places() -> dict[str, str]:
    """All of them; or those without which evaluation and the end of a campaign cannot be told from the rest.

    To open and close an account is code that has not run for 100 ms, too: 20 times a work unit, it takes .2 of 3 s.
    """
    if COARSE not in os.environ:
        return PLACES
    kept = {SCORING, MERGING, *END_OF_IT}  # and what of the floor is looked at within a forward pass
    return {place: name for place, name in PLACES.items() if name.lstrip("=") in kept or place.endswith("._see")}


class MeteredEvaluator(EvaluatorWorker):
    """Start-up ends where it begins to pull work."""

    def prepare(self) -> Ready:
        self._ledger = Ledger(START_UP, within=WITHIN)
        return super().prepare()

    def work(self, coordinator: Any) -> str:
        with self._ledger.charge(places()):
            self._ledger.become("evaluator: Ray and loop")
            said = super().work(coordinator)
        write_down(self._ledger, "evaluator")
        return said


class MeteredCoordinator(CoordinatorActor):
    """Start-up ends where the run is open."""

    def _open(self, *, resume: bool, patient: bool) -> LastingCoordinator:
        self._ledger = Ledger(START_UP, within=WITHIN)
        found = super()._open(resume=resume, patient=patient)
        self._charges = self._ledger.charge(places())
        self._charges.__enter__()
        self._ledger.become("coordinator: Ray, queue and loop")
        return found

    def close(self) -> None:
        super().close()
        write_down(self._ledger, "coordinator")


def write_down(ledger: Ledger, who: str) -> None:
    """Leave a process's accounts where the benchmark looks for them."""
    told = {"who": who, "seconds": ledger.balance(), "calls": dict(ledger.calls)}
    (Path(os.environ[FOLDER]) / f"{who}-{os.getpid()}.json").write_text(json.dumps(told))
