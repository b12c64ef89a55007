"""What the installed command calls: `cluster.main`, guarded, because ctrl-C may come while that is being imported."""

from __future__ import annotations

import signal

from cluster import streams


def run() -> None:
    """Run the command; ctrl-C and a pod's end (SIGTERM) are exit 130 at any time, without a traceback."""
    streams.guard()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pod's end is an interruption like any other
        from cluster import main

        main.run()
    except KeyboardInterrupt as interruption:
        from cluster.ending import end

        end(interruption)
