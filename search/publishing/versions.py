"""The versions that a result may depend on, for provenance."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    *("mergefleet", "numpy", "numba", "safetensors", "torch", "transformers", "tokenizers"),
    *("lm_eval", "optuna", "cmaes", "scipy", "huggingface_hub"),
)


def versions() -> dict[str, str]:
    """Python's and those of the packages that are installed, by name; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
