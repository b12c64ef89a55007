"""Merges of the real command that are to be disturbed, and what an undisturbed one makes of the same recipe."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from backends import bytes_of, inline
from fault_places import Storage

from cluster.queues import Queues
from cluster.sharding import file_units, units
from engine import Options, load_recipe, make_plan, open_checkpoints

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from cluster.entry import run; run()")
TILE_BYTES = 1 << 20
WORKERS = 2
RECIPES = {
    "linear": "models: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{weight: 0.5}}",
    "slerp": "base_model: {base}\nmodels: [{{model: {base}}}, {{model: {one}}}]\nparameters: {{t: 0.3}}",
    "sce": "base_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{select_topk: 0.3}}",
    **dict.fromkeys(
        ("ties", "dare_ties", "della"),
        "base_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{weight: 0.5, density: 0.4}}",
    ),
}
"""One method of every kind: no facts, sums, variances, histograms, masks, ranks."""


@dataclass(frozen=True)
class Case:
    """A merge that is disturbed, and what an undisturbed one makes of the same recipe."""

    method: str
    recipe: Path
    flags: tuple[str, ...]
    expected: str
    tiles: int
    in_flight: int


def case_of(method: str, storage: Storage, place: Path) -> Case:
    """The recipe of RECIPES over the models there; their copies are merged undisturbed in this process."""
    recipe, copy = (_write(method, models, place) for models in (storage.models, storage.copies))
    options = Options(threads=2, tile_bytes=TILE_BYTES, shard_size=storage.shard_size)
    result = inline(load_recipe(copy), place / method, options)
    expected = bytes_of(result.out)
    shutil.rmtree(result.out)
    flags = ("--tile-size", str(TILE_BYTES), "--out-shard-size", str(storage.shard_size.limit))
    in_flight = _in_flight(copy, options, whole_files=bool(storage.endpoint))
    return Case(method, recipe, flags, expected, result.tiles, in_flight)


def merge_command(case: Case, out: str, *more: str, address: str) -> list[str]:
    """The command line of the merge on a Ray, with a worker for each of the nodes."""
    flags = ["--address", address, "--workers", str(WORKERS), "--quiet", *case.flags, *more]
    return [*COMMAND, "merge", str(case.recipe), out, *flags]


def _write(method: str, models: tuple[Path, ...] | tuple[str, ...], place: Path) -> Path:
    base, one, two = models
    recipe = place / f"{method}-{'copies' if isinstance(base, Path) else 'models'}.yml"
    recipe.write_text(f"merge_method: {method}\n{RECIPES[method].format(base=base, one=one, two=two)}\n")
    return recipe


def _in_flight(recipe: Path, options: Options, *, whole_files: bool) -> int:
    """The most tiles that all workers, of a thread each, can have in hand at a time."""
    loaded = load_recipe(recipe)
    plan = make_plan(loaded, open_checkpoints(loaded.opened), options)
    work = file_units(plan) if whole_files else units(plan)
    queues, largest = Queues(work, [1] * WORKERS), 0
    while (chunk := queues.take(0)) is not None:
        largest = max(largest, len(chunk.tiles))
    return WORKERS * largest
