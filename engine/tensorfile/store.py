"""The tensors of some files: where their bytes lie, and reading them by any number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from engine.errors import MergefleetError, SourceError
from engine.tensorfile import torchfile
from engine.tensorfile.header import ITEMSIZE, Header, parse_header, read_header_bytes
from engine.tensorfile.reader import read_exactly


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a source, as it reads."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        return self.nbytes // ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class StoredTensor(SourceTensor):
    """A tensor whose bytes lie in `file`, from byte `offset` on."""

    file: Path
    offset: int

    def __str__(self) -> str:
        return f"{self.file}: tensor {self.name!r}"


class Store(Protocol):
    """What a source reads its tensors from: files (TensorStore), or files with a LoRA adapter on top."""

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Every tensor by name."""

    @property
    def paths(self) -> Collection[Path]:
        """Every file that is open while all tensors are read."""

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor `name` from its `byte_offset` on. Thread safe."""

    def place(self, name: str) -> tuple[int, int] | None:
        """File descriptor and offset of the bytes of tensor `name`; None where they lie in no file as they read."""

    def scratch_bytes(self, name: str) -> int:
        """What one thread holds, besides its buffer, while it reads tensor `name`."""

    def refuse_changed(self) -> None:
        """SourceError where a file was written to or replaced since it was opened."""

    def close(self) -> None:
        """Close all files; reading again opens them again."""


@dataclass(frozen=True)
class PromisedStore:
    """The tensors that a plan will make: a source whose shapes are known and whose bytes are not there yet."""

    tensors: Mapping[str, SourceTensor]
    paths: Collection[Path] = ()

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        raise MergefleetError(f"tensor {name!r} belongs to a stage that is not made yet.")

    def place(self, name: str) -> tuple[int, int] | None:
        return None

    def scratch_bytes(self, name: str) -> int:
        return 0

    def refuse_changed(self) -> None:
        pass

    def close(self) -> None:
        pass


class TensorStore:
    """Tensors of safetensors files and of torch's, read in place.

    Attributes:
        tensors: every tensor of every file, by name, in the order of files and of their bytes.
        files: size, mtime and header digest of every file, by its name: equal exactly while nothing was changed.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read all headers; SourceError where a file is damaged, or a tensor stands in two of them."""
        self.tensors: dict[str, StoredTensor] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self._stamps: dict[Path, tuple[int, int]] = {}  # size, mtime_ns
        self._fds: dict[Path, int] = {}
        self._lock = threading.Lock()
        for path in paths:
            self._add(path)

    def _add(self, path: Path) -> None:
        header, self.files[path.name] = self._read_header(path)
        for info in header.tensors.values():
            if info.name in self.tensors:
                raise SourceError(
                    f"{path}: tensor {info.name!r} is also in {self.tensors[info.name].file.name}. "
                    "Shards of two versions are mixed: download the model again.",
                    tensor=info.name,
                )
            self.tensors[info.name] = StoredTensor(info.name, info.dtype, info.shape, info.nbytes, path, info.start)

    def _read_header(self, path: Path) -> tuple[Header, dict[str, Any]]:
        if path.suffix in torchfile.SUFFIXES:
            size = path.stat().st_size
            header, data = torchfile.read_torch_header(path)
        else:
            data, size = read_header_bytes(path)
            header = parse_header(data, file_size=size, origin=str(path))
        self._stamps[path] = size, path.stat().st_mtime_ns
        return header, {"size": size, "mtime_ns": self._stamps[path][1], "header": blake3(data).hexdigest()}

    @property
    def paths(self) -> Collection[Path]:
        return self._stamps.keys()

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        """See Store. No copy, no mmap; SourceError naming tensor and file where the file changed its size."""
        tensor = self.tensors[name]
        if byte_offset < 0 or byte_offset + buffer.nbytes > tensor.nbytes:
            last = byte_offset + buffer.nbytes
            raise SourceError(
                f"{tensor.file}: bytes {byte_offset:_} to {last:_} of tensor {name!r} were asked for, "
                f"it has {tensor.nbytes:_}: the plan was made for another source."
            )
        read_exactly(self._fd(tensor.file), tensor.offset + byte_offset, buffer, origin=tensor)

    def place(self, name: str) -> tuple[int, int]:
        tensor = self.tensors[name]
        return self._fd(tensor.file), tensor.offset

    def _fd(self, file: Path) -> int:
        fd = self._fds.get(file)
        return self._open(file) if fd is None else fd

    def scratch_bytes(self, name: str) -> int:
        return 0

    def refuse_changed(self) -> None:
        """SourceError where a file was written to or replaced since its header was read: what was read is a mixture."""
        for file, stamp in self._stamps.items():
            if not file.exists() or (file.stat().st_size, file.stat().st_mtime_ns) != stamp:
                raise SourceError(
                    f"{file}: was changed while it was merged; nothing is published. Leave sources alone."
                )

    def close(self) -> None:
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def _open(self, file: Path) -> int:
        with self._lock:
            if file in self._fds:
                return self._fds[file]
            try:
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"{file}: cannot be opened: {error.strerror}.") from error
            size = os.fstat(fd).st_size
            if size != self._stamps[file][0]:
                os.close(fd)
                raise SourceError(
                    f"{file}: had {self._stamps[file][0]:_} bytes when its header was read and has {size:_} now. "
                    "Leave sources alone while merging, and run the command again."
                )
            self._fds[file] = fd
            return fd
