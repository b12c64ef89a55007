"""A preempted evaluator: SIGTERM, then the present block is handed in, or its lease given back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import coordinator as coordinating
from cluster.evaluator_worker import PREEMPTED, EvaluatorWorker, SearchTask, leaving
from search.ports import BlockResult, Failed, Finished, Wait, Work


class Source:
    """A coordinator that has one more unit every time, and notes what it gets."""

    def __init__(self) -> None:
        self.asked = 0
        self.submitted: list[Any] = []

    def next_work(self, worker: str) -> Work | Wait | Finished:
        self.asked += 1
        return Work(0, {}, "r", "search", 0, ("i",), f"1.{self.asked}", 1, 1)

    def submit(self, worker: str, result: Any) -> None:
        self.submitted.append(result)

    def exchange(self, worker: str, result: Any) -> Work | Wait | Finished:
        self.submit(worker, result)
        return self.next_work(worker)

    def heartbeat(self, worker: str) -> None:
        pass


class Terminated:
    """An evaluator whose process is asked to end while it scores its second block."""

    def __init__(self) -> None:
        self.blocks = 0

    def evaluate(self, work: Work) -> BlockResult:
        self.blocks += 1
        if self.blocks == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return BlockResult(work.lease, "r", "w", {"i": 1.0})


def test_an_evaluator_that_is_asked_to_end_hands_in_its_block_and_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    monkeypatch.setattr(coordinating, "RemoteCoordinator", lambda handle: source)
    worker = EvaluatorWorker(SearchTask({}, "c.yml", str(tmp_path), tmp_path, "", 30.0), "node-1")
    worker._evaluator = Terminated()  # type: ignore[assignment]
    before = signal.getsignal(signal.SIGTERM)
    assert worker.work(None) == PREEMPTED
    assert [result.lease for result in source.submitted] == ["1.1", "1.2"]
    assert source.asked == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_lease_that_is_in_hand_for_too_long_is_given_back_without_blame() -> None:
    source = Source()
    with leaving(source, "node-1", grace_s=0.0) as leave:
        leave.lease = "1.7"
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not source.submitted and time.monotonic() < deadline:
            time.sleep(0.01)
    assert source.submitted == [Failed("1.7", "worker node-1 was preempted", retryable=True, blameless=True)]
