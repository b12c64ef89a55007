"""Copies of the test process that die in the middle of something."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from engine import failpoints


def dies(wanted: str, action: Callable[[], object]) -> bool:
    """Whether a copy of this process, armed with `wanted`, dies in `action`; it must do that or succeed."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            failpoints.arm(wanted)
            action()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL
