"""The backends of a merge as functions of one shape, and recipes over the torture family to compare them on.

Run as a program it is a merge that kills its own process: `python backends.py JOB.json`, see `run_until_killed`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.merge_job import merge_on_ray
from cluster.merge_status import Watch
from cluster.placement import Request
from engine import MergeResult, Options, Recipe, ShardSize, merge, parse_recipe, recipe_to_dict
from engine.methods import METHODS

MIB = 1 << 20
Progress = Callable[[int, int], None]
Backend = Callable[..., MergeResult]
"""(recipe, out, options, progress=None) → MergeResult"""


def inline(recipe: Recipe, out: Path, options: Options, progress: Progress | None = None) -> MergeResult:
    return merge(recipe, out, options=options, progress=progress)


def on_ray(address: str, *, workers: int = 2) -> Backend:
    """The Ray backend with small workers; it never asks for a whole processor, so that tests can share one Ray."""

    def run(
        recipe: Recipe, out: Path, options: Options, progress: Progress | None = None, watch: Watch | None = None
    ) -> MergeResult:
        request = Request(workers, cpus=0.5)
        return merge_on_ray(
            recipe, out, options=options, address=address, request=request, progress=progress, watch=watch
        )

    return run


def recipe_of(method: str, models: tuple[Path, ...], **top: Any) -> Recipe:
    """A recipe for `method` over (base, first, second), with everything that makes bits differ when done wrong."""
    base, *sources = (str(model) for model in models)
    row = METHODS[method]
    low, high = row.models
    if row.base == "ignored" and (high is None or high > 2):
        sources.insert(0, base)
    values = {"weight": 0.5, "density": 0.37, "t": [0.3, 0.6]}
    given = {
        scope: {name: values[name] for name, p in row.parameters.items() if p.scope == scope and name in values}
        for scope in ("model", "global")
    }
    listed = [{"model": source, "parameters": dict(given["model"])} for source in sources[: high or max(low, 3)]]
    if "weight" in given["model"]:
        listed[-1]["parameters"]["weight"] = [0.2, 0.9]
    if row.importance:
        listed = [{**source, "importance": source["model"]} for source in listed]
    data: dict[str, Any] = {"models": listed, "parameters": given["global"]}
    if row.base == "required":
        data["base_model"] = base
    return parse_recipe({"merge_method": method, **data, **top})


def bytes_of(out: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.safetensors")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def run_until_killed(recipe: Recipe, out: Path, options: Options, address: str | None) -> None:
    """Merge in a process of its own, inline or on the Ray at `address`, that is killed (-9) once a third is written."""
    work = {"recipe": recipe_to_dict(recipe), "out": str(out), "options": asdict(options), "address": address}
    out.parent.mkdir(parents=True, exist_ok=True)
    description = out.with_name(out.name + ".json")
    description.write_text(json.dumps(work))
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, __file__, str(description)],
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr


def _merge_and_die(description: Path) -> None:
    work = json.loads(description.read_text())
    backend = inline if work["address"] is None else on_ray(work["address"])

    def progress(done: int, total: int) -> None:
        if 3 * done > total:
            os.kill(os.getpid(), signal.SIGKILL)

    size = work["options"]["shard_size"]
    options = work["options"] | {"shard_size": size and ShardSize(**size)}
    backend(parse_recipe(work["recipe"]), Path(work["out"]), Options(**options), progress)


if __name__ == "__main__":
    _merge_and_die(Path(sys.argv[1]))
