"""Tensors of files that are read by ranges, with more asked for than is wanted now: a request costs tens of
milliseconds however little it brings, and a merge wants half a megabyte at a time, in order.

    a thread's reads of one tensor:   | window: being read | the next window: on its way |

Each thread has windows of its own, so that nothing is waited for twice and its memory can be counted.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from engine.errors import SourceError
from engine.tensorfile.header import Header, TensorInfo, header_length, parse_header
from engine.tensorfile.store import SourceTensor

WINDOW_BYTES = 4 << 20
"""Two threads over three sources, 40 ms a request and 100 MB/s a connection (simulated): 22 MB/s block by block, by
windows of 0.5, 1, 2, 4 and 8 MiB 78, 131, 182, 227 and 231."""
_WINDOWS = 3  # of one thread and source: the one being read, the next, and what is left of the tensor before
_FIRST_BYTES = 128 << 10  # of a file: its header, for all but models of thousands of tensors in a file
_AT_ONCE = 16  # requests for headers
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class RangeFile:
    """A file that can be read by ranges: its name, its size, and what tells this version of it from others."""

    name: str
    size: int
    etag: str | None


class Ranges(Protocol):
    """Where files are read by ranges: an object store, or the Hub. Thread safe."""

    def read(self, file: RangeFile, start: int, end: int) -> memoryview:
        """Bytes [start, end) of exactly this version of the file; SourceError, after some tries, if that cannot be."""

    def cached(self, file: RangeFile) -> Path | None:
        """Where the whole file lies on this machine, if it does: then it is read there."""

    def stamp(self, name: str) -> tuple[int, str | None]:
        """Size and ETag that the file has now."""

    def __str__(self) -> str:
        """The place, as the user names it."""


@dataclass(frozen=True, slots=True)
class RangeTensor(SourceTensor):
    """A tensor whose bytes lie in `file` from `start` on; `run`: where it ends, or the last of small ones behind it."""

    file: RangeFile
    start: int
    run: int


class RangeStore:
    """The tensors of safetensors files that are read by ranges: a `Store`, see engine.tensorfile.store.

    Attributes:
        tensors: every tensor of every file, by name, in the order of files and of their bytes.
        files: size, ETag and header digest of every file, by its name.
    """

    def __init__(self, ranges: Ranges, files: Iterable[RangeFile]) -> None:
        """Read all headers; SourceError where a file is damaged, or a tensor stands in two of them."""
        self._ranges = ranges
        self._files = tuple(files)
        self.tensors: dict[str, RangeTensor] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self._local = threading.local()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for file, (header, digest) in zip(self._files, pool.map(self._read_header, self._files), strict=True):
                self.files[file.name] = {"size": file.size, "etag": file.etag, "header": digest}
                self._add(file, header)

    @property
    def paths(self) -> Collection[Path]:
        """The files that lie on this machine."""
        return [path for file in self._files if (path := self._ranges.cached(file)) is not None]

    def _read_header(self, file: RangeFile) -> tuple[Header, str]:
        origin = f"{self._ranges}/{file.name}"
        data = bytes(self._ranges.read(file, 0, min(file.size, _FIRST_BYTES))) if file.size else b""
        end = _LENGTH_BYTES + header_length(data, file_size=file.size, origin=origin)
        if end > len(data):
            data += self._ranges.read(file, len(data), end)
        return parse_header(data, file_size=file.size, origin=origin), blake3(data[:end]).hexdigest()

    def _add(self, file: RangeFile, header: Header) -> None:
        infos = list(header.tensors.values())
        for info, run in zip(infos, _runs(infos), strict=True):
            if info.name in self.tensors:
                raise SourceError(
                    f"{self._ranges}/{file.name}: tensor {info.name!r} is also in {self.tensors[info.name].file.name}. "
                    "Shards of two versions are mixed: upload the model again.",
                    tensor=info.name,
                )
            self.tensors[info.name] = RangeTensor(info.name, info.dtype, info.shape, info.nbytes, file, info.start, run)

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        tensor = self.tensors[name]
        view = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        if byte_offset < 0 or byte_offset + len(view) > tensor.nbytes:
            raise SourceError(
                f"{self._ranges}/{tensor.file.name}: bytes {byte_offset:_} to {byte_offset + len(view):_} of tensor "
                f"{name!r} were asked for, it has {tensor.nbytes:_}: the plan was made for another source."
            )
        reader = self._reader()
        done = 0
        while done < len(view):
            done += reader.read(tensor, tensor.start + byte_offset + done, view[done:])

    def place(self, name: str) -> None:
        """No file of this machine has the bytes."""

    def scratch_bytes(self, name: str) -> int:
        return _WINDOWS * WINDOW_BYTES

    def refuse_changed(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for file, now in zip(self._files, pool.map(self._ranges.stamp, (f.name for f in self._files)), strict=True):
                if now != (file.size, file.etag):
                    raise changed(self._ranges, file.name)

    def close(self) -> None:
        """Let all windows go; reading again asks for them again."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
            self._pool, self._local = None, threading.local()

    def _reader(self) -> _Reader:
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(64, thread_name_prefix="ahead")
                reader = self._local.reader = _Reader(self._ranges, self._pool)
        return reader


