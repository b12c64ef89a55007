"""Merge a recipe, or the stages of one: plan everything, then make what is missing, one published directory each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.errors import InputError, InputsChanged, NotFinite
from engine.execution.execute import Executed, check_memory, execute
from engine.outputs.job import Job, MergeResult, Progress, StageResult, work_of
from engine.outputs.output import refuse_existing
from engine.outputs.publish import clean, require_space
from engine.planning.options import Options
from engine.planning.stage_plans import PlannedStage, StagePlans, stage_options
from engine.recipes.recipe import Recipe
from engine.recipes.stages import Stages, stages_directory
from engine.remote.url import Url, parse_place

Backend = Callable[[Job, Progress | None], Executed]
"""Makes the tiles that a prepared job still lacks: here, or on Ray."""
_LOG = logging.getLogger(__name__)


def merge(
    recipe: Recipe | Stages | str | Path,
    out: str | Path,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge `recipe` (a Recipe, or a YAML file of one or several) into the directory or URL `out`, in this process.

    `out` appears whole or not at all. A run that was interrupted leaves `out`.partial and resumes when called again.
    Of several recipes (stages) only those are made whose output is not there yet or would be another one now.

    Raises:
        InputError: the recipe, a source or their combination cannot work; nothing was written.
        OutputExists, InputsChanged, Busy: see `engine.outputs.publish`.
        NotFinite: a source holds NaN or Inf; nothing is published.
    """
    return merge_with(run_here, recipe, out, options=options or Options(), progress=progress)


def run_here(job: Job, progress: Progress | None = None) -> Executed:
    """The backend of this process."""
    if isinstance(job.output.out, Url):
        from engine.remote.streams import stream_here

        return stream_here(job, progress)
    return execute(job.plan, job.checkpoints, job.sink, work=job.work(), hooks=job.hooks(progress))


def merge_with(
    backend: Backend,
    recipe: Recipe | Stages | str | Path,
    out: str | Path,
    *,
    options: Options,
    progress: Progress | None = None,
) -> MergeResult:
    """Like `merge`, with another backend."""
    stages, place = Stages.of(recipe), parse_place(out)
    if not stages.names:
        return _finish(backend, Job.prepare(stages.parts[0].recipe, place, options), progress)
    refuse_existing(place)
    directory = _stages_directory(options, place)
    planned = StagePlans(stages, directory, options)
    planned.close()
    for part in planned.parts:
        check_memory(part.plan, work_of(options))
    on_disk = [part for part in planned.parts if part.directory is not None or isinstance(place, Path)]
    disk = place if isinstance(place, Path) else directory
    require_space(disk, sum(part.plan.bytes_written for part in on_disk if not part.current))
    directory.mkdir(exist_ok=True)
    return _Staged(backend, options, progress).make(planned.parts, place)


def _stages_directory(options: Options, out: Path | Url) -> Path:
    """InputError where stages could not be made there, or what they are for not at `out`."""
    if isinstance(out, Url):
        if options.intermediate_dir is None:
            raise InputError(f"{out}: the stages of this recipe need a place on a disk: give --intermediate-dir.")
        directory, parents = options.intermediate_dir, [options.intermediate_dir.parent]
    else:
        directory = options.intermediate_dir or stages_directory(out)
        if directory.absolute().is_relative_to(out.absolute()):
            raise InputError(f"--intermediate-dir: {directory} lies in the output {out}. Name another.")
        parents = [directory.parent, out.expanduser().parent]
    for parent in parents:
        if not parent.is_dir():
            raise InputError(f"{parent}: there is no such directory. Make it: mkdir -p {parent}", path=str(parent))
    return directory


class _Staged:
    """Makes what is missing of planned stages, one after another."""

    def __init__(self, backend: Backend, options: Options, progress: Progress | None) -> None:
        self._backend = backend
        self._options = options
        self._progress = progress

    def make(self, parts: Sequence[PlannedStage], out: Path | Url) -> MergeResult:
        """Make the stages, then the last part into `out`."""
        total = sum(part.plan.total_size for part in parts)
        done = 0
        results: list[StageResult] = []
        for part in parts[:-1]:
            results.append(self._stage(part, self._shifted(done, total)))
            done += part.plan.total_size
        digests = {result.name: {"plan": result.plan_digest, "weights": result.weights_digest} for result in results}
        options = replace(self._options, extra={**self._options.extra, "stages": digests})
        job = Job.prepare(parts[-1].stage.recipe, out, options)
        return replace(_finish(self._backend, job, self._shifted(done, total)), stages=tuple(results))

    def _stage(self, part: PlannedStage, progress: Progress | None) -> StageResult:
        name, place = part.stage.name, part.directory
        assert name is not None
        assert place is not None
        if part.there is not None and part.current:
            clean(place)  # a run that was killed right after publishing left its empty .partial
            _LOG.info("stage %s: %s is what would be made", name, place)
            return StageResult(name, place, part.there.weights, part.plan.digest, made=False)
        _LOG.info("stage %s: making %s", name, place)
        options = stage_options(self._options, name)
        prepare = partial(Job.prepare, part.stage.recipe, place, options, replaces=part.there is not None)
        try:
            job = prepare()
        except InputsChanged:  # what another recipe or source began is of no use to this stage
            clean(place)
            job = prepare()
        made = _finish(self._backend, job, progress)
        return StageResult(name, place, made.weights_digest, made.plan_digest, made=True)

    def _shifted(self, before: int, total: int) -> Progress | None:
        progress = self._progress
        return None if progress is None else lambda done, _: progress(before + done, total)


def _finish(backend: Backend, job: Job, progress: Progress | None) -> MergeResult:
    """Make and publish a prepared job; bad input that shows only now leaves nothing behind."""
    try:
        with job:
            return job.publish(backend(job, progress))
    except InputError:
        if job.is_untouched:
            job.output.abandon()
        raise
    except NotFinite as error:
        out = job.output.out
        raise NotFinite(
            f"{error} What is finished stays in {job.output.left_in}: --allow-nan goes on from there, other sources or "
            f"another recipe need `mergefleet clean {out}` first.",
            **error.facts,
        ) from error
