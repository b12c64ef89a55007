"""Campaigns that are killed (-9) again and again at random moments, from their opening to their published model (T1).

    python tests/support/campaign_kills.py --kills 100         (make faults)

A process of the whole campaign is killed, another one resumes it, until one ends by itself; then the next campaign,
until there were so many kills. Everything that a campaign leaves must be what an undisturbed one leaves (times, leases,
attempts and epochs apart), whole; a kill may cost a further attempt at items whose scores were not in the rows yet (for
some seconds at most), and at no others.

    simulated   coordinator, store and exports; the evaluator is a formula                (tests/search/test_kills.py)
    real        `run_campaign` on three tiny models: merges, evaluator, report and publishing, too

The undisturbed run is made in this process; those that die are its forks, so a start takes what opening a campaign
takes and no more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from simulated import SimulatedEvaluator, make_campaign, open_simulated

from engine import failpoints
from search.evaluators.audit import read_attempts
from search.inline import run_inline
from search.results import Results, read_results
from search.run import RunDirectory
from search.store.store import Store, store_url

BLOCK = 40
SMALL = {
    "budget": {"items": 900},
    "items": {"window": {0: 15}, "block_size": BLOCK, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 2, "soup": 3},
}
PATIENCE_S = 300.0


Case = Callable[[Path], None]
"""Takes a campaign up in a folder, wherever it is, and ends it."""


@dataclass
class Ended:
    """A campaign that was killed so often and then ended by itself."""

    folder: Path
    kills: list[str] = field(default_factory=list)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")


# ------------------------------------------------------------------------------------------------------------ campaigns


class Slow(SimulatedEvaluator):
    """Ten milliseconds a block: kills shall strike between commits, too."""

    def evaluate(self, work: Any) -> Any:
        time.sleep(0.01)
        return super().evaluate(work)


def run_simulated(folder: Path) -> None:
    """The campaign without models, in `folder`/run, to its exports."""
    directory = RunDirectory(folder / "run")
    coordinator = open_simulated(directory.root, make_campaign(**SMALL), resume=directory.database.exists())
    run_inline(coordinator, Slow(audit=directory.audit))
    coordinator.close()


def run_real(folder: Path) -> None:
    """The campaign on the models beside `folder`, from its file to its published winner."""
    from search.session import run_campaign

    run_campaign(folder.parent / "campaign.yml", root=folder / "run", resume=(folder / "run/campaign.sqlite").exists())


def make_real(place: Path) -> None:
    """Base, two sources, items and campaign file, in `place`."""
    from tiny_tasks import make_model, make_tokenizer

    tokenizer = make_tokenizer()
    for seed, name in enumerate(("base", "one", "two")):
        make_model(seed, tokenizer).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    for split, count in {"search": 60, "selection": 60, "holdout": 80}.items():
        rows = [{"id": f"{n:02d}", "text": f"{split} {n}"} for n in range(count)]
        (place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"name": "near", "metric": "campaign_kills:nearness"}
    data = {
        "name": "simulated",
        "base_model": str(place / "base"),
        "sources": [str(place / "one"), str(place / "two")],
        "space": {
            "parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}},
            "stages": [
                {"name": "global", "by": "global", "population": 6, "sobol": 4, "candidates": 16},
                {"name": "layers", "by": "module_layer", "blocks": 2, "population": 8},
            ],
        },
        "tasks": [task | {split: f"{split}.jsonl" for split in ("search", "selection", "holdout")}],
        "include_path": str(place),
        "items": {"window": {0: 15}, "block_size": 10},
        "budget": {"items": 700},
        "selection": {"top": 3, "means": 2, "soup": 3},
        "evaluator": {"floor": False},
    }
    (place / "campaign.yml").write_text(json.dumps(data))


def nearness(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """The nearer the weights are to a point off the global diagonal, the better; every bit of them shows."""
    far = float((_embedding(model) - _wanted()).double().pow(2).mean().sqrt())
    return [float(1 / (1 + far) - 0.001 * int(row["id"])) for row in rows]


def _embedding(model: Any) -> Any:
    return model.get_input_embeddings().weight.detach().float()


@cache
def _wanted() -> Any:
    from tiny_tasks import make_model, make_tokenizer

    base, one, two = (_embedding(make_model(seed, make_tokenizer())) for seed in range(3))
    return base + 0.62 * (one - base) + 0.27 * (two - base)


# ---------------------------------------------------------------------------------------------------------------- kills


def start(case: Case, folder: Path, *, step: str | None = None) -> Any:
    """A process that takes the campaign in `folder` up; with `step` it dies at that failpoint."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(case, folder, step))
    process.start()
    return process


def _run(run: Callable[[Path], None], folder: Path, step: str | None) -> None:
    failpoints.arm(step)
    run(folder)


def finish(case: Case, folder: Path) -> Ended:
    """Undisturbed to its end, in this process."""
    folder.mkdir()
    case(folder)
    return Ended(folder)


