"""What the delta methods keep of a task vector: how many elements, which, and by what chance."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from delta_oracles import della_chances
from method_blocks import merged
from numpy.typing import NDArray

from bench.arrays import encode
from engine import randomness
from engine.execution.arithmetic import DefinitionArithmetic, KernelArithmetic
from engine.methods import METHODS, della_linear
from engine.methods.contract import Block, Call, RawBlock
from engine.models.views import STORED

Deltas = NDArray[np.float32]


def call_of(method: str, shape: tuple[int, ...], seed: int = 0, **given: float) -> Call:
    """One source of weight 1, the method's defaults but for what is given; nothing is rescaled."""
    settings = {"weight": 1.0, "rescale": 0.0, **given}
    rows = METHODS[method].parameters.values()

    def values(scope: str) -> dict[str, float]:
        return {p.name: float(settings.get(p.name, p.default or 0)) for p in rows if p.scope == scope}

    options = values("global")
    sources = {name: (value,) for name, value in values("model").items()}
    return Call(method, "t", shape, True, (1,), sources, options, seed, METHODS[method].scope_of(options, shape))


def kept(method: str, delta: Deltas, seed: int = 0, **given: float) -> NDArray[np.bool_]:
    """Where a task vector without zeros, on a base of zeros, comes out of the method's kernels."""
    out = merged(METHODS[method], call_of(method, delta.shape, seed, **given), [np.zeros_like(delta), delta])
    assert np.array_equal(out[out != 0], delta.ravel()[out.ravel() != 0])
    return out != 0


def deltas(shape: tuple[int, ...], kind: str, seed: int = 0) -> Deltas:
    """Task vectors without zeros: normal, heavy-tailed (as fine-tunes are), uniform, or of few sizes only."""
    generator = np.random.default_rng(seed)
    normal = generator.normal(0, 1e-3, shape)
    values = {
        "normal": normal,
        "heavy": normal * np.abs(normal) * 1e3,
        "uniform": generator.uniform(-1e-3, 1e-3, shape),
        "equal": generator.choice([-1.0, 1.0], shape) * generator.integers(1, 4, shape) * 2.0**-10,
    }
    return np.asarray(values[kind]).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "equal"])
def test_ties_and_breadcrumbs_keep_exactly_as_many_as_they_promise_from_one_element_up(kind: str) -> None:
    for elements in [1, 2, 3, 7, 64, 99, 100, 101, 1000, 262_145]:
        delta = deltas((elements,), kind, elements)
        for density in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0):
            whole = int(density * elements)
            assert kept("ties", delta, density=density).sum() == (max(1, whole) if density else 0)
            for gamma in (0.0, 0.01, 0.2, 0.6):
                assert kept("breadcrumbs", delta, density=density, gamma=gamma).sum() == whole


def test_breadcrumbs_leaves_out_the_largest_and_then_keeps_the_next() -> None:
    delta = np.array([3, -8, 1, 7, -2, 5, 4, -6, 9, 10], np.float32)
    kept_sizes = {
        (0.5, 0.2): [4, 5, 6, 7, 8],
        (0.5, 0.0): [6, 7, 8, 9, 10],
        (0.9, 0.2): [1, 2, 3, 4, 5, 6, 7, 8, 9],  # of two outliers one must stay
        (1.0, 0.2): [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    }
    for (density, gamma), sizes in kept_sizes.items():
        assert sorted(np.abs(delta)[kept("breadcrumbs", delta, density=density, gamma=gamma)]) == sizes


def test_equal_magnitudes_are_kept_in_order_of_their_index() -> None:
    delta = np.full(1000, 0.5, np.float32)
    mask = kept("breadcrumbs", delta, density=0.3, gamma=0.1)
    np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(100, 400))


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "dare_linear", "della_linear"])
@pytest.mark.parametrize("kind", ["heavy", "equal"])
def test_what_a_density_keeps_a_larger_one_keeps_too(method: str, kind: str) -> None:
    settings = {"epsilon": 0.1} if method == "della_linear" else {}
    masks = [kept(method, deltas((40, 700), kind), density=d, **settings) for d in (0.15, 0.4, 0.6, 0.85)]
    assert all((smaller <= larger).all() for smaller, larger in pairwise(masks))


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
@pytest.mark.parametrize("shape", [(300_000,), (1000, 300), (100_000, 1), (7, 5, 3000)])
@pytest.mark.parametrize("kind", ["normal", "equal"])
def test_random_methods_keep_their_share(method: str, shape: tuple[int, ...], kind: str) -> None:
    density = 0.37
    mask = kept(method, deltas(shape, kind), density=density, epsilon=0.3)
    assert abs(mask.mean() - density) < 4 * math.sqrt(density * (1 - density) / mask.size)


