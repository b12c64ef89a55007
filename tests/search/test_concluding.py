"""A run that has its verdict ends with it, whatever keeps its report or its winner from being written."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from made_results import make_campaign, make_results
from simulated import SimulatedEvaluator, open_simulated
from simulated import make_campaign as simulated_campaign

from cluster import search_command
from engine.errors import OutputExists
from search.inline import run_inline
from search.results import Results
from search.run import RunDirectory
from search.session import Outcome, conclude


@pytest.fixture
def in_the_way(monkeypatch: pytest.MonkeyPatch) -> OutputExists:
    error = OutputExists("/models/out: a directory is there already. Remove it or name another output.")

    def publish(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("search.publishing.publish.publish", publish)
    return error


def concluded(root: Path) -> Outcome:
    return conclude(make_campaign(), RunDirectory(root), results=make_results())


def test_an_output_that_is_there_already_does_not_hide_the_verdict(
    tmp_path: Path, in_the_way: OutputExists, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = concluded(tmp_path)
    assert outcome.verdict == make_results().verdict
    assert outcome.unpublished is in_the_way
    search_command.print_outcome(outcome, as_json=False)
    with pytest.raises(typer.Exit) as exit:
        search_command.fail_unpublished(outcome)
    assert exit.value.exit_code == 3
    said = capsys.readouterr()
    assert outcome.verdict is not None
    assert said.out.startswith(f"{outcome.verdict.sentence}\n")
    assert f"report: {tmp_path}/report.html\n" in said.out
    assert said.err == (
        f"mergefleet: the winner is not published: {in_the_way.message} The run is kept: `mergefleet publish "
        f"{tmp_path} --to PLACE` publishes it.\n"
    )
    search_command.print_outcome(outcome, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["significant"]
    assert told["unpublished"] == {"error": "OutputExists", "message": in_the_way.message, "exit_code": 3}


def test_who_is_not_beaten_by_the_flips_alone_has_them_beside_the_lower_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = make_results().verdict
    assert verdict is not None
    first, second = (replace(c, lower=0.01, flip_p=p) for c, p in zip(verdict.comparisons, (0.058, 0.04), strict=False))
    close = replace(verdict, comparisons=(first, second))
    search_command.print_outcome(Outcome(RunDirectory(tmp_path), close, None, None), as_json=False)
    said = capsys.readouterr().out
    assert f"over {first.label} (95 % lower bound +0.010, sign-flip p 0.058, holdout" in said
    assert f"over {second.label} (95 % lower bound +0.010, holdout" in said


def test_a_report_that_cannot_be_written_ends_nothing(
    tmp_path: Path,
    in_the_way: OutputExists,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = concluded(tmp_path / "gone")
    assert (outcome.report, outcome.verdict) == (None, make_results().verdict)
    assert outcome.unpublished is in_the_way  # it was tried all the same
    search_command.print_outcome(outcome, as_json=False)
    assert f"report: not written; `mergefleet report {tmp_path}/gone` makes it" in capsys.readouterr().out
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith(f"{tmp_path}/gone/report.html: cannot be written: No such file or directory. ")


def test_the_report_is_printed_where_its_page_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: tuple[Results, RunDirectory] = make_results(), RunDirectory(tmp_path)
    (tmp_path / "report.html").mkdir()  # as little a place for a page as a full disk
    monkeypatch.setattr(search_command, "find_run", lambda *_: found)
    search_command.report(tmp_path, run_dir=None, html=None, as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["html"] is None
    assert said.err.startswith(f"mergefleet: warning: {tmp_path}/report.html: cannot be written: Is a directory. ")
    assert said.err.endswith("--html FILE writes the page elsewhere.\n")


@pytest.mark.parametrize(("count", "noted"), [(19, 3), (20, 0)])
def test_fewer_than_twenty_holdout_items_of_a_task_are_noted(count: int, noted: int, tmp_path: Path) -> None:
    items = {"window": {0: 3}, "selection": 3, "holdout": count}
    coordinator = open_simulated(tmp_path, simulated_campaign(items=items, budget={"items": 200}))
    verdict = run_inline(coordinator, SimulatedEvaluator())
    assert verdict is not None
    assert sum(f"the holdout has only {count} items" in note for note in verdict.notes) == noted
