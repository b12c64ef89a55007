"""tsvm: Task Singular Vectors, merged (TSV-Merge; Gargiulo et al., CVPR 2025, arXiv 2412.00081).

    w_j δ_j = U_j Σ_j V_jᵀ, cut to the P / M largest singular values;   U = [U_1 … U_M], Σ, V likewise
    U⊥, V⊥: the nearest matrices with orthonormal columns;   out = b + λ · U⊥ Σ V⊥ᵀ

Every task gets as many directions as fit into the matrix, and orthogonalising them takes away where tasks disturb each
other. Tensors that are no matrices get the mean of the task vectors, as in the authors' code. Deviations: at least one
direction a task, in matrices narrower than there are tasks; directions that tasks share exactly, or that no change has,
are left out where the code fills them with arbitrary ones (`spectral`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.methods import spectral
from engine.methods.contract import Block, Call, Facts, Method

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    return spectral.merged(call, block, _combine)


def _combine(call: Call, tasks: Iterator[Tensor]) -> Tensor:
    import torch

    kept = max(1, min(call.shape) // len(call.source_ids))
    lefts, values, rights = [], [], []
    for task in tasks:
        u, s, vt = spectral.svd(task)
        lefts.append(u[:, :kept].clone())
        values.append(s[:kept])
        rights.append(vt[:kept].clone())
        del u, vt, task  # two matrices less while the next one is decomposed
    left = spectral.orthogonal(_joined(lefts, 1)).mul_(torch.cat(values))
    return left @ spectral.orthogonal(_joined(rights, 0))


def _joined(parts: list[Tensor], dimension: int) -> Tensor:
    """The parts side by side; they are let go."""
    import torch

    whole = torch.cat(parts, dimension)
    parts.clear()
    return whole


METHOD = Method(
    name="tsvm",
    summary="the largest singular directions of every task, orthogonalised",
    merge=merge,
    kernel=None,
    parameters=spectral.PARAMETERS,
    base="required",
    scope=spectral.scope,
    exact=False,
    workspace=spectral.workspace,
)
