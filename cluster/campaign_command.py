"""What happens to campaigns besides running them: forecast, fork, stop, migrate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cluster.flags import Begin
from cluster.output import human_seconds, print_json, print_note
from engine.errors import InputError
from search import ends
from search.campaign_file import Campaign, load_campaign
from search.run import open_store
from search.session import (
    ask_to_stop,
    fork_campaign,
    migrate_store,
    require_run,
    rules_of,
    run_directory,
    run_so_far,
)
from search.so_far import SoFar
from search.store import schema


def plan(campaign: Path, *, run_dir: Path | None, as_json: bool) -> None:
    """Say what a search will take: cohorts and items by stage, and when it ends, where a run tells how fast it goes."""
    loaded = load_campaign(campaign)
    rules = rules_of(loaded)
    rows = ends.forecast(rules, tuple(stage.name for stage in loaded.space.stages))
    counted, items = ends.is_counted(rules), sum(row.items for row in rows)
    found = _run_so_far(loaded, run_dir)
    phase, done = ("search", 0) if found is None else (found.phase, found.spent["search"])
    rate = None if found is None else found.items_per_s
    left = _search_left(loaded, found, items - done if counted else None, rate) if phase == "search" else 0.0
    if as_json:
        stages = [asdict(row) for row in rows]
        told = {"stages": stages, "items": items if counted else None, "items_done": done, "items_per_s": rate}
        print_json({**told, "search_seconds_left": left})
        return
    for row in rows:
        print(f"{row.stage:12} {row.cohorts:4} cohorts {row.candidates:6} candidates {row.items:8} items")
    if counted:
        total = sum(row.candidates for row in rows)
        print(f"{'search':12} {'':4}         {total:6} candidates {items:8} items at most")
    budget = loaded.budget
    hours = ((budget.hours, "hours"), (budget.gpu_hours, "GPU-hours"))
    timed = " or ".join(f"{number:g} {unit}" for number, unit in hours if number is not None)
    if timed:
        print(f"{'search':12} ends after {timed}" + (", if not before" if counted else ", whatever it has come to"))
    if phase != "search":
        print(f"the search of the run that is there is over, after {done} items: it is in phase {phase}")
    elif left is not None and rate is not None:
        print(f"{done} items are scored, {rate:.1f} items/s so far: {human_seconds(left)} of search are left")
    print("selection and holdout come on top; early stopping and repeated recipes save some")


def _search_left(campaign: Campaign, found: SoFar | None, items: int | None, rate: float | None) -> float | None:
    """Seconds of search that are left, for so many items more (None: as many as there is time for); None: unknown."""
    seconds, held = (0.0, 0.0) if found is None else (found.seconds, found.held_s)
    gpus = ends.devices(campaign)
    busy = held * gpus / seconds if seconds else 0.0
    allowed = ends.seconds_allowed(campaign.budget, seconds=seconds, device_seconds=held * gpus, busy=busy)
    bounds = [allowed, None if items is None or rate is None else max(0, items) / rate]
    return min((bound for bound in bounds if bound is not None), default=None)


def _run_so_far(campaign: Campaign, run_dir: Path | None) -> SoFar | None:
    """The run that is there, None before the first start; wherever its store is, nothing is made."""
    directory = run_directory(campaign, run_dir)
    with open_store(campaign, directory) as store:
        found = store.find(campaign.name)
    return None if found is None else run_so_far(campaign, directory)


def begin(campaign: Path, how: Begin, *, run_dir: Path | None) -> tuple[Path, Path | None, bool]:
    """The campaign file to run, its run's directory, and whether there is a run to continue: a fork's is made here.

    Raises InputError where these options do not go together, or there is no run to continue.
    """
    if how.fork is not None:
        made = fork(campaign, how.fork, at=how.at, run_dir=run_dir)
        return made, made.parent, True
    if how.at is not None:
        raise InputError("--at: says where a fork begins; give --fork NAME too.")
    check_resume(campaign, run_dir=run_dir, resume=how.resume, or_start=how.or_start)
    return campaign, run_dir, how.resume


def check_resume(campaign: Path, *, run_dir: Path | None, resume: bool, or_start: bool) -> None:
    """--resume needs a run, unless told that there may be none yet. Raises InputError."""
    if or_start and not resume:
        raise InputError("--or-start: says what --resume does where there is no run yet; give --resume too.")
    if resume and not or_start:
        require_run(campaign, run_dir)


def fork(campaign: Path, name: str, *, at: int | None, run_dir: Path | None) -> Path:
    """Make the fork, and say by which file it is resumed: on stderr, what the search comes to is for stdout."""
    file, candidates = fork_campaign(campaign, name, at=at, root=run_dir, new_root=None)
    print_note(
        f"{name} begins with {candidates} candidates; if it is paused: mergefleet search {file} --resume", quiet=False
    )
    return file


def stop(campaign: Path, *, run_dir: Path | None, as_json: bool) -> None:
    """Ask for the end of the search, and say what follows."""
    asked = ask_to_stop(campaign, root=run_dir)
    left = f"selection and holdout take about {asked.items_left} item evaluations more"
    if asked.seconds_left is not None:
        left += f", {human_seconds(asked.seconds_left)} at the rate so far"
    if as_json:
        facts = {"items_left": asked.items_left, "seconds_left": asked.seconds_left}
        print_json({"asked": True, "running_here": asked.running, **facts})
    elif asked.phase == "holdout":
        print(
            f"asked: `mergefleet search {campaign} --resume` tries once more whoever was lost on the holdout; if the "
            "winner is lost again, the verdict names none"
        )
    elif asked.running:
        print(f"asked: no new candidate is begun, within seconds; when what runs is scored, {left}; then the verdict")
    else:
        resume = f"mergefleet search {campaign} --resume"
        print(f"asked: no process of this machine runs it; `{resume}` goes on with selection: {left}")


def migrate(store: str, *, as_json: bool) -> None:
    """Bring a store to this version's tables, and say from which version."""
    version, copy = migrate_store(store)
    if as_json:
        print_json({"from": version, "to": schema.VERSION, "copy": None if copy is None else str(copy)})
    elif version == schema.VERSION:
        print(f"schema version {version}: nothing to do")
    else:
        print(f"schema version {version} → {schema.VERSION}" + (f"; as it was: {copy}" if copy else ""))
