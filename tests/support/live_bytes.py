"""All bytes of a live model as one digest."""

from __future__ import annotations

import torch
from blake3 import blake3
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """BLAKE3 (hex) of every parameter and buffer, tied ones once; those of state_dict first."""
    hasher, seen = blake3(), set()
    for name, value in (model.state_dict() | dict(model.named_buffers())).items():
        if value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        hasher.update(name.encode())
        hasher.update(memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return hasher.hexdigest()
