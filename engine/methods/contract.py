"""What a merge method is: a definition in plain torch, the facts it needs, and the kernel that serves it.

Legend: N inputs of one output tensor (the base first, where the method has one), M of them sources with settings,
n elements of a block, R rows and C columns of a block of whole rows (n = R · C).

A method's `merge` is a pure function of a `Block` in torch: readable, right on any device. Facts about the whole
tensor come from ordered `Stage`s: `measure` looks at one block, partials of all blocks are put together exactly
(`Partial` says how), and `finish` turns them into a small array by plain scalar arithmetic. Where `kernel` functions
are given they do the same as `measure` and `merge` on stored bits, and tests hold them equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numerics import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.files import Stream

Array = NDArray[Any]
Facts = Mapping[str, Array]
Scope = Literal["element", "row", "tensor"]
"""How a tensor may be cut: anywhere, between rows of its last dimension, or not at all."""
Partial = Literal["counts", "per_block", "in_order"]
"""How partials of blocks are put together: integers are added, in any order; floats keep one slot per block, or, where
that would be large, are added in block order by the one worker that measures the tensor from its first block on."""
Reuse = Literal["never", "inputs", "source", "way"]
"""What of a stage is the same in another call (`known_facts`): nothing; its partial, wherever the inputs are the same;
its fact for each source by itself; or nothing that is of use once a later stage's fact for each source is known."""


@dataclass(frozen=True)
class Parameter:
    """A setting that a recipe may give, per model or for the whole method; allowed are values from `low` to `high`."""

    name: str
    scope: Literal["model", "global"]
    default: float | bool | None = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False


