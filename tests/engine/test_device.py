"""Where the arithmetic runs: found out before anything is read, and said in one line where it cannot be."""

from __future__ import annotations

import pytest

from engine import device
from engine.errors import PlanError


def test_a_gpu_that_is_not_there_is_refused_with_the_flag_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_count", lambda: 0)
    assert device.choose_device("cpu") == device.choose_device("auto") == "cpu"
    with pytest.raises(PlanError, match=r"no GPU.*--device cpu"):
        device.choose_device("cuda")


def test_counting_gpus_needs_neither_a_driver_nor_torch() -> None:
    assert device.gpu_count() >= 0
