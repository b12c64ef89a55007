"""The definitions on a GPU: stored rows go there from pinned memory, are merged as on a processor, and come back.

Every thread of a merge owns one of these, with a stream, pinned rows and a pinned output: while one thread's block is
computed on, another's is copied, which is double buffering without a scheduler. Definitions are run as they are, one
operation after the other: each is rounded as IEEE 754 says on any device, so the bytes are the processor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.execution.arithmetic import DefinitionArithmetic, as_torch
from engine.methods.contract import Array, Method

if TYPE_CHECKING:
    from torch import Tensor


class DeviceArithmetic(DefinitionArithmetic):
    """`DefinitionArithmetic` on another device."""

    def __init__(self, method: Method, device: str) -> None:
        import torch

        super().__init__(method)
        self.device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def _stored(self, row: Array) -> Tensor:
        return as_torch(row).to(self.device, non_blocking=True)

    def _steady(self) -> Any:
        import torch

        return super()._steady() if self._stream is None else torch.cuda.stream(self._stream)


def pinned(nbytes: int) -> Array:
    """uint8[nbytes] of page-locked memory, which a GPU reads and writes without a copy in between."""
    import torch

    memory: Array = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory
