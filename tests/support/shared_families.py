"""Families that several test files merge: made once, by whichever test process is first, and reused between runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from filelock import FileLock

from bench.arrays import read_model, write_file
from bench.families import Family
from bench.torture import torture_family

FAMILIES = Path(os.environ.get("TMPDIR", "/tmp")) / f"mergefleet-tests-{os.getuid()}"


def shared_family(name: str, *, mixed: bool = False, giant: bool = False) -> Family:
    """`bench.torture.torture_family` under this name."""
    FAMILIES.mkdir(exist_ok=True)
    with FileLock(FAMILIES / f"{name}.lock"):
        return torture_family(FAMILIES / name, mixed=mixed, giant=giant)


def excerpt(models: Sequence[Path], place: Path, parts: Collection[str]) -> tuple[Path, ...]:
    """The models with those tensors alone whose names hold one of `parts`, made under `place`."""
    made = tuple(place / model.name for model in models)
    for model, out in zip(models, made, strict=True):
        out.mkdir()
        (out / "config.json").write_bytes((model / "config.json").read_bytes())
        chosen = {name: stored for name, stored in read_model(model).items() if any(part in name for part in parts)}
        write_file(out / "model.safetensors", chosen)
    return made
