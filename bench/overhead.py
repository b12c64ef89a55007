"""What Ray adds to a merge: `python -m bench.overhead [--methods linear ties] [--repeats 2] [--write]`.

The same recipe on two sizes of model, in process and on one worker of a Ray that runs already, all processes counted:
driver, Ray's daemons, worker. Starting workers costs the same whatever is merged, so what counts is the slope,
CPU-seconds of the large model minus those of the small one; DESIGN asks that Ray's be at most 1.1 times the other.
The Ray is given time to settle: its daemons go on starting for six seconds, longer beside a longer merge.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from bench import report
from bench.families import benchmark_family, data_directory
from bench.measure import session_cpu_s
from bench.recipes import TIMED, recipe
from bench.runner import MERGEFLEET

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE = "0.3B", "1.1B"
METHODS = ("linear", "ties")
SETTLE_S = 20.0
BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
RAY = Path(sys.executable).with_name("ray")


class RunningRay(NamedTuple):
    """`pid` is the process that all of its daemons descend from."""

    address: str
    pid: int


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--repeats", type=int, default=2, help="the run of fewest CPU-seconds counts")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch, settled_ray(Path(scratch) / "ray.log") as ray:
        rows = [_row(method, Path(scratch), ray, options) for method in options.methods]
    heads = ["method", f"in process: {SMALL} · {LARGE}", f"on Ray: {SMALL} · {LARGE}", "slopes", "Ray's ÷ in process"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    command = " ".join(["python -m bench.overhead", *(word for word in sys.argv[1:] if word != "--write")])
    text = "\n".join([*lines, "", report.provenance(command)])
    print(text)
    if options.write:
        report.write_into(ROOT / "docs" / "performance.md", text, between=(BEGIN, END))


@contextlib.contextmanager
def settled_ray(log: Path) -> Iterator[RunningRay]:
    """A Ray of one node on this machine, started, settled, and ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--object-store-memory=134217728"]
    command = [str(RAY), "start", "--head", "--block", "--include-dashboard=false", *place]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT}
        ) as head,
    ):
        try:
            time.sleep(SETTLE_S)
            if head.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {head.returncode}:\n{log.read_text()[-2000:]}")
            yield RunningRay(f"127.0.0.1:{port}", head.pid)
        finally:
            head.terminate()


def _row(method: str, scratch: Path, ray: RunningRay, options: argparse.Namespace) -> list[str]:
    def cost(size: str, *more: str, beside: tuple[int, ...] = ()) -> float:
        (scratch / "recipe.yaml").write_text(yaml.safe_dump(recipe(method, benchmark_family(size), TIMED)))
        command = [MERGEFLEET, "merge", scratch / "recipe.yaml", scratch / "out", "--memory", options.memory, *more]
        seconds = []
        for _ in range(options.repeats + 1):  # the first compiles, and fills the page cache
            seconds.append(session_cpu_s(command, environment=ENVIRONMENT, log=scratch / "log", beside=beside))
            shutil.rmtree(scratch / "out")
        return min(seconds[1:])

    on_ray = ("--address", ray.address, "--workers", "1")
    here = cost(SMALL), cost(LARGE)
    there = cost(SMALL, *on_ray, beside=(ray.pid,)), cost(LARGE, *on_ray, beside=(ray.pid,))
    slopes = here[1] - here[0], there[1] - there[0]
    print(f"{method}: {here} {there}", file=sys.stderr, flush=True)
    pairs = [f"{small:.2f} · {large:.2f}" for small, large in (here, there)]
    return [method, *pairs, f"{slopes[0]:.2f} · {slopes[1]:.2f}", f"{slopes[1] / slopes[0]:.2f}"]


if __name__ == "__main__":
    main()
