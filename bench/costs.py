"""`python -m bench.costs [SIZE]`: what the table of cluster/costs.py holds, measured on this machine, as one thread.

A method's arithmetic is what its merge takes beyond start-up, moving bytes and Python for every block. Python for a
block is measured on 4,000 tensors of a few elements, which have nothing else to take time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.families import Family, benchmark_family, data_directory
from bench.measure import Cost, measure
from bench.recipes import CASES, TIMED, recipe
from bench.runner import MERGEFLEET
from bench.sparse import DeepSeek, sparse_family
from cluster import costs
from engine import load_recipe, make_plan, open_checkpoints

SLOW = ("arcee_fusion", "tsvm", "iso_c", "core_space")
"""Minutes on families of this size."""
MANY = DeepSeek(layers=8, experts=250, hidden=8, dense=1, mlp=8, expert_mlp=2, heads=1, vocab=64)


def main(arguments: Sequence[str]) -> None:
    """Print a line for every method."""
    family = benchmark_family(arguments[0] if arguments else "0.3B")
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch:
        bench = _Bench(Path(scratch))
        many = sparse_family(Path(scratch) / "many", MANY)
        tiny = benchmark_family("tiny")
        start = min(bench.cost("linear", tiny).cpu_s for _ in range(3))
        print(f"start-up                 {start:6.2f} CPU-s")
        for method in ("linear", "ties"):
            plan_s, merge_s, passes = bench.planning(method, many), bench.cost(method, many).cpu_s, 1
            tensors, passes = bench.counts(method, many)
            each = (merge_s - start - plan_s) / tensors / passes * 1e6
            print(f"planning, {method:12}   {plan_s / tensors * 1e6:6.0f} µs a tensor")
            print(f"a block's pass, {method:8} {each:6.0f} µs, journal included")
        for method in CASES:
            if method not in SLOW:
                print(
                    f"{method:24} {bench.ns_per_element(method, family, start):6.2f} ns an element of a source",
                    flush=True,
                )


class _Bench:
    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def cost(self, method: str, family: Family) -> Cost:
        """Of a merge as one thread with room for everything; the first one compiles."""
        command = [MERGEFLEET, "merge", self._recipe(method, family), self._scratch / "out", "-j", "1"]
        found = []
        for _ in range(2):
            found.append(measure([*command, "--memory", "8GiB"], log=self._scratch / "log"))
            measure(["rm", "-rf", self._scratch / "out"], log=self._scratch / "log")
        return min(found, key=lambda cost: cost.cpu_s)

    def planning(self, method: str, family: Family) -> float:
        """CPU-seconds of opening the sources and planning."""
        import time

        begin = time.process_time()
        loaded = load_recipe(self._recipe(method, family))
        make_plan(loaded, open_checkpoints(loaded.opened))
        return time.process_time() - begin

    def counts(self, method: str, family: Family) -> tuple[int, int]:
        """Tensors, and passes over each of them."""
        loaded = load_recipe(self._recipe(method, family))
        plan = make_plan(loaded, open_checkpoints(loaded.opened))
        return len(plan.tensors), 1 + plan.passes[0].as_a_rule

    def ns_per_element(self, method: str, family: Family, start: float) -> float:
        """A method's arithmetic, per element of each source."""
        cost = self.cost(method, family)
        loaded = load_recipe(self._recipe(method, family))
        plan = make_plan(loaded, open_checkpoints(loaded.opened))
        blocks = sum(t.blocks * (1 + p.as_a_rule) for t, p in zip(plan.tensors, plan.passes, strict=True))
        moving = cost.read_bytes * costs.NS_PER_BYTE_READ + plan.bytes_written * costs.NS_PER_BYTE_WRITTEN
        rest = (cost.cpu_s - start) * 1e9 - moving - blocks * costs.US_PER_BLOCK * 1e3
        return rest / sum(tensor.elements * len(tensor.inputs) for tensor in plan.tensors)

    def _recipe(self, method: str, family: Family) -> Path:
        path = self._scratch / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(method, family, TIMED)))
        return path


if __name__ == "__main__":
    main(sys.argv[1:])
