"""della: magnitude-ranked dropping and rescaling (DELLA; arXiv 2406.11617), then TIES' sign election.

δ'_j as in `della_linear`;   out = b + λ · Σ agreeing w_j s_j δ'_j / Σ agreeing w_j
"""

from __future__ import annotations

from engine.methods import della_linear
from engine.methods.delta_family import delta_method

METHOD = delta_method(
    "della",
    "task vectors dropped at random, small elements more often, and rescaled, with an elected sign",
    della_linear.TRIM,
    elects=True,
    defaults={"normalize": True, "rescale": True},
)
