"""Where a merge's arithmetic runs: the processor, or a GPU. Says so before anything is read, and without torch."""

from __future__ import annotations

import ctypes
from typing import Literal

from engine.errors import PlanError

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["cpu", "cuda", "auto"]
DEVICE_CHOICES: tuple[DeviceChoice, ...] = ("cpu", "cuda", "auto")


def choose_device(wanted: DeviceChoice) -> Device:
    """The device to merge on. PlanError where "cuda" is wanted and there is none, or none that torch can use."""
    if wanted == "cpu" or (wanted == "auto" and not (gpu_count() and torch_build())):
        return "cpu"
    if not gpu_count():
        raise PlanError("--device cuda: this machine has no GPU that the NVIDIA driver knows. Give --device cpu.")
    if not torch_build():
        raise PlanError("--device cuda: the installed torch is built without CUDA. Install one with, or --device cpu.")
    return "cuda"


def torch_build() -> bool:
    """Whether the installed torch can use a GPU; imports it, so ask only where there is one."""
    import torch

    return torch.version.cuda is not None


def gpu_count() -> int:
    """GPUs that the driver lends to this process; 0 where there is no driver. CUDA_VISIBLE_DEVICES counts."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
