"""Exact byte ranges, from any number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SourceError
from engine.tensorfile.reader import read_exactly

DATA = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_threads_share_one_descriptor_without_disturbing_each_other(fd: int) -> None:
    def read(start: int) -> bool:
        buffer = bytearray(1000)
        read_exactly(fd, start, memoryview(buffer), origin="data")
        return buffer == DATA[start : start + 1000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 999_000, 997)))


def test_any_contiguous_buffer_can_be_filled(fd: int) -> None:
    array = np.empty((5, 10), np.float32)
    read_exactly(fd, 12, memoryview(array), origin="data")
    assert array.tobytes() == DATA[12:212]
    read_exactly(fd, len(DATA), memoryview(bytearray()), origin="data")


def test_short_reads_are_continued(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:7]], offset))
    buffer = bytearray(100)
    read_exactly(fd, 3, memoryview(buffer), origin="data")
    assert buffer == DATA[3:103]


def test_a_file_that_ends_too_early_is_named_with_the_bytes_wanted(fd: int) -> None:
    with pytest.raises(
        SourceError, match="tensor 'w': bytes 999_990 to 1_000_010 are needed, the file ends at 1_000_000"
    ):
        read_exactly(fd, 999_990, memoryview(bytearray(20)), origin="tensor 'w'")


def test_a_failing_device_is_a_source_error(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(SourceError, match="x: reading at byte 0 failed: Input/output error"):
        read_exactly(fd, 0, memoryview(bytearray(1)), origin="x")
