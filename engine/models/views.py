"""What a tile reads: one input tensor of one source, as rows of stored values in one common format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.models.checkpoint import Checkpoint
from engine.tensorfile.header import ITEMSIZE

FLOATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
"""Recipe dtype → safetensors dtype."""
STORED: dict[str, type] = {"BF16": np.uint16, "F16": np.int16, "F32": np.float32, "F64": np.float64}
"""Element type of a row in memory; bf16 and f16 travel as their bits."""
_WIDENS = {("BF16", "F32"), ("F16", "F32"), ("BF16", "F64"), ("F16", "F64"), ("F32", "F64")}


def as_bytes(array: Any) -> memoryview:
    """The memory of a contiguous array, as bytes."""
    return memoryview(array).cast("B")


@dataclass(frozen=True, slots=True)
class View:
    """Tensor `tensor` of source number `source`, rounded to `rounded` (its stored dtype, or the recipe's `dtype`).

    Attributes:
        scratch: bytes that a thread holds while it reads, besides the block.
        elements: of the tensor.
        beyond: where elements that the tensor does not have are read: a vocabulary's rows
            (engine.planning.vocabulary_rows).
    """

    source: int
    tensor: str
    stored: str
    rounded: str
    scratch: int = 0
    elements: int = 0
    beyond: View | None = None

    @property
    def chain(self) -> tuple[View, ...]:
        """The view, and those beyond it."""
        return (self, *(self.beyond.chain if self.beyond else ()))

    def parts(self, start: int, row: Any) -> tuple[tuple[View, int, Any], ...]:
        """(view, first element, piece of `row`) for elements start … start + n: more than one where the tensor ends."""
        if self.beyond is None:
            return ((self, start, row),)
        own = max(0, min(len(row), self.elements - start))
        there = ((self, start, row[:own]),) if own else ()
        return (*there, *self.beyond.parts(start + own, row[own:])) if own < len(row) else there


def rounded_dtype(stored: str, wanted: str | None) -> str:
    """The format a source's values have after the recipe's `dtype` was applied; a widening keeps the stored one."""
    if wanted is None or wanted == stored or (stored, wanted) in _WIDENS:
        return stored
    return wanted


def common_dtype(dtypes: list[str]) -> str:
    """The narrowest row format that holds all of `dtypes` exactly."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "F64" if "F64" in dtypes else "F32"


class RowReader:
    """Fills rows with blocks of views; one per thread, with a buffer for values that must be converted."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def fill(self, checkpoint: Checkpoint, view: View, start: int, row: Any) -> None:
        """row[n] = elements start … start + n of the view, rounded and widened to the row's format."""
        size = ITEMSIZE[view.stored]
        if view.stored == view.rounded and STORED[view.stored] == row.dtype.type:
            checkpoint.read_into(view.tensor, start * size, as_bytes(row))
            return
        if self._buffer.nbytes < row.size * size:
            self._buffer = np.empty(row.size * size, np.uint8)
        raw = self._buffer[: row.size * size]
        checkpoint.read_into(view.tensor, start * size, as_bytes(raw))
        values: Any = raw.view(STORED[view.stored])
        for step in _steps(view, row.dtype.type):
            values = _converted(values, row if step is None else np.empty(row.size, step))


def _steps(view: View, row: type) -> list[type | None]:
    """Formats to pass through; None stands for the row itself, which comes last."""
    target = STORED[view.rounded]
    return [None] if target == row or view.stored == view.rounded else [target, None]


def _converted(values: Any, out: Any) -> Any:
    from engine.kernels import combine

    combine.convert(values, out)
    return out