def _runs(infos: Sequence[TensorInfo]) -> list[int]:
    """For every tensor where the run of small ones ends that it begins or goes on; a large one is a run alone."""
    ends: list[int] = []
    run: int | None = None  # where the run of small ones ends that begins behind this tensor
    for info in reversed(infos):
        small = info.nbytes < WINDOW_BYTES
        ends.append(run if small and run is not None else info.end)
        run = ends[-1] if small else None
    return ends[::-1]


def changed(ranges: Ranges, name: str) -> SourceError:
    """The error for a file that is another one than when its header was read."""
    return SourceError(f"{ranges}/{name}: was changed while it was merged; nothing is published. Leave sources alone.")


@dataclass
class _Window:
    """Bytes [start, end) of a file, here or on their way; and the window that follows, once it is asked for."""

    file: RangeFile
    start: int
    end: int
    coming: Future[memoryview]
    following: _Window | None = None

    def holds(self, file: RangeFile, position: int) -> bool:
        return self.file == file and self.start <= position < self.end


@dataclass
class _Reader:
    """The windows of one thread.

    `touched` are the tensors read since one of them was read for the second time: a thread may take turns between
    several tensors (two layers of one model), and whatever was left out of a round is not being read any more.
    """

    ranges: Ranges
    pool: ThreadPoolExecutor
    windows: dict[str, _Window] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    small: _Window | None = None

    def read(self, tensor: RangeTensor, position: int, buffer: memoryview) -> int:
        """Copy bytes of the file from `position` on into the buffer: as many as the window has; how many."""
        window = self._window(tensor, position)
        data = window.coming.result()[position - window.start :]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        if position + count == tensor.start + tensor.nbytes:  # read to its end
            self.windows.pop(tensor.name, None)
            self.touched.discard(tensor.name)
        return count

    def _window(self, tensor: RangeTensor, position: int) -> _Window:
        self._begin_round(tensor.name)
        known = self.windows.get(tensor.name, self.small)
        if known is not None and known.following is not None and known.following.holds(tensor.file, position):
            known = known.following
        if known is None or not known.holds(tensor.file, position):
            known = self._ask(tensor, position)
        self.windows[tensor.name] = known
        end = tensor.start + tensor.nbytes
        if known.following is None and known.end < end:
            known.following = self._ask(tensor, known.end)
        return known

    def _begin_round(self, name: str) -> None:
        if name in self.touched:
            self.windows = {other: window for other, window in self.windows.items() if other in self.touched}
            self.touched.clear()
        elif name not in self.windows:
            for window in self.windows.values():
                window.following = None
        self.touched.add(name)

    def _ask(self, tensor: RangeTensor, position: int) -> _Window:
        """A window from `position` on: to the tensor's end, or beyond it over whole small ones."""
        end = min(position + WINDOW_BYTES, tensor.run)
        coming = self.pool.submit(self.ranges.read, tensor.file, position, end)
        window = _Window(tensor.file, position, end, coming)
        self.small = window if tensor.nbytes < WINDOW_BYTES else None
        return window
