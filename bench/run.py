"""`python -m bench`: mergefleet beside mergekit and beside copying, in one run, on synthetic families."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import oracle, report
from bench.families import SHAPES, benchmark_family, data_directory
from bench.measure import Cost
from bench.recipes import CASES
from bench.report import Row
from bench.runner import Runner, Wanted

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "512MiB"
SPECTRAL = ("tsvm", "iso_c", "core_space")
STANDARD = (
    ("1.1B", ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")),
    ("0.3B", tuple(method for method in CASES if method not in SPECTRAL)),
    ("10M", SPECTRAL),
)
"""What is run where nothing is chosen: the methods with a bar on the family of the bars, all on a smaller one, and
those that need the singular values of whole tensors, which take minutes there, on a very small one."""


def main() -> None:
    """Parse, make families, run, print, write."""
    options = _options()
    wanted = Wanted(not options.no_mergefleet, not options.no_mergekit, options.repeats, options.memory)
    if wanted.mergekit:
        oracle.install()
    kept = _Kept(data_directory() / "rows.json", resume=options.resume)
    with tempfile.TemporaryDirectory(dir=data_directory()) as scratch:
        runner = Runner(Path(scratch), wanted, benchmark_family("tiny"))
        for size, methods in _sections(options):
            family = benchmark_family(size)
            for method in methods:
                if not kept.has(size, method):
                    kept.add(runner.row(size, method, family))
                    print(report.table(kept.rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = _text(kept, options, runner.busiest)
    print(json.dumps([dataclasses.asdict(row) for row in kept.rows], indent=1) if options.json else text)
    if options.write:
        report.write_into(ROOT / "docs" / "performance.md", text)


class _Kept:
    """The rows measured so far, in a file, so that a run that was interrupted goes on with `--resume`.

    Figures are only comparable within one run: another commit begins anew.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._commit = report.commit()
        self.rows: list[Row] = []
        if resume and path.exists():
            found = json.loads(path.read_text())
            if found["commit"] == self._commit:
                self.rows = [_row(data) for data in found["rows"]]

    def has(self, size: str, method: str) -> bool:
        return any((row.size, row.method) == (size, method) for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        rows = [dataclasses.asdict(known) for known in self.rows]
        self._path.write_text(json.dumps({"commit": self._commit, "rows": rows}))


def _row(data: dict[str, Any]) -> Row:
    return Row(**{name: Cost(**value) if isinstance(value, dict) else value for name, value in data.items()})


def _sections(options: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """Families and the methods to run on each."""
    if options.size is None and options.methods is None:
        return list(STANDARD)
    return [(options.size or "1.1B", options.methods or list(CASES))]


def _text(kept: _Kept, options: argparse.Namespace, busiest: float) -> str:
    parts = []
    for size in dict.fromkeys(row.size for row in kept.rows):
        rows = _with_least_copying([row for row in kept.rows if row.size == size])
        parts += [_title(size, options), report.table(rows)]
    command = " ".join(["python -m bench", *(word for word in sys.argv[1:] if word not in ("--write", "--resume"))])
    return "\n\n".join([*parts, report.provenance(command, busiest)])


def _with_least_copying(rows: Sequence[Row]) -> list[Row]:
    """Copying the same number of models is measured once per method; the least of all of them counts for each."""
    least = {
        row.inputs: min((other.copying for other in rows if other.inputs == row.inputs), key=lambda cost: cost.cpu_s)
        for row in rows
    }
    return [dataclasses.replace(row, copying=least[row.inputs]) for row in rows]


def _title(size: str, options: argparse.Namespace) -> str:
    models = benchmark_family(size).models
    nbytes = sum(path.stat().st_size for model in models for path in model.glob("*.safetensors"))
    return (
        f"Family {size}, bfloat16, a base and two fine-tunes, {nbytes / 1e9:.1f} GB together; `--memory "
        f"{options.memory}`; least of {options.repeats} runs of up to half a minute (mergekit: one run); seconds."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--size", choices=sorted(SHAPES), help="one family; default: the two that docs/ shows")
    parser.add_argument("--methods", nargs="+", choices=CASES)
    parser.add_argument("--memory", default=MEMORY)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of mergefleet and of copying; the one of fewest CPU-seconds counts"
    )
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--no-mergefleet", action="store_true")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON instead of the tables")
    parser.add_argument("--write", action="store_true", help="also write the tables into docs/performance.md")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that an interrupted run of this commit made"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
