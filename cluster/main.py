"""The `mergefleet` command: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.ending import end
from cluster.expand import expanded
from cluster.flags import Begin, How, Look, Run, Talk
from engine.errors import InputError, MergefleetError


class _Commands(TyperGroup):
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """As typer does it, but neither ctrl-C nor a broken connection is made a silent exit code: they reach `run`.

        A broken pipe is none of stdout's or stderr's (cluster/streams.py), for which typer takes every one.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise typer.Abort(*interruption.args) from interruption
        except BrokenPipeError as failure:
            raise MergefleetError(
                "a connection was closed by the other side (broken pipe). What is finished is kept: run the command "
                "again, a search with --resume."
            ) from failure


app = typer.Typer(
    cls=_Commands,
    name="mergefleet",
    help="Search for the best merge of a family of language models, and publish the winner with proof.",
    epilog="Exit codes: 0 ok, 1 failed (also: plan --scan found NaN or Inf), 2 bad input, 3 refused, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),  # --trust_remote_code
    },
)

Json = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Address = Annotated[str | None, typer.Option(help="local | auto | HOST:PORT: run on Ray; default in this process.")]
RunDir = Annotated[Path | None, typer.Option(help="Directory of the run; default runs/NAME.")]
_WORKERS = "Ray workers in all; default one per node, or as many evaluators as fit."
Workers = Annotated[int | None, typer.Option(min=1, help=_WORKERS)]
RunOrCampaign = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, or its campaign YAML file.")]
RecipeFile = Annotated[Path, typer.Argument(help="A mergekit-compatible YAML file.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mergefleet {version('mergefleet')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    pass


@app.command()
@expanded
def merge(
    recipe: RecipeFile,
    out: Annotated[str, typer.Argument(help="The directory to make, or s3://, gs:// or az://BUCKET/PREFIX.")],
    how: How,
    run: Run,
    talk: Talk,
) -> None:
    """Merge RECIPE into OUT. OUT appears whole or not at all; the same command resumes an interrupted run."""
    from cluster import merge_command

    merge_command.merge(recipe, out, how=how, run=run, talk=talk)


@app.command()
@expanded
def plan(
    recipe: RecipeFile,
    how: How,
    look: Look,
    talk: Talk,
    out: Annotated[str | None, typer.Argument(help="As for merge: is it free, and which stages are there?")] = None,
) -> None:
    """Say what a merge of RECIPE would do, from the headers alone; with --scan look for NaN and Inf too."""
    from cluster import merge_command

    if merge_command.plan(recipe, out, how=how, look=look, talk=talk):
        raise typer.Exit(1)


@app.command()
def clean(
    out: Annotated[str, typer.Argument(help="The output of a run that died, a directory or a URL.")],
    json: Json = False,
) -> None:
    """Remove what a dead run left beside OUT and in OUT.stages, or at a URL (never OUT itself, no finished stage)."""
    from cluster import cleaning

    cleaning.clean(out, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine has, and what would fail on it."""
    from cluster import doctor as examination

    checks = examination.examine()
    if json:
        from cluster import output

        output.print_json({"checks": [vars(check) for check in checks]})
    else:
        examination.print_checks(checks)
    if any(check.status == "fails" for check in checks):
        raise typer.Exit(1)


@app.command()
@expanded
def search(
    campaign: Annotated[Path, typer.Argument(help="A campaign YAML file.")],
    begin: Begin,
    run_dir: RunDir = None,
    address: Address = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a CAMPAIGN: search, select, judge on the holdout, publish the winner. Ctrl-C pauses, --resume continues."""
    from cluster import campaign_command, search_command

    _check_workers(address, workers)
    if begin.plan:
        campaign_command.plan(campaign, run_dir=run_dir, as_json=json)
        return
    campaign, run_dir, resume = campaign_command.begin(campaign, begin, run_dir=run_dir)
    outcome = search_command.run(
        campaign,
        run_dir=run_dir,
        resume=resume,
        allow_public_test_sets=begin.allow_public_test_sets,
        address=address,
        workers=workers,
        quiet=quiet or json,
    )
    search_command.print_outcome(outcome, as_json=json)
    search_command.fail_unpublished(outcome)
    if outcome.verdict is None:
        raise typer.Exit(130)


@app.command()
def genome(
    genome: Annotated[Path, typer.Argument(help="A genome file of mergekit-evolve.")],
    campaign: Annotated[Path | None, typer.Argument(help="The campaign file to write; default: print it.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Of the models; default: as the first model has.")] = None,
) -> None:
    """Make a campaign file of mergekit-evolve's GENOME; comments say what cannot be kept."""
    from cluster import genome_command

    genome_command.run(genome, campaign, layers=layers)


@app.command()
def report(
    campaign: RunOrCampaign,
    run_dir: RunDir = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the page; default in the run's directory.")] = None,
    json: Json = False,
) -> None:
    """Show how a campaign stands or ended, and write its report as one HTML page."""
    from cluster import search_command

    search_command.report(campaign, run_dir=run_dir, html=html, as_json=json)


@app.command()
def publish(
    run: RunOrCampaign,
    to: Annotated[
        str | None,
        typer.Option(help="A directory, hub:ORG/NAME[@BRANCH], or s3://…; default: as the campaign has it."),
    ] = None,
    candidate: Annotated[int | None, typer.Option(help="Another candidate than the winner, by its number.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Even if it is not shown to win; the card says so.")] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore/--no-rescore", help="Score sentinel items from the finished files.")
    ] = True,
    public: Annotated[bool, typer.Option("--public", help="A new Hub repository is seen by all.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch of the Hub repository, made if need be.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit on the Hub.")] = None,
    license: Annotated[str | None, typer.Option(help="Instead of what follows from the parents' licences.")] = None,
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Publish the winner of RUN, a run's directory or its campaign file: the bits that were scored, with proof."""
    from cluster import publish_command

    wishes = publish_command.Wishes(
        to=to,
        candidate=candidate,
        anyway=anyway,
        rescore=rescore,
        public=public,
        revision=revision,
        message=message,
        license=license,
    )
    publish_command.publish(run, wishes, run_dir=run_dir, as_json=json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model's directory, or ORG/NAME[@REVISION] on the Hub.")],
    suite: Annotated[Path, typer.Option(help="A campaign YAML file, or its tasks alone: whose items are asked.")],
    split: Annotated[str, typer.Option(help="search, selection, or holdout (the run's ledger tells).")] = "selection",
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Score a MODEL on the items of a campaign, loaded as its users load it: means with 95 % intervals."""
    from cluster import publish_command

    publish_command.evaluate(model, suite, split=split, run_dir=run_dir, as_json=json)


@app.command()
def reproduce(
    published: Annotated[str, typer.Argument(help="A published model: its directory, its card, or hub:ORG/NAME.")],
    sources: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH ...: where models are that the publisher had on a disk.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="NAME=PATH ...", help="The rest of --sources.")] = None,
    to: Annotated[Path | None, typer.Option(help="Keep what is merged, if it is equal, in this directory.")] = None,
    json: Json = False,
) -> None:
    """Merge a published model again from what its provenance says, and compare every tensor and file by digest."""
    from cluster import publish_command

    if not publish_command.reproduce(published, [*(sources or []), *(more or [])], to=to, as_json=json):
        raise typer.Exit(1)


@app.command()
def stop(
    campaign: Annotated[Path, typer.Argument(help="The campaign YAML file of a run.")],
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """End the search of a CAMPAIGN now; selection, holdout and verdict follow. (To pause instead: ctrl-C.)"""
    from cluster import campaign_command

    campaign_command.stop(campaign, run_dir=run_dir, as_json=json)


@app.command()
def migrate(
    store: Annotated[str, typer.Argument(help="A campaign store: an SQLite file, or a URL of a database.")],
    json: Json = False,
) -> None:
    """Bring a campaign STORE made by an older mergefleet to this version's tables; a copy of a file is kept."""
    from cluster import campaign_command

    campaign_command.migrate(store, as_json=json)


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Argument(help="Where the demo works; default runs/demo, or the next free runs/demo-N.")
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="All sources identical: there must be no winner.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a demo that was interrupted.")] = False,
    address: Address = None,
    workers: Workers = None,
    family: Annotated[Path | None, typer.Option(help="Another family made by configs/demo/family.py.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """A real campaign on a tiny family of models: from three specialists to a published winner, with proof."""
    from cluster import demo as demonstration

    demonstration.run(
        directory,
        demonstration.Choices(
            null=null, resume=resume, address=address, workers=workers, family=family, quiet=quiet or json
        ),
        as_json=json,
    )


def _later(name: str, advice: str) -> None:
    """A command that has its name already, so that whoever types it learns more than that it does not exist."""

    @app.command(name, hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def later() -> None:
        raise InputError(f"{name}: is not there yet. {advice}")


_later("legacy", "The first mergekit's flags say what a recipe says: write one for `mergefleet merge`.")
_later("assemble", "Write the slices as a passthrough recipe for `mergefleet merge`.")
_later("moe", "Use mergekit-moe.")
_later("soup", "`mergefleet search` finds weights; a uniform soup is a linear recipe for `mergefleet merge`.")


def _check_workers(address: str | None, workers: int | None) -> None:
    if workers is not None and address is None:
        raise InputError("--workers: is for a run on Ray; give --address local, auto or HOST:PORT too.")


def _start_lightly() -> None:
    """Two habits of start-up that cost more CPU-seconds than all of a small merge's own work."""
    gc.set_threshold(500_000, 20, 50)  # what imports make stays: looking for garbage among it again and again, 0.15
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts a spinning thread per core for it, 0.05 each


def run() -> None:
    """Parse and do; what goes wrong ends as `cluster.ending` says."""
    _start_lightly()
    try:
        code = app(standalone_mode=False)
    except Exception as error:  # noqa: BLE001  the outermost frame; what is unforeseen is raised again
        gc.freeze()  # as below: 2 CPU-s after a search that failed, whose last word was long said
        end(error)
    gc.freeze()  # the interpreter's end looks for garbage once more: 0.06 CPU-s among modules that go anyway
    sys.exit(code if isinstance(code, int) else 0)
