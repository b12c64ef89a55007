"""Real SIGKILLs of a real process, at random moments and at the worst ones: the same rows, whole exports.

The long run, a hundred kills from the opening of a campaign on real models to its published winner, is `make faults`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from campaign_kills import Ended, complaints, die_at, finish, kill_to_the_end, left_by, run_simulated

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed campaign leaves."""
    found = left_by(finish(run_simulated, tmp_path_factory.mktemp("undisturbed") / "whole"))
    assert found["files"] == ["audit.jsonl", "campaign.sqlite", "items.parquet", "optuna.sqlite", "run.json"]
    return found


def test_a_campaign_killed_at_random_moments_leaves_what_an_undisturbed_one_leaves(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    """T1; attempts beyond the first stay within kills times block size, and none starts after its item's commit."""
    ended = kill_to_the_end(run_simulated, tmp_path / "killed", Random(4), span_s=0.5, most=5)
    assert len(ended.kills) == 5
    assert complaints(ended, expected) == []


def test_a_campaign_killed_inside_its_transactions_leaves_what_an_undisturbed_one_leaves(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    """T2: when it is taken over, when its items are noted, and with scores in hand."""
    steps = ["store.commit", "store.commit:2", "store.commit:9", "store.commit:70"]
    assert complaints(die_at(run_simulated, tmp_path / "killed", steps), expected) == []


def test_exports_that_are_torn_or_never_came_to_their_place_are_made_anew(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    """T2: killed with each file beside its place, the run's note first, then both exports cut in the middle."""
    ended = die_at(run_simulated, tmp_path / "killed", ["export.written", "export.written:2", "export.written:3"])
    assert complaints(ended, expected) == []
    for path in (ended.directory.scores, ended.directory.mirror):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        path.with_name(path.name + ".partial").write_bytes(b"torn, too")
    run_simulated(ended.folder)
    assert complaints(ended, expected) == []


ELSEWHERE = """
import sys
sys.path[:0] = [{root!r}, {support!r}]
import multiprocessing.reduction, pickle
from pathlib import Path
from campaign_kills import run_simulated

def refused(*arguments, **options):
    raise AssertionError("something is pickled")

pickle.loads = pickle.load = pickle.dumps = pickle.dump = refused
run_simulated(Path({folder!r}))
run_simulated(Path({folder!r}))  # taken up again, from the rows
"""


def test_a_fresh_process_with_other_hashes_comes_to_the_same_rows_and_pickles_nothing(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    """T12: sets have another order there; T13: neither the store nor a sampler nor an export goes through pickle."""
    code = ELSEWHERE.format(root=str(ROOT), support=str(ROOT / "tests" / "support"), folder=str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert complaints(Ended(tmp_path / "there"), expected) == []
