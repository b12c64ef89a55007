"""What the journal of a merge holds, finished tiles and facts, and what of it can be relied on when it is read back.

    {"tensor": name, "first": block, "blocks": base64 of the digests of consecutive blocks}
    {"facts": name, "values": {fact: [dtype, shape, base64]}}

Tiles are recorded by place, not by number, so that another tile size can resume them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine import digest
from engine.digest import BLOCK_DIGEST_BYTES
from engine.methods.contract import Array, Facts
from engine.planning.plan import OutputTensor, Plan, Tile
from engine.tensorfile.header import ITEMSIZE

Record = Mapping[str, Any]


def tile_record(tensor: OutputTensor, tile: Tile, blocks: Sequence[bytes]) -> Record:
    """A finished tile and the digests of its blocks."""
    return {"tensor": tensor.name, "first": tile.first, "blocks": joined(blocks)}


def facts_record(tensor: OutputTensor, facts: Facts) -> Record:
    """A tensor's facts (which may have a number per row of it)."""
    return {"facts": tensor.name, "values": {name: _packed(value) for name, value in facts.items()}}


def joined(blocks: Iterable[bytes]) -> str:
    """Digests of blocks as text."""
    return base64.b64encode(b"".join(blocks)).decode()


def unjoined(text: str) -> list[bytes]:
    """The digests of `joined`."""
    data, size = base64.b64decode(text), BLOCK_DIGEST_BYTES
    return [data[start : start + size] for start in range(0, len(data) - size + 1, size)]


class Recorded:
    """What all records say together: digests of blocks, 33 bytes each, and facts by tensor index."""

    def __init__(self, plan: Plan, records: Iterable[Record]) -> None:
        self.facts: dict[int, Facts] = {}
        self._plan = plan
        self._digests: dict[int, bytearray] = {}
        self._there: dict[int, bytearray] = {}  # a byte for every block, 1 where its digest is known
        index = {tensor.name: number for number, tensor in enumerate(plan.tensors)}
        for record in records:
            if "facts" in record:
                self.facts[index[record["facts"]]] = {
                    name: _unpacked(*value) for name, value in record["values"].items()
                }
            else:
                self._note(index[record["tensor"]], record["first"], base64.b64decode(record["blocks"]))

    def _note(self, tensor: int, first: int, joined: bytes) -> None:
        if tensor not in self._there:
            blocks = self._plan.tensors[tensor].blocks
            self._there[tensor], self._digests[tensor] = bytearray(blocks), bytearray(blocks * BLOCK_DIGEST_BYTES)
        end = first + len(joined) // BLOCK_DIGEST_BYTES
        self._digests[tensor][first * BLOCK_DIGEST_BYTES : end * BLOCK_DIGEST_BYTES] = joined
        self._there[tensor][first:end] = b"\1" * (end - first)

    def blocks(self, tile: Tile) -> list[bytes] | None:
        """Digests of a tile's blocks; None where one is not known."""
        end = tile.first + tile.count
        if tile.tensor not in self._there or not all(self._there[tile.tensor][tile.first : end]):
            return None
        known = self._digests[tile.tensor]
        return [
            bytes(known[number * BLOCK_DIGEST_BYTES : (number + 1) * BLOCK_DIGEST_BYTES])
            for number in range(tile.first, end)
        ]

    def verified(self, directory: Path, *, threads: int) -> dict[int, list[bytes]]:
        """Tiles whose digests are those of the bytes in the files of `directory`: a power failure may have lost pages.

        Threads read and digest together, 6 GB/s each where the disk gives that.
        """
        known = {tile: blocks for tile in self._plan.tiles if (blocks := self.blocks(tile)) is not None}
        if not known:
            return {}
        files = {self._plan.tensors[tile.tensor].file for tile in known}
        opened = {number: os.open(directory / self._plan.files[number].name, os.O_RDONLY) for number in files}
        try:
            with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
                sound = pool.map(lambda item: _is_sound(self._plan, opened, *item), known.items())
                return {tile.number: known[tile] for tile, is_sound in zip(known, sound, strict=True) if is_sound}
        finally:
            for fd in opened.values():
                os.close(fd)


def _is_sound(plan: Plan, opened: Mapping[int, int], tile: Tile, blocks: Sequence[bytes]) -> bool:
    """Whether the file still holds what the journal says."""
    tensor = plan.tensors[tile.tensor]
    size, fd = ITEMSIZE[tensor.dtype], opened[tensor.file]
    for number, expected in enumerate(blocks, tile.first):
        elements = min(tensor.block, tensor.elements - number * tensor.block)
        data = os.pread(fd, elements * size, tensor.offset + number * tensor.block * size)
        if digest.of_block(memoryview(data)) != expected:
            return False
    return True


def _packed(array: Array) -> list[Any]:
    """An array as JSON: dtype, shape, base64 of its bytes."""
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def _unpacked(dtype: str, shape: list[int], data: str) -> Array:
    """The array of `_packed`."""
    array: Array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
    return array
