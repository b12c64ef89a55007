"""Preallocated files that many hands write into."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.errors import MergefleetError
from engine.tensorfile.header import build_header
from engine.tensorfile.writer import create, write_at


def test_tiles_written_in_any_order_make_a_file_that_the_reference_implementation_loads(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3000, dtype=np.float32).reshape(30, 100), "b": np.arange(7, dtype=np.int16)}
    header_bytes, header = build_header([("a", "F32", (30, 100)), ("b", "I16", (7,))], {"format": "pt"})
    path = tmp_path / "m.safetensors"
    assert create(path, header_bytes, len(header_bytes) + 12_014)
    fd = os.open(path, os.O_RDWR)
    tiles = [(name, start) for name, array in arrays.items() for start in range(0, array.nbytes, 64)][::-1]

    def write(tile: tuple[str, int]) -> None:
        name, start = tile
        write_at(fd, header.tensors[name].start + start, memoryview(arrays[name].tobytes())[start : start + 64])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, tiles))
    os.close(fd)
    loaded = load_file(path)
    assert {name: array.tobytes() for name, array in loaded.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_a_resumed_run_keeps_the_data_and_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "m"
    assert create(path, b"head", 100)
    with path.open("r+b") as file:
        file.seek(50)
        file.write(b"data")
    assert not create(path, b"head", 100)
    assert path.read_bytes() == b"head" + bytes(46) + b"data" + bytes(46)


@pytest.mark.parametrize("size", [0, 99, 101])
def test_a_file_of_another_size_is_begun_anew(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x" * size)
    assert create(path, b"head", 100)
    assert path.read_bytes() == b"head" + bytes(96)


def test_the_space_is_reserved_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "m"
    create(path, b"head", 4 << 20)
    assert path.stat().st_blocks * 512 >= 4 << 20


def test_a_full_disk_is_said_with_path_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        MergefleetError, match=r"m: writing 5_000 bytes failed: No space left on device\. Free"
    ) as caught:
        create(tmp_path / "m", b"head", 5000)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MergefleetError, match="shard 3: writing 4 bytes failed: No space left"):
        write_at(0, 0, b"data", origin="shard 3")


def test_a_real_full_device_is_said_too() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(MergefleetError, match="No space left on device"):
        write_at(fd, 0, b"data")
    os.close(fd)


def test_a_file_system_that_cannot_reserve_space_gets_a_sparse_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    create(tmp_path / "m", b"head", 5000)
    assert (tmp_path / "m").read_bytes() == b"head" + bytes(4996)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    create(path, b"", 20)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    fd = os.open(path, os.O_RDWR)
    write_at(fd, 5, memoryview(np.arange(3, dtype=np.int32)))
    os.close(fd)
    assert path.read_bytes() == bytes(5) + np.arange(3, dtype=np.int32).tobytes() + bytes(3)
