"""Exports are there whole or not at all, whatever an earlier attempt left."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from engine.errors import NotWritten
from search.whole_file import whole_file


def fail_half_way(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` raises it: without a name


def test_a_torn_file_and_what_was_left_beside_it_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<html>to")
    (tmp_path / "report.html.partial").write_text("torn, too")
    with whole_file(path) as partial:
        assert not partial.exists()
        partial.write_text("<html></html>")
        assert path.read_text() == "<html>to"
    assert path.read_text() == "<html></html>"
    assert list(tmp_path.iterdir()) == [path]


def test_what_goes_wrong_with_another_file_is_not_called_a_failure_to_write(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError) as failed, whole_file(path):
        (tmp_path / "plotly.js").read_text()
    assert failed.value.filename == str(tmp_path / "plotly.js")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder").write_text("is none")
    with pytest.raises(NotWritten, match=r"report\.html: cannot be written: Not a directory"):
        write(tmp_path / "folder" / "report.html")


def write(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("ha")


def test_what_fails_half_way_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_text("whole")
    with pytest.raises(NotWritten) as failed:
        fail_half_way(path)
    assert failed.value.message == (
        f"{path}: cannot be written: No space left on device. What was scored is kept. Free some space, and run the "
        "command again (a search: with --resume)."
    )
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "whole"
    with whole_file(path) as partial:
        partial.write_text("whole again")
    assert path.read_text() == "whole again"
