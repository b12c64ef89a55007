"""Has a merge blown up? Its large matrices against the largest that any of its inputs has.

A weight far outside its range (a task vector scaled too far, a division by almost nothing) makes a model of huge
activations that is finite in every weight. Compared are Frobenius norms, in float64, of the first ELEMENTS of at most
MATRICES matrices, evenly over the model: less than a forward pass reads. Averages never exceed their largest input, and
task arithmetic moves a model by a small part of its norm: FACTOR is far beyond both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.execution.binding import TORCH_DTYPES
from engine.models.views import STORED, as_bytes
from engine.tensorfile.header import ITEMSIZE
from search.evaluators.plans import Planned, Plans

if TYPE_CHECKING:
    from engine.execution.binding import Binding
    from engine.methods.contract import Array
    from engine.models.views import View
    from engine.planning.outline import Outline
    from engine.planning.plan import OutputTensor, Plan
    from engine.recipes.recipe import ModelRef

FACTOR = 10.0
MATRICES = 16
ELEMENTS = 1 << 20


class Norms:
    """Norms of inputs, each read once from its checkpoint."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._known: dict[tuple[ModelRef, str, int], float] = {}
        self._inputs: tuple[Outline | None, list[tuple[int, float]]] = None, []

    def failure(self, planned: Planned, binding: Binding) -> str | None:
        """Why the live model, merged by this plan, is not worth scoring, or None."""
        import torch

        for index, largest in self._looked_at(planned, binding):
            row = binding.row(index, ELEMENTS)
            if row is not None and row.size and math.sqrt(row.size) * _largest_number(row) <= FACTOR * largest:
                continue  # no norm is larger, and to find the largest number takes a tenth of the time
            live = binding.first(index, ELEMENTS)
            assert live is not None
            # in its own format first: three times as fast, and right to within far less than this half
            if float(torch.linalg.vector_norm(live)) <= FACTOR / 2 * largest:
                continue
            norm = float(torch.linalg.vector_norm(live, dtype=torch.float64))
            if norm > FACTOR * largest > 0:
                return (
                    f"floor: {planned.plan.tensors[index].name} has {norm / largest:.0f} times the norm of the largest "
                    f"of its inputs, at most {FACTOR:g} times expected"
                )
        return None

    def _looked_at(self, planned: Planned, binding: Binding) -> list[tuple[int, float]]:
        """Index of every matrix to look at, and the largest norm of any of its inputs; plans of one outline have the
        same."""
        if planned.outline is None or planned.outline is not self._inputs[0]:
            plan, found = planned.plan, []
            for index in _matrices(plan):
                live = binding.first(index, ELEMENTS)
                if live is not None and live.is_floating_point():
                    found.append((index, self._largest(plan, plan.tensors[index], live.numel())))
            self._inputs = planned.outline, found
        return self._inputs[1]

    def _largest(self, plan: Plan, tensor: OutputTensor, count: int) -> float:
        """The largest norm of the first `count` elements of any input."""
        found = []
        for view in tensor.inputs:
            key = (plan.sources[view.source], view.tensor, count)
            if key not in self._known:
                self._known[key] = self._norm(plan, view, count)
            found.append(self._known[key])
        return max(found, default=0.0)

    def _norm(self, plan: Plan, view: View, count: int) -> float:
        """Of the first `count` elements as stored: torch needs no kernel to be loaded for it, nor threads of BLAS."""
        import torch

        squares = 0.0
        for part, start, piece in view.parts(0, np.empty(count, np.uint8)):
            size = ITEMSIZE[part.stored]
            raw = np.empty(piece.size * size, np.uint8)
            self._plans.open(plan.sources[part.source]).read_into(part.tensor, start * size, as_bytes(raw))
            values = torch.from_numpy(raw).view(getattr(torch, TORCH_DTYPES[part.stored]))
            squares += float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
        return math.sqrt(squares)


def _largest_number(row: Array) -> float:
    """max |x| of a row of stored numbers; NaN or Inf where there is one, and for float64."""
    from engine.kernels.finite import largest_magnitude

    bits = largest_magnitude(row)
    if row.dtype == np.float32:
        return float(np.uint32(bits).view(np.float32))
    if row.dtype == np.uint16:  # bfloat16: the upper half of a float32
        return float(np.uint32(bits << 16).view(np.float32))
    return float(np.uint16(bits).view(np.float16)) if row.dtype == np.int16 else math.inf


def _matrices(plan: Plan) -> list[int]:
    """Indices of the merged matrices to look at; what is copied has the norm of its source."""
    found = [
        index
        for index, tensor in enumerate(plan.tensors)
        if tensor.call is not None
        and len(tensor.shape) > 1
        and tensor.elements
        and all(view.stored in STORED for view in tensor.views)
    ]
    return sorted({found[place * len(found) // MATRICES] for place in range(MATRICES)}) if found else []
