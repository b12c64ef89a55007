"""What is measured for one row: copying, start-up, compiling, mergefleet, mergekit; each in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench import oracle
from bench.families import Family
from bench.measure import Cost, measure, wait_for_quiet
from bench.recipes import CASES, TIMED, WARM_UP, Settings, inputs, recipe
from bench.report import Row

MERGEFLEET = Path(sys.executable).parent / "mergefleet"
_REPEAT_S = 30.0  # what takes longer is not run again


@dataclass(frozen=True)
class Wanted:
    """Which of the programs are run, how often, and with what memory budget."""

    mergefleet: bool
    mergekit: bool
    repeats: int
    memory: str


class Runner:
    """Runs measured commands in a scratch directory; `busiest` is the highest load average after any of them."""

    def __init__(self, scratch: Path, wanted: Wanted, tiny: Family) -> None:
        self._out, self._log, self._recipe = scratch / "out", scratch / "log", scratch / "recipe.yaml"
        self._kernels = scratch / "kernels"
        self._wanted = wanted
        self._tiny = tiny
        self.busiest = 0.0

    def row(self, size: str, method: str, family: Family) -> Row:
        """Measure one method on one family."""
        models = inputs(method, family)
        wait_for_quiet(20)
        _into_page_cache(models)
        copying = self._least(lambda: self._copying(models))
        cold = start_up = ours = theirs = None
        if self._wanted.mergefleet:
            shutil.rmtree(self._kernels, ignore_errors=True)
            # other weights, densities and seed than those timed: only kernels can be warm afterwards
            cold = self._mergefleet(method, self._tiny, WARM_UP)
            start_up = self._least(lambda: self._mergefleet(method, self._tiny, TIMED))
            ours = self._least(lambda: self._mergefleet(method, family, TIMED))
        if self._wanted.mergekit and CASES[method].mergekit:
            theirs = self._mergekit(method, family, TIMED)
        return Row(size, method, len(models), copying, ours, cold, start_up, theirs)

    def _least(self, run: Callable[[], Cost]) -> Cost:
        """The run of fewest CPU-seconds: what else the machine did can only have added to the others."""
        begin = time.perf_counter()
        least = run()
        for _ in range(self._wanted.repeats - 1):
            if time.perf_counter() - begin < _REPEAT_S:
                least = min(least, run(), key=lambda cost: cost.cpu_s)
        return least

    def _copying(self, models: Sequence[Path]) -> Cost:
        """Read every input byte once and write one model's bytes once."""
        *others, last = (str(path) for model in models for path in model.glob("*.safetensors"))
        script = f"cat {' '.join(others)} < /dev/null > /dev/null && cat {last} > {self._out}"
        return self._measured(["sh", "-c", script])

    def _mergefleet(self, method: str, family: Family, settings: Settings) -> Cost:
        """Merge with the kernels that earlier runs of this row compiled."""
        self._recipe.write_text(yaml.safe_dump(recipe(method, family, settings)))
        command: list[str | Path] = [MERGEFLEET, "merge", self._recipe, self._out]
        command += ["--memory", self._wanted.memory, "--random-seed", str(settings.seed)]
        return self._measured(command, {"MERGEFLEET_CACHE_DIR": str(self._kernels)})

    def _mergekit(self, method: str, family: Family, settings: Settings) -> Cost:
        """Merge with mergekit-yaml and its defaults."""
        self._recipe.write_text(yaml.safe_dump(recipe(method, family, settings)))
        command: list[str | Path] = [oracle.command(), self._recipe, self._out]
        command += ["--random-seed", str(settings.seed), "--quiet"]
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


def _into_page_cache(models: Sequence[Path]) -> None:
    """Read all files anew, as after a start of the machine, so that they lie in the page cache as they usually do.

    What was just written may lie there in pages of 4 KiB, what is read in runs as long as the system reads ahead:
    copying 6.6 GB took 1.4 CPU-seconds in the one case and 0.8 in the other.
    """
    buffer = bytearray(1 << 22)
    for path in (path for model in models for path in model.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.readinto(buffer):
                pass
