"""Live values are known again by two sums: those of plain Python, on any device, and they show every small accident."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st

from engine.execution import checksum as module
from engine.execution.checksum import Checksums, _on_device, checksum

_MASK = (1 << 64) - 1


def by_hand(data: bytes) -> bytes:
    """The sums in Python's whole numbers."""
    data += bytes(-len(data) % 4)
    plain = keyed = 0
    for place in range(len(data) // 4):
        word = int.from_bytes(data[4 * place : 4 * place + 4], "little")
        key = ((place + 1) * 0x9E3779B9) & 0xFFFFFFFF
        plain, keyed = plain + word, keyed + word * (key ^ (key >> 16))
    return (plain & _MASK).to_bytes(8, "little") + (keyed & _MASK).to_bytes(8, "little")


@given(data=st.binary(min_size=0, max_size=90) | st.just(b"\xff" * 90))
def test_the_sums_are_those_of_plain_python(data: bytes) -> None:
    values = torch.tensor(list(data), dtype=torch.uint8)
    assert checksum(values) == by_hand(data)


@pytest.mark.parametrize("chunk", [1, 10, 19, 100])
def test_a_device_makes_the_same_sums_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randint(0, 256, (75,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    data[:9] = 255
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert _on_device(data.to(DEVICE)) == by_hand(bytes(data.tolist()))


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_any_format_strides_and_single_values_are_taken(dtype: torch.dtype) -> None:
    values = torch.arange(15.0, device=DEVICE).view(3, 5).to(dtype)
    assert checksum(values) == by_hand(bytes(values.cpu().flatten().view(torch.uint8).tolist()))
    assert checksum(values.t().contiguous().t()) == checksum(values)
    assert checksum(values[:, :2]) == checksum(values[:, :2].clone())
    assert checksum(values[:1, 0]) == checksum(values[0, 0])


def test_one_bit_two_exchanged_elements_and_another_sign_of_zero_are_noticed() -> None:
    values = torch.randn(40, 30, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    known = {checksum(values)}
    for change in range(50):
        other = values.clone()
        other.view(torch.int16)[change % 40, change % 30] ^= 1 << (change % 15)
        known.add(checksum(other))
    for one, two in list(combinations(range(20), 2))[:100]:
        swapped = values.clone()
        swapped[[one, two]] = values[[two, one]]
        known.add(checksum(swapped))
    zeros = torch.zeros(5, device=DEVICE)
    known |= {checksum(zeros), checksum(-zeros)}
    assert len(known) == 1 + 50 + 100 + 2


def test_no_two_of_many_places_have_one_key() -> None:
    products = [(place * 0x9E3779B9) & 0xFFFFFFFF for place in range(1 << 18)]
    assert len({product ^ (product >> 16) for product in products}) == 1 << 18


def test_those_of_many_values_are_those_of_each_whatever_lies_between_words_or_apart() -> None:
    values = [torch.arange(float(size), device=DEVICE) for size in (1, 7, 1000)]
    values += [torch.arange(9, dtype=torch.bfloat16, device=DEVICE)]  # ends within a word
    values += [torch.arange(12.0, device=DEVICE).view(3, 4).t(), torch.zeros(0, device=DEVICE)]
    values += [torch.arange(9, dtype=torch.int16, device=DEVICE)[1:]]  # begins within one
    them = Checksums(values)
    for change in range(3):
        each = [checksum(value) for value in values]
        found = them.now()
        assert sorted(found[start : start + 16] for start in range(0, len(found), 16)) == sorted(each)
        values[change + 1][2] += 1
        assert them.now() != found
