"""By what to know again the values of a tensor on a GPU, without taking them off it.

Σ over elements of mix(bits + index · K) modulo 2^64: whole numbers, so the order of the sum does not matter, and one
element with other bits, or in another place, gives another sum but for one case in 2^64. It holds against accidents (a
stray write, a library that casts in place); what is published has BLAKE3 digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 23
"""Elements at a time: some 200 MB of working memory."""
_K = 0x9E3779B97F4A7C15 - (1 << 64)  # odd; torch's integers are signed
_MULTIPLIERS = (0xFF51AFD7ED558CCD - (1 << 64), 0xC4CEB9FE1A85EC53 - (1 << 64))  # MurmurHash3's 64-bit finalizer
_LOW_31 = (1 << 31) - 1


def device_digest(values: Tensor) -> bytes:
    """8 bytes of the elements of `values`, in row-major order, whatever their format and strides."""
    import torch

    flat = values.contiguous().view(-1)
    bits = flat.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    for start in range(0, len(bits), CHUNK):
        piece = bits[start : start + CHUNK].to(torch.int64)
        piece = piece + torch.arange(start, start + len(piece), device=values.device) * _K
        total += _mixed(piece).sum()
    return int(total).to_bytes(8, "little", signed=True)


def _mixed(x: Tensor) -> Tensor:
    """MurmurHash3's finalizer: every bit of `x` changes half of those of the result."""
    for multiplier in _MULTIPLIERS:
        x = (x ^ ((x >> 33) & _LOW_31)) * multiplier
    return x ^ ((x >> 33) & _LOW_31)
