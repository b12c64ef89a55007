"""`mergefleet demo`: the whole job on a tiny family that is in the repository, and a check of everything it claims."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import search_command
from cluster.output import human_seconds, print_json
from engine.errors import InputError, MergefleetError
from search.campaign_file import load_campaign
from search.evaluators.resident import ResidentEvaluator, open_evaluator
from search.pools import make_pools
from search.ports import Verdict
from search.results import Results
from search.run import RunDirectory
from search.session import RUNS, Outcome, run_directory, stored_results

REPOSITORY = Path(__file__).parents[1]
CAMPAIGN = REPOSITORY / "configs" / "campaigns" / "demo.yml"


@dataclass(frozen=True)
class Choices:
    """How to run the demo; `null` makes every source the same model."""

    null: bool = False
    resume: bool = False
    address: str | None = None
    workers: int | None = None
    family: Path | None = None
    quiet: bool = False


def run(directory: Path | None, choices: Choices, *, as_json: bool) -> None:
    """Run the demo's campaign in `directory`, then check its claims; raises MergefleetError where one fails."""
    started = time.monotonic()
    directory = directory or _default_directory(resume=choices.resume)
    if choices.resume and not RunDirectory(directory).database.is_file():
        raise InputError(f"{directory}: there is no demo to resume here.")
    campaign = write_campaign(directory, choices)
    outcome = search_command.run(
        campaign,
        run_dir=directory,
        resume=choices.resume,
        address=choices.address,
        workers=choices.workers,
        quiet=choices.quiet,
    )
    if outcome.verdict is None:
        search_command.print_outcome(outcome, as_json=as_json)
        return
    if outcome.unpublished is not None:
        raise outcome.unpublished
    checks = _check_null(outcome.verdict) if choices.null else _check(campaign, directory, outcome)
    if as_json:
        print_json({"outcome": outcome.verdict.sentence, "checks": checks, "directory": str(directory)})
        return
    search_command.print_outcome(outcome, as_json=False)
    for check in checks:
        print(f"checked: {check}")
    print(f"done in {human_seconds(time.monotonic() - started)}")


def _default_directory(*, resume: bool) -> Path:
    """runs/demo, or the next runs/demo-N that is free; to resume, the last one that is there."""
    names = (RUNS / ("demo" if number == 1 else f"demo-{number}") for number in itertools.count(1))
    taken = list(itertools.takewhile(Path.exists, names))
    if resume and not taken:
        raise InputError(f"{RUNS / 'demo'}: there is no demo to resume here.")
    return taken[-1] if resume else RUNS / ("demo" if not taken else f"demo-{len(taken) + 1}")


def write_campaign(directory: Path, choices: Choices) -> Path:
    """The demo's campaign with absolute paths, written to `directory`, so that it runs from anywhere."""
    family = choices.family or REPOSITORY / "configs" / "demo"
    if not CAMPAIGN.is_file() or not (family / "models").is_dir():
        raise InputError(
            f"{family / 'models'}: the demo's models are not there: run it in a checkout of the repository (make demo)."
        )
    data: dict[str, Any] = yaml.safe_load(CAMPAIGN.read_text(encoding="utf-8"))
    models = (family / "models").resolve()
    data["base_model"] = str(models / Path(data["base_model"]).name)
    names = [Path(source).name for source in data["sources"]]
    data["sources"] = [{"model": str(models / name), "name": name} for name in names]
    if choices.null:
        # one model three times over: every merge of them is that model, so a small budget says it all
        data["sources"] = [{"model": str(_copy(models / names[0], directory / name)), "name": name} for name in names]
        data["base_model"] = str(models / names[0])
        data["items"] = {"window": {0: 15}, "block_size": 150, "selection": 20, "holdout": 40}
        data["budget"] = {"items": 700}
    data["include_path"] = str((family / "tasks").resolve())
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "campaign.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def _copy(model: Path, to: Path) -> Path:
    shutil.copytree(model, to, dirs_exist_ok=True)
    return to.resolve()


def _check_null(verdict: Verdict) -> list[str]:
    if verdict.significant:
        raise MergefleetError("the demo with identical sources found a winner: there is none to find.")
    return [verdict.sentence]


def _rescored_equal(results: Results, verdict: Verdict, directory: Path, evaluator: ResidentEvaluator) -> bool:
    """Whether the model on disk gives exactly the winner's holdout scores, item by item, loaded as its users load it.

    Holds on the machine that scored it: same dtype, threads, blocks and instruction set (docs/bits.md).
    """
    pools = make_pools(results.campaign, evaluator.inventory())
    again = evaluator.rescore(directory, pools.blocks(pools.all("holdout")))
    mine = results.item_scores.of_candidate(verdict.winner).on("holdout")
    return again == {entry.item: entry.score for entry in mine}


def _check(campaign: Path, directory: Path, outcome: Outcome) -> list[str]:
    """What the demo promises, one sentence each; MergefleetError for the first that does not hold."""
    verdict = outcome.verdict
    assert verdict is not None
    unbeaten = [c.label for c in verdict.comparisons if not c.beaten]
    if unbeaten or not isinstance(outcome.published, Path):
        raise MergefleetError(f"the demo's winner does not beat {', '.join(unbeaten) or 'anything'} on the holdout.")
    loaded = load_campaign(campaign)
    results = stored_results(loaded, run_directory(loaded, directory))
    winner = results.candidate(verdict.winner)
    stages = [stage.name for stage in loaded.space.stages]
    best_global = [c for c in verdict.comparisons if results.candidate(c.comparator).stage == stages[0]]
    if winner.stage == stages[0] or not best_global:
        raise MergefleetError(
            "the demo's winner is not from the layer-wise stage, or no global candidate was compared."
        )
    evaluator = open_evaluator(loaded, audit=run_directory(loaded, directory).audit)
    try:
        if not _rescored_equal(results, verdict, outcome.published, evaluator):
            raise MergefleetError(f"{outcome.published}: scores from disk differ from those of the live model.")
    finally:
        evaluator.close()
    lowest = min(c.lower for c in verdict.comparisons)
    return [
        f"the winner beats all {len(verdict.comparisons)} comparators on {verdict.holdout_items} sealed items "
        f"(smallest one-sided 95 % lower bound {lowest:+.3f})",
        f"layer-wise weights beat the best global candidate by {best_global[0].difference:+.3f} "
        f"(lower bound {best_global[0].lower:+.3f})",
        f"{outcome.published} loads with nothing missing and gives the winner's holdout scores item by item",
    ]
