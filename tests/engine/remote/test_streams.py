"""One file on its way to a bucket: parts that every store takes, bytes in order, and nothing completed by accident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import MergefleetError
from engine.planning.plan import OutputFile, OutputTensor
from engine.remote.streams import PART_BYTES, FileStream, part_bytes

HEADER = b"the header"
TIB = 1 << 40


@dataclass
class Place:
    """An output whose bucket keeps what is uploaded to it, once it is completed."""

    completed: dict[str, bytes] = field(default_factory=dict)
    fails: MergefleetError | None = None
    out: str = "s3://bucket/out"

    @property
    def bucket(self) -> Any:
        return SimpleNamespace(stream=self._stream)

    def refuse_fenced(self) -> None:
        pass

    def _stream(self, name: str, pieces: Iterator[bytes], *, part_bytes: int) -> None:
        data = b"".join(pieces)
        if self.fails is not None:
            raise self.fails
        self.completed[name] = data


def tensor(offset: int, elements: int) -> OutputTensor:
    return OutputTensor("t", "U8", (elements,), 0, offset, (), None, "U8", None, elements)


def begun(place: Place, data_bytes: int, *, stopped: bool = False) -> FileStream:
    file = OutputFile("model.safetensors", HEADER, len(HEADER) + data_bytes)
    return FileStream(place, file, lambda: stopped)  # type: ignore[arg-type]


@given(st.integers(0, 5 * TIB))
def test_a_file_of_any_size_has_parts_that_every_store_takes(nbytes: int) -> None:
    size = part_bytes(nbytes)
    assert size >= PART_BYTES >= 5 << 20
    assert -(-nbytes // size) <= 10_000
    assert size <= max(PART_BYTES, nbytes // 9000 + (2 << 20))


def test_what_is_written_is_copied_before_its_memory_is_used_again() -> None:
    place, memory = Place(), np.zeros(100, np.uint8)
    stream = begun(place, 300)
    stream.begin()
    for number in range(3):
        memory[:] = number
        stream.write(0, tensor(len(HEADER) + 100 * number, 100), 0, memory)
    stream.finish()
    assert place.completed == {"model.safetensors": HEADER + bytes(100) + b"\1" * 100 + b"\2" * 100}


def test_bytes_out_of_order_are_an_error_and_nothing_is_completed() -> None:
    place = Place()
    stream = begun(place, 200)
    stream.begin()
    with pytest.raises(MergefleetError, match="byte 110 of tensor 't' came where byte 10 was expected"):
        stream.write(0, tensor(len(HEADER) + 100, 100), 0, np.zeros(100, np.uint8))
    stream.abort()
    assert place.completed == {}


def test_a_file_that_is_too_short_is_not_completed() -> None:
    place = Place()
    stream = begun(place, 200)
    stream.begin()
    with pytest.raises(MergefleetError, match="10 bytes were made of 210"):
        stream.finish()
    stream.abort()
    assert place.completed == {}


def test_a_thread_that_is_stopped_ends_its_upload() -> None:
    place = Place()
    stream = begun(place, 200, stopped=True)
    with pytest.raises(MergefleetError, match="another thread failed"):
        stream.begin()
    stream.abort()
    assert place.completed == {}


def test_what_an_upload_fails_of_reaches_whoever_writes() -> None:
    place = Place(fails=MergefleetError("the store is full"))
    stream = begun(place, 0)
    stream.begin()
    with pytest.raises(MergefleetError, match="the store is full"):
        stream.finish()
