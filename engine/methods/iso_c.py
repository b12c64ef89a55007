"""iso_c: isotropic merging in the common subspace (Iso-C; Marczak et al., ICML 2025, arXiv 2502.04959).

    Σ_j w_j δ_j = U Σ Vᵀ;   out = b + λ · σ̄ · U Vᵀ,   σ̄ = the mean of the singular values

Task arithmetic with a flat spectrum: directions that the sum makes weak count as much as the strong ones. Tensors that
are no matrices get the mean of the task vectors, as in the authors' code. Deviation: directions that no task vector has
are left out, where the code fills them with arbitrary ones (`spectral`); the mean counts them as zero, as there.
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
    return flattened(spectral.total(tasks))


def flattened(matrix: Tensor) -> Tensor:
    """The matrix with its singular values replaced by their mean."""
    u, s, vt = spectral.svd(matrix)  # exact = False: sums and products are torch's, on one thread, at this shape
    return u.mul_(s.mean()) @ vt


METHOD = Method(
    name="iso_c",
    summary="summed task vectors with a flat spectrum",
    merge=merge,
    kernel=None,
    parameters=spectral.PARAMETERS,
    base="required",
    scope=spectral.scope,
    exact=False,
    workspace=spectral.workspace,
)
