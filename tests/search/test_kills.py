"""Real SIGKILLs of a real process at random moments: the same rows as without."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search.audit import read_attempts
from search.inline import run_inline
from search.results import Results, read_results
from search.store import store_url

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "budget": {"items": 900},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 2, "soup": 3},
}
DRIVER = """
import json, sys, time
sys.path[:0] = [{root!r}, {support!r}]
from pathlib import Path
from simulated import SimulatedEvaluator, make_campaign, open_simulated
from search.inline import run_inline

class Slow(SimulatedEvaluator):
    def evaluate(self, work):
        time.sleep(0.01)
        return super().evaluate(work)

folder = Path({folder!r})
coordinator = open_simulated(folder, make_campaign(**json.loads({changes!r})), resume=True)
print("running", flush=True)
run_inline(coordinator, Slow(audit=folder / "audit.jsonl"))
coordinator.close()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    code = DRIVER.format(
        root=str(ROOT), support=str(ROOT / "tests" / "support"), folder=str(folder), changes=json.dumps(CHANGES)
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "running"
    return process


def results(folder: Path) -> Results:
    return read_results(store_url(None, default=folder / "campaign.sqlite"), name="simulated")


def test_a_driver_killed_at_random_moments_ends_with_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    """T1; extra attempts stay within kills x block size, and none starts after its item's commit."""
    rng, kills, killed, whole = random.Random(4), 0, tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    for _ in range(4):
        process = start(killed)
        time.sleep(rng.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert start(killed).wait(timeout=120) == 0
    assert kills >= 3

    coordinator = open_simulated(whole, make_campaign(**CHANGES))
    run_inline(coordinator, SimulatedEvaluator())
    coordinator.run.store.close()
    found, expected = results(killed), results(whole)
    assert found.candidates == expected.candidates
    assert found.verdict == expected.verdict
    # times, leases and attempts apart
    assert [replace(row, lease="") for row in found.item_scores] == [
        replace(row, lease="") for row in expected.item_scores
    ]

    attempts = read_attempts(killed / "audit.jsonl")
    times = Counter((line["candidate"], line["item"]) for line in attempts)
    assert set(times) >= {(entry.candidate, entry.item) for entry in expected.item_scores}
    assert sum(count - 1 for count in times.values()) <= kills * 40
    assert {line["epoch"] for line in attempts} <= set(range(1, kills + 2))
