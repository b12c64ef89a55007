"""One result whatever the tiles, threads, memory and arithmetic; NaN and Inf are named; a stopped run resumes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import bytes_of, recipe_of
from safetensors.numpy import load_file, save_file
from shared_families import excerpt, shared_family

from bench.torture import torture_family
from engine import Options, Recipe, make_plan, merge, open_checkpoints
from engine.errors import InputsChanged, MergefleetError, NotFinite, OutputExists, PlanError, SourceError
from engine.execution.execute import Hooks, execute
from engine.methods import METHODS
from engine.methods.contract import Facts
from engine.outputs.job import Job
from engine.tensorfile.header import read_header

MIB = 1 << 20


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    family = torture_family(tmp_path_factory.mktemp("torture"), mixed=True, giant=False)
    return family.models


@pytest.fixture(scope="module")
def few(torture: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """One tensor of each kind that the definitions could treat otherwise: torch takes ten times as long as kernels."""
    parts = ("0.self_attn.odd_rows", "1.self_attn.block_and_one", "0.mlp.up_proj", "norm", "scale", "gate", "ids")
    return excerpt(torture, tmp_path_factory.mktemp("few"), parts)


@pytest.fixture(scope="module")
def giant() -> tuple[Path, ...]:
    return shared_family("giant", giant=True).models


APART: dict[str, dict[str, bool]] = {
    "nuslerp by row": {"nuslerp_flatten": False},
    "nuslerp by column": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    "model_stock by row": {"filter_wise": True},
}
"""Settings with which a method's facts, or its blocks, are others than with its defaults."""


CUT = [name for name, method in sorted(METHODS.items()) if name not in ("tsvm", "iso_c", "core_space")]
"""Those that take matrices whole have a test of their own, on small ones (methods/test_spectral.py)."""


def apart(method: str, models: tuple[Path, ...]) -> Recipe:
    changes = {"parameters": APART[method], "base_model": str(models[0])} if method in APART else {}
    return recipe_of(method.split()[0], models, **changes)


@pytest.mark.parametrize("method", [*CUT, *APART])
def test_tiles_threads_and_memory_give_one_result(method: str, torture: tuple[Path, ...], tmp_path: Path) -> None:
    recipe = apart(method, torture)
    results = set()
    ways = [
        Options(threads=1, tile_bytes=1),
        Options(threads=2, tile_bytes=MIB, memory_bytes=64 * MIB),
        Options(threads=2, tile_bytes=7 * MIB),
        Options(threads=2, tile_bytes=MIB, memory_bytes=40 * MIB),
    ]
    least = make_plan(recipe, open_checkpoints(recipe.opened)).peak_bytes(2)
    for number, options in enumerate(ways):
        enough = replace(options, memory_bytes=options.memory_bytes and max(options.memory_bytes, least))
        result = merge(recipe, tmp_path / str(number), options=enough)
        results.add((bytes_of(result.out), result.weights_digest))
    assert len(results) == 1


