"""dare_ties: DARE's random dropping and rescaling (Yu et al. 2024), then TIES' sign election (Yadav et al. 2023).

δ'_j as in `dare_linear`;   out = b + λ · Σ agreeing w_j s_j δ'_j    (÷ Σ agreeing w_j with normalize, off by default)
"""

from __future__ import annotations

from engine.methods import dare_linear
from engine.methods.delta_family import delta_method

METHOD = delta_method(
    "dare_ties",
    "randomly dropped, rescaled task vectors with an elected sign",
    dare_linear.TRIM,
    elects=True,
    defaults={"normalize": False, "rescale": True},
)
