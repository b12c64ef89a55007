"""Counter-based randomness: (seed, tensor name, source id, element index) → 24 bits, the same everywhere.

No state, so masks do not depend on sharding, order, device, retries or thread count, and they are nested in density:
an element is kept where its 24 bits are < ⌈density · 2^24⌉. docs/randomness.md has the algorithm, its constants and
test vectors; a change of any of them is a change of major version.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def stream_key(seed: int, tensor: str, source_id: int) -> tuple[int, int]:
    """Two uint32 that key the stream of one source of one output tensor."""
    text = f"mergefleet.random.1\0{seed}\0{tensor}\0{source_id}".encode()
    digest = blake3(text).digest(8)
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def block_keys(seed: int, tensor: str, source_ids: tuple[int, ...], start: int) -> NDArray[np.uint32]:
    """uint32[M, 2] for a block that starts at element `start`; the index's high 32 bits go into the second key."""
    high = (start >> 32) * _GOLDEN
    keys = [stream_key(seed, tensor, source) for source in source_ids]
    return np.array([(first, (second + high) & _MASK) for first, second in keys], np.uint32).reshape(-1, 2)


def threshold(density: float) -> int:
    """Keep where the 24 bits are below this: ⌈density · 2^24⌉."""
    return math.ceil(density * (1 << 24))


def bits_of(index: int, key: tuple[int, int]) -> int:
    """The 24 bits of one element, in plain Python: the definition."""
    second = (key[1] + (index >> 32) * _GOLDEN) & _MASK
    x = _mix((index & _MASK) ^ key[0])
    return _mix((x + second) & _MASK) >> 8


def _mix(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _MASK
    x = (x ^ (x >> 15)) * 0xD35A2D97 & _MASK
    return x ^ (x >> 15)


def bits_tensor(start: int, count: int, key: Any, *, device: Any = None) -> Tensor:
    """int64[count]: the 24 bits of elements start, start + 1, … of a block, given its row of `block_keys`.

    `key` is uint32[2]; it belongs to `start`, and where the block goes on beyond a multiple of 2^32 (rows are not cut,
    so blocks of whole rows may) the elements there take the next one.
    int64 arithmetic wraps modulo 2^64, so its low 32 bits are those of the 32-bit arithmetic.
    """
    import torch

    def mix(x: Tensor) -> Tensor:
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
        x = ((x ^ (x >> 15)) * 0xD35A2D97) & _MASK
        return x ^ (x >> 15)

    first, second = map(int, key)
    index = (start & _MASK) + torch.arange(count, dtype=torch.int64, device=device)
    beyond = (index >> 32) * _GOLDEN
    return mix((mix((index & _MASK) ^ first) + second + beyond) & _MASK) >> 8
