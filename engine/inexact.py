"""What methods that are not exact need to give their bits again: one thread of torch, and a fingerprint.

Matrix products, decompositions, exp and ln have other bits with another number of threads, another version of torch and
another instruction set. So such methods run on one thread, at fixed shapes, and what remains is part of the plan's
digest: whoever resumes or joins elsewhere is refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.device import Device


def fingerprint(device: Device) -> str:
    """`torch 2.13.0, AVX512`, or `torch 2.13.0, NVIDIA H100`: equal where the bits are equal."""
    import torch

    on = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {on}"


class _Users:
    """Who is inside `one_thread` now, and the number of threads to go back to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = 0


_USERS = _Users()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, in this thread; the last of the threads that leave puts the number back.

    The number belongs in part to the calling thread (OpenMP) and in part to the process (MKL): hence each sets it.
    """
    import torch

    with _USERS.lock:
        if not _USERS.count:
            _USERS.before = torch.get_num_threads()
        _USERS.count += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _USERS.lock:
            _USERS.count -= 1
            if not _USERS.count:
                torch.set_num_threads(_USERS.before)
