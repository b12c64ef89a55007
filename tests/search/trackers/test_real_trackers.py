"""Real MLflow on a real database, real Weights & Biases offline: one run per campaign, over a pause and a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search.inline import run_inline, work_once
from search.trackers.contract import CandidateScored, Judged, News
from search.trackers.outlet import line_of
from search.trackers.process import read_state

SMALL = {
    "budget": {"items": 450},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 1, "soup": 0},
}
WAIT_S = 300.0


def follow_twice(folder: Path, tracker: dict[str, Any]) -> list[News]:
    """A campaign that is killed after some units and resumed, both times followed; what the second start told."""
    campaign = make_campaign(**SMALL, trackers=[tracker])
    line = line_of(campaign.trackers[0], folder)
    killed = open_simulated(folder, campaign, tell=line.tell)
    for _ in range(20):
        work_once(killed, SimulatedEvaluator(), worker="inline")
    line.close(within_s=WAIT_S)  # as by a kill: the pipe ends, and nobody said `Ended`
    assert read_state(folder / f"trackers/{campaign.trackers[0].kind}.json")[1] > 0
    line, news = line_of(campaign.trackers[0], folder), []

    def tell(told: Sequence[News]) -> None:
        news.extend(told)
        line.tell(told)

    resumed = open_simulated(folder, campaign, resume=True, tell=tell)
    run_inline(resumed, SimulatedEvaluator())
    resumed.close()
    line.close(within_s=WAIT_S)
    return news


def test_mlflow_has_one_finished_run_with_every_score_once(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    news = follow_twice(tmp_path, {"mlflow": {"uri": f"sqlite:///{tmp_path}/ml.db", "experiment": "tests"}})
    run, _ = read_state(tmp_path / "trackers/mlflow.json")
    with sqlite3.connect(tmp_path / "ml.db") as database:
        assert database.execute("SELECT run_uuid, status FROM runs").fetchall() == [(run, "FINISHED")]
        facts = dict(database.execute("SELECT key, value FROM params"))
        tags = dict(database.execute("SELECT key, value FROM tags"))
        logged = database.execute("SELECT key, step, value FROM metrics").fetchall()
    assert facts["sources"] == "letters, numerals, plurals"
    assert tags["mergefleet.verdict"] in {entry.sentence for entry in news if isinstance(entry, Judged)}
    for split in ("search", "selection", "holdout"):
        mine = [(step, value) for key, step, value in logged if key == f"{split}/score"]
        told = [(e.at, e.score) for e in news if isinstance(e, CandidateScored) and e.split == split]
        assert told
        assert sorted(mine) == told


def test_wandb_has_every_score_once_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    news = follow_twice(tmp_path, {"wandb": {"project": "tests", "mode": "offline"}})
    run, _ = read_state(tmp_path / "trackers/wandb.json")
    files = sorted(tmp_path.glob(f"trackers/wandb/offline-run-*-{run}/run-{run}.wandb"))
    assert len(files) == 2  # one per start; `wandb sync` joins them
    rows = [row for file in files for row in history(file)]
    told = {e.at: e.score for e in news if isinstance(e, CandidateScored) and e.split == "search"}
    logged = [(row["_step"], row["search/score"]) for row in rows if "search/score" in row]
    assert dict(logged) == told
    assert len(logged) == len(told)
    for file in (tmp_path / "trackers").rglob("*"):
        assert file.is_dir() or b"0123456789abcdef01234567" not in file.read_bytes()


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that were logged: records of LevelDB's log format, each a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in records(file.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def records(data: bytes, *, block: int = 32768, header: int = 7) -> list[bytes]:
    """A file header of 7 bytes, then chunks: checksum (4), length (2), kind (1 whole, 2 first, 3 middle, 4 last)."""
    found, place, joined = [], header, b""
    while place + header <= len(data):
        if block - place % block < header:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        joined += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):
            found.append(joined)
            joined = b""
    return found
