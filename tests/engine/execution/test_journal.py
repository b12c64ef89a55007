"""A journal gives back every record whose append returned, whatever happened afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputsChanged, MergefleetError
from engine.execution.journal import Journal, open_journal

ROOT = Path(__file__).resolve().parents[3]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
records = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=8)


def written(path: Path, content: list[dict[str, Any]]) -> bytes:
    with open_journal(path, "digest") as journal:
        for record in content:
            journal.append(record)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@settings(max_examples=50)
@given(records)
def test_what_is_appended_is_found_at_the_next_opening(
    tmp_path_factory: pytest.TempPathFactory, content: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    written(path, content)
    with open_journal(path, "digest") as again:
        assert again.records == content
        assert not again.is_new
        assert again.dropped == 0


def test_each_record_is_one_line_of_length_checksum_and_json(path: Path) -> None:
    lines = written(path, [{"tile": 3, "name": "ä\udcff\n"}]).splitlines()
    text = rb'{"tile":3,"name":"\u00e4\udcff\n"}'
    assert lines[1] == b"%d %08x %b" % (len(text), zlib.crc32(text), text)


@settings(max_examples=60)
@given(st.data())
def test_after_a_cut_at_any_byte_the_whole_records_before_it_are_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    content = [{"tile": i, "text": "x\n" * i} for i in range(6)]
    whole = written(path, content)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = max(0, whole[:cut].count(b"\n") - 1)
    with open_journal(path, "digest") as journal:
        assert journal.records == content[:kept]
        assert journal.dropped == 0
        assert journal.is_new == (b"\n" not in whole[:cut])
        journal.append({"after": "the cut"})
    assert open_journal(path, "digest").records == [*content[:kept], {"after": "the cut"}]


@settings(max_examples=60)
@given(st.integers(0), st.integers(1, 255))
def test_a_changed_byte_drops_its_record_and_all_behind_it_and_says_how_many(
    tmp_path_factory: pytest.TempPathFactory, where: int, change: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    content = [{"tile": i} for i in range(6)]
    whole = bytearray(written(path, content))
    first_line = whole.index(b"\n") + 1
    position = first_line + where % (len(whole) - first_line)
    line = whole[:position].count(b"\n") - 1
    whole[position] ^= change
    path.write_bytes(whole)
    with open_journal(path, "digest") as journal:
        assert journal.records == content[:line]
        assert journal.dropped == whole.count(b"\n") - 1 - line
        journal.append({"again": line})
    assert open_journal(path, "digest").records == [*content[:line], {"again": line}]


def test_a_damaged_first_record_makes_the_journal_new(path: Path) -> None:
    whole = written(path, [{"tile": 1}])
    path.write_bytes(b"9" + whole)
    with open_journal(path, "another digest") as journal:
        assert journal.is_new
        assert (journal.records, journal.dropped) == ([], 2)


def test_a_right_checksum_over_something_else_than_an_object_is_damage(path: Path) -> None:
    whole = written(path, [{"tile": 1}])
    for text in (b"[1]", b"{", b"\xff"):
        path.write_bytes(whole + b"%d %08x %b\n" % (len(text), zlib.crc32(text), text))
        with open_journal(path, "digest") as journal:
            assert (journal.records, journal.dropped) == ([{"tile": 1}], 1)


def test_another_plan_is_refused_and_every_changed_input_is_named(tmp_path: Path) -> None:
    path = tmp_path / "OUT.partial" / "journal"
    path.parent.mkdir()
    before = {"seed": "0", "recipe": "abc", "source a": "size 3", "dtype": "bfloat16"}
    now = {"seed": "1", "recipe": "abc", "source b": "size 4", "dtype": "bfloat16"}
    open_journal(path, "one", describe=before).close()
    content = path.read_bytes()
    with pytest.raises(InputsChanged) as caught:
        open_journal(path, "two", describe=now)
    assert caught.value.changed == {"seed": ("0", "1"), "source a": ("size 3", None), "source b": (None, "size 4")}
    for part in ("seed: 0 → 1", "source a: size 3 → nothing", "source b: nothing → size 4"):
        assert part in caught.value.message
    assert f"mergefleet clean {tmp_path / 'OUT'}" in caught.value.message
    assert "recipe" not in caught.value.message
    assert path.read_bytes() == content


def test_the_same_inputs_with_another_plan_are_refused_too(path: Path) -> None:
    open_journal(path, "one", describe={"seed": "0"}).close()
    with pytest.raises(InputsChanged, match="another one for the same recipe and sources"):
        open_journal(path, "two", describe={"seed": "0"})


def test_a_journal_of_another_format_is_refused(path: Path) -> None:
    text = json.dumps({"mergefleet": 2, "plan": "digest"}).encode()
    path.write_bytes(b"%d %08x %b\n" % (len(text), zlib.crc32(text), text))
    with pytest.raises(InputsChanged, match="another version of mergefleet"):
        open_journal(path, "digest")


def test_threads_append_whole_lines(path: Path) -> None:
    journal = open_journal(path, "digest")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journal.append({"tile": i, "text": "x" * (i % 300)}), range(500)))
    journal.close()
    found = open_journal(path, "digest").records
    assert sorted(record["tile"] for record in found) == list(range(500))


def test_a_disk_that_takes_only_a_part_leaves_the_journal_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(path, "digest")
    journal.append({"tile": 1})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(MergefleetError, match=r"No space left on device\. Free some space"):
            journal.append({"tile": 2})
    journal.append({"tile": 3})
    journal.close()
    assert open_journal(path, "digest").records == [{"tile": 1}, {"tile": 3}]


def test_a_closed_journal_takes_nothing_more(path: Path) -> None:
    journal: Journal = open_journal(path, "digest")
    journal.close()
    journal.close()
    with pytest.raises(MergefleetError, match="the journal is closed"):
        journal.append({})


def test_a_value_that_json_has_no_word_for_is_not_written(path: Path) -> None:
    with open_journal(path, "digest") as journal, pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"score": float("nan")})
    assert open_journal(path, "digest").records == []


APPEND_FOREVER = """
import sys
from pathlib import Path
from engine.execution.journal import open_journal
journal = open_journal(Path(sys.argv[1]), "digest")
for i in range(len(journal.records), 10**9):
    journal.append({"tile": i, "text": "x" * (i * 37 % 5000)})
    sys.stdout.buffer.write(b"%d\\n" % i)
    sys.stdout.buffer.flush()
"""


def test_kill_9_at_any_moment_loses_no_record_whose_append_returned(path: Path) -> None:
    for round_ms in (10, 30, 50, 20, 40):
        command = [sys.executable, "-c", APPEND_FOREVER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline())]
            time.sleep(round_ms / 1000)
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]
        with open_journal(path, "digest") as journal:
            assert [record["tile"] for record in journal.records] == list(range(len(journal.records)))
            assert len(journal.records) > acknowledged[-1]
            assert journal.dropped == 0
