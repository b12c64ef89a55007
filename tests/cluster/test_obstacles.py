"""What `plan RECIPE OUT` says would be refused is what the merge is refused for, and looking changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.families import Shape, make_family
from cluster.main import app
from engine.errors import MergefleetError
from engine.execution.journal import open_journal
from engine.outputs.publish import Staging

RECIPE = "merge_method: passthrough\nmodels: [{model: a}]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the models a and b and a recipe of a."""
    shape = Shape(hidden=8, layers=1, mlp=8, heads=2, kv_heads=1, vocab=16)
    family = make_family(tmp_path / "family", shape, tunes=1)
    for name, model in zip("ab", family.models, strict=True):
        model.rename(tmp_path / name)
    (tmp_path / "r.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def foreseen(out: str = "out") -> list[str]:
    result = CliRunner().invoke(app, ["plan", "r.yml", out, "--json"])
    assert result.exit_code == 0, result.exception
    found: list[str] = json.loads(result.stdout)["obstacles"]
    return found


def refused(out: str = "out") -> str:
    error = CliRunner().invoke(app, ["merge", "r.yml", out]).exception
    assert isinstance(error, MergefleetError)
    return error.message


def listing(directory: Path) -> dict[str, Any]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(directory.rglob("*"))}


def test_where_nothing_is_in_the_way_nothing_is_said(place: Path) -> None:
    before = listing(place)
    assert foreseen() == []
    assert listing(place) == before
    assert CliRunner().invoke(app, ["merge", "r.yml", "out"]).exit_code == 0


def test_an_output_that_is_there_already(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine.txt").touch()
    assert foreseen() == [refused()]
    assert "would be refused" in CliRunner().invoke(app, ["plan", "r.yml", "out"]).stdout


def test_a_partial_that_another_plan_began(place: Path) -> None:
    (place / "out.partial").mkdir()
    (place / "out.partial" / "mergefleet.lock").touch()
    open_journal(place / "out.partial" / "journal", "another", describe={"recipe: models": "others"}).close()
    before = listing(place)
    (found,) = foreseen()
    assert listing(place) == before
    assert found == refused()
    assert "was begun with other inputs" in found


def test_a_partial_of_this_very_plan_is_none(place: Path) -> None:
    digest = json.loads(CliRunner().invoke(app, ["plan", "r.yml", "--json"]).stdout)["digest"]
    Staging.open(place / "out", digest, {}).close()
    assert foreseen() == []


def test_a_partial_that_is_being_written(place: Path) -> None:
    with Staging.open(place / "out", "another", {}):
        (found,) = foreseen()
        assert found == refused()
        assert f"process {os.getpid()} on " in found


def test_a_directory_that_is_not_ours(place: Path) -> None:
    (place / "out.partial").mkdir()
    (place / "out.partial" / "mine.txt").touch()
    assert foreseen() == [refused()]


def test_an_output_inside_a_source_and_a_disk_too_small(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreseen("a/out") == [refused("a/out")]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 1, 0, 0, 0, 0, 0, 0, 255)))
    (found,) = foreseen()
    assert found == refused()
    assert "needs" in found
