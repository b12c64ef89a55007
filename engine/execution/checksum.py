"""By what to know the values of a live model again, on any device and in whatever format they are.

    Σ w_i  and  Σ w_i · k_i,  modulo 2^64

over the bytes as 32-bit words (little-endian, the last one filled up with zeros). k_i are different for any two of 2^32
words: i + 1 multiplied by an odd number, modulo 2^32, the upper half of its bits xored into the lower. Whole numbers,
so the order of a sum does not matter. The first sum shows every change of one word, the second every exchange of two,
and both together all but one in 2^64 or so of what else may happen to a model by accident (a stray write, a library
that casts in place). It is read at the speed of memory; what is published has BLAKE3 digests.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return _checksum_of_bytes(data.numpy()) if data.device.type == "cpu" else _on_device(data)


def _checksum_of_bytes(data: Array) -> bytes:
    """The same of uint8[n] in this machine's memory."""
    from engine.kernels.checksum import sums_of_words

    sums = np.empty(2, np.uint64)
    sums_of_words(_words(data), sums)
    return sums.tobytes()


class Checksums:
    """The checksums of many values that stay where they are, one after the other, each time anew."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        there = [_words_there(value) for value in values]
        self._words = [words for words in there if words is not None]  # as long as their addresses are used
        self._other = [value for value, words in zip(values, there, strict=True) if words is None]
        self._addresses = np.array([words.ctypes.data for words in self._words], np.uint64)
        self._sizes = np.array([words.size for words in self._words], np.int64)

    def now(self) -> bytes:
        """Of what lies there now; those that have to be copied or are on another device come last."""
        from engine.kernels.checksum import sums_of_memory

        sums = np.empty((len(self._sizes), 2), np.uint64)
        sums_of_memory(self._addresses, self._sizes, sums)
        return b"".join([sums.tobytes(), *map(checksum, self._other)])


def _words_there(value: Tensor) -> Array | None:
    """A value's own memory as uint32[n]; None where it has gaps, ends within a word or is on another device."""
    import torch

    whole = value.numel() * value.element_size() % 4 == 0 and value.data_ptr() % 4 == 0
    if value.device.type != "cpu" or not value.is_contiguous() or not whole:
        return None
    words: Array = value.as_strided((value.numel(),), (1,)).view(torch.uint8).numpy().view("<u4")
    return words


def _words(data: Array) -> Array:
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