def kill_to_the_end(case: Case, folder: Path, rng: Random, *, span_s: float, most: int = 1000) -> Ended:
    """Killed after up to `span_s` seconds, at most so often, and taken up again until a process ends by itself."""
    folder.mkdir()
    ended = Ended(folder)
    while True:
        before, process = _epochs(ended.directory), start(case, folder)
        process.join(rng.uniform(0, span_s) if len(ended.kills) < most else PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == 0:
            return ended
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        opening = _epochs(ended.directory) == before
        ended.kills.append("opening" if opening else where(ended.directory))


def die_at(case: Case, folder: Path, steps: list[str]) -> Ended:
    """Killed at these failpoints, one process after the other; then to its end."""
    folder.mkdir()
    ended = Ended(folder)
    for step in steps:
        process = start(case, folder, step=step)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL, (step, process.exitcode)
        ended.kills.append(step)
    process = start(case, folder)
    process.join(PATIENCE_S)
    assert process.exitcode == 0, process.exitcode
    return ended


def _epochs(directory: RunDirectory) -> int:
    """How often it was taken over."""
    if not directory.database.exists():
        return 0
    store = Store(store_url(None, default=directory.database))
    try:
        row = store.find("simulated")
        return 0 if row is None else int(row["epoch"])
    finally:
        store.close()


def where(directory: RunDirectory) -> str:
    """What a campaign was at when it was killed, from what it left."""
    found = results(directory)
    if found.phase != "done":
        return found.phase
    for path, doing in ((directory.mirror, "exporting"), (directory.report, "reporting")):
        if not path.exists():
            return doing
    return "ending" if (directory.root / "published").exists() else "publishing"


# ------------------------------------------------------------------------------------------------------------- findings


def results(directory: RunDirectory) -> Results:
    return read_results(store_url(None, default=directory.database), name="simulated")


def left_by(ended: Ended) -> dict[str, Any]:
    """What a campaign leaves, without times, leases, attempts and epochs; read as its users read it."""
    import optuna
    from backends import bytes_of
    from pyarrow import parquet

    directory = ended.directory
    found = results(directory)
    study = optuna.load_study(study_name="simulated", storage=f"sqlite:///{directory.mirror}")
    published = directory.root / "published"
    return {
        "candidates": found.candidates,
        "verdict": found.verdict,
        "item rows": [replace(row, lease="") for row in found.item_scores],
        "ledger": [replace(entry, epoch=0, at=0.0) for entry in found.ledger],
        "items.parquet": parquet.read_table(directory.scores).to_pylist(),
        "optuna.sqlite": [(trial.number, trial.params, trial.values, trial.state) for trial in study.get_trials()],
        "report.html": directory.report.exists() and directory.report.read_text().rstrip().endswith("</html>"),
        "published": bytes_of(published) if published.exists() else "",
        "files": sorted(
            path.name for path in directory.root.iterdir() if "-wal" not in path.name and "-shm" not in path.name
        ),
    }


def epoch_of(lease: str) -> int:
    """The epoch in which a lease was handed out."""
    return int(lease.partition(".")[0])


def complaints(ended: Ended, expected: dict[str, Any]) -> list[str]:
    """How it differs from what an undisturbed run left, and whether a kill cost more than it may."""
    found = left_by(ended)
    said = [f"{what} differ" for what in expected if found[what] != expected[what]]
    attempts = read_attempts(ended.directory.audit)
    epochs: dict[tuple[Any, ...], list[int]] = {}
    for line in attempts:
        epochs.setdefault((line["candidate"], line["split"], line["item"]), []).append(line["epoch"])
    said += [f"{key} was tried twice in one epoch" for key, made in epochs.items() if len(set(made)) < len(made)]
    kept = {(row.candidate, row.split, row.item): row.lease for row in results(ended.directory).item_scores}
    missing = kept.keys() - epochs.keys()
    said += [f"{len(missing)} scores without an attempt"] * bool(missing)
    known = [key for key in kept.keys() & epochs.keys() if epoch_of(kept[key]) != max(epochs[key])]
    said += [f"{len(known)} items were tried again although their scores were kept"] * bool(known)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started, rng, kills, campaigns, said = time.monotonic(), Random(arguments.seed), Counter[str](), 0, []
    with tempfile.TemporaryDirectory() as folder:
        make_real(Path(folder))
        finish(run_real, Path(folder) / "first")  # imports and compiles
        begun = time.monotonic()
        expected = left_by(finish(run_real, Path(folder) / "whole"))
        assert expected["published"], "an undisturbed run names no winner"
        span_s = (time.monotonic() - begun) / 2
        while sum(kills.values()) < arguments.kills:
            left = arguments.kills - sum(kills.values())
            ended = kill_to_the_end(run_real, Path(folder) / f"run {campaigns}", rng, span_s=span_s, most=left)
            kills.update(ended.kills)
            campaigns += 1
            said += [f"campaign {campaigns}: {text}" for text in complaints(ended, expected)]
            print(f"campaign {campaigns}: {len(ended.kills)} kills", flush=True)
    print(f"{sum(kills.values())} kills, {campaigns} campaigns of {2 * span_s:.1f} s each, seed {arguments.seed}:")
    print("  " + ", ".join(f"{doing} {count}" for doing, count in kills.most_common()))
    print(f"  {len(expected['item rows'])} item rows each; {len(said)} complaints; {time.monotonic() - started:.0f} s")
    print("\n".join(said))
    sys.exit(bool(said))


if __name__ == "__main__":
    main()