@pytest.mark.parametrize("kind", ["normal", "heavy", "uniform"])
def test_della_keeps_every_decile_of_a_row_by_its_rank(kind: str) -> None:
    delta = deltas((500, 1000), kind)
    mask = kept("della_linear", delta, density=0.6, epsilon=0.35)
    ranks = np.abs(delta).argsort(axis=1).argsort(axis=1)
    for decile in range(10):
        chosen = ranks // 100 == decile
        chance = 0.25 + 0.7 * (ranks[chosen] / 999).mean()
        # 1/256 of a row, the width of a bucket, moves a chance by 0.7/256 at most, and a decile's mean by far less
        assert abs(mask[chosen].mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / 50_000) + 2e-4


def test_della_gives_equal_magnitudes_equal_chances() -> None:
    delta = deltas((2000, 300), "equal")
    mask = kept("della_linear", delta, density=0.5, epsilon=0.4)
    size = np.rint(np.abs(delta) * 2**10)
    middles = {1: 1 / 6, 2: 3 / 6, 3: 5 / 6}
    for value, middle in middles.items():
        assert mask[size == value].mean() == pytest.approx(0.1 + 0.8 * middle, abs=0.006)
        for place in (slice(0, 100), slice(200, 300)):
            assert mask[:, place][size[:, place] == value].mean() == pytest.approx(0.1 + 0.8 * middle, abs=0.012)


@pytest.mark.parametrize(("kind", "most"), [("normal", 256), ("heavy", 256), ("uniform", 128)])
def test_no_bucket_of_della_holds_more_of_a_row_than_is_said(kind: str, most: int) -> None:
    import torch

    delta = torch.from_numpy(deltas((20, 200_000), kind))
    for row in della_linear.buckets(delta):
        largest = int(torch.bincount(row, minlength=della_linear.BUCKETS).max())
        assert largest <= 200_000 / most + 4 * math.sqrt(200_000 / most)


def test_della_without_a_spread_of_chances_is_dare() -> None:
    delta = deltas((50, 3000), "heavy")
    assert np.array_equal(
        kept("della_linear", delta, density=0.37, epsilon=0.0), kept("dare_linear", delta, density=0.37)
    )


