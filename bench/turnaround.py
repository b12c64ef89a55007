"""How long a candidate takes until it can be scored: `python -m bench.turnaround [--methods …] [--write]`.

A resident model of the 1.1B family gets one recipe after another, all weights different, as a campaign's candidates
are. Turnaround is CPU-seconds from the recipe as text to the merged live model: plan, hash, merge, digests. Beside it
the merge arithmetic alone: the same plan executed into nothing, facts known. DESIGN asks for at most 1.2 times that.
The check of all live bytes that follows every scored block belongs to the evaluation and is given apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import report
from bench.families import Family, benchmark_family
from engine.execution.execute import Work, execute
from engine.execution.known_facts import KnownFacts
from engine.methods.contract import Array
from engine.planning.plan import OutputTensor
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.plans import Plans
from search.evaluators.resident import ResidentModel

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")
CANDIDATES = 5
Clock = Callable[[], float]
BEGIN, END = "<!-- turnaround:begin -->", "<!-- turnaround:end -->"


class Nowhere:
    """A sink that keeps nothing."""

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        pass


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.turnaround", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--family", default="1.1B")
    parser.add_argument("--device", default="cpu", help="where the live model is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="seconds by the clock instead of CPU-seconds")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    options = parser.parse_args()
    family = benchmark_family(options.family)
    heads = ["method", "first candidate", "turnaround", "arithmetic alone", "ratio", "check after a block"]
    entry = EvaluatorEntry(dtype="bfloat16", threads=options.threads, device=options.device)
    clock = time.perf_counter if options.wall else time.process_time
    rows = [_row(method, family, entry=entry, clock=clock) for method in options.methods]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    command = " ".join(["python -m bench.turnaround", *(word for word in sys.argv[1:] if word != "--write")])
    text = "\n".join([*lines, "", report.provenance(command)])
    print(text)
    if options.write:
        report.write_into(ROOT / "docs" / "performance.md", text, between=(BEGIN, END))


def _row(method: str, family: Family, *, entry: EvaluatorEntry, clock: Clock) -> list[str]:
    plans, known = Plans(), KnownFacts()
    resident = ResidentModel(entry, plans=plans, known=KnownFacts())  # nothing from disk, as where nothing was measured
    times: list[tuple[float, float, float]] = []
    for number in range(1 + CANDIDATES):
        recipe = _recipe(method, family, weight=0.3 + 0.05 * number)
        turnaround = _seconds(clock, lambda recipe=recipe: resident.load(recipe))
        plan = plans(recipe).plan
        work = Work(threads=entry.threads, known=known)
        arithmetic = _seconds(
            clock, lambda plan=plan, work=work: execute(plan, plans.checkpoints, Nowhere(), work=work)
        )
        times.append((turnaround, arithmetic, _seconds(clock, resident.is_intact)))
    resident.close()
    print(method, times, file=sys.stderr, flush=True)
    turnaround, arithmetic, check = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratio = f"{turnaround / arithmetic:.2f}"
    return [method, f"{times[0][0]:.2f}", f"{turnaround:.2f}", f"{arithmetic:.2f}", ratio, f"{check:.2f}"]


def _seconds(clock: Clock, act: Callable[[], Any]) -> float:
    start = clock()
    act()
    return clock() - start


def _recipe(method: str, family: Family, *, weight: float) -> dict[str, Any]:
    if method == "slerp":
        models: list[dict[str, Any]] = [{"model": str(family.tunes[0])}]
        options: dict[str, float] = {"t": weight}
    else:
        density = {"density": 0.5} if method in ("ties", "dare_ties") else {}
        weights = (weight, weight + 0.1)
        models = [
            {"model": str(model), "parameters": {"weight": w, **density}}
            for model, w in zip(family.tunes, weights, strict=True)
        ]
        options = {}
    base = {} if method == "linear" else {"base_model": str(family.base)}
    return {"merge_method": method, **base, "models": models, "parameters": options, "dtype": "bfloat16"}


if __name__ == "__main__":
    main()
