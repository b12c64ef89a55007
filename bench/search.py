"""`python -m bench.search`: the product's search beside mergekit-evolve's algorithm, on two families, many seeds.

Every run is a job of its own whose trace is kept in $MERGEFLEET_BENCH_DIR/search/runs, and every item score in a cache
beside it: a command that was interrupted goes on where it stopped. Runs of ours are made again when search/ changes
(the cache then answers what did not). search_report.py makes tables and picture of the traces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.families import data_directory
from bench.search_best import open_evaluator
from bench.search_evaluator import FastEvaluator
from bench.search_families import HOLDOUT_ITEMS, SEARCH_ITEMS, STAGES, Family, campaign
from bench.search_runs import Choice, run_ours, run_peer

ROOT = Path(__file__).resolve().parent.parent
COMPARED = (Family("tiny", 0), Family("second", 0))
LADDER = tuple(Family("tiny", seed) for seed in (0, 2, 3, 4, 5))  # for layers against global; seed 1 was tuned on


def ours(evaluator: FastEvaluator, seed: int, items: int) -> Iterator[Choice]:
    """All defaults of the product; the stages are the demo's."""
    yield from run_ours(campaign(evaluator.family, seed=seed, items=items), evaluator)


def ours_global(evaluator: FastEvaluator, seed: int, items: int) -> Iterator[Choice]:
    """The first stage alone, until the budget is spent."""
    stage = {name: value for name, value in STAGES[0].items() if name != "candidates"}
    setup = campaign(evaluator.family, seed=seed, items=items)
    space = {**setup.space.model_dump(mode="json"), "stages": [stage]}
    yield from run_ours(campaign(evaluator.family, seed=seed, items=items, space=space), evaluator)


def peer(evaluator: FastEvaluator, seed: int, items: int) -> Iterator[Choice]:
    """mergekit-evolve's algorithm, every candidate on all 600 search items."""
    yield from run_peer(campaign(evaluator.family, seed=seed, items=items), evaluator, per_skill=SEARCH_ITEMS)


def peer_limited(evaluator: FastEvaluator, seed: int, items: int) -> Iterator[Choice]:
    """The same with `limit: 20`, 60 items for every candidate: what a thrifty user of it would try."""
    yield from run_peer(campaign(evaluator.family, seed=seed, items=items), evaluator, per_skill=20)


Algorithm = Callable[[FastEvaluator, int, int], Iterator[Choice]]
ALGORITHMS: Mapping[str, tuple[Algorithm, int]] = {
    "ours": (ours, 60_000),
    "peer": (peer, 400_000),
    "peer-limit-20": (peer_limited, 60_000),
    "ours-global": (ours_global, 12_000),
}
"""Name -> (what runs, its budget of item evaluations)."""

HELD_STEP = 300


