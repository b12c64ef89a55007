"""`python -m bench.huge`: the table of docs/huge-models.md, from headers in sparse files; `--write` puts it there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.recipes import TIMED, recipe
from bench.report import write_into
from bench.sparse import SIZES, sparse_family
from cluster.forecast import Fleet, forecast
from cluster.output import human_seconds
from engine import make_plan, open_checkpoints, parse_recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "huge-models.md"
METHODS = ("linear", "ties", "dare_ties")
NODES = (1, 4, 16)
_NODE = Fleet(nodes=1, cpus=16, memory_bytes=32 << 30)
FLEETS = {
    "disks of 3.5 GB/s in every node": replace(_NODE, disk_gbps=28.0),
    "shared storage, links of 25 Gbit/s": replace(_NODE, net_gbps=25.0),
    "object store, links of 100 Gbit/s": replace(_NODE, net_gbps=100.0),
}


def rows(size: str, directory: Path) -> Iterator[str]:
    """Lines of the table for one size, whose headers are made in `directory`."""
    family = sparse_family(directory, size)
    for method in METHODS:
        data = recipe(method, family, TIMED)
        loaded = parse_recipe(data)
        plan = make_plan(loaded, open_checkpoints(loaded.opened))
        for name, fleet in FLEETS.items():
            found = [forecast(plan, replace(fleet, nodes=nodes)) for nodes in NODES]
            cells = [_time(facts) for facts in found]
            last = found[-1]
            cells.append(f"{last['bytes_read_per_node'] / 1e9:.0f} · {last['bytes_written_per_node'] / 1e9:.0f} GB")
            cells.append(f"{last['in_flight_bytes_per_node'] / 2**30:.1f} GiB")
            yield f"| {' | '.join([size, method, name, *cells])} |"


def table(sizes: Sequence[str] = SIZES) -> str:
    """The whole table as markdown."""
    titles = ["model", "method", "nodes", *(f"{n} node{'s' * (n > 1)}" for n in NODES)]
    titles += [f"read · written per node of {NODES[-1]}", "in flight per node"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            lines.extend(rows(size, Path(scratch)))
    return "\n".join(lines)


def _time(facts: dict[str, Any]) -> str:
    return f"{human_seconds(facts['estimated_seconds'])} ({facts['bottleneck']})"


if __name__ == "__main__":
    text = table()
    print(text)
    if "--write" in sys.argv[1:]:
        write_into(PAGE, text)
