"""A campaign from file to published winner, in this process: open, run, report, publish."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import Busy, CampaignError, MergefleetError, NotWritten, StoreAway
from search import collector, ends
from search.baselines import make_baselines
from search.campaign import Rules
from search.campaign_file import Campaign, campaign_to_dict, load_campaign, parse_campaign
from search.coordinator import Coordinator
from search.evaluators.beside import files_of_models
from search.evaluators.plans import Plans
from search.evaluators.resident import open_evaluator
from search.inline import run_inline
from search.lasting import LastingCoordinator
from search.live import make_rules, sampler_of
from search.opening import Start, check_budget, open_coordinator
from search.outage import refuse_given_up
from search.ports import CampaignStatus, Inventory, Phase, Verdict, rehearsed
from search.publishing.destination import Destination
from search.publishing.sentinels import Rescorer
from search.results import Results, read_results
from search.run import RunDirectory, Services, has_scores, open_store, steady_clock
from search.so_far import SoFar, read_so_far
from search.starting import (
    check_models,
    check_start,
    refuse_nonfinite,
    refuse_senseless,
    refuse_speechless,
    space_of,
    warn_of_threads,
)
from search.store import forking, schema, takeover
from search.store.store import Store, store_url
from search.trackers.outlet import make_outlet
from search.whereabouts import at_home, models_noted, recall, remember

_LOG = logging.getLogger(__name__)
RUNS = Path("runs")
COMMIT_EVERY_S = 5.0
PREDECESSOR_WAIT_S = 20.0
"""A killed driver's coordinator on Ray lives a few seconds longer."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    verdict      None after a pause
    report       the page; None where it could not be written
    published    where there was a winner to publish
    unpublished  why the winner is not: the verdict is there all the same
    """

    directory: RunDirectory
    verdict: Verdict | None
    report: Path | None
    published: Destination | None
    unpublished: MergefleetError | OSError | None = None


def run_directory(campaign: Campaign, root: Path | None) -> RunDirectory:
    """Where a campaign's run lives: `runs/<name>` below the working directory, unless said otherwise."""
    return RunDirectory(root or RUNS / campaign.name)


def wait_for_predecessor(
    campaign: Campaign, directory: RunDirectory, *, resume: bool, wait_s: float = PREDECESSOR_WAIT_S
) -> None:
    """Let a run that is just dying end, if this is to `resume` it; Busy where one goes on, or nobody resumes: two
    processes would take the campaign from each other.

    A stopped process (SIGSTOP) is no obstacle: it is taken over, and refused by its epoch should it wake up.
    """
    deadline, said = time.monotonic() + wait_s, False
    while (owner := _owner(campaign, directory)) is not None:
        running = f"{directory.root}: process {owner.pid} of this machine is running campaign {campaign.name!r}"
        if not resume or time.monotonic() > deadline:
            again = "go on with --resume" if not resume else "run the command again"
            raise Busy(f"{running}. Wait for it, or pause it (ctrl-C where it was started) and {again}.", pid=owner.pid)
        if not said:
            said = True
            _LOG.warning("%s; waiting up to %g s for it to end", running, wait_s)
        time.sleep(0.25)


def _owner(campaign: Campaign, directory: RunDirectory) -> takeover.ProcessIdentity | None:
    """The process of the run's last epoch, if it is another one that runs here and was not stopped."""
    with open_store(campaign, directory) as store:
        epochs = store.rows(schema.EPOCHS) if store.find(campaign.name) else []
    if not epochs:
        return None
    last = max(epochs, key=lambda row: int(row["epoch"]))
    owner = takeover.ProcessIdentity(last["pid"], last["started"], last["host"])
    runs = owner.pid != os.getpid() and takeover.is_running(owner) and not takeover.is_stopped(owner)
    return owner if runs else None


def load_run(
    path: str | Path, *, root: Path | None, resume: bool, allow_public_test_sets: bool
) -> tuple[Campaign, RunDirectory]:
    """A campaign and where it runs. A run that is continued remembers that it may use public test sets."""
    campaign = load_campaign(path, allow_public_test_sets=allow_public_test_sets)
    directory = run_directory(campaign, root)
    campaign = at_home(campaign, directory)
    if resume and not campaign.allow_public_test_sets:
        with open_store(campaign, directory) as store:
            found = store.find(campaign.name)
        if found is not None and found["config"].get("allow_public_test_sets"):
            campaign = campaign.model_copy(update={"allow_public_test_sets": True})
    return campaign, directory


def require_run(path: str | Path, root: Path | None) -> None:
    """CampaignError where there is nothing to resume: a misspelt directory must not cost a campaign."""
    campaign = load_campaign(path)
    directory = run_directory(campaign, root)
    with open_store(campaign, directory) as store:
        found = store.find(campaign.name)
    if found is None:
        raise CampaignError(
            f"--resume: {store.place} holds no run of campaign {campaign.name!r}. Look at --run-dir and `store`, or "
            "start it without --resume (--resume --or-start: whichever it is)."
        )


