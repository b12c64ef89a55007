"""What is benchmarked: every method, warmed up with other numbers; rows survive an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.arrays import read_model
from bench.families import SHAPES, Family, make_family
from bench.measure import Cost
from bench.recipes import CASES, TIMED, WARM_UP, inputs, recipe
from bench.report import Row
from bench.run import _Kept
from engine import make_plan, open_checkpoints, parse_recipe
from engine.methods import METHODS


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family(tmp_path_factory.mktemp("family"), SHAPES["tiny"])


def numbers_in(data: Any) -> list[float]:
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        return [number for part in data for number in numbers_in(part)]
    return [data] if isinstance(data, int | float) else []


def test_every_method_is_benchmarked() -> None:
    assert set(CASES) == set(METHODS)


@pytest.mark.parametrize("method", CASES)
def test_recipes_can_be_planned_and_the_warm_up_shares_no_number(method: str, family: Family) -> None:
    timed, warm_up = recipe(method, family, TIMED), recipe(method, family, WARM_UP)
    assert set(numbers_in(timed)) & set(numbers_in(warm_up)) == set()
    loaded = parse_recipe(timed)
    plan = make_plan(loaded, open_checkpoints(loaded.opened))
    tensors = [stored for model in inputs(method, family) for _, stored in read_model(model).values()]
    assert plan.bytes_read == sum(stored.nbytes for stored in tensors)


def cost(cpu_s: float) -> Cost:
    return Cost(cpu_s, 0.0, cpu_s, 0, 0, 0)


def test_an_interrupted_run_keeps_its_rows_and_another_commit_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("tiny", "ties", 3, cost(1), cost(3), None, cost(1), cost(66))
    monkeypatch.setattr(report, "commit", lambda: "abc")
    _Kept(tmp_path / "rows.json", resume=False).add(row)
    again = _Kept(tmp_path / "rows.json", resume=True)
    assert again.rows == [row]
    assert again.has("tiny", "ties")
    assert not _Kept(tmp_path / "rows.json", resume=False).rows
    monkeypatch.setattr(report, "commit", lambda: "def")
    assert not _Kept(tmp_path / "rows.json", resume=True).rows


def test_ratios_leave_start_up_out_against_copying_and_in_against_mergekit() -> None:
    row = Row("tiny", "ties", 3, cost(1), cost(3), cost(5), cost(1), cost(66))
    assert (row.against_copying, row.against_mergekit, row.compiling) == (2, 22, 4)
