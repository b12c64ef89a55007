"""What a merge method is: a definition in plain torch, the facts it needs, and the kernel that serves it.

Legend: N inputs of one output tensor (the base first, where the method has one), M of them sources with settings,
n elements of a block.

A method's `merge` is a pure function of a `Block` in torch: readable, right on any device. Facts about the whole
tensor come from ordered `Stage`s: `measure` looks at one block, partials of all blocks are put together exactly
(integers are added; floats keep one slot per block, so the order of arrival cannot matter), and `finish` turns them
into a small array by plain scalar arithmetic. Where `kernel` functions are given they do the same as `measure` and
`merge` on stored bits, and tests hold them equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Facts = Mapping[str, Array]


@dataclass(frozen=True)
class Parameter:
    """A setting that a recipe may give: per model or for the whole method."""

    name: str
    scope: Literal["model", "global"]
    default: float | bool | None = None
    required: bool = False


@dataclass(frozen=True)
class Call:
    """One tensor's merge, resolved: everything about it but the data. JSON-able, part of the plan's digest.

    Attributes:
        method: name in the table of methods.
        tensor: the output tensor's name, which keys the randomness.
        elements: of the tensor.
        base: the first input is the base and has no settings.
        source_ids: of the M sources.
        sources: settings by name, M values each.
        options: settings of the whole method.
        seed: of the recipe.
    """

    method: str
    tensor: str
    elements: int
    base: bool
    source_ids: tuple[int, ...]
    sources: Mapping[str, tuple[float, ...]]
    options: Mapping[str, float]
    seed: int = 0

    @property
    def blocks(self) -> int:
        from engine.numerics import BLOCK

        return -(-self.elements // BLOCK)


@dataclass(frozen=True)
class Block:
    """One block as the definitions see it: values[N] of shape (n,) in the compute dtype; `keys` uint32[M, 2]."""

    values: tuple[Tensor, ...]
    number: int
    start: int
    keys: Array


@dataclass(frozen=True)
class RawBlock:
    """One block as the kernels see it: rows[N, ≥ n] of stored bits; `work` is one thread's scratch memory."""

    rows: Array
    elements: int
    number: int
    start: int
    keys: Array
    work: Array


@dataclass(frozen=True)
class Stage:
    """One fact about a whole tensor.

    Attributes:
        name: of the fact.
        finish: (call, partial, earlier facts) → the fact, by plain scalar arithmetic; partial is None without measure.
        shape: call → shape of one block's partial.
        dtype: of the partial: int64 (added over blocks when `per_block` is false) or float64 (always per block).
        per_block: keep one slot per block: the partial given to `finish` is [blocks, *shape].
        measure: (call, block, earlier facts) → one block's partial, in torch.
        kernel: (call, block, earlier facts, out) → the same into `out` (added, where not per_block).
        only: earlier facts → the blocks worth looking at; None for all.
    """

    name: str
    finish: Callable[[Call, Any, Facts], Array]
    shape: Callable[[Call], tuple[int, ...]] = lambda call: ()
    dtype: type = np.float64
    per_block: bool = True
    measure: Callable[[Call, Block, Facts], Tensor] | None = None
    kernel: Callable[[Call, RawBlock, Facts, Array], None] | None = None
    only: Callable[[Facts], Collection[int] | None] | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        merge: (call, block, facts) → merged values (n,), in the compute dtype: the definition.
        kernel: the same on stored bits, rounded into `out`; None: torch only.
        stages: call → the facts this call needs, in order.
        base: "required" or "ignored" (the method treats a base like any model or not at all).
        random: the result depends on seed, tensor name and source ids.
        scope: how a tensor may be cut.
        exact: same bits on any CPU, thread count and tiling.
        drops_zero_weights: a source of weight 0 changes nothing.
        version: of the arithmetic; part of the recipe hash.
    """

    name: str
    merge: Callable[[Call, Block, Facts], Tensor]
    kernel: Callable[[Call, RawBlock, Facts, Array], None] | None
    parameters: Mapping[str, Parameter]
    stages: Callable[[Call], tuple[Stage, ...]] = lambda call: ()
    base: Literal["required", "ignored"] = "ignored"
    models: tuple[int, int | None] = (1, None)
    random: bool = False
    scope: Literal["element", "row", "tensor"] = "element"
    exact: bool = True
    drops_zero_weights: bool = True
    version: int = 1
    summary: str = field(default="")


def parameters(*rows: Parameter) -> dict[str, Parameter]:
    return {row.name: row for row in rows}


WEIGHT = Parameter("weight", "model", required=True)
DENSITY = Parameter("density", "model", default=1.0)
LAMBDA = Parameter("lambda", "global", default=1.0)
INT8_MASK = Parameter("int8_mask", "global", default=False)
"""Accepted and without meaning: mergekit's way to save memory on a temporary tensor that does not exist here."""


def normalize(default: bool) -> Parameter:
    return Parameter("normalize", "global", default=default)


def rescale(default: bool) -> Parameter:
    return Parameter("rescale", "global", default=default)