@pytest.mark.parametrize("method", [*CUT, *APART])
def test_definitions_give_the_result_of_kernels(method: str, few: tuple[Path, ...], tmp_path: Path) -> None:
    recipe = apart(method, few)
    kernel = merge(recipe, tmp_path / "kernel", options=Options(threads=1, tile_bytes=MIB))
    definition = merge(recipe, tmp_path / "definition", options=Options(threads=2, arithmetic="definition"))
    assert bytes_of(kernel.out) == bytes_of(definition.out)
    assert kernel.weights_digest == definition.weights_digest


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp"])
def test_a_tensor_of_40_million_elements_is_cut_without_a_trace(
    method: str, giant: tuple[Path, ...], tmp_path: Path
) -> None:
    recipe = recipe_of(method, giant)
    results = set()
    # 40 MiB: streamed and measured by two threads together; 4 GiB: held by one; one thread: streamed alone
    for number, (memory, threads, tile) in enumerate([(40, 2, 1), (4096, 2, 64), (40, 1, 7)]):
        options = Options(threads=threads, tile_bytes=tile * MIB, memory_bytes=memory * MIB)
        results.add(bytes_of(merge(recipe, tmp_path / str(number), options=options).out))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_output_has_the_dtype_asked_for_and_counts_survive(dtype: str, few: tuple[Path, ...], tmp_path: Path) -> None:
    results = set()
    for arithmetic in ("kernel", "definition"):
        out = merge(
            recipe_of("ties", few, dtype=dtype), tmp_path / arithmetic, options=Options(arithmetic=arithmetic)
        ).out  # type: ignore[arg-type]
        results.add(bytes_of(out))
    assert len(results) == 1
    header = read_header(out / "model.safetensors")
    names = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
    floats = {tensor.dtype for tensor in header.tensors.values()} - {"I64", "BOOL"}
    assert floats == {names[dtype]}
    config = json.loads((out / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == dtype


def write(directory: Path, tensors: dict[str, np.ndarray]) -> Path:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    return directory


def small(directory: Path, **changed: np.ndarray) -> Path:
    generator = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": generator.normal(size=(40, 16)).astype(np.float32),
        "model.layers.0.mlp.up_proj.weight": generator.normal(size=(600, 601)).astype(np.float32),
        "model.norm.weight": np.ones(16, np.float32),
    }
    return write(directory, {**tensors, **changed})


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_named_and_nothing_is_published(method: str, value: float, tmp_path: Path) -> None:
    bad = np.ones((600, 601), np.float32)
    bad[3, 4], bad[599, 600] = value, -value
    models = [
        small(tmp_path / "base"),
        small(tmp_path / "bad", **{"model.layers.0.mlp.up_proj.weight": bad}),
        small(tmp_path / "c"),
    ]
    with pytest.raises(NotFinite) as caught:
        merge(recipe_of(method, tuple(models)), tmp_path / "out")
    message = caught.value.message
    assert "model.layers.0.mlp.up_proj.weight" in message
    assert str(tmp_path / "bad") in message
    assert " 2 NaN or Inf" in message
    assert not (tmp_path / "out").exists()
    result = merge(recipe_of(method, tuple(models)), tmp_path / "out", options=Options(allow_nonfinite=True))
    assert result.nonfinite[str(tmp_path / "bad"), "model.layers.0.mlp.up_proj.weight"] == 2


def test_an_inf_made_by_rounding_names_the_cast(tmp_path: Path) -> None:
    large = np.full((600, 601), 60_000, np.float32)
    models = [
        small(tmp_path / name, **{"model.layers.0.mlp.up_proj.weight": large * size})
        for name, size in [("b", 1), ("x", 1.05), ("y", 1.05)]
    ]
    with pytest.raises(NotFinite, match="result is too large for F16"):
        merge(
            recipe_of("task_arithmetic", tuple(models), dtype="float32", out_dtype="float16", parameters={"lambda": 5}),
            tmp_path / "out",
        )


@pytest.mark.parametrize(
    ("method", "changes"), [("linear", {"parameters": {"normalize": False}}), ("ties", {"parameters": {"lambda": 9}})]
)
def test_an_overflow_of_the_arithmetic_itself_is_not_published(
    method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    large = np.full((600, 601), 2e38, np.float32)
    models = [
        small(tmp_path / name, **{"model.layers.0.mlp.up_proj.weight": large * factor})
        for name, factor in [("b", 0.0), ("x", 1.7), ("y", 1.7)]
    ]
    recipe = recipe_of(method, tuple(models), **changes)
    for source in recipe.slices[0].sources:
        source.parameters["weight"] = 1.0  # type: ignore[index]
    with pytest.raises(NotFinite, match="merging finite values made"):
        merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_in_a_streamed_tensor_counts_once_however_many_passes_read_it(tmp_path: Path) -> None:
    bad = np.ones((600, 601), np.float32)
    bad[3, 4] = np.nan
    models = [
        small(tmp_path / "base"),
        small(tmp_path / "bad", **{"model.layers.0.mlp.up_proj.weight": bad}),
        small(tmp_path / "c"),
    ]
    options = Options(threads=1, memory_bytes=12 * MIB, allow_nonfinite=True)
    result = merge(recipe_of("ties", tuple(models)), tmp_path / "out", options=options)
    assert result.nonfinite == {(str(tmp_path / "bad"), "model.layers.0.mlp.up_proj.weight"): 1}


def test_the_facts_of_a_tensor_are_let_go_when_it_is_done(tmp_path: Path) -> None:
    models = tuple(small(tmp_path / name) for name in "bxy")
    recipe = recipe_of("model_stock", models, parameters={"filter_wise": True})
    alive: list[weakref.ref[Any]] = []
    with Job.prepare(recipe, tmp_path / "out", Options(threads=1)) as job:

        def on_facts(index: int, facts: Facts) -> None:
            assert not [array for array in (known() for known in alive) if array is not None]
            alive.extend(weakref.ref(array) for array in facts.values())

        execute(job.plan, job.checkpoints, job.sink, work=job.work(), hooks=Hooks(on_facts=on_facts))
    assert len(alive) == 3


def test_the_failure_that_is_raised_is_the_one_that_came_first(tmp_path: Path) -> None:
    models = tuple(small(tmp_path / name) for name in "bxy")
    failures = 0

    class Sink:
        def write(self, *block: object) -> None:
            nonlocal failures
            failures += 1
            raise MergefleetError(f"failure {failures}")

    with Job.prepare(recipe_of("linear", models), tmp_path / "out", Options(threads=1)) as job:
        for _ in range(20):
            failures = 0
            with pytest.raises(MergefleetError, match=r"failure 1$"):
                execute(job.plan, job.checkpoints, Sink(), work=job.work())


def test_a_run_that_fails_to_begin_lets_go_of_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("linear", [small(tmp_path / name) for name in "bxy"])

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(MergefleetError, match="Free some space and run the same command again"):
            merge(recipe, tmp_path / "out")
    assert merge(recipe, tmp_path / "out").out.is_dir()


def test_a_source_that_is_written_to_while_it_is_merged_is_found_out(tmp_path: Path) -> None:
    models = [small(tmp_path / name) for name in "bxy"]
    file = models[2] / "model.safetensors"

    def overwrite(written: int, total: int) -> None:
        if written == total:
            file.write_bytes(file.read_bytes())

    with pytest.raises(SourceError, match="was changed while it was merged"):
        merge(recipe_of("ties", tuple(models)), tmp_path / "out", progress=overwrite)
    assert not (tmp_path / "out").exists()


def test_integers_must_agree_between_models(tmp_path: Path) -> None:
    models = [small(tmp_path / n, **{"model.ids": np.arange(9) + k}) for n, k in [("b", 0), ("x", 0), ("y", 1)]]
    with pytest.raises(MergefleetError, match=r"'model.ids' \(I64\) differs between"):
        merge(recipe_of("ties", tuple(models)), tmp_path / "out")


def test_a_budget_that_cannot_hold_a_block_is_refused_with_the_figure_it_needs(
    torture: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=r"Give --memory \d+MiB"):
        merge(recipe_of("ties", torture), tmp_path / "out", options=Options(memory_bytes=1 << 16))
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_run_journalled_is_not_made_again(torture: tuple[Path, ...], tmp_path: Path) -> None:
    recipe = recipe_of("ties", torture)
    whole = merge(recipe, tmp_path / "whole", options=Options(threads=1))

    class Stop(Exception):
        pass

    made: list[int] = []
    options = Options(threads=1, tile_bytes=MIB)
    with Job.prepare(recipe, tmp_path / "out", options) as job:
        record = job.record

        def record_then_stop(tile: Any, blocks: list[bytes]) -> None:
            if len(made) == 7:  # from now on: the thread may begin another tile before it is told to stop
                raise Stop
            record(tile, blocks)
            made.append(tile.number)

        job.record = record_then_stop  # type: ignore[method-assign]
        with pytest.raises(Stop):
            execute(job.plan, job.checkpoints, job.sink, work=job.work(), hooks=job.hooks())
    with Job.prepare(recipe, tmp_path / "out", replace(options, tile_bytes=MIB)) as job:
        assert sorted(job.done) == sorted(made)
        assert job.facts
    result = merge(recipe, tmp_path / "out", options=options)
    assert result.resumed_tiles == 7
    assert bytes_of(result.out) == bytes_of(whole.out)


def test_a_journalled_tile_whose_bytes_were_lost_is_made_again(torture: tuple[Path, ...], tmp_path: Path) -> None:
    recipe = recipe_of("linear", torture)
    wanted = bytes_of(merge(recipe, tmp_path / "whole").out)
    with Job.prepare(recipe, tmp_path / "out", Options()) as job:
        execute(job.plan, job.checkpoints, job.sink, work=job.work(), hooks=job.hooks())
    file = tmp_path / "out.partial" / "out" / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"\0\1\2")
    result = merge(recipe, tmp_path / "out")
    assert 0 < result.resumed_tiles < result.tiles
    assert bytes_of(result.out) == wanted


def test_a_source_or_recipe_that_changed_since_is_refused(tmp_path: Path) -> None:
    models = [small(tmp_path / name) for name in "bxy"]
    recipe = recipe_of("ties", tuple(models))
    Job.prepare(recipe, tmp_path / "out", Options()).close()
    with pytest.raises(InputsChanged, match="recipe"):
        Job.prepare(recipe_of("linear", tuple(models)), tmp_path / "out", Options())
    tensors = load_file(models[1] / "model.safetensors")
    save_file({**tensors, "model.norm.weight": np.zeros(16, np.float32)}, models[1] / "model.safetensors")
    with pytest.raises(InputsChanged, match=str(models[1])):
        Job.prepare(recipe, tmp_path / "out", Options())


SCRIPT = """
import sys
from engine import Options, merge, load_recipe
merge(load_recipe(sys.argv[1]), sys.argv[2], options=Options(threads=2, tile_bytes=1 << 20))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_and_the_same_command_finishes_with_the_same_bytes(
    giant: tuple[Path, ...], tmp_path: Path
) -> None:
    import yaml

    from engine import recipe_to_dict

    recipe = recipe_of("ties", giant)
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    wanted = bytes_of(merge(recipe, tmp_path / "whole").out)
    out, resumed = tmp_path / "out", 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "r.yml"), str(out)])
        journal = tmp_path / "out.partial" / "journal"
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and (not journal.exists() or journal.stat().st_size < before + 8_000):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        resumed += 1
        assert not out.exists()
    assert resumed >= 2
    result = out if out.exists() else merge(recipe, out).out
    assert bytes_of(result) == wanted
    with pytest.raises(OutputExists):
        merge(recipe, out)
