"""`python -m bench`: mergefleet beside mergekit and beside copying, in one run, on a synthetic family."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench import oracle, report
from bench.families import SHAPES, Family, benchmark_family, data_directory
from bench.measure import Cost, measure, wait_for_quiet
from bench.recipes import METHODS, TIMED, WARM_UP, Settings, inputs, recipe

ROOT = Path(__file__).resolve().parent.parent
MERGEFLEET = Path(sys.executable).parent / "mergefleet"
MEMORY = "512MiB"


class Runner:
    """Runs measured commands in a scratch directory; `busiest` is the highest load average after any of them."""

    def __init__(self, scratch: Path, *, memory: str) -> None:
        self._out, self._log, self._recipe = scratch / "out", scratch / "log", scratch / "recipe.yaml"
        self._memory = memory
        self._kernels = scratch / "kernels"
        self.busiest = 0.0

    def copying(self, models: Sequence[Path]) -> Cost:
        """Read every input byte once and write one model's bytes once."""
        *others, last = (str(path) for model in models for path in model.glob("*.safetensors"))
        script = f"cat {' '.join(others)} > /dev/null && cat {last} > {self._out}"
        return self._measured(["sh", "-c", script])

    def mergefleet(self, data: dict[str, Any], *, seed: int, cold: bool = False) -> Cost:
        """Merge with kernels cached by earlier runs of this benchmark, or `cold`, with an empty cache."""
        kernels = self._kernels.with_name("cold-kernels") if cold else self._kernels
        self._recipe.write_text(yaml.safe_dump(data))
        command: list[str | Path] = [MERGEFLEET, "merge", self._recipe, self._out]
        command += ["--memory", self._memory, "--random-seed", str(seed)]
        try:
            return self._measured(command, {"MERGEFLEET_CACHE_DIR": str(kernels)})
        finally:
            if cold:
                shutil.rmtree(kernels, ignore_errors=True)

    def mergekit(self, data: dict[str, Any], *, seed: int) -> Cost:
        """Merge with mergekit-yaml and its defaults."""
        self._recipe.write_text(yaml.safe_dump(data))
        command: list[str | Path] = [oracle.command(), self._recipe, self._out]
        command += ["--random-seed", str(seed), "--quiet"]
        return self._measured(command, oracle.VARIABLES)

    def _measured(self, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Cost:
        try:
            return measure(command, environment=environment, log=self._log)
        finally:
            self.busiest = max(self.busiest, os.getloadavg()[0])
            self._remove_output()

    def _remove_output(self) -> None:
        if self._out.is_dir():
            shutil.rmtree(self._out)
        self._out.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Families:
    """The family that is timed, another for warming up, and a tiny one for the fixed start-up."""

    timed: Family
    warm_up: Family
    tiny: Family


def main() -> None:
    """Parse, make families, run, print, write."""
    options = _options()
    families = Families(benchmark_family(options.size), benchmark_family("0.1B", seed=1), benchmark_family("tiny"))
    if not options.no_mergekit:
        oracle.install()
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch:
        runner = Runner(Path(scratch), memory=options.memory)
        rows = _with_least_copying([_row(runner, method, families, options) for method in options.methods])
    command = "python -m bench " + " ".join(argument for argument in sys.argv[1:] if argument != "--write")
    text = (
        f"{_title(options, families)}\n\n{report.table(rows)}\n\n{report.provenance(command.strip(), runner.busiest)}"
    )
    print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) if options.json else text)
    if options.write:
        report.write_into(ROOT / "docs" / "performance.md", text)


def _row(runner: Runner, method: str, families: Families, options: argparse.Namespace) -> report.Row:
    models = inputs(method, families.timed)
    wait_for_quiet(20)
    _into_page_cache(models)
    copying = _least(lambda: runner.copying(models), options.repeats)
    ours = cold = start_up = theirs = None
    if not options.no_mergefleet:
        runner.mergefleet(recipe(method, families.warm_up, WARM_UP), seed=WARM_UP.seed)
        start_up = _least(_merge(runner, method, families.tiny, TIMED), options.repeats)
        ours = _least(_merge(runner, method, families.timed, TIMED), options.repeats)
        cold = runner.mergefleet(recipe(method, families.timed, TIMED), cold=True, seed=TIMED.seed)
    if not options.no_mergekit:
        theirs = runner.mergekit(recipe(method, families.timed, TIMED), seed=TIMED.seed)
    row = report.Row(method, len(models), copying, ours, cold, start_up, theirs)
    print(report.table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    return row


def _with_least_copying(rows: Sequence[report.Row]) -> list[report.Row]:
    """Copying the same files is measured once per method; the least of all of them counts for each."""
    least = {
        row.inputs: min((other.copying for other in rows if other.inputs == row.inputs), key=lambda cost: cost.cpu_s)
        for row in rows
    }
    return [dataclasses.replace(row, copying=least[row.inputs]) for row in rows]


def _merge(runner: Runner, method: str, family: Family, settings: Settings) -> Callable[[], Cost]:
    return lambda: runner.mergefleet(recipe(method, family, settings), seed=settings.seed)


def _least(run: Callable[[], Cost], repeats: int) -> Cost:
    """The run of fewest CPU-seconds: what else the machine did can only have added to the others."""
    return min((run() for _ in range(repeats)), key=lambda cost: cost.cpu_s)


def _into_page_cache(models: Sequence[Path]) -> None:
    buffer = bytearray(1 << 22)
    for model in models:
        for path in model.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def _title(options: argparse.Namespace, families: Families) -> str:
    read = sum(path.stat().st_size for model in families.timed.models for path in model.glob("*.safetensors"))
    return (
        f"Family {options.size}, bfloat16, a base and two fine-tunes, {read / 1e9:.1f} GB in (slerp reads two of the "
        f"three); `--memory {options.memory}`; least of {options.repeats} runs (mergekit and cold: one run); seconds."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--size", choices=sorted(SHAPES), default="1.1B")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--memory", default=MEMORY)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of mergefleet and of copying; the one of fewest CPU-seconds counts"
    )
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--no-mergefleet", action="store_true")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON instead of the table")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
