"""Where merged blocks go: files of the output, or the live parameters of a loaded model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine import failpoints
from engine.errors import MergefleetError
from engine.plan import OutputTensor, Plan
from engine.tensorfile import writer
from engine.tensorfile.header import ITEMSIZE
from engine.views import as_bytes

if TYPE_CHECKING:
    from engine.binding import Binding
    from engine.methods.contract import Array

# safetensors dtype -> torch's, as safetensors.torch has it
_TORCH_DTYPES = {
    **{"BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
    **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"},
}


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

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        import torch

        bits = torch.from_numpy(data.view(np.uint8))
        self._binding.fill(index, block * tensor.block, bits.view(getattr(torch, _TORCH_DTYPES[tensor.dtype])))
