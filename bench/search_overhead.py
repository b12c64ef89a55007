"""`python -m bench.search_overhead [--ray] [--write]`: what a campaign costs besides evaluating, in CPU-seconds.

The demo's campaign, from the start of its process to its published winner, with its own evaluator (lm-eval, one
thread). *Evaluation* is what no search could do without: forward passes and scoring of the items that were asked for,
and the arithmetic of merging. The published files score their sentinel items once more, which is forward passes, too,
in a row of its own; loading and checking them is overhead, as is all else: proposing, fitting, planning and hashing,
digests and the checks of weights, the floor, audit file, store, progress, exports, verdict, report, publishing. Told
apart: start-up (all before the first work unit is asked for) and imports of libraries after it, which cost the same
however long a campaign is.
The campaign runs twice: once with evaluation's accounts alone, which says how large overhead is, and once with all of
them, which says where it is; to keep so many is itself a tenth of it.
With --ray on a Ray of this machine that is started for it, with one evaluator, all processes counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from bench import search_metered as metered
from bench.ledger import IMPORTS, Ledger

ROOT = Path(__file__).resolve().parent.parent
CAMPAIGN = ROOT / "configs" / "campaigns" / "demo.yml"
BEGIN, END = "<!-- search-overhead:begin -->", "<!-- search-overhead:end -->"
FIRST = ("start-up", IMPORTS)
ENVIRONMENT = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Accounts:
    """CPU-seconds by account (`seconds`), how often each was opened, and of all processes together."""

    seconds: Mapping[str, float]
    calls: Mapping[str, int]
    total: float
    evaluation: tuple[str, ...]
    units: int = 0

    @property
    def evaluating(self) -> float:
        """Seconds that count as evaluation."""
        return sum(self.seconds.get(name, 0.0) for name in self.evaluation)

    def outside(self, *left_out: str) -> float:
        """Seconds of overhead, without those of some accounts."""
        return self.total - self.evaluating - sum(self.seconds.get(name, 0.0) for name in left_out)

    def share(self, *left_out: str) -> float:
        """Overhead, without some accounts, of itself and evaluation together."""
        return self.outside(*left_out) / (self.outside(*left_out) + self.evaluating)

    def table(self) -> str:
        """Every account with its share of the whole; the largest first, evaluation on top."""
        order = sorted(self.seconds, key=lambda name: (name not in self.evaluation, -self.seconds[name]))
        lines = ["| | CPU-s | share | calls | ms each |", "|---|---|---|---|---|"]
        for name in order:
            seconds, calls = self.seconds[name], self.calls.get(name, 0)
            each = f"{1000 * seconds / calls:.2f}" if calls else ""
            told = f"**{name}**" if name in self.evaluation else name
            lines.append(f"| {told} | {seconds:.2f} | {seconds / self.total:.1%} | {calls or ''} | {each} |")
        return "\n".join(lines)

    def sentences(self) -> str:
        """What the table comes to."""
        return (
            f"{self.total:.1f} CPU-s, {self.evaluating:.1f} of them evaluation, {self.units} work units. Overhead: "
            f"{self.share():.1%} of all; {self.share(*FIRST):.1%} of the rest without start-up and imports; "
            f"{self.share(*FIRST, *metered.END_OF_IT):.1%} also without exports, verdict, report and publishing, "
            f"{1000 * self.outside(*FIRST, *metered.END_OF_IT) / max(1, self.units):.1f} ms per work unit."
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_overhead", description=__doc__)
    parser.add_argument("--items", type=int, help="budget of item evaluations; default: as in the campaign")
    parser.add_argument("--ray", action="store_true", help="on a Ray with one evaluator, not in this process")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/search.md")
    parser.add_argument("--driver", help=argparse.SUPPRESS)  # what --ray starts: a run directory
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # what keeps one set of accounts: a campaign file
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    if options.driver:
        _drive(Path(options.driver))
    elif options.alone:
        print(json.dumps(asdict(_in_process(Path(options.alone), Path(options.alone).parent))))
    else:
        _report(options)


def _report(options: argparse.Namespace) -> None:
    """Both runs, and what they come to."""
    few, all_of_them = (_measured(options, coarse=coarse) for coarse in (True, False))
    memory = f"Python reads {random_read_us():.2f} µs for a number somewhere in 150 MiB."
    parts = [few.sentences(), f"With all accounts:\n\n{all_of_them.table()}", all_of_them.sentences()]
    print(*parts, memory, sep="\n\n")
    if options.write:
        from bench import report

        command = " ".join(["python -m bench.search_overhead", *(word for word in sys.argv[1:] if word != "--write")])
        text = "\n\n".join([*parts, f"{report.provenance(command)} {memory}"])
        report.write_into(ROOT / "docs" / "search.md", text, between=(BEGIN, END))


def _measured(options: argparse.Namespace, *, coarse: bool) -> Accounts:
    """The campaign in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        campaign = _campaign(Path(folder), options.items)
        environment = {metered.COARSE: "1"} if coarse else {}
        if options.ray:
            return _on_ray(campaign, Path(folder), environment)
        command = [sys.executable, "-m", "bench.search_overhead", "--alone", str(campaign)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return Accounts(**json.loads(done.stdout.splitlines()[-1]))


def random_read_us(numbers: int = 2**22, reads: int = 200_000) -> float:
    """Microseconds of CPU time for one read of a Python number in random order.

    0.5 to 10 on the same virtual machine within a day. Overhead is code and data that were not used for 100 ms, so it
    goes with this; arithmetic does so less.
    """
    values, draw = list(range(numbers)), random.Random(0)
    places = [draw.randrange(numbers) for _ in range(reads)]
    before, total = time.process_time(), 0
    for place in places:
        total += values[place]
    return 1e6 * (time.process_time() - before) / reads


def _campaign(folder: Path, items: int | None) -> Path:
    """The demo's campaign, with another budget if one is given."""
    data = yaml.safe_load(CAMPAIGN.read_text())
    if items:
        data["budget"]["items"] = items
    path = folder / "demo.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def _in_process(campaign: Path, folder: Path) -> Accounts:
    """One process. Start-up ends where the loop over work units begins."""
    from search import session

    ledger = Ledger("start-up", within=metered.WITHIN)
    loop = session.run_inline

    def begin(*args, **kwargs):  # type: ignore[no-untyped-def]
        ledger.become(metered.REST)
        return loop(*args, **kwargs)

    with ledger.charge(metered.places()):
        session.run_inline = begin
        try:
            session.run_campaign(campaign, root=folder / "run")
        finally:
            session.run_inline = loop
    seconds = ledger.balance()
    return Accounts(
        seconds, dict(ledger.calls), sum(seconds.values()), metered.EVALUATION, ledger.calls[metered.SCORING]
    )


def _on_ray(campaign: Path, folder: Path, environment: Mapping[str, str]) -> Accounts:
    """All processes of `mergefleet search --address local --workers 1`: two of them keep ledgers."""
    from bench.measure import session_cpu_s

    told = folder / "ledgers"
    told.mkdir()
    command = [sys.executable, "-m", "bench.search_overhead", "--driver", str(campaign)]
    environment = {**environment, metered.FOLDER: str(told), "PYTHONPATH": str(ROOT)}
    total = session_cpu_s(command, environment=environment, log=folder / "log")
    seconds, calls = Counter[str](), Counter[str]()
    for path in told.glob("*.json"):
        part = json.loads(path.read_text())
        seconds.update(part["seconds"])
        calls.update(part["calls"])
    seconds["driver and Ray's daemons, their start included"] = total - sum(seconds.values())
    return Accounts(seconds, calls, total, metered.EVALUATION, calls[metered.SCORING])


def _drive(campaign: Path) -> None:
    """The driver of a campaign on Ray whose actors keep ledgers."""
    from cluster import crew, search_job

    crew.EvaluatorWorker = metered.MeteredEvaluator  # type: ignore[misc]
    search_job.CoordinatorActor = metered.MeteredCoordinator  # type: ignore[misc]
    search_job.search_on_ray(campaign, root=campaign.parent / "run", hire=search_job.Hire("local", 1))


if __name__ == "__main__":
    main()
