"""Has a merge blown up? Its large matrices against the largest that any of its inputs has.

A weight far outside its range (a task vector scaled too far, a division by almost nothing) makes a model of huge
activations that is finite in every weight. Compared are Frobenius norms, in float64, of the first ELEMENTS of at most
MATRICES matrices, evenly over the model: less than a forward pass reads. Averages never exceed their largest input, and
task arithmetic moves a model by a small part of its norm: FACTOR is far beyond both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.models.views import STORED, RowReader
from search.evaluators.plans import Plans

if TYPE_CHECKING:
    from engine.execution.binding import Binding
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

    def failure(self, plan: Plan, binding: Binding) -> str | None:
        """Why the live model, merged by this plan, is not worth scoring, or None."""
        import torch

        for index in _matrices(plan):
            live = binding.first(index, ELEMENTS)
            if live is None or not live.is_floating_point():
                continue
            tensor = plan.tensors[index]
            norm = float(torch.linalg.vector_norm(live, dtype=torch.float64))
            largest = self._largest(plan, tensor, live.numel())
            if norm > FACTOR * largest > 0:
                return (
                    f"floor: {tensor.name} has {norm / largest:.0f} times the norm of the largest of its inputs, "
                    f"at most {FACTOR:g} times expected"
                )
        return None

    def _largest(self, plan: Plan, tensor: OutputTensor, count: int) -> float:
        """The largest norm of the first `count` elements of any input."""
        found = []
        for view in tensor.inputs:
            key = (plan.sources[view.source], view.tensor, count)
            if key not in self._known:
                row = np.empty(count, np.float64 if view.rounded == "F64" else np.float32)
                for part, start, piece in view.parts(0, row):
                    RowReader().fill(self._plans.open(plan.sources[part.source]), part, start, piece)
                self._known[key] = float(np.linalg.norm(row.astype(np.float64)))
            found.append(self._known[key])
        return max(found, default=0.0)


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
