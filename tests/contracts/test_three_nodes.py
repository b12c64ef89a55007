"""The contract of backends on three nodes of a Ray: one set of bytes, whatever happens to workers and nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backends import bytes_of, inline, recipe_of
from shared_families import shared_family

from engine import Options

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
# event → method: a kind of partial each (slots, counts, two rounds, masses); in the order in which nodes come and go
EVENTS = {
    "nothing": "slerp",
    "worker_killed": "ties",
    "node_joined": "dare_ties",
    "node_drained": "sce",
    "node_killed": "linear",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the merges of `three_nodes.py` made, by event."""
    place = tmp_path_factory.mktemp("nodes")
    models = [str(model) for model in shared_family("giant", giant=True).models]
    works = [
        {"event": event, "method": method, "models": models, "out": str(place / event)}
        for event, method in EVENTS.items()
    ]
    works.insert(1, works[0] | {"out": str(place / "labelled"), "labels": {"side": "in(left,right)"}})
    (place / "work.json").write_text(json.dumps(works))
    support = str(ROOT / "tests" / "support")
    ended = subprocess.run(
        [sys.executable, f"{support}/three_nodes.py", str(place / "work.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), support])},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((place / "work.results").read_text())
    return {Path(work["out"]).name: result for work, result in zip(works, found, strict=True)}


@pytest.mark.parametrize("event", EVENTS)
def test_the_bytes_are_those_of_one_process(event: str, results: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    models = shared_family("giant", giant=True).models
    expected = inline(recipe_of(EVENTS[event], models), tmp_path / "expected", Options(threads=2))
    assert results[event]["bytes"] == bytes_of(expected.out)


def test_all_three_nodes_work(results: dict[str, dict[str, Any]]) -> None:
    nodes = results["nothing"]["nodes"]
    assert len(nodes) == 3
    assert all(count["tiles_done"] and count["workers_lost"] == 0 for count in nodes.values())


def test_only_nodes_with_the_label_work(results: dict[str, dict[str, Any]]) -> None:
    assert len(results["labelled"]["nodes"]) == 2
    assert results["labelled"]["bytes"] == results["nothing"]["bytes"]


def test_a_node_that_joins_gets_a_worker(results: dict[str, dict[str, Any]]) -> None:
    assert len(results["node_joined"]["nodes"]) == 4


def test_a_node_that_is_drained_loses_nothing_and_its_tiles_go_to_others(results: dict[str, dict[str, Any]]) -> None:
    counts = results["node_drained"]["nodes"].values()
    assert sum(count["workers_lost"] for count in counts) == sum(count["tiles_retried"] for count in counts) == 0


def test_a_worker_that_dies_is_counted(results: dict[str, dict[str, Any]]) -> None:
    assert sum(count["workers_lost"] for count in results["worker_killed"]["nodes"].values()) >= 1
