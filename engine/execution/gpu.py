"""The definitions on a GPU: blocks go there from pinned memory, are merged by the compiled definition, and come back.

Every thread of a merge owns one of these: a stream, pinned rows and a pinned output. While one thread's block is
computed on, the other's is copied, which is double buffering without a scheduler. Settings and facts of a merge go
along as tensors, so that one compiled graph serves all tensors of a dtype. Untested: no GPU has run this yet; the tests
run it with a CPU in the GPU's place, and look for graph breaks and for tensors made on another device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.execution.arithmetic import as_torch, keys_of
from engine.methods.contract import Array, Block, Call, Facts, Method, Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_LOG = logging.getLogger(__name__)


class DeviceArithmetic:
    """`DefinitionArithmetic` on another device; `mode` None runs the definition as it is, "inductor" compiles it.

    Methods that are not exact are never compiled: decompositions and users' own functions gain nothing from it.
    """

    def __init__(self, method: Method, device: str, *, mode: str | None = "inductor") -> None:
        import torch

        self.method = method
        self.device = torch.device(device)
        self._merge = compiled(method, mode) if mode and method.exact else fused(method)
        self._known: tuple[tuple[Call, Facts], tuple[Call, dict[str, Tensor]]] | None = None
        self._stream: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def measure(self, stage: Stage, call: Call, rows: Array, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        """Add the stage's partial of block at = (number, elements) to `out`."""
        assert stage.measure is not None
        with self._streaming():
            values = tuple(_widened(row) for row in self._rows(rows, at[1]))
            block = Block(values, at[0], at[0] * call.block, keys_of(self.method, call, at[0]))
            out += stage.measure(call, block, facts).cpu().numpy()

    def merge(self, call: Call, rows: Array, at: tuple[int, int], *, facts: Facts, out: Array) -> None:
        """Merged and rounded values of one block into out[n], stored bits."""
        import torch

        with self._streaming():
            there, moved = self._moved(call, facts)
            at_element = at[0] * call.block, self._keys(call, at[0])
            merged = self._merge(there, self._rows(rows, at[1]), at_element, moved, as_torch(out).dtype)
            torch.from_numpy(out.view(f"i{out.itemsize}")).copy_(merged, non_blocking=True)
            if self._stream is not None:
                self._stream.synchronize()

    def _rows(self, rows: Array, elements: int) -> list[Tensor]:
        return [as_torch(row[:elements]).to(self.device, non_blocking=True) for row in rows]

    def _keys(self, call: Call, number: int) -> Tensor:
        import torch

        return torch.from_numpy(keys_of(self.method, call, number).astype(np.int64)).to(self.device)

    def _moved(self, call: Call, facts: Facts) -> tuple[Call, dict[str, Tensor]]:
        """Settings and facts as tensors on the device, made once per tensor; switches and whole numbers stay plain."""
        import torch

        if self._known is None or self._known[0][0] is not call or self._known[0][1] is not facts:
            plain = {p.name for p in self.method.parameters.values() if isinstance(p.default, bool) or p.whole}

            def there(values: Any) -> Any:
                return torch.tensor(values, dtype=torch.float64, device=self.device)

            moved = replace(
                call,
                sources={name: there(values) for name, values in call.sources.items()},
                options={name: v if name in plain else there(v) for name, v in call.options.items()},
            )
            tensors = {name: torch.from_numpy(np.array(value)).to(self.device) for name, value in facts.items()}
            self._known = (call, facts), (moved, tensors)
        return self._known[1]

    def _streaming(self) -> Any:
        import torch

        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def pinned(nbytes: int) -> Array:
    """uint8[nbytes] of page-locked memory, which a GPU reads and writes without a copy in between."""
    import torch

    memory: Array = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


Fused = Callable[[Call, list["Tensor"], tuple[int, "Tensor"], Mapping[str, "Tensor"], "torch.dtype"], "Tensor"]


def fused(method: Method) -> Fused:
    """Decode, merge and round a block: (call, stored rows, (start, keys), facts, dtype) → the bits of that dtype."""

    def run(
        call: Call, rows: list[Tensor], at: tuple[int, Tensor], facts: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Tensor:
        import torch

        block = Block(tuple(_widened(row) for row in rows), 0, at[0], at[1])  # type: ignore[arg-type]
        merged = method.merge(call, block, facts)  # type: ignore[arg-type]
        # as `arithmetic.encode`: to 16 bits through float32, and NaN in its canonical form
        rounded = (merged.to(torch.float32) if dtype.itemsize == 2 else merged).to(dtype)
        bits = rounded.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
        return torch.where(torch.isnan(merged), torch.full_like(bits, _canonical_nan(dtype)), bits)

    return run


def compiled(method: Method, mode: str) -> Fused:
    """`fused` through torch.compile, with shapes and starts that may vary; as it is where the compiler gives up."""
    import torch
    from torch._dynamo.exc import TorchDynamoException

    plain = fused(method)
    compiled_one: Fused | None = torch.compile(plain, dynamic=True, backend=mode)

    def run(*block: Any) -> Tensor:
        nonlocal compiled_one
        if compiled_one is not None:
            try:
                return compiled_one(*block)
            except TorchDynamoException as error:
                _LOG.warning("%s is not compiled: %s", method.name, str(error).splitlines()[0])
                compiled_one = None
        return plain(*block)

    return run


def _canonical_nan(dtype: torch.dtype) -> int:
    import torch

    return {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00, torch.float32: 0x7FC00000}.get(dtype, 0x7FF8000000000000)


def _widened(stored: Tensor) -> Tensor:
    import torch

    return stored if stored.dtype in (torch.float32, torch.float64) else stored.to(torch.float32)
