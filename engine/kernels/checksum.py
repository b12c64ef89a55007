"""The two sums by which live values are known again (`engine.execution.checksum`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from engine.kernels.cache import kernel


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    """uint64 → the pointer to 32-bit words there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(types.uint64), codegen


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


@kernel
def sums_of_memory(addresses: Any, sizes: Any, sums: Any) -> None:
    """sums[M, 2] of each of M places in memory, by addresses[M] and how many words lie there, sizes[M]: one call of a
    kernel takes longer than most places of a small model."""
    for place in range(addresses.shape[0]):
        sums_of_words(carray(_pointer(addresses[place]), sizes[place]), sums[place])
