"""kill −9 of the real command, its coordinator actor and its evaluator, on real models: the same winner as without."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaign_kills import epoch_of

from search.evaluators.audit import read_attempts
from search.results import Results, read_results
from search.store.store import store_url

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "mergefleet"
BLOCK = 20


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's campaign, cut down to a minute's work."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "campaigns" / "demo.yml").read_text())
    data["base_model"] = str(ROOT / data["base_model"])
    data["sources"] = [str(ROOT / source) for source in data["sources"]]
    data["include_path"] = str(ROOT / data["include_path"])
    data["space"]["stages"][0] |= {"candidates": 10, "sobol": 4, "population": 4}
    data["space"]["stages"][1] |= {"population": 6}
    data["items"] = {"window": {0: 15}, "block_size": BLOCK, "selection": 6, "holdout": 10}
    data["budget"] = {"items": 480}
    data["selection"] = {"top": 2, "means": 1, "soup": 2}
    path = tmp_path_factory.mktemp("campaign") / "small.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def start(campaign: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    arguments = [str(COMMAND), "search", str(campaign), "--run-dir", str(run), "--quiet", *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output.decode()


def results(run: Path) -> Results:
    return read_results(store_url(None, default=run / "campaign.sqlite"), name="demo")


def outcome(run: Path) -> tuple[Any, ...]:
    found = results(run)
    scores = sorted((score.candidate, score.item, score.score) for score in found.item_scores)
    return found.verdict, [(c.number, c.recipe_hash, c.search_score) for c in found.candidates], scores


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the campaign ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def attempts_beyond(run: Path, count: int) -> Callable[[], bool]:
    return lambda: len(read_attempts(run / "audit.jsonl")) > count


def coordinator_pid(run: Path) -> int:
    with sqlite3.connect(f"file:{run / 'campaign.sqlite'}?mode=ro", uri=True) as connection:
        return int(connection.execute("select pid from epochs order by epoch desc limit 1").fetchone()[0])


def tried_although_known(run: Path) -> list[tuple[int, str]]:
    """Items that a later epoch tried again although their scores were in the rows already: a kill costs what was in
    hand, and what no commit had taken yet. (A lease of a later epoch may have got the scores of an earlier try.)
    """
    last: dict[tuple[int, str], int] = {}
    for attempt in read_attempts(run / "audit.jsonl"):
        key = (attempt["candidate"], attempt["item"])
        last[key] = max(attempt["epoch"], last.get(key, 0))
    kept = {(row.candidate, row.item): epoch_of(row.lease) for row in results(run).item_scores}
    return [key for key, epoch in kept.items() if last[key] > epoch]


@pytest.fixture(scope="module")
def undisturbed(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(start(campaign, run))
    return outcome(run)


@pytest.mark.slow
def test_the_driver_is_killed_twice_and_resume_ends_with_the_same_winner(
    campaign: Path, undisturbed: tuple[Any, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for count in (120, 420):
        process = start(campaign, run, *(["--resume"] if run.exists() else []))
        wait_for(attempts_beyond(run, count), process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finish(start(campaign, run, "--resume"))
    assert outcome(run) == undisturbed
    assert not tried_although_known(run)


@pytest.mark.slow
@pytest.mark.ray
def test_coordinator_actor_and_evaluator_are_killed_and_the_run_goes_on_to_the_same_winner(
    campaign: Path, undisturbed: tuple[Any, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(campaign, run, "--address", "local", "--workers", "1")
    wait_for(attempts_beyond(run, 120), process)
    os.kill(coordinator_pid(run), signal.SIGKILL)
    wait_for(attempts_beyond(run, 300), process)
    os.kill(read_attempts(run / "audit.jsonl")[-1]["pid"], signal.SIGKILL)
    finish(process)
    assert outcome(run) == undisturbed
    assert not tried_although_known(run)
