"""core_space: merging in the space that low-rank task matrices span (Panariello et al. 2025, arXiv 2509.17786).

    w_j δ_j ≈ B_j A_j of rank r (by SVD, B_j = U_j √Σ_j, A_j = √Σ_j V_jᵀ)
    U: left singular vectors of [B_1 … B_M];  Vᵀ: right singular vectors of [A_1; …; A_M]  (the reference bases)
    core = Σ_j Uᵀ B_j A_j V  (at most M r rows and columns);   out = b + λ · U · merged core · Vᵀ

The paper's factors are those of LoRA adapters; a full fine-tune's come from a truncated SVD here, with `rank` as r (an
adapter's own rank loses nothing). The paper merges cores by any method, and finds isotropic merging (`iso_c`) among the
best, which is what `isotropic` does; without it the sum of the cores is the sum of the truncated task matrices. Tensors
that are no matrices get the mean of the task vectors. Deviation: directions of zero length are left out (`spectral`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.methods import iso_c, spectral
from engine.methods.contract import Block, Call, Facts, Method, Parameter, parameters

if TYPE_CHECKING:
    from torch import Tensor


def merge(call: Call, block: Block, facts: Facts) -> Tensor:
    return spectral.merged(call, block, _combine)


def _combine(call: Call, tasks: Iterator[Tensor]) -> Tensor:
    import torch

    rank = int(call.options["rank"])
    lefts, rights = [], []
    for task in tasks:
        u, s, vt = spectral.svd(task)
        root = s[:rank].sqrt()
        lefts.append(u[:, :rank] * root)
        rights.append(root.unsqueeze(1) * vt[:rank])
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    outer, inner = spectral.svd(left)[0], spectral.svd(right)[2]
    core = (outer.T @ left) @ (right @ inner.T)
    return outer @ (iso_c.flattened(core) if call.options["isotropic"] else core) @ inner


METHOD = Method(
    name="core_space",
    summary="low-rank task vectors merged in the space they span",
    merge=merge,
    kernel=None,
    parameters=parameters(
        *spectral.PARAMETERS.values(),
        Parameter("rank", "global", default=16.0, low=1.0, whole=True),
        Parameter("isotropic", "global", default=True),
    ),
    base="required",
    scope=spectral.scope,
    exact=False,
    workspace=spectral.workspace,
)
