"""Copies of the test process, and fresh processes, that die in the middle of something."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from engine import Options, failpoints, merge


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


def merge_dies(wanted: str | None, recipe: Path, out: str, options: Options, environment: Mapping[str, str]) -> bool:
    """Like `dies` for a merge, in a copy of a process without threads: an object store's client starts some."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["engine.merging", "engine.remote.streams", "engine.kernels.combine"])
    process = server.Process(target=_merge, args=(wanted, recipe, out, options, dict(environment)))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _merge(wanted: str | None, recipe: Path, out: str, options: Options, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    failpoints.arm(wanted)
    merge(recipe, out, options=options)
