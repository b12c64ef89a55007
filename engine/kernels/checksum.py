"""The two sums by which live values are known again (`engine.execution.checksum`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.cache import kernel


@kernel
def sums_of_words(words: Any, sums: Any) -> None:
    """sums[2] = Σ w and Σ w · key(i) modulo 2^64 over words[n] of 32 bits."""
    plain, keyed = np.uint64(0), np.uint64(0)
    for i in range(words.shape[0]):
        key = np.uint32(np.uint32(i + 1) * np.uint32(0x9E3779B9))
        key ^= key >> np.uint32(16)
        word = np.uint64(words[i])
        plain += word
        keyed += word * np.uint64(key)
    sums[0], sums[1] = plain, keyed
