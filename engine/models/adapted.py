"""A model with a LoRA adapter on it, read as if it had been merged and saved: no copy on disk, no model class.

Every element is W + scale · Σ_k B[i, k]·A[k, j], summed in float32 (float64 for a float64 W) in order of k, and rounded
once to the dtype that W is stored in, so `model+lora` and the merged model on disk are the same source. (PEFT's
`merge_and_unload` rounds the product to W's dtype and adds in it: one rounding more.)
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import SourceError
from engine.models import architecture
from engine.models.lora import Factors, Update
from engine.models.output_config import output_config
from engine.models.views import STORED, as_bytes
from engine.numerics import BLOCK
from engine.recipes.model_ref import ModelRef
from engine.tensorfile.header import ITEMSIZE
from engine.tensorfile.store import SourceTensor, Store, TensorStore

Array = Any


@dataclass(frozen=True)
class _Right:
    """The right factor of the tensor that a thread read last: all of it, because every row of W needs it."""

    name: str
    values: Array


class AdaptedStore:
    """The tensors of a model as an adapter leaves them; see engine.tensorfile.store.Store."""

    def __init__(self, model: Store, adapter: TensorStore, updates: Mapping[str, Update]) -> None:
        self._model = model
        self._adapter = adapter
        self._updates = updates
        self._local = threading.local()
        self.tensors: Mapping[str, SourceTensor] = {
            **model.tensors,
            **{name: update.tensor for name, update in updates.items()},
        }

    @property
    def paths(self) -> Collection[Path]:
        return [*self._model.paths, *self._adapter.paths]

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        update = self._updates.get(name)
        if update is None:
            self._model.read_into(name, byte_offset, buffer)
            return
        dtype = self.tensors[name].dtype
        if update.replaced is not None:
            self._read_replaced(update.replaced, dtype, byte_offset, buffer)
        else:
            self._model.read_into(name, byte_offset, buffer)
        if update.factors is not None:
            weights: Array = np.frombuffer(buffer, STORED[dtype])
            self._add(name, update.factors, byte_offset // ITEMSIZE[dtype], weights)

    def place(self, name: str) -> tuple[int, int] | None:
        return None if name in self._updates else self._model.place(name)

    def scratch_bytes(self, name: str) -> int:
        """The right factor, as stored and decoded, the rows of the left one that a block needs, a replaced block."""
        update = self._updates.get(name)
        if update is None:
            return self._model.scratch_bytes(name)
        total = BLOCK * 8 if update.replaced is not None else 0
        if update.factors is not None:
            columns, rank = self._columns(name), update.factors.rank
            rows = -(-BLOCK // max(1, columns)) + 1
            total += rank * (columns + rows) * 3 * 8  # as stored, decoded, and turned; float64 at most
        return total

    def refuse_changed(self) -> None:
        self._model.refuse_changed()
        self._adapter.refuse_changed()

    def close(self) -> None:
        self._model.close()
        self._adapter.close()

    def _columns(self, name: str) -> int:
        """Columns of the matrix that the factors make: a bias is one column."""
        shape = self.tensors[name].shape
        return shape[1] if len(shape) > 1 else 1

    def _read_replaced(self, name: str, dtype: str, byte_offset: int, buffer: memoryview) -> None:
        stored = self._adapter.tensors[name].dtype
        if stored == dtype:
            self._adapter.read_into(name, byte_offset, buffer)
            return
        out: Array = np.frombuffer(buffer, STORED[dtype])
        _convert(self._stored(name, byte_offset // ITEMSIZE[dtype], out.size), out)

    def _add(self, name: str, factors: Factors, start: int, weights: Array) -> None:
        from engine.kernels import lowrank

        columns = self._columns(name)
        rows = range(start // columns, -(-(start + weights.size) // columns))
        dtype = np.float64 if weights.dtype == np.float64 else np.float32
        left = self._left(factors, rows, dtype)
        right = self._right(factors, dtype)
        lowrank.add_low_rank(weights, start - rows.start * columns, left, right, dtype(factors.scale))

    def _left(self, factors: Factors, rows: range, dtype: type) -> Array:
        """left[rows, rank]; stored as [rank, all rows] where the factors are transposed."""
        if not factors.transposed:
            return self._decoded(factors.left, rows.start * factors.rank, len(rows) * factors.rank, dtype).reshape(
                len(rows), factors.rank
            )
        total = self._adapter.tensors[factors.left].shape[1]
        read = partial(self._decoded, factors.left, elements=len(rows), dtype=dtype)
        return np.ascontiguousarray(np.stack([read(start=k * total + rows.start) for k in range(factors.rank)]).T)

    def _right(self, factors: Factors, dtype: type) -> Array:
        """right[rank, columns], kept for this thread's next block of the same tensor."""
        if factors.right is None:
            return np.ones((1, 1), dtype)
        kept: _Right | None = getattr(self._local, "right", None)
        if kept is None or kept.name != factors.right or kept.values.dtype != dtype:
            stored = self._adapter.tensors[factors.right]
            values = self._decoded(factors.right, 0, stored.elements, dtype).reshape(stored.shape)
            kept = _Right(factors.right, np.ascontiguousarray(values.T) if factors.transposed else values)
            self._local.right = kept
        return kept.values

    def _decoded(self, name: str, start: int, elements: int, dtype: type) -> Array:
        out: Array = np.empty(elements, dtype)
        _convert(self._stored(name, start, elements), out)
        return out

    def _stored(self, name: str, start: int, elements: int) -> Array:
        """Elements of an adapter's tensor as they are stored."""
        dtype = self._adapter.tensors[name].dtype
        values: Array = np.empty(elements, STORED[dtype])
        self._adapter.read_into(name, start * ITEMSIZE[dtype], as_bytes(values))
        return values


def adapted_config(
    config: Mapping[str, Any],
    before: Mapping[str, SourceTensor],
    after: Mapping[str, SourceTensor],
    *,
    origin: ModelRef,
) -> dict[str, Any]:
    """The model's config.json as its tensors are with the adapter: a resized vocabulary, a head that is its own now.

    Raises SourceError where some tensors of the vocabulary were resized and others were not.
    """
    rows = {name: tensor.shape[0] for name, tensor in after.items() if architecture.is_vocabulary(name)}
    resized = any(name in before and before[name].shape[0] != count for name, count in rows.items())
    if resized and len(set(rows.values())) > 1:
        said = ", ".join(f"{name!r} has {count} rows" for name, count in rows.items())
        raise SourceError(f"{origin}: with the adapter {said}: one vocabulary needs as many in all of them.")
    return output_config(
        config,
        layers=None,
        dtype=None,
        tied=False if any(name not in before for name in after) else None,
        vocab_size=next(iter(rows.values())) if resized else None,
    )


def _convert(values: Array, out: Array) -> None:
    from engine.kernels import combine

    if values.size:
        combine.convert(values, out)
