"""By what to know the values of a live model again, on any device and in whatever format they are.

    Σ w_i  and  Σ w_i · k_i,  modulo 2^64

over the bytes as 32-bit words (little-endian, the last one filled up with zeros). k_i are different for any two of 2^32
words: i + 1 multiplied by an odd number, modulo 2^32, the upper half of its bits xored into the lower. Whole numbers,
so the order of a sum does not matter. The first sum shows every change of one word, the second every exchange of two,
and both together all but one in 2^64 or so of what else may happen to a model by accident (a stray write, a library
that casts in place). It is read at the speed of memory; what is published has BLAKE3 digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from engine.methods.contract import Array

CHUNK = 1 << 23
"""Words at a time on a GPU: some 200 MB of working memory."""
_ODD = 0x9E3779B9
_LOW = (1 << 32) - 1


def checksum(values: Tensor) -> bytes:
    """The two sums of the bytes of `values`, in row-major order, as 16 bytes."""
    import torch

    data = values.contiguous().as_strided((values.numel(),), (1,)).view(torch.uint8)  # of one the stride may be any
    return checksum_of_words(words_of(data.numpy())) if data.device.type == "cpu" else _on_device(data)


def checksum_of_words(words: Array) -> bytes:
    """The same of uint32[n] in this machine's memory (`words_of`)."""
    from engine.kernels.checksum import sums_of_words

    sums = np.empty(2, np.uint64)
    sums_of_words(words, sums)
    return sums.tobytes()


def words_of(data: Array) -> Array:
    """uint8[n] as uint32[ceil(n / 4)]; a copy only where n is no multiple of 4."""
    rest = -data.size % 4
    return (np.append(data, np.zeros(rest, np.uint8)) if rest else data).view("<u4")


def _on_device(data: Tensor) -> bytes:
    """In torch's whole numbers, which wrap around, too."""
    import torch

    words = torch.nn.functional.pad(data, (0, -data.numel() % 4)).view(torch.int32)
    sums = torch.zeros(2, dtype=torch.int64, device=data.device)
    for start in range(0, len(words), CHUNK):
        word = words[start : start + CHUNK].to(torch.int64) & _LOW
        key = (torch.arange(start + 1, start + 1 + len(word), device=data.device) * _ODD) & _LOW
        sums[0] += word.sum()
        sums[1] += (word * (key ^ (key >> 16))).sum()
    return sums.cpu().numpy().tobytes()
