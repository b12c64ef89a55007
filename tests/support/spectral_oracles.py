"""The singular-vector methods in float64 numpy, written from the papers and what the authors published with them.

Each takes the weighted task matrices (or other task vectors) and returns what is added to the base, before λ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from method_oracles import Values


def tsvm(tasks: Sequence[Values]) -> Values:
    """TSV-Merge (arXiv 2412.00081): P / M components of each task in zero-padded factors, both orthogonalised."""
    if tasks[0].ndim != 2:
        return np.mean(tasks, axis=0)
    few = min(tasks[0].shape)
    kept = max(1, few // len(tasks))
    size = max(few, kept * len(tasks))
    left, values, right = np.zeros((tasks[0].shape[0], size)), np.zeros(size), np.zeros((size, tasks[0].shape[1]))
    for number, task in enumerate(tasks):
        u, s, vt = np.linalg.svd(task, full_matrices=False)
        mine = slice(number * kept, (number + 1) * kept)
        left[:, mine], values[mine], right[mine] = u[:, :kept], s[:kept], vt[:kept]
    return np.asarray(_procrustes(left) @ np.diag(values) @ _procrustes(right))


def iso_c(tasks: Sequence[Values]) -> Values:
    """Iso-C (arXiv 2502.04959): the sum, with every singular value replaced by their mean."""
    return isotropic(np.sum(tasks, axis=0)) if tasks[0].ndim == 2 else np.asarray(np.mean(tasks, axis=0))


def core_space(tasks: Sequence[Values], *, rank: int, flat: bool) -> Values:
    """Core Space (arXiv 2509.17786): M_t = U_refᵀ B_t A_t V_ref, summed, made isotropic or not, and projected back."""
    if tasks[0].ndim != 2:
        return np.asarray(np.mean(tasks, axis=0))
    factors = [_low_rank(task, rank) for task in tasks]
    left = np.linalg.svd(np.concatenate([b for b, _ in factors], axis=1), full_matrices=False)[0]
    right = np.linalg.svd(np.concatenate([a for _, a in factors]), full_matrices=False)[2]
    core = sum(left.T @ b @ a @ right.T for b, a in factors)
    return np.asarray(left @ (isotropic(core) if flat else core) @ right)


def isotropic(matrix: Values) -> Values:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(s.mean() * u @ vt)


def _procrustes(matrix: Values) -> Values:
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vt)


def _low_rank(task: Values, rank: int) -> tuple[Values, Values]:
    u, s, vt = np.linalg.svd(task, full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]
