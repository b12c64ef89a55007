"""What the methods on singular vectors share: task matrices, decompositions, and what becomes of other tensors.

Legend: M sources besides the base, a matrix of R rows and C columns, P = min(R, C) singular values.
Decompositions run in float64: the flattened and orthogonalised spectra of these methods raise directions of small
singular value, which float32 hardly knows. Where a singular value is 0, or too small beside the largest for float32
data to mean anything, its directions are arbitrary (and other ones on another machine): they are left out, where the
authors' codes let LAPACK fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from engine.methods.contract import LAMBDA, Block, Call, Parameter, Scope, parameters

if TYPE_CHECKING:
    from torch import Tensor

PARAMETERS = parameters(Parameter("weight", "model", default=1.0), LAMBDA)
_ZERO = 1e-6
"""Of the largest singular value; that of a full matrix of noise, 4096 × 4096, has a smallest one of 1e-4."""
Combine = Callable[[Call, Iterator["Tensor"]], "Tensor"]
"""(call, task matrices w_j δ_j as float64[R, C], made one by one) → the merged task matrix."""


def merged(call: Call, block: Block, combine: Combine) -> Tensor:
    """b + λ · combine(task matrices) for a matrix; other tensors get the mean of the task vectors, as in the papers."""
    base, *models = block.values
    weights = call.sources["weight"]
    tasks = ((model.double() - base.double()).mul_(w) for model, w in zip(models, weights, strict=True))
    if len(call.shape) == 2:
        change = combine(call, (task.view(call.shape) for task in tasks)).flatten()
    else:
        change = total(tasks).div_(len(models))
    return (base.double() + change.mul_(call.options["lambda"])).to(base.dtype)


def total(tasks: Iterator[Tensor]) -> Tensor:
    """Σ tasks, in their order; the first one's memory becomes the sum's."""
    first = next(tasks)
    for task in tasks:
        first += task
    return first


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U[R, P], S[P], Vᵀ[P, C]; vectors of zero singular values are zero. S is NaN where the matrix has NaN or Inf."""
    import torch

    poison = (matrix * 0).sum()  # 0 or NaN, in whatever order
    # LAPACK would raise, and what is not finite is published only if the user asks for it
    finite = matrix.nan_to_num_(0.0, 0.0, 0.0)
    u, s, vt = torch.linalg.svd(finite, full_matrices=False)
    there = (s > _ZERO * s[:1]).to(matrix.dtype)
    return u.mul_(there), s + poison, vt.mul_(there.unsqueeze(1))


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (rows, where it has more columns than rows): U Vᵀ of its SVD."""
    u, _, vt = svd(matrix)
    return u @ vt


def scope(options: Mapping[str, float], shape: tuple[int, ...]) -> Scope:
    """A matrix is needed whole; of other tensors any part can be averaged."""
    return "tensor" if len(shape) == 2 else "element"


def workspace(call: Call) -> int:
    """Bytes at the fullest moment: factors kept, a matrix being decomposed, and what LAPACK works in; measured.

    Peaks were 0.6 to 0.8 of what a plan with this figure asks for: 1 to 5 tasks, matrices of 1500 × 1500, 4000 × 500,
    500 × 4000 and 1000 × 2000.
    """
    if len(call.shape) != 2:
        return 4 * 8 * min(call.block, call.elements)
    small, large = sorted(call.shape)
    return 8 * (9 * small * large + 5 * small * small)
