"""A merge from recipe to published directory: prepare, execute, publish; resumable at every step in between."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import card, digest
from engine.checkpoint import Checkpoint, open_checkpoints
from engine.errors import OutputDamaged, PlanError
from engine.execute import Executed, Hooks, Work, check_memory, execute
from engine.methods import METHODS
from engine.methods.contract import Array, Facts
from engine.open_files import allow_open_files
from engine.plan import SHARD_BYTES, TILE_BYTES, Plan, Tile
from engine.planner import make_plan
from engine.publish import Staging, refuse_existing, refuse_inside, require_space
from engine.recipe import ModelRef, Recipe
from engine.recipe_check import check_parameters
from engine.recipe_reader import load_recipe
from engine.recipe_writer import recipe_to_dict
from engine.sinks import FileSink
from engine.tensorfile.header import ITEMSIZE
from engine.tensorfile.index import INDEX_NAME, build_index
from engine.tokenizer import copy_tokenizer
from engine.worker import Arithmetic

PROVENANCE = "provenance.json"
RECIPE = "recipe.json"
Progress = Callable[[int, int], None]
"""(bytes written so far, bytes to write) after every tile."""


@dataclass(frozen=True)
class Options:
    """How to merge; nothing here changes a published byte, but `shard_bytes`, which cuts the files.

    Attributes:
        threads: 0 for all processors.
        memory_bytes: what is in flight in this process; default a quarter of the machine's (or container's) memory.
        arithmetic: "definition" for the torch definitions (slow; the oracle).
        allow_nonfinite: publish NaN and Inf, if there are any.
        allow_unknown: let unknown parameters pass.
        content_digests: read all sources once more for the canonical recipe hash, and keep it in the provenance.
        scores: a table for the card.
        extra: what else belongs into provenance.json (a campaign's verdict, say).
        expected_weights: publish nothing unless the weights have this digest (those that were scored).
    """

    threads: int = 0
    memory_bytes: int = 0
    tile_bytes: int = TILE_BYTES
    shard_bytes: int = SHARD_BYTES
    arithmetic: Arithmetic = "kernel"
    allow_nonfinite: bool = False
    allow_unknown: bool = False
    content_digests: bool = False
    scores: card.ScoreTable | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    expected_weights: str | None = None

    def work(self, **more: Any) -> Work:
        memory = self.memory_bytes or default_memory()
        return Work(
            threads=self.threads,
            memory_bytes=memory,
            arithmetic=self.arithmetic,
            allow_nonfinite=self.allow_nonfinite,
            **more,
        )


@dataclass(frozen=True)
class MergeResult:
    """A published merge: where, its digests, and how many tiles an earlier run had finished."""

    out: Path
    weights_digest: str
    plan_digest: str
    tiles: int
    resumed_tiles: int
    bytes_written: int
    nonfinite: Mapping[tuple[str, str], int]


def merge(
    recipe: Recipe | str | Path, out: str | Path, *, options: Options | None = None, progress: Progress | None = None
) -> MergeResult:
    """Merge `recipe` (a Recipe or a YAML file) into the directory `out`, in this process.

    `out` appears whole or not at all. A run that was interrupted leaves `out`.partial and resumes when called again.

    Raises:
        InputError: the recipe, a source or their combination cannot work; nothing was written.
        OutputExists, InputsChanged, Busy: see `engine.publish`.
        NotFinite: a source holds NaN or Inf; nothing is published.
    """
    options = options or Options()
    job = Job.prepare(recipe, Path(out), options)
    with job:
        executed = execute(
            job.plan,
            job.checkpoints,
            job.sink,
            work=options.work(done=job.done, facts=job.facts),
            hooks=job.hooks(progress),
        )
        return job.publish(executed)


class Job:
    """One output in the making: plan, staging directory, what is done already. Every backend runs one of these."""

    def __init__(
        self, recipe: Recipe, plan: Plan, checkpoints: dict[ModelRef, Checkpoint], staging: Staging, options: Options
    ) -> None:
        self.recipe = recipe
        self.plan = plan
        self.checkpoints = checkpoints
        self.staging = staging
        self.options = options
        self.sink = FileSink(plan, staging.directory)
        self.done, self.facts = _resume(plan, staging)
        self.resumed_tiles = len(self.done)

    @classmethod
    def prepare(cls, recipe: Recipe | str | Path, out: Path, options: Options) -> Job:
        """Load, open, plan, check: everything that can fail before the first byte is written."""
        refuse_existing(out)
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        check_parameters(loaded, METHODS, allow_unknown=options.allow_unknown)  # before anything is downloaded
        checkpoints = open_checkpoints(loaded.models)
        plan = make_plan(
            loaded,
            checkpoints,
            tile_bytes=options.tile_bytes,
            shard_bytes=options.shard_bytes,
            allow_unknown=options.allow_unknown,
        )
        refuse_inside(out, [checkpoint.directory for checkpoint in checkpoints.values()])
        require_space(out, plan.bytes_written)
        check_memory(plan, options.work())
        allow_open_files(plan, checkpoints.values())
        _check_chat_template(loaded)
        staging = Staging.open(out, plan.digest, plan.describe)
        try:
            return cls(loaded, plan, checkpoints, staging, options)
        except BaseException:  # a full disk: another try must not find our own lock
            staging.close()
            raise

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
        return Hooks(on_tile, self.record_facts)

    def record(self, tile: Tile, blocks: list[bytes]) -> None:
        """Journal a finished tile by place, so that another tile size can resume it."""
        name = self.plan.tensors[tile.tensor].name
        joined = base64.b64encode(b"".join(blocks)).decode()
        self.staging.journal.append({"tensor": name, "first": tile.first, "blocks": joined})

    def record_facts(self, index: int, facts: Facts) -> None:
        """Journal a tensor's facts: whoever resumes must not compute an angle on another machine's libm."""
        if all(np.isfinite(value).all() for value in facts.values()):
            values = {name: _packed(value) for name, value in facts.items()}
            self.staging.journal.append({"facts": self.plan.tensors[index].name, "values": values})

    def publish(self, executed: Executed) -> MergeResult:
        """Write what goes beside the tensors, then make all of it visible with one rename."""
        for checkpoint in self.checkpoints.values():
            checkpoint.refuse_changed()
        tensors = executed.tensor_digests(self.plan)
        weights = digest.of_weights(tensors)
        wanted = self.options.expected_weights
        if wanted is not None and weights != wanted:
            raise OutputDamaged(
                f"{self.staging.out}: the merged weights are {weights[:16]}, those that were scored are {wanted[:16]}: "
                "nothing is published. A source has changed since, or this machine computes something else."
            )
        directory = self.staging.directory
        if len(self.plan.files) > 1:
            weight_map = {tensor.name: self.plan.files[tensor.file].name for tensor in self.plan.tensors}
            (directory / INDEX_NAME).write_text(build_index(weight_map, self.plan.total_size), encoding="utf-8")
        _write_json(directory / "config.json", self.plan.config)
        copy_tokenizer(self.checkpoints[self.plan.tokenizer].directory, directory)
        if self.recipe.chat_template:
            (directory / "chat_template.jinja").write_text(self.recipe.chat_template, encoding="utf-8")
        provenance = self._provenance(weights, tensors)
        _write_json(directory / PROVENANCE, provenance)
        _write_json(directory / RECIPE, recipe_to_dict(self.recipe))
        (directory / "README.md").write_text(card.model_card(self._card(weights)), encoding="utf-8")
        out = self.staging.publish()
        return MergeResult(
            out=out,
            weights_digest=weights,
            plan_digest=self.plan.digest,
            tiles=len(self.plan.tiles),
            resumed_tiles=self.resumed_tiles,
            bytes_written=self.plan.bytes_written,
            nonfinite=executed.nonfinite,
        )

    def _provenance(self, weights: str, tensors: Mapping[str, str]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "mergefleet": version(),
            "recipe": recipe_to_dict(self.recipe),
            "seed": self.recipe.seed,
            "sources": [
                {
                    "model": str(ref),
                    "source_id": self.recipe.source_ids[ref],
                    "identity": dict(self.checkpoints[ref].identity),
                }
                for ref in self.plan.sources
            ],
            "left_out": {model: list(names) for model, names in self.plan.left_out.items()},
            "plan": self.plan.digest,
            "weights": weights,
            "tensors": dict(tensors),
        }
        if self.options.content_digests:
            facts["recipe_hash"] = digest.recipe_hash(self.plan, self.checkpoints)
        return {**facts, **self.options.extra}

    def _card(self, weights: str) -> card.CardFacts:
        import yaml

        sources = []
        for ref in self.plan.sources:
            identity = self.checkpoints[ref].identity
            commit = identity.get("commit")
            short = "" if commit else digest.of_json(identity)[:16]
            sources.append(card.SourceFacts(str(ref), commit, short))
        return card.CardFacts(
            name=self.staging.out.name,
            method=self.recipe.method,
            recipe_yaml=yaml.safe_dump(recipe_to_dict(self.recipe), sort_keys=False),
            sources=sources,
            version=version(),
            dtype=self.recipe.out_dtype or self.recipe.dtype,
            digests={"weights": weights, "plan": self.plan.digest},
            scores=self.options.scores,
        )

    def close(self) -> None:
        self.sink.close()
        self.staging.close()
        for checkpoint in self.checkpoints.values():
            checkpoint.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _resume(plan: Plan, staging: Staging) -> tuple[dict[int, list[bytes]], dict[int, Facts]]:
    """Tiles whose journalled digests are those of the bytes on disk, and journalled facts."""
    index = {tensor.name: number for number, tensor in enumerate(plan.tensors)}
    facts: dict[int, Facts] = {}
    blocks: dict[tuple[int, int], bytes] = {}
    for record in staging.journal.records:
        if "facts" in record:
            values = record["values"]
            facts[index[record["facts"]]] = {name: _unpacked(*value) for name, value in values.items()}
            continue
        joined = base64.b64decode(record["blocks"])
        for place in range(len(joined) // digest.BLOCK_DIGEST_BYTES):
            piece = joined[place * digest.BLOCK_DIGEST_BYTES : (place + 1) * digest.BLOCK_DIGEST_BYTES]
            blocks[index[record["tensor"]], record["first"] + place] = piece
    done = {}
    for tile in plan.tiles:
        keys = [(tile.tensor, number) for number in range(tile.first, tile.first + tile.count)]
        if keys and all(key in blocks for key in keys) and _verified(plan, staging.directory, tile, blocks):
            done[tile.number] = [blocks[key] for key in keys]
    return done, facts


def _packed(array: Array) -> list[Any]:
    """An array as JSON: dtype, shape, base64 of its bytes (facts may have a number per row of a tensor)."""
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def _unpacked(dtype: str, shape: list[int], data: str) -> Array:
    """The array of `_packed`."""
    array: Array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
    return array


def _verified(plan: Plan, directory: Path, tile: Tile, blocks: Mapping[tuple[int, int], bytes]) -> bool:
    """Whether the file still holds what the journal says: a power failure may have lost pages (6 GB/s per core)."""
    tensor = plan.tensors[tile.tensor]
    size = ITEMSIZE[tensor.dtype]
    with (directory / plan.files[tensor.file].name).open("rb") as file:
        for number in range(tile.first, tile.first + tile.count):
            elements = min(tensor.block, tensor.elements - number * tensor.block)
            file.seek(tensor.offset + number * tensor.block * size)
            if digest.of_block(memoryview(file.read(elements * size))) != blocks[tile.tensor, number]:
                return False
    return True


def _tile_bytes(plan: Plan, tile: Tile) -> int:
    tensor = plan.tensors[tile.tensor]
    first = tile.first * tensor.block
    return max(0, min(tile.count * tensor.block, tensor.elements - first)) * ITEMSIZE[tensor.dtype]


def _check_chat_template(recipe: Recipe) -> None:
    if recipe.chat_template and "{" not in recipe.chat_template:
        raise PlanError(
            f"{recipe.origin}: chat_template: {recipe.chat_template!r} is not supported yet; give the template itself "
            "(Jinja text), or leave the key out to keep the tokenizer's own."
        )


def default_memory() -> int:
    """A quarter of this machine's memory, or of the container's limit where that is lower; bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits) // 4


def version() -> str:
    """The installed version, or "unknown" when run from a tree that is not installed."""
    try:
        return importlib.metadata.version("mergefleet")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n", encoding="utf-8")
