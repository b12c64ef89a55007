"""Which output file and offset every tensor gets: known before any byte is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from engine.planning.plan import OutputFile, OutputTensor
from engine.tensorfile.header import ITEMSIZE, build_header


@dataclass(frozen=True)
class ShardSize:
    """What one output file may hold of tensors, unless a single tensor is larger."""

    limit: int = 5_000_000_000
    unit: Literal["bytes", "parameters"] = "bytes"

    def of(self, tensor: OutputTensor) -> int:
        """A tensor's size in this unit."""
        return tensor.nbytes if self.unit == "bytes" else tensor.elements

    def __str__(self) -> str:
        return f"{self.limit} {self.unit}"


def lay_out(
    pieces: list[OutputTensor], shard_size: ShardSize
) -> tuple[tuple[OutputTensor, ...], tuple[OutputFile, ...]]:
    """Give every tensor its file and offset: files are filled in order, up to shard_size each."""
    groups: list[list[OutputTensor]] = [[]]
    filled = 0
    for piece in pieces:
        if groups[-1] and filled + shard_size.of(piece) > shard_size.limit:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += shard_size.of(piece)
    tensors: list[OutputTensor] = []
    files: list[OutputFile] = []
    for number, group in enumerate(groups):
        # wide elements first: the format has no holes, and some readers cannot bear unaligned tensors
        group.sort(key=lambda tensor: -ITEMSIZE[tensor.dtype])
        raw, header = build_header([(t.name, t.dtype, t.shape) for t in group], {"format": "pt"})
        name = "model.safetensors"
        if len(groups) > 1:
            name = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        for t in group:
            info = header.tensors[t.name]
            tensors.append(replace(t, file=number, offset=info.start))
        nbytes = header.data_start + sum(t.elements * ITEMSIZE[t.dtype] for t in group)
        files.append(OutputFile(name, raw, nbytes))
    return tuple(tensors), tuple(files)
