"""Merges on a Ray of several raylets while workers, raylets and drivers are killed (-9), rerun until they are through.

    python tests/support/kill_runs.py --kills 70 --seed 1                      (make faults)
    python tests/support/kill_runs.py --kills 30 --seed 2 --storage bucket     (make faults)
    python tests/support/kill_runs.py --short                                  (make test)

Everything is drawn from the seed; which process dies follows from it up to the speed of the machine. Every merge must
end with the bytes of an undisturbed one; no tile may start after its journal entry; a kill may cost as many further
attempts as tiles were in flight on all workers; after `mergefleet clean` there must be nothing but OUT.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from audits import Watch
from disturbed import COMMAND, RECIPES, ROOT, WORKERS, Case, case_of, merge_command
from fault_places import STORAGES, Storage, Target
from raylets import Raylets

KINDS = ("worker", "raylet", "driver")
LOOK_S = {"disk": 0.01, "bucket": 0.2}
"""Looking at a bucket takes several requests."""
START_S = 8.0
PATIENCE_S = 240.0
MAX_RERUNS = 12
CLEAN_TRIES = 4


@dataclass(frozen=True)
class Kill:
    """Who is killed: so many seconds after the merge was started or the last kill, or so many tiles were begun."""

    kind: str
    after_s: float | None = None
    after_starts: int = 0


Draw = Callable[[Random, int], list[Kill]]
"""(random numbers, tiles of the case) → who is killed, and when."""


@dataclass
class Outcome:
    """What was seen of one case."""

    case: Case
    kills: list[str] = field(default_factory=list)
    reruns: int = 0
    given_up: int = 0
    broken_writes: int = 0
    starts: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def extra(self) -> int:
        """Attempts beyond the first."""
        return self.starts - self.case.tiles

    @property
    def allowed(self) -> int:
        """How many of them there may be: for each kill, and each file whose upload broke, what was in flight."""
        return (len(self.kills) + self.broken_writes) * self.case.in_flight


def draw_kills(rng: Random, tiles: int) -> list[Kill]:
    """Up to four kills: a quarter of them at any time from the start on, the others in the midst of the tiles."""
    kills = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(KINDS)
        if rng.random() < 0.25:
            kills.append(Kill(kind, after_s=rng.uniform(0, START_S)))
        else:
            kills.append(Kill(kind, after_starts=rng.randint(1, max(1, tiles // 3))))
    return kills


def one_of_each(rng: Random, tiles: int) -> list[Kill]:
    """A kill of every kind, in the midst of the tiles."""
    return [Kill(kind, after_starts=rng.randint(1, tiles // 6)) for kind in rng.sample(KINDS, len(KINDS))]


class Disturbance:
    """A case on its way to its end, and who is killed meanwhile."""

    def __init__(self, case: Case, kills: list[Kill], rng: Random, target: Target, audit: Path) -> None:
        self.outcome = Outcome(case)
        self._left = list(kills)
        self._rng = rng
        self._target = target
        self._audit = audit
        self._watch = Watch(target.finished, audit)

    def run(self, raylets: Raylets, *, look_s: float) -> Outcome:
        """Start the command again and again until the output is there."""
        outcome, target = self.outcome, self._target
        while not target.exists() and outcome.reruns <= MAX_RERUNS:
            kills_before = len(outcome.kills)
            driver = self._start(raylets)
            killed = self._accompany(driver, raylets, look_s)
            said = driver.communicate()[1].decode()
            if driver.returncode and not killed:
                outcome.given_up += 1
                if kills_before == len(outcome.kills) or "run the same command again" not in said:
                    outcome.complaints.append(f"nobody was killed, and it failed: {said.strip()[-600:]}")
            outcome.reruns += not target.exists()
        self._watch.look()
        outcome.starts = self._watch.starts
        return outcome

    def _start(self, raylets: Raylets) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            merge_command(self.outcome.case, self._target.out, address=raylets.address),
            env={**os.environ, **raylets.environment, "PYTHONPATH": str(ROOT), "MERGEFLEET_AUDIT": str(self._audit)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _accompany(self, driver: subprocess.Popen[bytes], raylets: Raylets, look_s: float) -> bool:
        """Watch a driver until it ends, and kill what is due; whether the driver was killed."""
        began, starts = time.monotonic(), self._watch.starts
        end = began + PATIENCE_S
        while driver.poll() is None:
            self._watch.look()
            now = time.monotonic()
            due = self._left and _due(self._left[0], now - began, self._watch.starts - starts)
            if due and _kill(self._left[0], driver, raylets, self._rng):
                kind = self._left.pop(0).kind
                self.outcome.kills.append(kind)
                if kind == "driver":
                    driver.wait()
                    return True
                began, starts = now, self._watch.starts
            if now > end:
                self.outcome.complaints.append(f"no end within {PATIENCE_S:.0f} s")
                driver.kill()
            time.sleep(look_s)
        return False

    def complaints(self) -> list[str]:
        """What must not be, once it is through and `mergefleet clean` has been run."""
        outcome, target, found = self.outcome, self._target, []
        if not target.exists():
            return [f"no output after {outcome.reruns} reruns"]
        found += _clean(target.out)
        if target.digest() != outcome.case.expected:
            found.append("other bytes than undisturbed")
        if self._watch.late:
            found.append(f"{len(self._watch.late)} tiles were begun after their journal entry: {self._watch.late[:3]}")
        if outcome.extra > outcome.allowed:
            found.append(f"{outcome.extra} further attempts, {outcome.allowed} allowed")
        rest = target.rest()
        return [*found, f"left beside OUT: {rest}"] if rest else found


def _clean(out: str) -> list[str]:
    """Run `mergefleet clean`, again where the store refuses too often; what it said in the end, if that is an error."""
    for _ in range(CLEAN_TRIES):
        command = [*COMMAND, "clean", out]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            return []
    return [f"clean failed: {ended.stderr.strip()[-300:]}"]


def _due(kill: Kill, passed_s: float, starts: int) -> bool:
    return passed_s >= kill.after_s if kill.after_s is not None else starts >= kill.after_starts


def _kill(kill: Kill, driver: subprocess.Popen[bytes], raylets: Raylets, rng: Random) -> bool:
    """Kill one of that kind; False: there is none now."""
    if kill.kind == "driver":
        driver.kill()
    elif kill.kind == "raylet":
        raylets.kill_raylet(rng)
        raylets.add()
    else:
        pids = raylets.workers()
        if not pids:
            return False
        os.kill(rng.choice(pids), signal.SIGKILL)
    return True


def run(kills: int, seed: int, storage: Storage, place: Path, draw: Draw) -> list[Outcome]:
    """Disturb cases until so many kills were made."""
    outcomes: list[Outcome] = []
    known = [case_of(method, storage, place) for method in RECIPES]
    raylets = Raylets(WORKERS)
    try:
        while sum(len(outcome.kills) for outcome in outcomes) < kills:
            number = len(outcomes)
            rng = Random(f"{seed}/{number}")
            case, target = rng.choice(known), storage.target(number)
            broken = storage.broken_writes
            disturbance = Disturbance(case, draw(rng, case.tiles), rng, target, place / f"audit{number}")
            outcome = disturbance.run(raylets, look_s=LOOK_S[storage.name])
            outcome.broken_writes = storage.broken_writes - broken
            outcome.complaints += disturbance.complaints()
            outcomes.append(outcome)
            print(_line(seed, number, outcome), flush=True)
            if not storage.endpoint:
                shutil.rmtree(target.out)
    finally:
        raylets.close()
    return outcomes


def _line(seed: int, number: int, outcome: Outcome) -> str:
    said = "; ".join(outcome.complaints) or "ok"
    counts = f"reruns {outcome.reruns}, extra attempts {outcome.extra} of {outcome.case.tiles} tiles"
    return f"{seed}/{number} {outcome.case.method}: killed {' '.join(outcome.kills) or 'nobody'}; {counts}; {said}"


def table(outcomes: list[Outcome]) -> str:
    """What docs/reliability.md shows."""
    kinds = Counter(kind for outcome in outcomes for kind in outcome.kills)
    kills = sum(kinds.values())
    facts: Mapping[str, object] = {
        "merges": len(outcomes),
        "kills": f"{kills} ({', '.join(f'{kind} {kinds[kind]}' for kind in KINDS)})",
        "reruns of the command": sum(outcome.reruns for outcome in outcomes),
        "of them where two deaths spoke against a tile": sum(outcome.given_up for outcome in outcomes),
        "tiles": sum(outcome.case.tiles for outcome in outcomes),
        "attempts beyond the first": sum(outcome.extra for outcome in outcomes),
        "writes that the proxy broke": sum(outcome.broken_writes for outcome in outcomes),
        "allowed ((kills + broken writes) × tiles in flight)": sum(outcome.allowed for outcome in outcomes),
        "complaints": sum(len(outcome.complaints) for outcome in outcomes),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--storage", choices=list(STORAGES), default="disk")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--short", action="store_true", help="one merge, one kill of every kind")
    given = parser.parse_args()
    kills, draw = (len(KINDS), one_of_each) if given.short else (given.kills, draw_kills)
    print(f"seed {given.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="mergefleet-kills-") as place,
        STORAGES[given.storage](Path(place), given.seed) as storage,
    ):
        outcomes = run(kills, given.seed, storage, Path(place), draw)
        if storage.proxy is not None:
            print(", ".join(f"{fault.value}: {count}" for fault, count in storage.proxy.faults.items()))
    print(table(outcomes))
    if any(outcome.complaints for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
