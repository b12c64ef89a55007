"""The audit file: one line per start of a tile, before its work; what is journalled never starts again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from audits import Watch, journalled
from backends import bytes_of, inline, recipe_of
from deaths import dies
from shared_families import shared_family

from engine import Options
from engine.audit import audit_file, read_starts
from engine.execution.sinks import FileSink

MIB = 1 << 20


def test_a_run_that_is_killed_again_and_again_repeats_one_tile_each_time(tmp_path: Path) -> None:
    recipe = recipe_of("linear", shared_family("mixed", mixed=True).models)
    options = Options(threads=1, tile_bytes=MIB, audit=tmp_path / "audit")
    made = inline(recipe, tmp_path / "expected", Options(threads=1, tile_bytes=MIB))
    watch = Watch(partial(journalled, tmp_path / "OUT.partial" / "journal"), tmp_path / "audit")
    kills = 0
    while dies("tile.written:4", lambda: inline(recipe, tmp_path / "OUT", options)):
        kills += 1
        watch.look()
    watch.look()
    assert kills == (made.tiles - 1) // 3
    assert watch.late == []
    assert watch.starts == made.tiles + kills
    assert bytes_of(tmp_path / "OUT") == bytes_of(made.out)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_tile_is_in_the_audit_before_its_first_byte_is_written(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(method, shared_family("mixed", mixed=True).models)
    audit, write = tmp_path / "audit", FileSink.write

    def checked(sink: FileSink, index: int, tensor: object, block: int, data: object) -> None:
        begun = {(start.tensor, start.first) for start in read_starts(audit)}
        assert any(name == tensor.name and first <= block for name, first in begun)  # type: ignore[attr-defined]
        write(sink, index, tensor, block, data)  # type: ignore[arg-type]

    monkeypatch.setattr(FileSink, "write", checked)
    result = inline(recipe, tmp_path / "OUT", Options(threads=2, tile_bytes=MIB, audit=audit))
    assert [start.attempt for start in read_starts(audit)] == [1] * result.tiles


def test_the_environment_asks_for_it_by_a_path_that_stands_wherever_a_worker_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEFLEET_AUDIT", "audit")
    assert audit_file() == Options().audit == tmp_path / "audit"
    monkeypatch.delenv("MERGEFLEET_AUDIT")
    assert Options().audit is None