@dataclass(frozen=True)
class Call:
    """One tensor's merge, resolved: everything about it but the data. JSON-able, part of the plan's digest.

    Attributes:
        method: name in the table of methods.
        tensor: the output tensor's name, which keys the randomness.
        shape: of the tensor.
        base: the first input is the base and has no settings.
        source_ids: of the M sources.
        sources: settings by name, M values each.
        options: settings of the whole method.
        seed: of the recipe.
        scope: how the tensor is cut into blocks.
    """

    method: str
    tensor: str
    shape: tuple[int, ...]
    base: bool
    source_ids: tuple[int, ...]
    sources: Mapping[str, tuple[float, ...]]
    options: Mapping[str, float]
    seed: int = 0
    scope: Scope = "element"

    @cached_property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """C, elements of a row: the last dimension; a vector is one row."""
        return self.shape[-1] if self.shape else 1

    @cached_property
    def block(self) -> int:
        """Elements of a block: `BLOCK`, as many whole rows as fit into it (at least one), or the whole tensor."""
        if self.scope == "row" and self.elements:
            return self.columns * max(1, BLOCK // self.columns)
        return max(1, self.elements) if self.scope == "tensor" else BLOCK

    @property
    def blocks(self) -> int:
        return -(-self.elements // self.block)


@dataclass(frozen=True)
class Block:
    """One block as the definitions see it: values[N] of shape (n,) in the compute dtype; `keys` uint32[M, 2].

    In a block of whole rows (`Call.scope`) `values[j].view(-1, call.columns)` has these rows.
    """

    values: tuple[Tensor, ...]
    number: int
    start: int
    keys: Array


class RawBlock(NamedTuple):
    """One block as the kernels see it: rows[N, ≥ n] of stored bits (or a Stream), and one thread's scratch memory.

    `work` is float32[N + 4, a chunk]; `room` is uint8[`Method.workspace`]. What lies there is left over from before.
    """

    rows: Any
    elements: int
    number: int
    start: int
    keys: Array
    work: Array
    room: Array


@dataclass(frozen=True)
class Stage:
    """One fact about a whole tensor.

    Attributes:
        name: of the fact.
        finish: (call, partial, earlier facts) → the fact, by plain scalar arithmetic; partial is None without measure.
        shape: call → shape of one block's partial.
        dtype: of the partial: float64, or int64 for counts.
        partial: how partials are put together; per_block gives [blocks, *shape] to `finish`, the others [*shape].
        measure: (call, block, earlier facts) → one block's partial, in torch.
        kernel: (call, block, earlier facts, out) → the same, added to `out` (which is 0 where per_block).
        stream: (call, Stream, elements, out) → `kernel` on each of the consecutive blocks in which these elements lie,
            read as it goes into the Stream's buffer, the rows of one block; out has a slot for each. False where not
            all could be read, or is not finite: then what is in `out` means nothing.
        only: earlier facts → the blocks worth looking at; None for all.
        seldom: as a rule `only` leaves few blocks or none, so that nobody plans for a pass over all of them.
        reuse: "inputs": the partial depends on the inputs and `settings` alone. "source": the fact's last axis counts
            the sources, and an entry depends on the base, its source and that one's `settings` alone (where the method
            is random, on seed, tensor name and source id too). "way": earlier than such a stage, and of no other use.
        settings: names of those that a fact which is used again depends on.
    """

    name: str
    finish: Callable[[Call, Any, Facts], Array]
    shape: Callable[[Call], tuple[int, ...]] = lambda call: ()
    dtype: type = np.float64
    partial: Partial = "per_block"
    measure: Callable[[Call, Block, Facts], Tensor] | None = None
    kernel: Callable[[Call, RawBlock, Facts, Array], None] | None = None
    stream: Callable[[Call, Stream, int, Array], bool] | None = None
    only: Callable[[Facts], Collection[int] | None] | None = None
    seldom: bool = False
    reuse: Reuse = "never"
    settings: tuple[str, ...] = ()


Look = Callable[[Stage, Facts], Array]
"""(stage, earlier facts) → the partial of the stage over all blocks of a tensor."""


def finish_stages(
    stages: Iterable[Stage], call: Call, look: Look | None, *, known: Facts = MappingProxyType({})
) -> dict[str, Array]:
    """The facts of one tensor, stage by stage, beside those that are `known`; without `look` no stage measures."""
    facts = dict(known)
    for stage in stages:
        if stage.name not in facts:
            partial = look(stage, facts) if look and stage.measure else None
            with np.errstate(all="ignore"):  # what is not finite is counted where it is read and where it is made
                facts[stage.name] = stage.finish(call, partial, facts)
    return facts


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        merge: (call, block, facts) → merged values (n,), in the compute dtype: the definition.
        kernel: the same on stored bits, rounded into `out`; None: torch only.
        stages: call → the facts this call needs, in order.
        base: "required", "optional" (has a meaning where the recipe gives one) or "ignored" (no meaning).
        models: least and largest number of models besides the base; None: any number.
        importance: the inputs are followed by one more for each source, that says how much its elements count.
        random: the result depends on seed, tensor name and source ids.
        scope: how a tensor may be cut; a function of the call's options and the tensor's shape where they decide.
        exact: same bits on any CPU, thread count and tiling.
        drops_zero_weights: a source of weight 0 changes nothing.
        streams: call → whether `kernel` does nothing with a block's rows but hand them to `combine.linear`,
            `affine.whole` or `combine.delta` (unless by count): then they may be a `kernels.files.Stream`, and are read
            while they are combined.
        check: call → what is wrong with its settings (completes "tensor X: "), None where nothing is.
        workspace: call → bytes that a thread needs beyond its rows, output and partials: the kernels' `room`.
        version: of the arithmetic; part of the recipe hash.
        package: of a user's own method: name, version, and digest of its source; part of the recipe hash, too.
    """

    name: str
    merge: Callable[[Call, Block, Facts], Tensor]
    kernel: Callable[[Call, RawBlock, Facts, Array], None] | None
    parameters: Mapping[str, Parameter]
    stages: Callable[[Call], tuple[Stage, ...]] = lambda call: ()
    base: Literal["required", "optional", "ignored"] = "ignored"
    models: tuple[int, int | None] = (1, None)
    importance: bool = False
    random: bool = False
    scope: Scope | Callable[[Mapping[str, float], tuple[int, ...]], Scope] = "element"
    exact: bool = True
    drops_zero_weights: bool = True
    streams: Callable[[Call], bool] = lambda call: False
    check: Callable[[Call], str | None] = lambda call: None
    workspace: Callable[[Call], int] = lambda call: 0
    version: int = 1
    summary: str = field(default="")
    package: str = ""

    def scope_of(self, options: Mapping[str, float], shape: tuple[int, ...]) -> Scope:
        return self.scope(options, shape) if callable(self.scope) else self.scope


def parameters(*rows: Parameter) -> dict[str, Parameter]:
    return {row.name: row for row in rows}


WEIGHT = Parameter("weight", "model", required=True)
DENSITY = Parameter("density", "model", default=1.0, low=0.0, high=1.0)
LAMBDA = Parameter("lambda", "global", default=1.0)
INT8_MASK = Parameter("int8_mask", "global", default=False)
"""Accepted and without meaning: mergekit's way to save memory on a temporary tensor that does not exist here."""


def normalize(default: bool) -> Parameter:
    return Parameter("normalize", "global", default=default)


def rescale(default: bool) -> Parameter:
    return Parameter("rescale", "global", default=default)


def weights_cancel(call: Call) -> str | None:
    """A `check` for methods that divide by Σ w over all models."""
    total = sum(call.sources["weight"])
    switch = next((name for name in ("normalize_weights", "normalize") if name in call.options), None)
    if abs(total) >= 1e-8 or (switch is not None and not call.options[switch]):
        return None
    instead = "" if switch is None else f", or {switch}: false"
    return f"the weights sum to {total:g} and cannot be normalised. Give other weights{instead}."
