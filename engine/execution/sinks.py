"""Where merged blocks go: files of the output, or the live parameters of a loaded model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine import failpoints
from engine.errors import MergefleetError
from engine.execution.binding import TORCH_DTYPES
from engine.models.views import STORED, as_bytes
from engine.planning.plan import OutputTensor, Plan
from engine.tensorfile import writer
from engine.tensorfile.header import ITEMSIZE

if TYPE_CHECKING:
    from engine.execution.binding import Binding
    from engine.methods.contract import Array


class Sink(Protocol):
    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        """Take block number `block` of output tensor number `index`: data[n] of stored bits. Thread safe."""


class FileSink:
    """Preallocated safetensors files; any worker may write any block at its offset, twice too."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        """Create what is missing of the plan's files in `directory`, headers included, and open them."""
        self._paths = [directory / file.name for file in plan.files]
        for path, file in zip(self._paths, plan.files, strict=True):
            writer.create(path, file.header, file.nbytes)
        self._fds: list[int] = []
        try:
            for path in self._paths:
                self._fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise MergefleetError(f"{path}: cannot be opened: {error.strerror}.", path=str(path)) from error

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        from engine.kernels import files

        failpoints.reach("block.write")
        fd, offset = self._fds[tensor.file], tensor.offset + block * tensor.block * ITEMSIZE[tensor.dtype]
        if files.write(fd, offset, data):
            return
        origin = str(self._paths[tensor.file])
        writer.write_at(fd, offset, as_bytes(data), origin=origin)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class LiveSink:
    """Writes into a live model: values are rounded to the output dtype first, then cast to the live one."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def target(self, index: int, tensor: OutputTensor, block: int) -> Array | None:
        """Live memory where the stored bits of a block can be made, so that `write` has nothing to do; else None."""
        memory = self._binding.memory(index, TORCH_DTYPES[tensor.dtype])
        if memory is None or tensor.dtype not in STORED:
            return None
        return memory.view(STORED[tensor.dtype])[block * tensor.block : (block + 1) * tensor.block]

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        target = self.target(index, tensor, block)
        if target is not None:
            if target.ctypes.data != data.ctypes.data:
                target[:] = data.view(target.dtype)
            return
        import torch

        bits = torch.from_numpy(data.view(np.uint8))
        self._binding.fill(index, block * tensor.block, bits.view(getattr(torch, TORCH_DTYPES[tensor.dtype])))
