"""One output in the making, from recipe to published directory: prepared, journalled, published; resumable."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine import audit, digest
from engine.device import choose_device
from engine.errors import MergefleetError, OutputDamaged, SourceError
from engine.execution.execute import Executed, Hooks, Work
from engine.execution.sinks import FileSink
from engine.methods import methods_for
from engine.methods.contract import Facts
from engine.models.checkpoint import Checkpoint, open_checkpoints
from engine.models.model_code import find_code
from engine.outputs import card
from engine.outputs.model_files import RECIPE, json_text, write_model_files, write_text
from engine.outputs.naming import is_private, named, public_names, renamed_text, with_models
from engine.outputs.output import (
    DirectoryOutput,
    Output,
    default_shard_size,
    open_output,
    refuse_existing,
    refuse_unfit,
)
from engine.outputs.publish import Staging
from engine.planning.beside import CARD, SMALL_FILES, digests_in
from engine.planning.made import PROVENANCE, made_from
from engine.planning.options import Options, default_memory
from engine.planning.plan import Plan, Tile
from engine.planning.planner import make_plan
from engine.recipes.check import check_parameters
from engine.recipes.reader import load_recipe
from engine.recipes.recipe import ModelRef, Recipe
from engine.recipes.writer import at_its_key, recipe_to_dict
from engine.remote.url import Url
from engine.tensorfile.header import ITEMSIZE
from engine.tensorfile.index import INDEX_NAME, build_index

RECIPE_AS_GIVEN = "mergekit_config.yml"  # mergekit's name for it
Progress = Callable[[int, int], None]
"""(bytes written so far, bytes to write) after every tile."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """A stage of a recipe in several parts: where it is, its digests, and whether this run made it."""

    name: str
    out: Path
    weights_digest: str
    plan_digest: str
    made: bool


@dataclass(frozen=True)
class MergeResult:
    """A published merge: where, its digests, what was warned of, how many tiles an earlier run had finished."""

    out: Path | Url
    weights_digest: str
    plan_digest: str
    tiles: int
    resumed_tiles: int
    bytes_written: int
    nonfinite: Mapping[tuple[str, str], int]
    warnings: tuple[str, ...] = ()
    stages: tuple[StageResult, ...] = ()


class Job:
    """One output in the making: plan, staging directory, what is done already. Every backend runs one of these."""

    def __init__(
        self, recipe: Recipe, plan: Plan, checkpoints: dict[ModelRef, Checkpoint], output: Output, options: Options
    ) -> None:
        self.recipe = recipe
        self.plan = plan
        self.checkpoints = checkpoints
        self.output = output
        self.options = options
        self.done, self.facts = output.finished()
        self.resumed_tiles = len(self.done)
        self._recorded = False
        for warning in plan.warnings:
            _LOG.warning(warning)
        _LOG.info(
            "%s: %d tensors from %d models, %d tiles (%d of them made by an earlier run), plan %s",
            *(
                output.out.name,
                len(plan.tensors),
                len(recipe.models),
                len(plan.tiles),
                len(self.done),
                plan.digest[:16],
            ),
        )

    @classmethod
    def prepare(
        cls, recipe: Recipe | str | Path, out: Path | Url, options: Options | None = None, *, replaces: bool = False
    ) -> Job:
        """Load, open, plan, check: everything that can fail before the first byte is written.

        `replaces`: what is at `out` is a stage that may be replaced (engine.planning.made).
        """
        if not replaces:
            refuse_existing(out)
        options = options or Options()
        options = replace(
            options, device=choose_device(options.device), shard_size=options.shard_size or default_shard_size(out)
        )
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        methods = methods_for(loaded.method, loaded.origin)
        check_parameters(loaded, methods, allow_unknown=options.allow_unknown)  # before anything is downloaded
        try:
            checkpoints = open_checkpoints(loaded.opened, stream=options.stream)
        except SourceError as error:
            raise at_its_key(error, loaded) from error
        plan = make_plan(loaded, checkpoints, options)
        refuse_unfit(out, plan, checkpoints, work_of(options))
        if options.carry_code and plan.config:
            find_code(checkpoints[plan.donor], checkpoints[plan.tokenizer])
        output = open_output(out, plan, replaces=replaces)
        try:
            return cls(loaded, plan, checkpoints, output, options)
        except BaseException:  # another try must not find our own lock
            output.close()
            raise

    @property
    def url(self) -> str | None:
        """Of an output that is a place in an object store."""
        return str(self.output.out) if isinstance(self.output.out, Url) else None

    @property
    def staging(self) -> Staging:
        """Of an output that is a directory."""
        return self._directory.staging

    @property
    def sink(self) -> FileSink:
        """Of an output that is a directory."""
        return self._directory.sink

    @property
    def _directory(self) -> DirectoryOutput:
        if not isinstance(self.output, DirectoryOutput):
            raise MergefleetError(f"{self.output.out}: is no directory.")
        return self.output

    def work(self) -> Work:
        """What is left to do, and with what."""
        return work_of(self.options, done=self.done, facts=self.facts)

    @property
    def is_untouched(self) -> bool:
        """Whether neither this run nor an earlier one has finished anything."""
        return not self.done and not self.facts and not self._recorded

    def hooks(self, progress: Progress | None = None) -> Hooks:
        """Journal every tile and every fact as it comes, and report progress."""
        sizes = {tile.number: _tile_bytes(self.plan, tile) for tile in self.plan.tiles}
        total = sum(sizes.values())
        written = [sum(sizes[number] for number in self.done)]

        def on_tile(tile: Tile, blocks: list[bytes]) -> None:
            self.record(tile, blocks)
            written[0] += sizes[tile.number]
            if progress:
                progress(written[0], total)

        if progress:
            progress(written[0], total)
        return Hooks(on_tile, self.record_facts, audit.recorder(self.options.audit, self.plan))

    def record(self, tile: Tile, blocks: list[bytes]) -> None:
        """Note a finished tile where a resumed run finds it."""
        name = self.plan.tensors[tile.tensor].name
        _LOG.debug("%s: %d blocks from block %d on are written", name, tile.count, tile.first)
        self._recorded = True
        self.output.record(tile, blocks)

    def record_facts(self, index: int, facts: Facts) -> None:
        """Note a tensor's facts, for whoever resumes."""
        if all(np.isfinite(value).all() for value in facts.values()):
            self.output.record_facts(index, facts)

    def publish(self, executed: Executed) -> MergeResult:
        """Write what goes beside the tensors, then make all of it visible with one rename."""
        for checkpoint in self.checkpoints.values():
            checkpoint.refuse_changed()
        tensors = executed.tensor_digests(self.plan)
        weights = digest.of_weights(tensors)
        wanted = self.options.expected_weights
        if wanted is not None and weights != wanted:
            raise OutputDamaged(
                f"{self.output.out}: the merged weights are {weights[:16]}, those that were scored are {wanted[:16]}: "
                "nothing is published. A source has changed since, or this machine computes something else."
            )
        self._write_small_files(weights, tensors)
        if self.options.inspect is not None:
            self.options.inspect(self.output.directory)
        out = self.output.publish(weights)
        return MergeResult(
            out=out,
            weights_digest=weights,
            plan_digest=self.plan.digest,
            tiles=len(self.plan.tiles),
            resumed_tiles=self.resumed_tiles,
            bytes_written=self.plan.bytes_written,
            nonfinite=executed.nonfinite,
            warnings=self.plan.warnings,
        )

    def _write_small_files(self, weights: str, tensors: Mapping[str, str]) -> None:
        """Everything beside the tensors."""
        directory, plan = self.output.directory, self.plan
        if len(plan.files) > 1:
            weight_map = {tensor.name: plan.files[tensor.file].name for tensor in plan.tensors}
            write_text(directory / INDEX_NAME, build_index(weight_map, plan.total_size))
        write_model_files(directory, self.recipe, plan, self.checkpoints, self.options)
        write_text(directory / RECIPE, json_text(recipe_to_dict(self._published_recipe)))
        if self.options.model_card:
            write_text(directory / CARD, card.model_card(self._card(weights)))
            write_text(directory / RECIPE_AS_GIVEN, _as_given(self._published_recipe))
        # last: see engine.planning.made
        write_text(directory / PROVENANCE, json_text(self._provenance(weights, tensors)))

    def _provenance(self, weights: str, tensors: Mapping[str, str]) -> dict[str, Any]:
        names = self.options.names or {}
        weight_files = [file.name for file in self.plan.files]
        facts: dict[str, Any] = {
            "mergefleet": version(),
            "recipe": recipe_to_dict(self._published_recipe),
            "seed": self.recipe.seed,
            "sources": [self._source(ref) for ref in self.recipe.models],
            "left_out": {names.get(model, model): list(left) for model, left in self.plan.left_out.items()},
            "plan": self.plan.digest,
            "made_from": made_from(self.recipe, self.plan, self.checkpoints, self.options),
            "weights": weights,
            "tensors": dict(tensors),
            "files": sorted({PROVENANCE, *(path.name for path in self.output.directory.iterdir()), *weight_files}),
            SMALL_FILES: digests_in(self.output.directory, but={PROVENANCE, *weight_files}),
        }
        importances = [ref for ref in self.recipe.opened if ref.statistics]
        if importances:
            facts["importance"] = {str(named(ref, names)): dict(self.checkpoints[ref].identity) for ref in importances}
        if self.options.content_digests:
            facts["recipe_hash"] = digest.recipe_hash(self.plan, self.checkpoints)
        return {**facts, **self.options.extra}

    @cached_property
    def _published_recipe(self) -> Recipe:
        """The recipe as others read it."""
        names = self.options.names
        return self.recipe if names is None else with_models(self.recipe, lambda ref: named(ref, names))

    def _source(self, ref: ModelRef) -> dict[str, Any]:
        """What provenance.json says of one: `path` is where it was, relative to the working directory, if so."""
        checkpoint, names = self.checkpoints[ref], self.options.names or {}
        facts: dict[str, Any] = {
            "model": str(named(ref, names)),
            "source_id": self.recipe.source_ids[ref],
            "identity": dict(checkpoint.identity),
        }
        facts |= {"path": ref.path} if ref.path in names and not is_private(ref.path) else {}
        return facts | ({"content": digest.of_contents(checkpoint)} if self.options.content_digests else {})

    def _card(self, weights: str) -> card.CardFacts:
        names = public_names(self.recipe, self.options.names)
        sources = []
        for ref in self.recipe.models:
            checkpoint = self.checkpoints[ref]
            content = digest.of_contents(checkpoint) if self.options.content_digests else None
            sources += card.source_facts(named(ref, names), checkpoint.identity, content)
        as_given = _as_given(self._published_recipe)
        return card.CardFacts(
            name=self.output.out.name,
            method=self.recipe.method,
            recipe_yaml=renamed_text(as_given, names),
            sources=sources,
            version=version(),
            dtype=self.recipe.out_dtype or self.recipe.dtype,
            digests={"weights": weights, "plan": self.plan.digest},
            extras=self.options.card or card.Extras(),
            library="transformers" if self.plan.config else None,
        )

    def close(self) -> None:
        self.output.close()
        for checkpoint in self.checkpoints.values():
            checkpoint.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def work_of(options: Options, **more: Any) -> Work:
    """What these options say about an execution."""
    return Work(
        threads=options.threads,
        memory_bytes=options.memory_bytes or default_memory(),
        arithmetic=options.arithmetic,
        device=choose_device(options.device),
        allow_nonfinite=options.allow_nonfinite,
        **more,
    )


def _as_given(recipe: Recipe) -> str:
    """The YAML that it was read from, or that says the same."""
    import yaml

    return recipe.text or yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)


def _tile_bytes(plan: Plan, tile: Tile) -> int:
    tensor = plan.tensors[tile.tensor]
    first = tile.first * tensor.block
    return max(0, min(tile.count * tensor.block, tensor.elements - first)) * ITEMSIZE[tensor.dtype]


def version() -> str:
    """The installed version, or "unknown" when run from a tree that is not installed."""
    try:
        return importlib.metadata.version("mergefleet")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
