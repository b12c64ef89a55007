"""tsvm, iso_c and core_space: the formulas in float64, their promises, and what inexact methods must keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spectral_oracles as oracles
import torch
from method_blocks import call_of, merged
from method_oracles import Expected, Values
from oracle_runs import assert_merge_is_formula, source

from bench.families import Family, Shape, make_family
from engine import Options, Recipe, inexact, make_plan, merge, open_checkpoints, parse_recipe
from engine.errors import InputsChanged, PlanError
from engine.methods import METHODS
from engine.outputs.job import Job

WEIGHTS = (0.7, -0.4)
FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Sequence[Values]], Values]]] = {
    "tsvm": ({}, oracles.tsvm),
    "iso_c": ({}, oracles.iso_c),
    "core_space": ({"rank": 5}, lambda tasks: oracles.core_space(tasks, rank=5, flat=True)),
    "core_space, summed": (
        {"rank": 7, "isotropic": False},
        lambda tasks: oracles.core_space(tasks, rank=7, flat=False),
    ),
}
NAMES = ("tsvm", "iso_c", "core_space")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Matrices of 24 × 24 to 72 × 24, vectors, and a head."""
    shape = Shape(hidden=24, layers=2, mlp=72, heads=2, kv_heads=1, vocab=40)
    return make_family(tmp_path_factory.mktemp("little"), shape, dtype="BF16", seed=5, tunes=2)


def recipe_of(method: str, family: Family, settings: dict[str, Any], **top: Any) -> Recipe:
    base, *tunes = map(str, family.models)
    models = [source(path, weight=weight) for path, weight in zip(tunes, WEIGHTS, strict=True)]
    data = {"merge_method": method.split(",")[0], "base_model": base, "models": models, "parameters": settings}
    return parse_recipe(data | top, origin="r.yml")


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
@pytest.mark.parametrize("method", FORMULAS)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    method: str, dtype: str | None, little: Family, tmp_path: Path
) -> None:
    settings, formula = FORMULAS[method]

    def expected(tensor: str, base: Values, others: list[Values]) -> Expected:
        change = 0.8 * formula([weight * (other - base) for weight, other in zip(WEIGHTS, others, strict=True)])
        return Expected(base + change, np.abs(base) + np.abs(change), np.zeros(base.shape, bool))

    recipe = recipe_of(method, little, settings | {"lambda": 0.8}, **({"dtype": dtype} if dtype else {}))
    assert_merge_is_formula(recipe, little, expected, tmp_path / "out")


def matrices(shape: tuple[int, int], count: int, *, rank: int | None = None) -> list[Values]:
    """A base of zeros and `count` models, of this rank."""
    generator = np.random.default_rng(3)
    few = rank or min(shape)
    factors = [(generator.normal(size=(shape[0], few)), generator.normal(size=(few, shape[1]))) for _ in range(count)]
    return [np.zeros(shape), *(left @ right for left, right in factors)]


def run(name: str, inputs: Sequence[Values], **options: float) -> Values:
    call = call_of(METHODS[name], len(inputs), inputs[0].shape, np.random.default_rng(0))
    plain = {**call.options, "lambda": 1.0, **options}
    call = replace(call, sources={"weight": (1.0,) * len(call.source_ids)}, options=plain)
    return merged(METHODS[name], call, [values.astype(np.float32) for values in inputs]).astype(np.float64)


def test_the_spectrum_of_iso_c_is_flat_and_its_sum_is_that_of_task_arithmetic() -> None:
    inputs = matrices((30, 20), 3)
    values = np.linalg.svd(run("iso_c", inputs), compute_uv=False)
    np.testing.assert_allclose(values, values.mean(), rtol=1e-5)
    assert values.sum() == pytest.approx(np.linalg.svd(sum(inputs), compute_uv=False).sum(), rel=1e-5)


def test_tsvm_of_one_task_is_the_task_and_of_tasks_that_do_not_meet_their_sum() -> None:
    alone = matrices((12, 9), 1)
    np.testing.assert_allclose(run("tsvm", alone), alone[1], atol=1e-5)
    first, second = np.zeros((8, 8)), np.zeros((8, 8))
    first[:4, :4], second[4:, 4:] = np.diag([4.0, 3, 2, 1]), np.diag([8.0, 7, 6, 5])
    np.testing.assert_allclose(run("tsvm", [np.zeros((8, 8)), first, second]), first + second, atol=1e-5)


def test_core_space_loses_nothing_of_changes_of_its_rank() -> None:
    inputs = matrices((40, 25), 3, rank=4)
    np.testing.assert_allclose(run("core_space", inputs, rank=4, isotropic=0), sum(inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_direction_that_no_task_has_stays_as_it_is(name: str) -> None:
    inputs = matrices((16, 16), 2, rank=3)
    change = run(name, inputs)
    spanned = np.linalg.svd(np.concatenate(inputs[1:]), full_matrices=True)[2]
    np.testing.assert_allclose(change @ spanned[6:].T, 0, atol=1e-4)


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_tiles_make_no_difference_and_torch_keeps_its_threads(
    name: str, little: Family, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    ways = [Options(threads=1, tile_bytes=1), Options(threads=2), Options(threads=2, tile_bytes=1 << 20)]
    outs = [
        merge(recipe_of(name, little, {}), tmp_path / str(n), options=options).out for n, options in enumerate(ways)
    ]
    assert len({digest(out) for out in outs}) == 1
    assert torch.get_num_threads() == before


def test_a_budget_that_cannot_hold_a_matrix_is_refused_with_the_figure_it_needs(little: Family, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"Give --memory \d+MiB"):
        merge(recipe_of("tsvm", little, {}), tmp_path / "out", options=Options(memory_bytes=1 << 17))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_needs_the_more_memory_the_larger_its_largest_matrix(tmp_path: Path) -> None:
    needed = []
    for hidden in (16, 512):
        shape = Shape(hidden=hidden, layers=1, mlp=hidden, heads=1, kv_heads=1, vocab=32)
        family = make_family(tmp_path / str(hidden), shape, dtype="BF16", seed=5, tunes=2)
        recipe = recipe_of("iso_c", family, {})
        needed.append(make_plan(recipe, open_checkpoints(recipe.models)).peak_bytes(1))
    assert needed[1] > 10 * needed[0]


def test_a_run_is_not_resumed_under_another_fingerprint(
    little: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of("iso_c", little, {})
    Job.prepare(recipe, tmp_path / "out", Options()).close()
    monkeypatch.setattr("engine.planning.planner.fingerprint", lambda device: "torch 9.0, abacus")
    with pytest.raises(InputsChanged, match="arithmetic"):
        Job.prepare(recipe, tmp_path / "out", Options())


def test_the_fingerprint_says_version_and_instruction_set_and_exact_plans_have_none(little: Family) -> None:
    plans = []
    for name in ("iso_c", "task_arithmetic"):
        recipe = recipe_of(name, little, {})
        plans.append(make_plan(recipe, open_checkpoints(recipe.models)))
    assert plans[0].describe["arithmetic"] == inexact.fingerprint("cpu")
    assert torch.__version__ in plans[0].describe["arithmetic"]
    assert "arithmetic" not in plans[1].describe
