"""Coordinator and evaluators of a campaign over a formula (`simulated`), importable by Ray's worker processes."""

from __future__ import annotations

import os
import signal
import time

from simulated import LAYERS, SimulatedEvaluator, hash_recipe

from cluster.coordinator import CoordinatorActor
from cluster.evaluator_worker import EvaluatorWorker, Ready
from engine.errors import CampaignError
from search.campaign_file import parse_campaign
from search.coordinator import Coordinator
from search.lasting import LastingCoordinator
from search.opening import Start, open_coordinator
from search.ports import BlockResult, Evaluator, Failed, Work
from search.run import RunDirectory, Services

BLOCK_S = 0.01


class SlowEvaluator(SimulatedEvaluator):
    """Takes a while for a block, as models do."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        result = super().evaluate(work)
        time.sleep(BLOCK_S)
        return result


class SimulatedWorker(EvaluatorWorker):
    def _open(self) -> Evaluator:
        return SlowEvaluator(audit=RunDirectory(self._task.root).audit)


class SimulatedCoordinator(CoordinatorActor):
    def _open(self, *, resume: bool, patient: bool) -> LastingCoordinator:
        campaign = parse_campaign(self._task.campaign, origin=self._task.origin)

        def open_run(again: bool) -> Coordinator:
            return open_coordinator(
                campaign,
                self._inventory,
                start=Start(RunDirectory(self._task.root), LAYERS, resume=resume, lock_wait_s=2.0, again=again),
                services=Services(hash_recipe=hash_recipe, now=time.time, lease_s=self._task.lease_s),
            )

        return LastingCoordinator(campaign.name, open_run, patient=patient)


class MistakenWorker(SimulatedWorker):
    """Finds that the campaign names a task that there is not."""

    def _open(self) -> Evaluator:
        raise CampaignError("campaign.yml: tasks[0]: no task 'nonsense', did you mean 'letters'?", key="tasks[0]")


class MortalWorker(SimulatedWorker):
    """Dies at every unit of work."""

    def work(self, coordinator: object) -> str:
        os._exit(9)


class OtherWorker(SimulatedWorker):
    """Every one of them scores in a way of its own."""

    def prepare(self) -> Ready:
        found = super().prepare()
        return Ready(found.host, found.pid, f"key of {found.pid}", found.items_digest)


class BadGpu(SlowEvaluator):
    """Fails whatever it is given, and leaves a file where it did."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        if self.audit is not None:
            self.audit.with_name("failed").touch()
        return Failed(work.lease, "CUDA error: an illegal memory access", retryable=False)


class UnequalWorker(SimulatedWorker):
    """The second one that is hired can score nothing, and has tried before the others are ready."""

    def _open(self) -> Evaluator:
        audit, deadline = RunDirectory(self._task.root).audit, time.monotonic() + 60.0
        if self._name.endswith("-2"):
            return BadGpu(audit=audit)
        while not audit.with_name("failed").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return super()._open()


class Preempted(SlowEvaluator):
    """Its process is asked to end (SIGTERM) in the midst of its twentieth block."""

    blocks = 0

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.blocks += 1
        if self.blocks == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(work)


class PreemptedWorker(SimulatedWorker):
    """The first one that is hired is preempted."""

    def _open(self) -> Evaluator:
        audit = RunDirectory(self._task.root).audit
        return Preempted(audit=audit) if self._name.endswith("-1") else super()._open()