@pytest.mark.parametrize("columns", [1, 2, 3, 100, 1024, 2049, 5000])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_dellas_kernels_give_the_bits_of_the_definition_at_wide_spreads(columns: int, dtype: str) -> None:
    method = METHODS["della"]
    shape = (max(1, 6000 // columns), columns)
    call = call_of("della", shape, density=0.55, epsilon=0.4, rescale=1.0)
    rows = np.zeros((2, call.block), STORED[dtype])
    base = deltas(shape, "normal", 1).ravel() * 20
    for row, values in zip(rows, (base, base + deltas(shape, "heavy", 2).ravel()), strict=True):
        row[: call.elements] = encode(values, dtype).view(STORED[dtype])
    results = []
    for arithmetic in (KernelArithmetic(method), DefinitionArithmetic(method)):
        facts: dict[str, Any] = {}
        for stage in method.stages(call):
            partial = np.zeros((1, *stage.shape(call)), stage.dtype) if stage.measure else None
            if partial is not None:
                arithmetic.measure(stage, call, rows, (0, call.elements), facts=facts, out=partial[0])
            facts[stage.name] = stage.finish(call, partial, facts)
        out = np.zeros(call.elements, STORED[dtype])
        arithmetic.merge(call, rows, (0, call.elements), facts=facts, out=out)
        results.append((facts["mass"].tolist(), out.tobytes()))
    assert results[0] == results[1]
    assert results[0][0] != [1.0] or columns < 3


def test_a_block_that_goes_on_beyond_a_multiple_of_2_to_the_32_has_each_elements_own_bits() -> None:
    """Rows are not cut, so a block of whole rows of a giant tensor may; no other block does."""
    import torch

    method, columns, start = METHODS["della_linear"], 1000, (1 << 32) - 1700
    call = call_of("della_linear", (3, columns), density=0.5, epsilon=0.3)
    delta = deltas((3, columns), "heavy")
    keys = randomness.block_keys(0, "t", (1,), start)
    facts = {stage.name: stage.finish(call, None, {}) for stage in method.stages(call)}
    values = (torch.zeros(delta.size), torch.from_numpy(delta.ravel()))
    defined = method.merge(call, Block(values, 0, start, keys), facts).numpy()
    made = np.zeros(delta.size, np.float32)
    assert method.kernel is not None
    raw = RawBlock(np.stack([v.numpy() for v in values]), delta.size, 0, start, keys, *scratch(call))
    method.kernel(call, raw, facts, made)
    np.testing.assert_array_equal(made, defined)
    chances = della_chances(delta.astype(np.float64), 0.5, 0.3).ravel()
    key = randomness.stream_key(0, "t", 1)
    bits = [randomness.bits_of(start + i, key) for i in range(delta.size)]
    wanted = np.array(bits) < np.ceil(chances * 2**24)
    np.testing.assert_array_equal(made != 0, wanted)


def scratch(call: Call) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    from engine.kernels import combine

    return combine.scratch(2), np.empty(METHODS[call.method].workspace(call), np.uint8)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.15), (0.5, 0.5)])
def test_chances_beyond_0_and_1_are_refused_with_what_is_allowed(density: float, epsilon: float) -> None:
    said = METHODS["della"].check(call_of("della", (3, 4), density=density, epsilon=epsilon))
    assert said is not None
    assert f"Give an epsilon below {min(density, 1 - density):g}" in said


@pytest.mark.parametrize(("density", "epsilon"), [(1.0, 0.15), (0.0, 0.15), (0.5, 0.49), (0.85, 0.1)])
def test_chances_within_0_and_1_are_fine_and_so_are_all_and_nothing(density: float, epsilon: float) -> None:
    assert METHODS["della"].check(call_of("della", (3, 4), density=density, epsilon=epsilon)) is None


def test_sce_refuses_to_select_where_there_is_only_one_fine_tune() -> None:
    said = METHODS["sce"].check(call_of("sce", (3, 4), select_topk=0.5))
    assert said is not None
    assert "select_topk 0.5 selects by the variance between models" in said
    assert METHODS["sce"].check(call_of("sce", (3, 4), select_topk=1.0)) is None


def test_sce_selects_nothing_of_equal_fine_tunes_and_all_that_varies_of_others() -> None:
    base = deltas((60, 70), "normal")
    tune = base + deltas((60, 70), "heavy", 1)
    other = tune.copy()
    other[::2] *= np.float32(1.5)
    call = call_of("sce", base.shape, select_topk=0.999)
    three = replace(call, source_ids=(1, 2, 3))
    same = merged(METHODS["sce"], three, [base, tune, tune, tune])
    np.testing.assert_array_equal(same, base)
    mixed = merged(METHODS["sce"], three, [base, tune, tune, other])
    moved = (mixed != base).reshape(base.shape)
    assert not moved[1::2].any()
    assert moved[::2].sum() >= 0.99 * moved[::2].size
