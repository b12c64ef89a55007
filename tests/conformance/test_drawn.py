"""Recipes that Hypothesis drew, through mergekit 0.1.5 and through mergefleet, tensor by tensor (DESIGN 8).

What a recipe means for a tensor (settings, inputs) is taken from our plan: were it wrong, the values would differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conformance import LOOSE, TOLERANCES, UNIT, Mask, Values, explained, explained_selection, load, outside, rounded
from conformance_draws import SPECS, drawn
from conformance_families import Case, Merges
from element_oracles import at_fusion_threshold

from engine.methods import METHODS
from engine.planning.plan import OutputTensor

CASES = drawn([name for name in SPECS if name in METHODS], each=9)


def test_there_are_at_least_150_recipes_of_all_methods_and_families() -> None:
    assert len(CASES) >= 150
    assert {case["recipe"]["merge_method"] for case in CASES} == set(SPECS)
    assert len({case["family"] for case in CASES}) >= 7


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_drawn_recipe_means_what_it_means_in_mergekit(case: Case, drawn_merges: Merges) -> None:
    assert case["name"] not in drawn_merges.errors, (drawn_merges.errors[case["name"]], case["recipe"])
    theirs, ours = load(drawn_merges.mergekit[case["name"]]), load(drawn_merges.mergefleet(case))
    assert ours.dtypes == theirs.dtypes
    assert {n: v.shape for n, v in ours.values.items()} == {n: v.shape for n, v in theirs.values.items()}
    plan = drawn_merges.plan(case)
    sources = [load(Path(ref.path)).values for ref in plan.sources]
    unexplained: dict[str, int] = {}
    explained_elements = total = 0
    for tensor in plan.tensors:
        pair = ours.values[tensor.name], theirs.values[tensor.name]
        inputs = [rounded(sources[view.source][view.tensor], view.rounded) for view in tensor.inputs]
        wrong, known = COMPARE[case["compare"]](tensor, pair, inputs)
        total += wrong.size
        explained_elements += int((wrong & known).sum())
        if (wrong & ~known).any():
            unexplained[tensor.name] = int((wrong & ~known).sum())
    print(f"{case['name']}: {explained_elements / total:.4%} differ for a known reason")
    assert not unexplained, (unexplained, case["recipe"])


Pair = tuple[Values, Values]
Compared = tuple[Mask, Mask]
"""Where the two programs differ, and where there is a known reason for it."""


def _close(tensor: OutputTensor, pair: Pair, inputs: list[Values]) -> Compared:
    known = _of_terms(tensor, pair, inputs)
    if tensor.call is not None and tensor.call.method == "karcher" and _angle(inputs) < SMALL_ANGLE:
        known = known | (np.abs(pair[0] - pair[1]) <= np.ptp(inputs, axis=0).max())
    return _wrong(tensor, pair), known


def _elected(tensor: OutputTensor, pair: Pair, inputs: list[Values]) -> Compared:
    """Elements at a trimming threshold, or of deltas that nearly cancel, may differ (DESIGN 8)."""
    call = tensor.call
    assert call is not None
    base, *sources = inputs
    if call.method == "sce":
        known = explained_selection(base, sources, call.options["select_topk"])
    else:
        settings = [{name: values[j] for name, values in call.sources.items()} for j in range(len(sources))]
        known = explained(base, sources, settings, tensor.row_dtype)
    return _wrong(tensor, pair), known | _of_terms(tensor, pair, inputs)


def _fused(tensor: OutputTensor, pair: Pair, inputs: list[Values]) -> Compared:
    """arcee_fusion of unrelated models (of fine-tunes mergekit's divergence is noise): elements at the threshold."""
    return _wrong(tensor, pair), at_fusion_threshold(*inputs, within=1e-3)


def _random(tensor: OutputTensor, pair: Pair, inputs: list[Values]) -> Compared:
    """Masks come from another generator: the share of elements kept (z-test) and the L1 norm of the change agree."""
    call = tensor.call
    assert call is not None
    base, *sources = inputs
    moved = np.all([source != base for source in sources], axis=0)
    expected = 1 - math.prod(1 - density for density in call.sources["density"])
    changes = [(values - base)[moved] for values in pair]
    if moved.sum() >= 1000:
        deviation = math.sqrt(expected * (1 - expected) / moved.sum())
        for change in changes:
            assert abs(np.mean(change != 0) - expected) < 5 * deviation + 1e-3, (tensor.name, call)
        ours, theirs = (float(np.abs(change).sum()) for change in changes)
        noise = math.sqrt(2 * float((changes[0] ** 2).sum()))
        assert abs(ours - theirs) < 5 * noise, (tensor.name, ours, theirs, noise)
    nothing = np.zeros(base.shape, bool)
    return nothing, nothing


COMPARE: dict[str, Callable[[OutputTensor, Pair, list[Values]], Compared]] = {
    "close": _close,
    "elected": _elected,
    "fused": _fused,
    "random": _random,
}
SMALL_ANGLE = 4e-3
"""Below it mergekit's karcher, which takes arccosines in float32, does not know the angle and steps anywhere nearby."""


def _wrong(tensor: OutputTensor, pair: Pair) -> Mask:
    coarsest = max(tensor.row_dtype, tensor.dtype, key=list(TOLERANCES).index)
    call = tensor.call
    return outside(*pair, coarsest, least=LOOSE.get(call.method, 0.0) if call else 0.0)


def _of_terms(tensor: OutputTensor, pair: Pair, inputs: list[Values]) -> Mask:
    """Within the bound on what rounding every intermediate result, as mergekit does, can make of it.

    With unit roundoff u and M sources that is one rounding each of weights, deltas and products, M of sums, and one
    each of λ, the quotient and the result: (M + 6) · u, relative to the terms that are added up. Half of it suffices.
    """
    call = tensor.call
    if len(inputs) == 1 or call is None:
        return np.zeros(pair[0].shape, bool)
    base, sources = (inputs[0], inputs[1:]) if call.base else (np.zeros(pair[0].shape), inputs)
    weights = call.sources.get("weight", (1.0,) * len(sources))
    terms = [np.abs(weight * (source - base)) for weight, source in zip(weights, sources, strict=True)]
    added = np.sum(terms, axis=0) / (min(1.0, abs(sum(weights))) if call.options.get("normalize") else 1.0)
    size = np.abs(base) + np.abs(pair[0]) + abs(call.options.get("lambda", 1.0)) * added
    return np.asarray(np.abs(pair[0] - pair[1]) <= (len(sources) + 6) * UNIT[tensor.row_dtype] / 4 * size)


def _angle(inputs: list[Values]) -> float:
    """The largest angle to the mean of the normalised inputs."""
    units = [values / np.linalg.norm(values) for values in inputs]
    mean = np.mean(units, axis=0)
    return max(2 * math.asin(min(1.0, float(np.linalg.norm(unit - mean / np.linalg.norm(mean))) / 2)) for unit in units)