def open_session(
    campaign: Campaign,
    inventory: Inventory,
    *,
    directory: RunDirectory,
    resume: bool,
    lease_s: float | None = None,
    plans: Plans | None = None,
    patient: bool = False,
) -> LastingCoordinator:
    """The coordinator of a campaign on real models: hashes through the engine, layers from the base's headers.

    `patient`: see LastingCoordinator.
    """
    plans = plans or Plans.of(campaign)
    start = Start(directory=directory, layers=space_of(campaign, plans).layers, resume=resume)
    if not patient and not has_scores(campaign, directory):
        refuse_nonfinite(campaign, plans)

    tell, clock = make_outlet(campaign, directory.root), steady_clock()

    def open_run(again: bool) -> Coordinator:
        services = Services(
            plans.hash_of,
            clock,
            lease_s=lease_s,
            parameters_of=plans.parameters_of,
            layers_of=plans.layers_of,
            former_hash=plans.weights_hash_of,
            beside=lambda: files_of_models(campaign, plans),
            tell=tell,
            commit_every_s=COMMIT_EVERY_S,
        )
        return open_coordinator(campaign, inventory, start=replace(start, again=again), services=services)

    return LastingCoordinator(campaign.name, open_run, patient=patient, tell=tell)


def run_campaign(
    path: str | Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    allow_public_test_sets: bool = False,
    on_progress: Callable[[CampaignStatus], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run (or continue) a campaign in this process, to its report and its published winner.

    Raises CampaignError and the other InputErrors before anything is scored, OutputExists where the run is there
    already and `resume` is False, InputsChanged, Busy, StaleEpoch where a successor took the campaign over, Outage
    where the run paused itself because what an evaluator needs, or its database, did not answer. What keeps a winner
    from being published is no exception: see Outcome.
    """
    campaign, directory = load_run(path, root=root, resume=resume, allow_public_test_sets=allow_public_test_sets)
    plans = Plans.of(campaign)
    check_start(campaign, directory, plans)
    warn_of_threads(campaign)
    wait_for_predecessor(campaign, directory, resume=resume)
    evaluator = open_evaluator(campaign, audit=directory.audit, plans=plans)
    try:
        coordinator = open_session(campaign, rehearsed(evaluator), directory=directory, resume=resume, plans=plans)
        with collector.settled():
            try:
                run_inline(coordinator, evaluator, on_progress=on_progress, stop=stop)
                ended = coordinator.status()
            finally:
                results = coordinator.close()
            outcome = conclude(campaign, directory, rescorer=lambda: evaluator, results=results)
            refuse_given_up(ended)
            return outcome
    finally:
        evaluator.close()


def rules_of(campaign: Campaign) -> Rules:
    """The machine's rules for a campaign, from the headers of its models alone. Raises what opening it would raise."""
    plans = Plans()
    refuse_senseless(campaign)
    try:
        space, baselines = check_models(campaign, plans), make_baselines(campaign)
        refuse_speechless(campaign, plans)
    finally:
        plans.close()
    check_budget(campaign, len(baselines), population=space.stages[0].population)
    sampler = sampler_of(campaign, space, baselines=len(baselines))
    return make_rules(campaign, space, baselines, sampler)


def fork_campaign(
    path: str | Path, name: str, *, at: int | None, root: Path | None, new_root: Path | None
) -> tuple[Path, int]:
    """Make a campaign `name` of the run of another one: its own campaign file, and with how many candidates it begins.

    See `search.store.forking.fork` for what is copied and refused. What `check_start` refuses, it refuses here, before
    anything is made.
    """
    campaign, directory = load_run(path, root=root, resume=True, allow_public_test_sets=False)
    new = parse_campaign({**campaign_to_dict(campaign), "name": name}, origin=f"--fork {name}")
    if name == campaign.name:
        raise CampaignError(f"--fork: got {name!r}, another name than the campaign's own expected")
    new_directory = run_directory(new, new_root)
    stored_results(campaign, directory)  # is there one?
    # messages name the file that the user has: there is no other yet; and its functions stay where they are
    new = new.model_copy(update={"origin": campaign.origin, "homes": campaign.homes})
    file = new_directory.root / "campaign.yml"

    def begin() -> None:
        check_start(new, new_directory, Plans())
        forking.write_campaign(new, file)  # first: rows that no file belongs to could not be resumed
        remember(new, new_directory, models=models_noted(directory))

    with open_store(campaign, directory) as old, open_store(new, new_directory) as target:
        old.find(campaign.name)
        return file, forking.fork(old, new, target, at=at, now=time.time(), begin=begin)


@dataclass(frozen=True)
class Stopping:
    """What `ask_to_stop` found: whether a process here runs the campaign, about how many item evaluations selection and
    holdout take after it, and for how long at the campaign's rate so far (None: it has none yet). `phase`: what is
    ended, the search, or the holdout where the winner was lost."""

    phase: Phase
    running: bool
    items_left: int
    seconds_left: float | None


def ask_to_stop(path: str | Path, *, root: Path | None) -> Stopping:
    """Ask for the end of a campaign's search, from any process that reaches its store; or for a verdict without a
    winner, where that was lost on the holdout.

    Raises CampaignError where there is no such run, or its search is over and its winner is not lost.
    """
    campaign = load_campaign(path)
    directory = run_directory(campaign, root)
    found = run_so_far(campaign, directory)
    if found.phase != "search" and not (found.phase == "holdout" and found.lost):
        raise CampaignError(f"campaign {campaign.name!r} is past its search: it is in phase {found.phase}")
    with open_store(campaign, directory) as store:
        store.find(campaign.name)
        store.wish(ends.STOP, now=time.time())
        sizes = Counter(str(row["split"]) for row in store.rows(schema.ITEMS))
    left = ends.items_after(found.phase, found.campaign, baselines=found.baselines, sizes=sizes)
    running, rate = _owner(campaign, directory) is not None, found.items_per_s
    return Stopping(found.phase, running, left, None if rate is None else left / rate)


def migrate_store(place: str) -> tuple[int, Path | None]:
    """Bring a store, a path or a URL, to this version: the version it had, and the copy that was kept of a file."""
    url = store_url(place, default=Path())
    if url.startswith("sqlite") and not Path(place.removeprefix("sqlite:///")).is_file():
        raise CampaignError(f"{place}: is not there")
    store = Store(url)
    try:
        return store.migrate()
    finally:
        store.close()


def conclude(
    campaign: Campaign,
    directory: RunDirectory,
    *,
    rescorer: Callable[[], Rescorer] | None = None,
    results: Results | None = None,
) -> Outcome:
    """Write the report, and publish the winner if there is one and it is not published yet.

    Neither ends a run that has its verdict: a report that cannot be written is told of, and the outcome says what
    stands in the way of publishing.

    `rescorer` gives who scores the published files again; default: an evaluator of this process's own. `results`:
    what the store holds, where somebody has read it.
    """
    from search.publishing.publish import order_of, publish
    from search.report.report import write_html

    results = results or stored_results(campaign, directory)
    report: Path | None = directory.report
    try:
        write_html(results, directory.report)
    except NotWritten as error:
        report = None
        _LOG.warning("%s", error.message)
    outcome = Outcome(directory, results.verdict, report, None)
    if results.verdict is None or not results.verdict.significant:
        return outcome
    rescorer = rescorer or (lambda: open_evaluator(results.campaign, audit=directory.audit))
    try:
        return replace(
            outcome, published=publish(results, directory, order_of(campaign, directory), rescorer=rescorer).place
        )
    except (MergefleetError, OSError) as error:
        return replace(outcome, unpublished=error)


def run_so_far(campaign: Campaign, directory: RunDirectory) -> SoFar:
    """How far a run has come; a large store is not read for it. CampaignError where there is none."""
    _refuse_nothing(campaign, directory)
    with open_store(campaign, directory) as store:
        found = store.find(campaign.name)
        if found is None:
            raise CampaignError(f"{store.place}: holds no run of campaign {campaign.name!r}", name=campaign.name)
        return read_so_far(store, found)


def stored_results(campaign: Campaign, directory: RunDirectory) -> Results:
    """What the store of a run holds. CampaignError where there is none."""
    _refuse_nothing(campaign, directory)
    results = read_results(store_url(campaign.store, default=directory.database), name=campaign.name)
    homes = at_home(campaign, directory).homes
    return replace(results, campaign=results.campaign.model_copy(update={"homes": homes}))


def _refuse_nothing(campaign: Campaign, directory: RunDirectory) -> None:
    if campaign.store is None and not directory.database.is_file():
        raise CampaignError(
            f"{directory.root}: there is no run of campaign {campaign.name!r} here. Start it with `mergefleet search`, "
            "or name its directory with --run-dir."
        )


def find_run(place: Path, root: Path | None = None) -> tuple[Results, RunDirectory]:
    """A run by its directory, or by its campaign file (and the run's directory, where that is not the usual one).

    CampaignError where there is none.
    """
    if not place.is_dir():
        campaign = load_campaign(place)
        directory = run_directory(campaign, root)
        return stored_results(campaign, directory), directory
    directory = RunDirectory(place)
    url, name = recall(directory)
    try:
        results = read_results(url, name=name)
        return replace(results, campaign=at_home(results.campaign, directory)), directory
    except StoreAway as error:
        raise StoreAway(
            f"{error.message} {directory.note} names it without a password: have that in PGPASSWORD or ~/.pgpass, or "
            "name the campaign's file."
        ) from error
