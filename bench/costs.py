"""`python -m bench.costs [SIZE]`: what the table of cluster/costs.py holds, measured on this machine, as one thread.

A method's arithmetic is what its merge takes beyond start-up, moving bytes and Python for every block. Python for a
block is measured on 4,000 tensors of a few elements, which have nothing else to take time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.families import Family, benchmark_family, data_directory
from bench.measure import Cost, measure
from bench.recipes import CASES, TIMED, recipe
from bench.runner import MERGEFLEET
from bench.sparse import DeepSeek, sparse_family
from cluster import costs
from engine import Plan, load_recipe, make_plan, open_checkpoints

SLOW = ("arcee_fusion", "tsvm", "iso_c", "core_space")
"""Minutes on families of this size."""
MANY = DeepSeek(layers=8, experts=250, hidden=8, dense=1, mlp=8, expert_mlp=2, heads=1, vocab=64)


def main(arguments: Sequence[str]) -> None:
    """Print a line for every figure."""
    family = benchmark_family(arguments[0] if arguments else "0.3B")
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch:
        bench = _Bench(Path(scratch))
        many = sparse_family(Path(scratch) / "many", MANY)
        start_s = bench.merge("linear", benchmark_family("tiny")).cpu_s
        print(f"start-up: {start_s:.2f} CPU-s")
        for method in ("linear", "ties"):
            plan, plan_s = bench.planned(method, many)
            rest_s = bench.merge(method, many).cpu_s - start_s - plan_s
            passes = sum(1 + tensor.as_a_rule for tensor in plan.passes)
            print(f"planning a tensor, {method}: {plan_s / len(plan.tensors) * 1e6:.0f} µs")
            print(f"a pass over a block, {method}: {rest_s / passes * 1e6:.0f} µs, journal included", flush=True)
        for method in CASES:
            if method not in SLOW:
                rest_ns = bench.arithmetic_ns(method, family, start_s)
                print(f"{method}: {rest_ns:.2f} ns an element of each source", flush=True)


class _Bench:
    """Runs merges as one thread with room for everything."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def merge(self, method: str, family: Family) -> Cost:
        """The cheaper of two merges: the first one compiles."""
        command = [MERGEFLEET, "merge", self._recipe(method, family), self._scratch / "out", "-j", "1"]
        found = []
        for _ in range(2):
            found.append(measure([*command, "--memory", "8GiB"], log=self._scratch / "log"))
            shutil.rmtree(self._scratch / "out")
        return min(found, key=lambda cost: cost.cpu_s)

    def planned(self, method: str, family: Family) -> tuple[Plan, float]:
        """The plan, and the CPU-seconds of opening the sources and making it."""
        begin = time.process_time()
        loaded = load_recipe(self._recipe(method, family))
        return make_plan(loaded, open_checkpoints(loaded.opened)), time.process_time() - begin

    def arithmetic_ns(self, method: str, family: Family, start_s: float) -> float:
        """A method's arithmetic, per element of each source."""
        cost, (plan, plan_s) = self.merge(method, family), self.planned(method, family)
        blocks = sum(t.blocks * (1 + p.as_a_rule) for t, p in zip(plan.tensors, plan.passes, strict=True))
        moving_ns = cost.read_bytes * costs.NS_PER_BYTE_READ + plan.bytes_written * costs.NS_PER_BYTE_WRITTEN
        rest_ns = (cost.cpu_s - start_s - plan_s) * 1e9 - moving_ns - blocks * costs.US_PER_BLOCK * 1e3
        return rest_ns / sum(tensor.elements * len(tensor.inputs) for tensor in plan.tensors)

    def _recipe(self, method: str, family: Family) -> Path:
        path = self._scratch / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(method, family, TIMED)))
        return path


if __name__ == "__main__":
    main(sys.argv[1:])
