"""Merges on a Ray of several raylets while workers, raylets and drivers are killed (-9), rerun until they are through.

    python tests/support/kill_runs.py --kills 100 --seed 1      (make faults)
    python tests/support/kill_runs.py --short                   (make test)

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
from backends import bytes_of, inline
from filelock import FileLock
from raylets import Raylets
from shared_families import FAMILIES

from bench.families import Family, Shape, make_family
from cluster.sharding import Queues, units
from engine import Options, load_recipe, make_plan, open_checkpoints

KINDS = ("worker", "raylet", "driver")
RECIPES = {
    "linear": "models: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{weight: 0.5}}",
    "slerp": "base_model: {base}\nmodels: [{{model: {base}}}, {{model: {one}}}]\nparameters: {{t: 0.3}}",
    "sce": "base_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{select_topk: 0.3}}",
    **dict.fromkeys(
        ("ties", "dare_ties", "della"),
        "base_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{weight: 0.5, density: 0.4}}",
    ),
}
"""One method of every kind: no facts, sums, variances, histograms, masks, ranks."""
NODES = 2
TILE_BYTES = 1 << 20
LOOK_S = 0.01
START_S = 8.0
PATIENCE_S = 240.0
MAX_RERUNS = 12
_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-c", "from cluster.entry import run; run()")


@dataclass(frozen=True)
class Kill:
    """Who is killed: so many seconds after the merge was started or the last kill, or so many tiles were begun."""

    kind: str
    after_s: float | None = None
    after_starts: int = 0


@dataclass(frozen=True)
class Case:
    """A merge that is disturbed, and what an undisturbed one makes of the same recipe."""

    recipe: Path
    expected: str
    tiles: int
    in_flight: int


@dataclass
class Outcome:
    """What was seen of one case."""

    case: Case
    kills: list[str] = field(default_factory=list)
    reruns: int = 0
    starts: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def extra(self) -> int:
        """Attempts beyond the first."""
        return self.starts - self.case.tiles


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


def disturb(case: Case, kills: list[Kill], raylets: Raylets, rng: Random, place: Path) -> Outcome:
    """Run a case to its end."""
    outcome, left = Outcome(case), list(kills)
    out, audit = place / "OUT", place.with_suffix(".audit")
    place.mkdir()
    watch = Watch(place / "OUT.partial" / "journal", audit)
    while not out.exists() and outcome.reruns <= MAX_RERUNS:
        driver = _start(case.recipe, out, raylets, audit)
        killed = _accompany(driver, left, raylets, rng, watch=watch, outcome=outcome)
        said = driver.communicate()[1].decode()
        if driver.returncode and not killed:
            outcome.complaints.append(f"not killed, and failed: {said.strip()[-600:]}")
        outcome.reruns += not out.exists()
    watch.look()
    outcome.starts = watch.starts
    outcome.complaints += _complaints(outcome, watch, out)
    return outcome


def _start(recipe: Path, out: Path, raylets: Raylets, audit: Path) -> subprocess.Popen[bytes]:
    flags = ["--address", raylets.address, "--tile-size", str(TILE_BYTES), "--workers", str(NODES), "--quiet"]
    return subprocess.Popen(
        [*_COMMAND, "merge", str(recipe), str(out), *flags],
        env={**os.environ, **raylets.environment, "PYTHONPATH": str(_ROOT), "MERGEFLEET_AUDIT": str(audit)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _accompany(
    driver: subprocess.Popen[bytes],
    left: list[Kill],
    raylets: Raylets,
    rng: Random,
    *,
    watch: Watch,
    outcome: Outcome,
) -> bool:
    """Watch a driver until it ends, and kill what is due; whether the driver was killed."""
    began, starts = time.monotonic(), watch.starts
    end = began + PATIENCE_S
    while driver.poll() is None:
        watch.look()
        now = time.monotonic()
        if left and _due(left[0], now - began, watch.starts - starts) and _kill(left[0], driver, raylets, rng):
            kill = left.pop(0)
            outcome.kills.append(kill.kind)
            if kill.kind == "driver":
                driver.wait()
                return True
            began, starts = now, watch.starts
        if now > end:
            outcome.complaints.append(f"no end within {PATIENCE_S:.0f} s")
            driver.kill()
        time.sleep(LOOK_S)
    return False


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


def _complaints(outcome: Outcome, watch: Watch, out: Path) -> list[str]:
    """What must not be."""
    case, found = outcome.case, []
    if not out.exists():
        return [f"no output after {outcome.reruns} reruns"]
    subprocess.run(
        [*_COMMAND, "clean", str(out)], env={**os.environ, "PYTHONPATH": str(_ROOT)}, check=True, capture_output=True
    )
    if bytes_of(out) != case.expected:
        found.append("other bytes than undisturbed")
    if watch.late:
        found.append(f"{len(watch.late)} tiles were begun after their journal entry: {watch.late[:3]}")
    if outcome.extra > len(outcome.kills) * case.in_flight:
        found.append(f"{outcome.extra} further attempts, {len(outcome.kills)} kills of {case.in_flight} in flight")
    rest = sorted(path.name for path in out.parent.iterdir() if path != out)
    return [*found, f"left beside OUT: {rest}"] if rest else found


def cases(family: Family, place: Path) -> list[Case]:
    """One for every method, merged undisturbed in this process."""
    made = []
    base, one, two = family.models
    for method, text in RECIPES.items():
        recipe = place / f"{method}.yml"
        recipe.write_text(f"merge_method: {method}\n{text.format(base=base, one=one, two=two)}\n")
        result = inline(load_recipe(recipe), place / method, Options(threads=2, tile_bytes=TILE_BYTES))
        made.append(Case(recipe, bytes_of(result.out), result.tiles, _in_flight(recipe)))
        shutil.rmtree(result.out)
    return made


def _in_flight(recipe: Path) -> int:
    """The most tiles that all workers, of a thread each, can have in hand at a time."""
    loaded = load_recipe(recipe)
    plan = make_plan(loaded, open_checkpoints(loaded.opened), Options(tile_bytes=TILE_BYTES))
    queues, largest = Queues(units(plan), [1] * NODES), 0
    while (chunk := queues.take(0)) is not None:
        largest = max(largest, len(chunk.tiles))
    return NODES * largest


def family() -> Family:
    """60 million parameters, no tensor so large that a kill would always meet it."""
    FAMILIES.mkdir(exist_ok=True)
    shape = Shape(hidden=768, layers=8, mlp=2048, heads=12, kv_heads=4, vocab=8000)
    with FileLock(FAMILIES / "kills.lock"):
        return make_family(FAMILIES / "kills", shape)


def run(kills: int, seed: int, place: Path, draw: Callable[[Random, int], list[Kill]]) -> list[Outcome]:
    """Disturb cases until so many kills were made."""
    outcomes: list[Outcome] = []
    known = cases(family(), place)
    raylets = Raylets(NODES)
    try:
        while sum(len(outcome.kills) for outcome in outcomes) < kills:
            number = len(outcomes)
            rng = Random(f"{seed}/{number}")
            case = rng.choice(known)
            outcome = disturb(case, draw(rng, case.tiles), raylets, rng, place / f"run{number}")
            outcomes.append(outcome)
            print(_line(seed, number, outcome), flush=True)
            shutil.rmtree(place / f"run{number}")
    finally:
        raylets.close()
    return outcomes


def _line(seed: int, number: int, outcome: Outcome) -> str:
    said = "; ".join(outcome.complaints) or "ok"
    counts = f"reruns {outcome.reruns}, extra attempts {outcome.extra} of {outcome.case.tiles} tiles"
    return f"{seed}/{number} {outcome.case.recipe.stem}: killed {' '.join(outcome.kills) or 'nobody'}; {counts}; {said}"


def table(outcomes: list[Outcome]) -> str:
    """What docs/reliability.md shows."""
    kinds = Counter(kind for outcome in outcomes for kind in outcome.kills)
    kills = sum(kinds.values())
    facts: Mapping[str, object] = {
        "merges": len(outcomes),
        "kills": f"{kills} ({', '.join(f'{kind} {kinds[kind]}' for kind in KINDS)})",
        "reruns of the command": sum(outcome.reruns for outcome in outcomes),
        "tiles": sum(outcome.case.tiles for outcome in outcomes),
        "attempts beyond the first": sum(outcome.extra for outcome in outcomes),
        "allowed (kills × tiles in flight)": sum(len(o.kills) * o.case.in_flight for o in outcomes),
        "complaints": sum(len(outcome.complaints) for outcome in outcomes),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--short", action="store_true", help="one merge, one kill of every kind")
    given = parser.parse_args()
    kills, draw = (len(KINDS), one_of_each) if given.short else (given.kills, draw_kills)
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mergefleet-kills-") as place:
        outcomes = run(kills, given.seed, Path(place), draw)
    print(table(outcomes))
    if any(outcome.complaints for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
