"""What the spherical methods share: a Gram matrix of the models in, one affine combination of them out.

    out = b + Σ_j c_j · (x_j − b)    with a base b,    out = Σ_j c_j · x_j    without

All that nuslerp, multislerp, karcher and model_stock ask of the data are the dot products of their vectors
v_j = x_j − b (x_j without a base); lengths, angles, means and iterations are arithmetic on those few numbers, and give
the c_j. Without a base the sum is taken as (Σ c) · x_0 + Σ_{j≥1} c_j · (x_j − x_0), the same number, so that models
that are equal merge to themselves exactly, wherever Σ c rounds to 1.

Legend: V vectors, P = V·(V+1)/2 dot products (row by row of the upper triangle), G groups of elements that share their
coefficients: one (the whole tensor), one per row or one per column; K + 1 inputs, the first of them b or x_0.
The fact "coefficients" is float64[G, 1 + K]: the factor of the first input, then those of the others' differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.methods.contract import Array, Block, Call, Facts, RawBlock, Stage
from engine.numerics import fold_blocks, lane_sum, row_sums

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.files import Stream


def whole(finish: Callable[[Call, list[float]], Sequence[float]]) -> Stage:
    """The stage that takes each tensor as one vector; `finish`: (call, P dot products) → c[V]."""

    def coefficients(call: Call, partial: Any, facts: Facts) -> Array:
        return origin_first(call, np.array([finish(call, fold_blocks(partial))], np.float64))

    return Stage(
        "coefficients",
        coefficients,
        _products_shape,
        measure=_measure,
        kernel=_kernel_measure,
        stream=_stream_products,
        reuse="inputs",
    )


def by_row(finish: Callable[[Call, Array], Array]) -> Stage:
    """The stage that takes each row of the last dimension as a vector; `finish`: (call, products[R, P]) → c[R, V]."""

    def coefficients(call: Call, partial: Any, facts: Facts) -> Array:
        rows = call.elements // call.columns
        return origin_first(call, finish(call, partial.reshape(-1, partial.shape[-1])[:rows]))

    return Stage("coefficients", coefficients, _rows_shape, measure=_measure_rows, kernel=_kernel_rows, reuse="inputs")


def by_column(finish: Callable[[Call, Array], Array]) -> Stage:
    """The stage that takes each line along the first dimension as a vector; `finish`: (call, products[C, P]) → c[C, V].

    Two vectors only. The C columns are those of the tensor as a matrix of its first dimension by all others.
    """

    def coefficients(call: Call, partial: Any, facts: Facts) -> Array:
        return origin_first(call, finish(call, np.ascontiguousarray(partial.T)))

    return Stage(
        "coefficients",
        coefficients,
        lambda call: (3, columns_of(call)),
        partial="in_order",
        measure=_measure_columns,
        kernel=_kernel_columns,
        reuse="inputs",
    )


def vectors_of(call: Call) -> int:
    return len(call.source_ids)


def columns_of(call: Call) -> int:
    """C of `by_column`; a tensor of one dimension is one column."""
    return math.prod(call.shape[1:])


def symmetric(products: Sequence[float], vectors: int) -> list[list[float]]:
    """The Gram matrix from its upper triangle."""
    gram = [[0.0] * vectors for _ in range(vectors)]
    pairs = ((j, k) for j in range(vectors) for k in range(j, vectors))
    for (j, k), product in zip(pairs, products, strict=True):
        gram[j][k] = gram[k][j] = product
    return gram


def length_of(shares: Sequence[float], gram: Sequence[Sequence[float]]) -> float:
    """‖Σ_i shares_i · v_i‖ from the Gram matrix of the v_i; NaN stays NaN, and what rounding made negative is 0."""
    square = sum(
        a * sum(b * dot for b, dot in zip(shares, row, strict=True)) for a, row in zip(shares, gram, strict=True)
    )
    return 0.0 if square < 0 else math.sqrt(square)


def origin_first(call: Call, coefficients: Array) -> Array:
    """Coefficients c[G, V] of the vectors → what the inputs are multiplied with (the fact)."""
    if call.base:
        return np.concatenate([np.ones((len(coefficients), 1)), coefficients], axis=1)
    total = coefficients[:, 0]
    for column in coefficients.T[1:]:
        total = total + column
    return np.concatenate([total[:, None], coefficients[:, 1:]], axis=1)


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    origin = block.values[0]
    first, *others = _spread(call, block, facts["coefficients"])
    total = first * origin
    for c, value in zip(others, block.values[1:], strict=True):
        total = total + c * (value - origin)
    return total


def _spread(call: Call, block: Block, coefficients: Array) -> list[Tensor]:
    """The coefficients of each input, for every element of the block (0-d where all share them)."""
    import torch

    like = block.values[0]
    place = torch.arange(like.numel(), device=like.device)
    if call.scope == "row" and len(coefficients) > 1:
        coefficients, place = coefficients[_rows_of(call, block.start, like.numel())], place // call.columns
    elif len(coefficients) > 1:
        place = (block.start + place) % len(coefficients)
    # those from a journal are arrays that may not be written to
    inputs = torch.from_numpy(np.array(coefficients)).to(device=like.device, dtype=like.dtype).unbind(1)
    return [factor[0] if len(factor) == 1 else factor[place] for factor in inputs]


def _rows_of(call: Call, start: int, elements: int) -> slice:
    """Which rows of the tensor a block of whole rows holds."""
    return slice(start // call.columns, (start + elements) // call.columns)


def kernel(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import affine

    coefficients = facts["coefficients"]
    if len(coefficients) == 1:
        affine.whole(raw.rows, coefficients[0].astype(np.float32), out, raw.work)
    elif call.scope == "row":
        coefficients = coefficients[_rows_of(call, raw.start, raw.elements)]
        affine.by_row(raw.rows, call.columns, coefficients.astype(np.float32), out, raw.work)
    else:
        columns = np.ascontiguousarray(coefficients.T, np.float32)
        affine.by_column(raw.rows, raw.start % len(coefficients), columns, out, raw.work)


def workspace(call: Call, groups: int) -> int:
    """Bytes of so many groups' coefficients, beside the dot products that they are made of."""
    return 2 * groups * (1 + vectors_of(call)) * 8


