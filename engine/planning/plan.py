"""Recipe + headers → Plan: every output tensor's name, shape, dtype, file and offset, and what it is made of.

Integers and names only: no tensor data is read. A recipe that cannot work fails here, by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from engine.digest import of_plan
from engine.methods.contract import Call, Method
from engine.models.views import View
from engine.numerics import BLOCK
from engine.recipes.recipe import ModelRef
from engine.tensorfile.header import ITEMSIZE

TILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor of the output and all that its bytes depend on.

    Attributes:
        name, dtype, shape: as written; dtype is a safetensors code.
        file: index into the plan's files; `offset`: of its first byte there.
        inputs: views in the order of the method's inputs (the base first, where there is one).
        call: the method's call; None: the first input is copied (cast where it must be), and all inputs must be equal.
        row_dtype: format of the rows the method works on.
        layer: of the output, None for tensors outside the layers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    inputs: tuple[View, ...]
    call: Call | None
    row_dtype: str
    layer: int | None
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * ITEMSIZE[self.dtype]

    @property
    def bytes_read(self) -> int:
        """Bytes of its inputs, each read once."""
        return sum(self.elements * ITEMSIZE[view.stored] for view in self.inputs)

    @property
    def block(self) -> int:
        """Elements of a block: what the method's scope asks for."""
        return self.call.block if self.call else BLOCK

    @property
    def blocks(self) -> int:
        return -(-self.elements // self.block)

    @property
    def views(self) -> list[View]:
        """Every view that is read, those beyond short inputs included."""
        return [view for given in self.inputs for view in given.chain]

    @property
    def cast(self) -> bool:
        """A copy whose bytes are not those of one stored tensor: rounded, in another format, or of more rows."""
        formats = {name for view in self.inputs[0].chain for name in (view.stored, view.rounded)}
        return self.call is None and (formats != {self.dtype} or self.inputs[0].beyond is not None)

    @property
    def rows_nbytes(self) -> int:
        """Memory for one block of all inputs: one size for all blocks but longer ones, so that it is used again."""
        return len(self.inputs) * max(self.block, BLOCK) * ITEMSIZE[self.row_dtype]

    @property
    def wide(self) -> bool:
        """Arithmetic in float64, because a source is."""
        return self.row_dtype == "F64"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One safetensors file of the output: its whole header, and its size in bytes with the data."""

    name: str
    header: bytes
    nbytes: int


@dataclass(frozen=True, slots=True)
class Tile:
    """Blocks [first, first + count) of one output tensor: the unit of scheduling, journalling and retrying."""

    number: int
    tensor: int
    first: int
    count: int


class Passes(NamedTuple):
    """How often the inputs of a tensor are looked at before it can be made: at most, and in full as a rule."""

    at_most: int  # stages that look at them
    as_a_rule: int  # without those that seldom have to


@dataclass(frozen=True)
class Plan:
    """A merge, decided. `digest` identifies it: same digest, same bytes.

    Attributes:
        method: the table's row.
        sources: the models, by the index that views use.
        config: the config.json to write; none where the sources are files of tensors.
        describe: flat text facts, from which a refused resume says what changed.
        left_out: input tensors that the recipe leaves out, by model.
        donor: the source whose config.json the output's started from, and whose generation settings are copied.
        tokenizer: the source whose tokenizer is copied.
        chat_template: written in place of the tokenizer's own; None: that one stays.
        warnings: for the user.
    """

    method: Method
    sources: tuple[ModelRef, ...]
    tensors: tuple[OutputTensor, ...]
    files: tuple[OutputFile, ...]
    config: Mapping[str, Any]
    describe: Mapping[str, str]
    donor: ModelRef
    tokenizer: ModelRef
    chat_template: str | None = None
    tile_bytes: int = TILE_BYTES
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Of all that the output's bytes depend on."""
        return of_plan(self)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, in the order of tensors; a tile is at least one block."""
        tiles: list[Tile] = []
        for index, tensor in enumerate(self.tensors):
            step = max(1, self.tile_bytes // (tensor.block * ITEMSIZE[tensor.dtype]))
            # an empty tensor still gets its tile, so that "all tiles done" means "all tensors done"
            for first in range(0, max(1, tensor.blocks), step):
                tiles.append(Tile(len(tiles), index, first, min(step, tensor.blocks - first)))
        return tuple(tiles)

    @cached_property
    def tiles_of(self) -> tuple[range, ...]:
        """Numbers of the tiles of every tensor."""
        counts = Counter(tile.tensor for tile in self.tiles)
        ends = list(accumulate(counts[index] for index in range(len(self.tensors))))
        return tuple(range(end - counts[index], end) for index, end in enumerate(ends))

    @cached_property
    def passes(self) -> tuple[Passes, ...]:
        """Of every tensor."""
        return tuple(_passes(self.method, tensor.call) for tensor in self.tensors)

    @cached_property
    def stream_bytes(self) -> tuple[int, ...]:
        """What one thread holds while it streams a tensor, for every tensor."""
        return tuple(stream_bytes(tensor, self.method) for tensor in self.tensors)

    def held_bytes(self, index: int) -> int:
        """What one thread holds that keeps all rows of a tensor, besides what streaming takes."""
        tensor = self.tensors[index]
        return tensor.blocks * tensor.rows_nbytes + self.stream_bytes[index]

    def has_kernel(self, tensor: OutputTensor) -> bool:
        """Whether kernels do this tensor's arithmetic; else it is the method's definition in torch."""
        return self.method.kernel is not None and not tensor.wide and tensor.dtype != "F64"

    @property
    def bytes_read(self) -> int:
        """Bytes of all inputs, each read once."""
        return sum(tensor.bytes_read for tensor in self.tensors)

    @property
    def bytes_written(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def total_size(self) -> int:
        """Bytes of all output tensors, as index.json counts them."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def peak_bytes(self, threads: int, tensors: Iterable[int] | None = None) -> int:
        """An upper bound of what `threads` hold in flight while they stream `tensors` (default: all)."""
        chosen = self.stream_bytes if tensors is None else [self.stream_bytes[index] for index in tensors]
        return threads * max(chosen, default=0)


def _passes(method: Method, call: Call | None) -> Passes:
    measuring = [stage for stage in method.stages(call) if stage.measure] if call else []
    return Passes(len(measuring), sum(not stage.seldom for stage in measuring))


def stream_bytes(tensor: OutputTensor, method: Method) -> int:
    """Bytes one thread holds while it streams a tensor block by block: rows, conversions, output, partials, work."""
    block = min(tensor.block, tensor.elements)
    conversions = block * (8 + ITEMSIZE[tensor.row_dtype]) + sum(view.scratch for view in tensor.views)
    call, work = tensor.call, 0
    if call is not None:
        for stage in method.stages(call):
            slots = tensor.blocks if stage.partial == "per_block" else 1
            work += math.prod(stage.shape(call)) * 8 * slots
        work += method.workspace(call)
        if method.kernel is None or tensor.wide:  # the definitions' own tensors: decoded rows and some of their size
            work += (2 * len(tensor.inputs) + 2) * block * (8 if tensor.wide else 4)
    return tensor.rows_nbytes + conversions + tensor.block * ITEMSIZE[tensor.dtype] + work
