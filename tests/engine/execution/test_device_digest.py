"""A tensor on a GPU is known again by a sum; the sum is that of plain Python, and notices one element."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE

from engine.execution import device_digest as module
from engine.execution.device_digest import device_digest

_MASK = (1 << 64) - 1


def by_hand(values: list[int]) -> bytes:
    """The sum in Python's whole numbers; `values` are the elements' bits as signed numbers."""
    total = 0
    for index, bits in enumerate(values):
        x = (bits + index * 0x9E3779B97F4A7C15) & _MASK
        for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x = ((x ^ (x >> 33)) * multiplier) & _MASK
        total += x ^ (x >> 33)
    return (total & _MASK).to_bytes(8, "little")


@pytest.mark.parametrize("integers", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_the_sum_is_that_of_plain_python_for_every_width_and_any_chunks(
    integers: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = torch.iinfo(integers).min, torch.iinfo(integers).max
    values = torch.randint(low, high, (77,), dtype=integers, generator=torch.Generator().manual_seed(1))
    values[:2] = torch.tensor([low, high], dtype=integers)
    for chunk in (1, 10, 77, 100):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert device_digest(values.to(DEVICE)) == by_hand(values.tolist())


def test_one_bit_two_swapped_elements_and_another_sign_of_zero_are_noticed() -> None:
    values = torch.randn(40, 30, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    known = {device_digest(values)}
    for change in range(50):
        other = values.clone()
        other.view(torch.int16)[change % 40, change % 30] ^= 1 << (change % 15)
        known.add(device_digest(other))
    swapped = values.clone()
    swapped[[0, 1]] = values[[1, 0]]
    known.add(device_digest(swapped))
    zeros = torch.zeros(5, device=DEVICE)
    known |= {device_digest(zeros), device_digest(-zeros)}
    assert len(known) == 1 + 50 + 1 + 2


def test_strides_do_not_matter() -> None:
    values = torch.arange(12.0, device=DEVICE).view(3, 4)
    assert device_digest(values.t().contiguous().t()) == device_digest(values)
    assert device_digest(values[:, :2]) == device_digest(values[:, :2].clone())
