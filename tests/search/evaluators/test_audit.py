"""The audit file: what was attempted can be read, whatever items are called and whatever was torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.evaluators.audit import read_attempts, record_attempt
from search.ports import Work


def work(items: tuple[str, ...], *, lease: str = "1.1") -> Work:
    return Work(7, {}, "hash", "search", 0, items, lease, 1, 1)


@settings(max_examples=25)
@given(items=st.lists(st.text(), min_size=1, max_size=5).map(tuple))
def test_a_line_is_one_json_object_whatever_items_are_called(
    tmp_path_factory: pytest.TempPathFactory, items: tuple[str, ...]
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    record_attempt(path, work(items))
    record_attempt(path, work(items, lease="1.2"))
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["lease"] for line in lines] == ["1.1", "1.2"]
    assert [attempt["item"] for attempt in read_attempts(path)] == [*items, *items]


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    record_attempt(path, work(("a", "b")))
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        record_attempt(path, work(("c",), lease="2.1"))
        found = [attempt["item"] for attempt in read_attempts(path)]
        assert found == ["a", "b"] * (2 if cut >= len(whole) - 1 else 1) + ["c"]
