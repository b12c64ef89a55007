"""One block through a method: by its kernels on stored bits, or by its definition in torch. Same bits either way."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import randomness
from engine.inexact import one_thread
from engine.methods.contract import Array, Block, Call, Facts, Method, RawBlock, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.files import Stream


class KernelArithmetic:
    """The fused numba loops; one per thread, because it owns scratch memory."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self._work: Array = np.empty((0, 0), np.float32)
        self._room: Array = np.empty(0, np.uint8)
        self._ready: tuple[Call | None, Array, Array] = None, self._room, self._room

    def measure(self, stage: Stage, call: Call, rows: Array, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        """Add (or, per block, put) the stage's partial of block at = (number, elements) into `out`."""
        assert stage.kernel is not None
        stage.kernel(call, self._raw(call, rows, at), facts, out)

    def merge(self, call: Call, rows: Array | Stream, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        """Merged and rounded values of one block into out[n], stored bits; of a Stream where `Method.streams`."""
        assert self.method.kernel is not None
        self.method.kernel(call, self._raw(call, rows, at), facts, out)

    def _raw(self, call: Call, rows: Array | Stream, at: tuple[int, int]) -> RawBlock:
        from engine.kernels import combine, files

        inputs = len(rows.buffer if isinstance(rows, files.Stream) else rows)
        if self._work.shape[0] < inputs + 4:
            self._work = combine.scratch(inputs)
        number, elements = at
        keys, room = self._of_call(call)
        if self.method.random:
            keys = keys_of(self.method, call, number)
        return RawBlock(rows, elements, number, number * call.block, keys, self._work, room)

    def _of_call(self, call: Call) -> tuple[Array, Array]:
        """Keys where none are drawn, and working memory: the same for every block of a tensor."""
        if self._ready[0] is not call:
            room = self.method.workspace(call)
            if self._room.size < room:
                self._room = np.empty(room, np.uint8)
            self._ready = call, np.zeros((len(call.source_ids), 2), np.uint32), self._room[:room]
        return self._ready[1:]


class DefinitionArithmetic:
    """The methods' definitions in torch: the oracle, and what serves methods and dtypes without kernels."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def measure(self, stage: Stage, call: Call, rows: Array, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        assert stage.measure is not None
        with self._steady():
            out += stage.measure(call, self._block(call, rows, at), facts).cpu().numpy()

    def merge(self, call: Call, rows: Array, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        with self._steady():
            encode(self.method.merge(call, self._block(call, rows, at), facts), out)

    def _steady(self) -> Any:
        return nullcontext() if self.method.exact else one_thread()

    def _stored(self, row: Array) -> Tensor:
        """A row as the block has it, where it is computed on."""
        return as_torch(row)

    def _block(self, call: Call, rows: Array, at: tuple[int, int]) -> Block:
        number, elements = at
        values = tuple(widened(self._stored(row[:elements])) for row in rows)
        return Block(values, number, number * call.block, keys_of(self.method, call, number))


def keys_of(method: Method, call: Call, number: int) -> Array:
    """uint32[M, 2]: keys of the sources' random bits in one block; zeros where the method draws none."""
    if not method.random:
        return np.zeros((len(call.source_ids), 2), np.uint32)
    return randomness.block_keys(call.seed, call.tensor, call.source_ids, number * call.block)


def as_torch(row: Array) -> Tensor:
    """A row of stored bits as a torch tensor of its own dtype; shares memory."""
    import torch

    if row.dtype == np.uint16:
        return torch.from_numpy(row.view(np.int16)).view(torch.bfloat16)
    if row.dtype == np.int16:
        return torch.from_numpy(row).view(torch.float16)
    return torch.from_numpy(row)


def decode(row: Array) -> Tensor:
    """A row in the compute dtype: float64 for float64, else float32."""
    return widened(as_torch(row))


def widened(stored: Tensor) -> Tensor:
    """Values in the compute dtype of their own."""
    import torch

    return stored if stored.dtype in (torch.float32, torch.float64) else stored.to(torch.float32)


_NAN = {np.uint16: 0x7FC0, np.int16: 0x7E00, np.float32: np.nan, np.float64: np.nan}


def encode(values: Tensor, out: Array) -> None:
    """Round `values` into a row of stored bits; to 16 bits through float32; NaN in its canonical form."""
    import torch

    target = as_torch(out)
    # torch's own float64 → 16 bit goes through float32 too; said here, so that it cannot differ between devices
    source = values if values.dtype == target.dtype or out.itemsize == 8 else values.to(torch.float32)
    target.copy_(source)
    invalid = torch.isnan(values)
    if invalid.any():
        out[invalid.cpu().numpy()] = _NAN[out.dtype.type]
