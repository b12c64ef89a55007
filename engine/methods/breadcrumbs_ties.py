"""breadcrumbs_ties: task vectors trimmed as Breadcrumbs (arXiv 2312.06795), then TIES' sign election.

δ'_j as in `breadcrumbs`;   out = b + λ · Σ agreeing w_j δ'_j    (÷ Σ agreeing w_j with normalize, off by default)
"""

from __future__ import annotations

from engine.methods import breadcrumbs
from engine.methods.delta_family import delta_method

METHOD = delta_method(
    "breadcrumbs_ties",
    "task vectors without their largest and smallest elements, with an elected sign",
    breadcrumbs.TRIM,
    elects=True,
    defaults={"normalize": False, "rescale": False},
)
