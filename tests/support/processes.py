"""Finding the processes of one Ray among all that may run on a machine."""

from __future__ import annotations

from pathlib import Path

from cluster.ray_session import Session


def actor_pids(session: Session, kind: str) -> list[int]:
    """Pids of the living actors of this class in this very Ray: those that have its log files open."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "cmdline").read_bytes().split(b"\0")[0].decode()
            files = [str(entry.readlink()) for entry in (path / "fd").iterdir()]
        except OSError:  # it ended, or is somebody else's
            continue
        if name.startswith(f"ray::{kind}") and any(str(session.logs) in file for file in files):
            found.append(int(path.name))
    return found
