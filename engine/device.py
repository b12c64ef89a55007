"""Where a merge's arithmetic runs: the processor, or a GPU. Says so before anything is read, and without torch."""

from __future__ import annotations

import ctypes
from typing import Literal

from engine.errors import PlanError

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["cpu", "cuda", "auto"]
DEVICE_CHOICES: tuple[DeviceChoice, ...] = ("cpu", "cuda", "auto")
_GPU_ARITHMETIC = False  # becomes True with the GPU path of engine.execute


def choose_device(wanted: DeviceChoice) -> Device:
    """The device to merge on. PlanError where "cuda" is wanted and there is none."""
    if wanted == "cpu" or (wanted == "auto" and not (_GPU_ARITHMETIC and gpu_count())):
        return "cpu"
    if not gpu_count():
        raise PlanError("--device cuda: this machine has no GPU that the NVIDIA driver knows. Give --device cpu.")
    if not _GPU_ARITHMETIC:
        raise PlanError("--device cuda: merging on a GPU is not supported yet. Give --device cpu.")
    return "cuda"


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
