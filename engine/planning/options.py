"""How to merge: what a caller may choose besides the recipe. None but `device` changes the weights, and that only where
the method is not exact."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.audit import audit_file
from engine.device import DeviceChoice
from engine.planning.output_files import ShardSize
from engine.planning.plan import TILE_BYTES

if TYPE_CHECKING:
    from engine.execution.worker import Arithmetic
    from engine.outputs.card import Extras
    from engine.outputs.naming import Names


@dataclass(frozen=True)
class Options:
    """How to merge.

    Attributes:
        threads: 0 for all processors.
        memory_bytes: what is in flight in this process; default a quarter of the machine's (or container's) memory.
        tile_bytes: output per unit of work; never changes the result.
        shard_size: where the output is cut into files; default 5 GB, and 1 GiB in an object store, where a file that
            is not whole is begun anew.
        arithmetic: "definition" for the torch definitions (slow; the oracle).
        device: "auto" is a GPU where there is one that can be used.
        allow_nonfinite: publish NaN and Inf, if there are any.
        allow_unknown: let unknown parameters pass.
        allow_mixed: let models of different architectures pass (mergekit's --allow-crimes); shapes still must fit.
        stream: read models on the Hub by ranges, instead of downloading them first.
        content_digests: read all sources once more for the canonical recipe hash, and keep it in the provenance.
        copy_tokenizer: False leaves the tokenizer out, unless the recipe chooses one.
        model_card: write README.md and mergekit_config.yml.
        intermediate_dir: where the stages of a recipe in several parts are made; default OUT.stages.
        carry_code: copy the Python files that config.json's auto_map names; nothing here ever runs them.
        card: what else the card says.
        names: what models are called in all that is published (engine.outputs.naming); default: as the recipe has them,
            but in the card, which never shows paths of this machine.
        extra: what else belongs into provenance.json (a campaign's verdict, say).
        audit: where every start of a tile is recorded (engine.audit); default $MERGEFLEET_AUDIT.
        expected_weights: publish nothing unless the weights have this digest (those that were scored).
        inspect: called with the finished directory before it is made visible; what it raises keeps it from that.
    """

    threads: int = 0
    memory_bytes: int = 0
    tile_bytes: int = TILE_BYTES
    shard_size: ShardSize | None = None
    arithmetic: Arithmetic = "kernel"
    device: DeviceChoice = "cpu"
    allow_nonfinite: bool = False
    allow_unknown: bool = False
    allow_mixed: bool = False
    stream: bool = False
    content_digests: bool = False
    copy_tokenizer: bool = True
    model_card: bool = True
    carry_code: bool = False
    intermediate_dir: Path | None = None
    card: Extras | None = None
    names: Names | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    audit: Path | None = field(default_factory=audit_file)
    expected_weights: str | None = None
    inspect: Callable[[Path], None] | None = None


def default_memory() -> int:
    """A quarter of this machine's memory, or of the container's limit where that is lower; bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits) // 4
