"""What `mergefleet search` and `mergefleet report` do: run with live progress, print how it ended."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import typer

from cluster.ending import Ending, ending_of
from cluster.output import human_seconds, print_json, print_log
from engine.errors import InputError, MergefleetError, NotWritten
from search.outage import PATIENCE_S
from search.ports import CampaignStatus
from search.session import Outcome, find_run, run_campaign

SAY_EVERY_S = 60.0


def run(
    campaign: Path,
    *,
    run_dir: Path | None,
    resume: bool,
    allow_public_test_sets: bool = False,
    address: str | None,
    workers: int | None,
    quiet: bool,
) -> Outcome:
    """Run the campaign in this process, or on Ray where an address is given; a signal pauses it cleanly."""
    quiet_libraries()
    print_log(verbose=0, quiet=quiet)
    with pausing_signals() as stop, campaign_progress(quiet=quiet) as on_progress:
        if address is None:
            return run_campaign(
                campaign,
                root=run_dir,
                resume=resume,
                allow_public_test_sets=allow_public_test_sets,
                on_progress=on_progress,
                stop=stop,
            )
        from cluster.search_job import Hire, search_on_ray

        return search_on_ray(
            campaign,
            root=run_dir,
            resume=resume,
            allow_public_test_sets=allow_public_test_sets,
            hire=Hire(address, workers),
            on_progress=on_progress,
            stop=stop,
        )


def print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """The verdict, and where things are."""
    verdict = outcome.verdict
    if as_json:
        print_json(
            {
                "directory": str(outcome.directory.root),
                "report": None if outcome.report is None else str(outcome.report),
                "published": None if outcome.published is None else str(outcome.published),
                "unpublished": None if outcome.unpublished is None else asdict(_ending(outcome.unpublished)),
                "sentence": None if verdict is None else verdict.sentence,
                "significant": None if verdict is None else verdict.significant,
                "verdict": None if verdict is None else asdict(verdict),
            }
        )
        return
    if verdict is None:
        print("paused; continue with --resume")
    else:
        print(verdict.sentence)
        for comparison in sorted(verdict.comparisons, key=lambda c: c.difference):
            # where the bound alone would call it beaten, what does not is said
            flips = f", sign-flip p {comparison.flip_p:.3f}" if comparison.lower > 0 and not comparison.beaten else ""
            print(
                f"  {comparison.difference:+.3f} over {comparison.label} (95 % lower bound {comparison.lower:+.3f}"
                f"{flips}, holdout {verdict.score:.3f} against {comparison.score:.3f})"
            )
    print(f"report: {outcome.report or f'not written; `mergefleet report {outcome.directory.root}` makes it'}")
    if outcome.published is not None:
        print(f"published: {outcome.published}")


def fail_unpublished(outcome: Outcome) -> None:
    """Exit as publishing failed, if it did: after the verdict, which it does not change."""
    if outcome.unpublished is None:
        return
    ending = _ending(outcome.unpublished)
    sys.stderr.write(
        f"mergefleet: the winner is not published: {ending.message} The run is kept: `mergefleet publish "
        f"{outcome.directory.root} --to PLACE` publishes it.\n"
    )
    raise typer.Exit(ending.exit_code)


def _ending(error: MergefleetError | OSError) -> Ending:
    found = ending_of(error)
    assert found is not None  # errors of both kinds are foreseen
    return found


def report(campaign: Path, *, run_dir: Path | None, html: Path | None, as_json: bool) -> None:
    """Print the report of a run, finished or not, and write the page: beside the run only where that can be written."""
    from search.report.report import render_text, report_data, write_html

    results, directory = find_run(campaign, run_dir)
    page: Path | None = html or directory.report
    assert page is not None
    if not page.parent.is_dir():
        raise InputError(f"--html: {page.parent}: there is no such directory.")
    try:
        write_html(results, page)
    except NotWritten as error:
        if html is not None:
            raise
        page = None
        sys.stderr.write(f"mergefleet: warning: {error.message} --html FILE writes the page elsewhere.\n")
    if as_json:
        print_json({**report_data(results), "html": None if page is None else str(page)})
    else:
        print(render_text(results))
        print(f"page: {page or 'not written'}")


@contextmanager
def pausing_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM asks for a pause; a second one interrupts at once (rows are safe either way)."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt("interrupted; what is scored is kept: continue with --resume.")
        asked = True
        sys.stderr.write("\npausing after the present block; once more to stop at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def campaign_progress(*, quiet: bool) -> Iterator[Callable[[CampaignStatus], None]]:
    """A live line on a terminal: phase, best score, items, rate, time left. Plain lines elsewhere, one a phase.

    An outage is told in any case.
    """
    if quiet:
        yield OutageLines(lambda status: None)
        return
    if not sys.stderr.isatty():
        yield OutageLines(_PlainProgress())
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None, note="")

        def show(status: CampaignStatus) -> None:
            bar.update(
                task,
                description=_title(status),
                completed=status.items_done,
                total=status.items_total or None,
                note=_note(status),
            )

        yield OutageLines(show)


class OutageLines:
    """Says on stderr what evaluators wait for, once a minute, besides what `show` shows."""

    def __init__(self, show: Callable[[CampaignStatus], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show, self._clock = show, clock
        self._said: float | None = None

    def __call__(self, status: CampaignStatus) -> None:
        now = self._clock()
        if status.outage and not status.gave_up and (self._said is None or now - self._said >= SAY_EVERY_S):
            self._said = now
            sys.stderr.write(
                f"{status.outage} Trying again, for {PATIENCE_S / 60:.0f} minutes in all; then the campaign pauses.\n"
            )
        self._show(status)


class _PlainProgress:
    """For logs: one line when the phase or stage changes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, status: CampaignStatus) -> None:
        title = _title(status)
        if title != self._last:
            self._last = title
            sys.stderr.write(f"{title}: {status.candidates} candidates, {_items(status)} {_note(status)}\n")


def _items(status: CampaignStatus) -> str:
    """Of selection and holdout it is known how many there will be; a line is written when they begin."""
    known = status.phase in ("selection", "holdout")
    return f"{status.items_done} of {status.items_total} items" if known else f"{status.items_done} items"


def _title(status: CampaignStatus) -> str:
    return f"{status.phase} · {status.stage}" if status.stage else status.phase


def _note(status: CampaignStatus) -> str:
    parts = []
    if status.best_score is not None:
        parts.append(f"best {status.best_score:.3f}")
    if status.items_per_s:
        parts.append(f"{status.items_per_s:.0f} items/s")
    if status.seconds_left is not None:
        parts.append(f"{human_seconds(status.seconds_left)} left")
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.note:
        parts.append(status.note)
    return " · ".join(parts)


def quiet_libraries() -> None:
    """Libraries that print bars and warnings of their own on every load: errors only."""
    import logging
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("transformers", "lm_eval", "datasets", "optuna"):
        logging.getLogger(name).setLevel(logging.ERROR)
