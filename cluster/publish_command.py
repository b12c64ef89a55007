"""What `mergefleet publish`, `reproduce` and `evaluate` do: call, and print what came of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.output import print_facts, print_json, print_table
from cluster.search_command import quiet_libraries
from engine.errors import InputError
from engine.outputs.hub_upload import HubRepo, parse_hub
from engine.reproducing import parse_sources
from engine.reproducing import reproduce as merge_again
from search.evaluating import evaluate as score_model
from search.evaluating import load_suite
from search.evaluators.resident import ResidentEvaluator, open_evaluator
from search.ports import SPLITS
from search.publishing.destination import parse_destination
from search.publishing.licences import checked_identifier
from search.publishing.publish import Order, Publication, order_of
from search.publishing.publish import publish as publish_candidate
from search.report.tables import score_with_interval
from search.results import Results
from search.run import RunDirectory
from search.session import find_run, run_directory
from search.whereabouts import at_home


@dataclass(frozen=True)
class Wishes:
    """The command's options; see its help."""

    to: str | None = None
    candidate: int | None = None
    anyway: bool = False
    rescore: bool = True
    public: bool = False
    revision: str | None = None
    message: str | None = None
    license: str | None = None


def publish(run: Path, wishes: Wishes, *, run_dir: Path | None, as_json: bool) -> None:
    """Publish a candidate of a run and say where it is."""
    quiet_libraries()
    _check_licence(wishes.license)
    results, directory = find_run(run, run_dir)
    order = _order(wishes, results, directory)
    with ExitStack() as stack:

        def evaluator() -> ResidentEvaluator:
            made = open_evaluator(results.campaign, audit=directory.audit)
            stack.callback(made.close)
            return made

        publication = publish_candidate(results, directory, order, rescorer=evaluator)
    if as_json:
        print_json({**asdict(publication), "place": str(publication.place)})
    else:
        _print(publication)


def _check_licence(text: str | None) -> None:
    try:
        checked_identifier(text or "other")
    except ValueError as error:
        raise InputError(f"--license: {error}") from None


def _order(wishes: Wishes, results: Results, directory: RunDirectory) -> Order:
    usual = order_of(results.campaign, directory)
    to = usual.to if wishes.to is None else parse_destination(wishes.to)
    hub_only = {"--revision": wishes.revision, "--message": wishes.message, "--public": wishes.public}
    for name, value in hub_only.items():
        if value and not isinstance(to, HubRepo):
            raise InputError(f"{name}: is for the Hub; {to} is no place there.")
    if isinstance(to, HubRepo) and wishes.revision:
        if to.branch not in (None, wishes.revision):
            raise InputError(f"--revision: got {wishes.revision!r}, and {to} says another branch.")
        to = parse_hub(str(replace(to, branch=wishes.revision)))
    return Order(
        to,
        candidate=wishes.candidate,
        anyway=wishes.anyway,
        rescore=wishes.rescore,
        public=wishes.public or usual.public,
        message=wishes.message,
        licence=wishes.license or usual.licence,
    )


def _print(publication: Publication) -> None:
    scored = f"{publication.sentinels} items, equal" if publication.sentinels else "no"
    facts = {
        "published": publication.place,
        "candidate": f"{publication.candidate} ({publication.label})",
        "weights": f"{publication.weights} (those that were scored)",
        "scored again": scored if publication.made else "no: it was there already",
    }
    notes = {"beside it": "; ".join(publication.notes)} if publication.notes else {}
    print_facts("", facts | notes | ({"commit": publication.commit} if publication.commit else {}))


def reproduce(published: str, sources: list[str], *, to: Path | None, as_json: bool) -> bool:
    """Merge it again and say whether it is the same; returns that."""
    found = merge_again(published, parse_sources(sources), to=to)
    if as_json:
        print_json({**asdict(found), "equal": found.equal})
    else:
        print(found.sentence)
        for line in found.details:
            print(f"  {line}")
    return found.equal


def evaluate(model: str, suite: Path, *, split: str, run_dir: Path | None, as_json: bool) -> None:
    """Score a model on the items of a campaign or of a tasks file and print the means."""
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise InputError(f"--split: got {split!r}, search, selection or holdout expected.")
    quiet_libraries()
    campaign, whole = load_suite(suite)
    directory = run_directory(campaign, run_dir) if whole else None
    campaign = campaign if directory is None else at_home(campaign, directory)
    with TemporaryDirectory() as folder:
        evaluator = open_evaluator(campaign, audit=Path(folder) / "audit.jsonl")
        try:
            found = score_model(model, campaign, split=chosen, rescorer=evaluator, directory=directory)
        finally:
            evaluator.close()
    if as_json:
        print_json(asdict(found))
        return
    rows = [(name, score_with_interval(mean, ends), str(items)) for name, (mean, ends, items) in found.tasks.items()]
    last = ("mean", score_with_interval(found.mean, found.interval), "")
    print_table(("task", f"{split} score (95 % interval)", "items"), [*rows, last])
