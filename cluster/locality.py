"""Which files of the sources lie on a disk of a node, and so which workers read a tensor without the network.

A path may be one file system for all nodes, or a disk of each: a model that was copied there, the Hub's cache. Only
the latter is worth going to, and only where some nodes have it and others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from cluster.sharding import Unit
from engine.models.checkpoint import Checkpoint
from engine.planning.plan import Plan

_REMOTE = {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "virtiofs"}


def near_files(checkpoints: Iterable[Checkpoint]) -> frozenset[str]:
    """The files of these sources that lie on a disk of this machine, as MODEL/FILE."""
    mounts = mounted(Path("/proc/self/mounts").read_text(errors="replace"))
    return frozenset(
        f"{checkpoint.ref}/{path.name}"
        for checkpoint in checkpoints
        for path in checkpoint.paths
        if is_local(path.resolve(), mounts)
    )


def mounted(table: str) -> dict[Path, str]:
    """Mount point → type of file system, from the text of /proc/mounts."""
    rows = [line.split(" ") for line in table.splitlines()]
    return {Path(row[1].replace("\\040", " ")): row[2] for row in rows if len(row) > 2}


def is_local(path: Path, mounts: Mapping[Path, str]) -> bool:
    """Whether the file system that `path` is on needs no network."""
    kind = next((mounts[place] for place in (path, *path.parents) if place in mounts), "")
    return kind not in _REMOTE and not kind.startswith("fuse")


def homes(
    plan: Plan, checkpoints: Iterable[Checkpoint], near: Mapping[int, Collection[str]]
) -> Callable[[Unit], Collection[int]] | None:
    """Unit → the workers that have most files of its tensor near; None: all have the same, and it does not matter.

    `near`: by worker, what it said when it came.
    """
    if len({frozenset(files) for files in near.values()}) < 2:
        return None
    sources = list(checkpoints)
    known: dict[int, Collection[int]] = {}

    def where(unit: Unit) -> Collection[int]:
        if unit.tensor not in known:
            views = plan.tensors[unit.tensor].views
            files = [_file(sources[view.source], view.tensor) for view in views]
            counts = {worker: sum(file in there for file in files) for worker, there in near.items()}
            most = max(counts.values())
            known[unit.tensor] = [worker for worker, count in counts.items() if count == most] if most else ()
        return known[unit.tensor]

    return where


def _file(source: Checkpoint, name: str) -> str:
    """The file of a tensor, as `near_files` calls it; a tensor with an adapter on it lies in several, and in none."""
    file = getattr(source.tensors[name], "file", None)
    return "" if file is None else f"{source.ref}/{file.name}"