@dataclass(frozen=True)
class Trace:
    """What one run would answer after so many item evaluations, with the true score of each answer."""

    family: str
    algorithm: str
    seed: int
    spent: tuple[int, ...]
    scores: tuple[float, ...]

    def at(self, spent: int) -> float | None:
        """The true score of what would be chosen then; None before the first choice."""
        known = [score for mark, score in zip(self.spent, self.scores, strict=True) if mark <= spent]
        return known[-1] if known else None

    def reaches(self, target: float) -> int | None:
        """The item evaluations after which a choice is as good as `target` for the first time; None: never."""
        return next((mark for mark, score in zip(self.spent, self.scores, strict=True) if score >= target), None)

    def holds(self, target: float, *, end: int) -> int | None:
        """After how many evaluations, `end` at most, the choices of the last fifth of them are as good on average."""
        marks = range(HELD_STEP, end + 1, HELD_STEP)
        values = [self.at(mark) or 0.0 for mark in marks]
        for count, mark in enumerate(marks, start=1):
            last = values[count * 4 // 5 : count]
            if sum(last) >= target * len(last):
                return mark
        return None


def run_job(evaluator: FastEvaluator, name: str, seed: int, *, items: int | None = None) -> Trace:
    """A run's trace: read if it is there, else made and written."""
    algorithm, budget = ALGORITHMS[name]
    budget = items or budget
    path = data_directory() / "search" / "runs" / evaluator.family.name / f"{name}-{seed}-{budget}.json"
    code = _code() if name.startswith("ours") else "peer"
    if path.exists() and (kept := json.loads(path.read_text()))["code"] == code:
        return Trace(evaluator.family.name, name, seed, tuple(kept["spent"]), tuple(kept["scores"]))
    started = time.process_time()
    holdout = evaluator.items("holdout", HOLDOUT_ITEMS)
    choices = list(algorithm(evaluator, seed, budget))
    scores = [evaluator.mean(choice.recipe, holdout) for choice in choices]
    kept = {"code": code, "spent": [choice.spent for choice in choices], "scores": scores}
    kept |= {"stages": [choice.stage for choice in choices], "last": choices[-1].recipe}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept))
    seconds = time.process_time() - started
    print(f"{evaluator.family.name} {name} {seed}: {scores[-1]:.4f} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return Trace(evaluator.family.name, name, seed, tuple(kept["spent"]), tuple(scores))


def _code() -> str:
    """A digest of what decides a search's proposals: a change of it makes our runs again."""
    files = [path for path in sorted((ROOT / "search").rglob("*.py")) if "evaluators" not in path.parts]
    kept = [path for path in files if path.parent.name in ("samplers", "space") or path.stem in _DECIDING]
    return hashlib.sha256(b"".join(path.read_bytes() for path in kept)).hexdigest()[:16]


_DECIDING = ("campaign", "campaign_file", "baselines", "live", "pools", "scores", "stopping")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--families", nargs="+", default=[family.name for family in COMPARED], help="KIND-seedN")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=["ours", "peer", "peer-limit-20"])
    parser.add_argument("--seeds", type=int, default=10, help="search seeds 0, 1, ...")
    parser.add_argument("--items", type=int, help="budget of item evaluations in place of each algorithm's own")
    parser.add_argument("--ladder", action="store_true", help="layer-wise against global weights, on five families")
    parser.add_argument("--write", action="store_true", help="put tables and picture into docs/")
    return parser.parse_args(arguments)


def family_of(name: str) -> Family:
    """`tiny-seed0` -> the family."""
    kind, _, seed = name.partition("-seed")
    return Family(kind, int(seed))


def main() -> None:
    """Run what is missing, print the tables."""
    from bench import search_report

    options = parse_arguments()
    if options.ladder:
        text = search_report.ladder(ladder_runs(options.seeds))
        print(text)
        if options.write:
            search_report.write_into("layers", text)
        return
    traces: list[Trace] = []
    for name in options.families:
        evaluator = open_evaluator(family_of(name).make())
        jobs = [(algorithm, seed) for seed in range(options.seeds) for algorithm in options.algorithms]
        traces += [run_job(evaluator, algorithm, seed, items=options.items) for algorithm, seed in jobs]
        evaluator.close()
    text = search_report.comparison(traces)
    print(text)
    if options.write:
        search_report.write_into("comparison", text)
        search_report.picture(traces)


def ladder_runs(seeds: int) -> Mapping[str, tuple[Any, Any]]:
    """Family -> right answers per holdout item, averaged over search seeds, of (layer-wise, global) weights."""
    import numpy as np

    found = {}
    items = ALGORITHMS["ours-global"][1]
    for family in LADDER:
        evaluator = open_evaluator(family.make())
        holdout = evaluator.items("holdout", HOLDOUT_ITEMS)
        sides = []
        for algorithm in ("ours", "ours-global"):
            rows = []
            for seed in range(seeds):
                run_job(evaluator, algorithm, seed, items=items)
                path = data_directory() / "search" / "runs" / family.name / f"{algorithm}-{seed}-{items}.json"
                scores = evaluator.scores(json.loads(path.read_text())["last"], holdout)
                rows.append([scores[item] for item in sorted(holdout)])
            sides.append(np.mean(rows, axis=0))
        found[family.name] = (sides[0], sides[1])
        evaluator.close()
    return found


if __name__ == "__main__":
    main()