def _products_shape(call: Call) -> tuple[int, ...]:
    return (vectors_of(call) * (vectors_of(call) + 1) // 2,)


def _rows_shape(call: Call) -> tuple[int, ...]:
    """Of one block: its rows by P; a tensor of one block has no more rows than it has."""
    return (min(call.block, call.elements) // call.columns, *_products_shape(call))


def _products(call: Call, block: Block) -> list[Tensor]:
    """The element-wise products of every two vectors, formed in float64 like the vectors themselves."""
    import torch

    values = [value.to(torch.float64) for value in block.values]
    vectors = [value - values[0] for value in values[1:]] if call.base else values
    return [left * right for j, left in enumerate(vectors) for right in vectors[j:]]


def _measure(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    return torch.stack([lane_sum(product) for product in _products(call, block)])


def _kernel_measure(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import gram

    gram.of_block(raw.rows, raw.elements, out, based=call.base)


def _stream_products(call: Call, stream: Stream, elements: int, out: Array) -> bool:
    """`Stage.stream` of the dot products."""
    from engine.kernels import gram

    return gram.of_blocks(stream, elements, out, based=call.base)


def _measure_rows(call: Call, block: Block, facts: Facts) -> Tensor:
    import torch

    sums = [row_sums(product.view(-1, call.columns)) for product in _products(call, block)]
    return torch.nn.functional.pad(torch.stack(sums, 1), (0, 0, 0, _rows_shape(call)[0] - len(sums[0])))


def _kernel_rows(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import gram

    gram.of_rows(raw.rows, call.columns, out[: raw.elements // call.columns], based=call.base)


def _measure_columns(call: Call, block: Block, facts: Facts) -> Tensor:
    """The block's part of each column's sums: added up in order of rows."""
    import torch

    columns = columns_of(call)
    before = block.start % columns
    sums = []
    for product in _products(call, block):
        after = -(before + product.numel()) % columns
        lines = torch.nn.functional.pad(product, (before, after)).view(-1, columns)
        total = lines[0]
        for line in lines[1:]:
            total = total + line
        sums.append(total)
    return torch.stack(sums)


def _kernel_columns(call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
    from engine.kernels import gram

    gram.of_columns(raw.rows, raw.elements, raw.start, out, based=call.base)
