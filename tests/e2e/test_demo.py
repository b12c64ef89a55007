"""The demo as a user runs it: a campaign on real models that ends in a published winner, and one that must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "mergefleet"


def demo(directory: Path, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [str(COMMAND), "demo", str(directory), "--json", *arguments],
        cwd=directory.parent,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


@pytest.mark.slow
def test_the_demo_publishes_a_winner_that_beats_everything_and_says_so(tmp_path: Path) -> None:
    facts = demo(tmp_path / "run")
    assert "beats all" in str(facts["outcome"])
    assert len(list(facts["checks"])) == 3  # type: ignore[call-overload]
    run = tmp_path / "run"
    for name in ("campaign.sqlite", "optuna.sqlite", "items.parquet", "audit.jsonl", "report.html"):
        assert (run / name).stat().st_size > 1000, name
    provenance = json.loads((run / "published" / "provenance.json").read_text())
    campaign = provenance["campaign"]
    lower_bounds = [comparison["lower"] for comparison in campaign["verdict"]["comparisons"]]
    assert len(lower_bounds) >= 13
    assert min(lower_bounds) > 0
    assert provenance["recipe_hash"] == campaign["recipe_hash"]
    page = (run / "report.html").read_text()
    assert str(facts["outcome"]).removeprefix("candidate ") in page


@pytest.mark.slow
def test_identical_sources_end_without_a_winner(tmp_path: Path) -> None:
    """A smoke test, no measure of the error rate: all merges of identical models are one model."""
    facts = demo(tmp_path / "run", "--null")
    assert "no significant winner" in str(facts["outcome"])
    assert not (tmp_path / "run" / "published").exists()
