"""What Ray adds to a merge: `python -m bench.overhead [--methods linear ties] [--repeats 2] [--write]`.

The same recipe on two sizes of model, in process and on a Ray that the merge starts itself, all processes of the
session counted: driver, Ray's daemons, workers. Starting Ray costs the same whatever is merged, so what counts is the
slope, CPU-seconds of the large model minus those of the small one; DESIGN asks that Ray's be at most 1.1 times the
other. The cost of the start is printed beside it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from bench import report
from bench.families import benchmark_family, data_directory
from bench.measure import session_cpu_s
from bench.recipes import TIMED, recipe
from bench.runner import MERGEFLEET

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE = "0.3B", "1.1B"
METHODS = ("linear", "ties")
ON_RAY = ("--address", "local", "--workers", "1")
BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--repeats", type=int, default=2, help="the run of fewest CPU-seconds counts")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch:
        rows = [_row(method, Path(scratch), options.repeats, options.memory) for method in options.methods]
    heads = ["method", f"in process: {SMALL} · {LARGE}", f"on Ray: {SMALL} · {LARGE}", "slopes", "Ray's ÷ in process"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    command = " ".join(["python -m bench.overhead", *(word for word in sys.argv[1:] if word != "--write")])
    text = "\n".join([*lines, "", report.provenance(command)])
    print(text)
    if options.write:
        report.write_into(ROOT / "docs" / "performance.md", text, between=(BEGIN, END))


def _row(method: str, scratch: Path, repeats: int, memory: str) -> list[str]:
    def cost(size: str, *more: str) -> float:
        (scratch / "recipe.yaml").write_text(yaml.safe_dump(recipe(method, benchmark_family(size), TIMED)))
        command = [MERGEFLEET, "merge", scratch / "recipe.yaml", scratch / "out", "--memory", memory, *more]
        seconds = []
        for _ in range(repeats + 1):  # the first compiles, and fills the page cache
            seconds.append(session_cpu_s(command, environment=QUIET, log=scratch / "log"))
            shutil.rmtree(scratch / "out")
        return min(seconds[1:])

    here = cost(SMALL), cost(LARGE)
    there = cost(SMALL, *ON_RAY), cost(LARGE, *ON_RAY)
    slopes = here[1] - here[0], there[1] - there[0]
    print(f"{method}: {here} {there}", file=sys.stderr, flush=True)
    pairs = [f"{small:.2f} · {large:.2f}" for small, large in (here, there)]
    return [method, *pairs, f"{slopes[0]:.2f} · {slopes[1]:.2f}", f"{slopes[1] / slopes[0]:.2f}"]


if __name__ == "__main__":
    main()
