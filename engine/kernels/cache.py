"""Where compiled kernels are kept, and the one decorator that compiles them.

numba's cache holds pickles, so it may only lie where nobody else can write: a directory of our own, mode 0700,
owned by this user (`$MERGEFLEET_CACHE_DIR`, else `$XDG_CACHE_HOME/mergefleet`, else `~/.cache/mergefleet`).
Where there is none, kernels are compiled anew in each process (0.1 to 0.3 s each) and nothing is cached.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as binding
import numba
import numba.np.linalg

F = TypeVar("F", bound=Callable[..., Any])


def cache_directory() -> Path | None:
    """The private directory for compiled kernels of exactly these sources, or None where none is safe."""
    root = private_directory()
    if root is None:
        return None
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    return root / "kernels" / sources.hexdigest()[:16]


def private_directory() -> Path | None:
    """Where this user's caches lie; None where nothing is private and can be written to."""
    chosen = os.environ.get("MERGEFLEET_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    path = Path(chosen) if chosen else Path(base) / "mergefleet"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError:
        return None
    private = status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return path if private and os.access(path, os.W_OK) else None


@cache
def _caching() -> bool:
    """Whether kernels are cached on disk; numba is set up for it by the first call."""
    _load_without_blas()
    _use_wide_vectors()
    directory = cache_directory()
    if directory is None:
        return False
    numba.config.CACHE_DIR = str(directory)
    return True


def _load_without_blas() -> None:
    """Load numba's array functions before it looks for a BLAS, which imports scipy.linalg: 0.2 CPU-s of every start.

    A kernel may not use one anyway: its sums come in no fixed order. A numba that looks elsewhere merely starts slower.
    """
    linalg = numba.np.linalg
    found = linalg.ensure_blas

    def absent() -> None:
        raise ImportError("kernels use no BLAS")

    linalg.ensure_blas = absent
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = found


def _use_wide_vectors() -> None:
    """Use all 512 bits of AVX-512, where LLVM keeps to 256 for fear of slow clocks.

    Random bits, most of DARE's time, take two thirds of it, and loops in chunks get faster too; electing signs in
    registers takes a quarter more.
    """
    features = binding.get_host_cpu_features()
    if features.get("avx512f") and numba.config.CPU_FEATURES is None:
        numba.config.CPU_NAME = binding.get_host_cpu_name()
        numba.config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"


def kernel(function: F) -> F:
    """Compile `function` for the CPU: GIL released, IEEE arithmetic as written, cached on disk.

    `error_model="numpy"` makes a division by zero give Inf or NaN as in torch; no `fastmath`, because
    re-association and fused multiply-add would change bits (docs/bits.md).
    """
    compiled: F = numba.njit(nogil=True, error_model="numpy", cache=_caching())(function)
    return compiled
