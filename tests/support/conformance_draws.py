"""Recipes drawn by Hypothesis for mergekit and mergefleet to agree on: methods × settings × slices × dtypes × models.

The same recipes every time (derandomised): so many of each method, over families of several small architectures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from conformance_architectures import FAMILIES, LAYERS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Draw = Any
Values = st.SearchStrategy[float]


@dataclass(frozen=True)
class Spec:
    """How recipes of one method are drawn.

    Attributes:
        models: least and largest number besides the base, of those in `names`: fine-tunes a, b, c; unrelated u.
        model, options: strategies of the per-model and of the global parameters.
        compare: what `test_drawn` holds the results to.
        wide: only arithmetic in float32, because mergekit's in 16 bits is another function (docs/recipes.md).
    """

    compare: Literal["close", "elected", "random", "fused"]
    base: Literal["required", "optional", "none"]
    models: tuple[int, int]
    model: Mapping[str, Values] = field(default_factory=dict)
    options: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    wide: bool = False
    names: str = "abc"


def _number(low: float, high: float) -> Values:
    return st.integers(0, 20).map(lambda step: round(low + (high - low) * step / 20, 4))


POSITIVE, ANY, SHARE, T = _number(0.1, 1.2), _number(-0.6, 1.2), _number(0.1, 1.0), _number(0.0, 1.0)
SWITCH = st.booleans()
LAMBDA = _number(0.2, 1.4)
SPECS: dict[str, Spec] = {
    "passthrough": Spec("close", "none", (1, 1), {"scale": ANY}),
    "linear": Spec("close", "none", (1, 3), {"weight": POSITIVE}, {"normalize": SWITCH}),
    "slerp": Spec("close", "required", (1, 1), {}, {"t": T}),
    "nuslerp": Spec(
        "close", "optional", (2, 2), {"weight": POSITIVE}, {"nuslerp_flatten": SWITCH, "nuslerp_row_wise": SWITCH}, True
    ),
    "multislerp": Spec("close", "optional", (2, 3), {"weight": POSITIVE}, {"normalize_weights": SWITCH}, True),
    "karcher": Spec("close", "none", (2, 3), {}, {}, True),
    "model_stock": Spec("close", "required", (2, 3), {}, {"filter_wise": SWITCH}, True),
    "task_arithmetic": Spec("close", "required", (1, 3), {"weight": ANY}, {"lambda": LAMBDA}),
    "nearswap": Spec("close", "required", (1, 1), {}, {"t": st.sampled_from([1e-5, 1e-4, 1e-3])}, True),
    "ram": Spec("close", "required", (1, 3), {}, {}, True),
    "ramplus_tl": Spec("close", "required", (1, 3), {}, {"r": _number(0.0, 0.5), "alpha": _number(0.0, 0.5)}, True),
    "arcee_fusion": Spec("fused", "required", (1, 1), {}, {}, True, "u"),
    "ties": Spec(
        "elected", "required", (1, 3), {"weight": POSITIVE, "density": SHARE}, {"normalize": SWITCH, "lambda": LAMBDA}
    ),
    "breadcrumbs": Spec(
        "elected",
        "required",
        (1, 3),
        {"weight": ANY, "density": _number(0.3, 0.95), "gamma": _number(0.02, 0.2)},
        {"lambda": LAMBDA},
        True,
    ),
    "breadcrumbs_ties": Spec(
        "elected",
        "required",
        (1, 3),
        {"weight": POSITIVE, "density": _number(0.3, 0.95), "gamma": _number(0.02, 0.2)},
        {"lambda": LAMBDA},
        True,
    ),
    "sce": Spec("elected", "required", (2, 3), {}, {"select_topk": _number(0.2, 1.0)}, True),
    "dare_linear": Spec(
        "random",
        "required",
        (1, 2),
        {"weight": POSITIVE, "density": _number(0.3, 0.9)},
        {"rescale": SWITCH, "lambda": LAMBDA},
        True,
    ),
    "dare_ties": Spec(
        "random",
        "required",
        (1, 2),
        {"weight": POSITIVE, "density": _number(0.3, 0.9)},
        {"rescale": SWITCH, "normalize": SWITCH},
        True,
    ),
    "della": Spec(
        "random",
        "required",
        (1, 2),
        {"weight": POSITIVE, "density": _number(0.3, 0.8), "epsilon": _number(0.02, 0.15)},
        {"lambda": LAMBDA},
        True,
    ),
    "della_linear": Spec(
        "random",
        "required",
        (1, 2),
        {"weight": POSITIVE, "density": _number(0.3, 0.8), "epsilon": _number(0.02, 0.15)},
        {"rescale": SWITCH},
        True,
    ),
}
_DTYPES = {
    "F32": [{}, {"dtype": "float32"}, {"dtype": "float32", "out_dtype": "bfloat16"}, {"dtype": "bfloat16"}],
    "BF16": [{}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {"dtype": "float32", "out_dtype": "bfloat16"}],
    "F16": [{}, {"dtype": "float16"}, {"dtype": "float32"}, {"dtype": "float32", "out_dtype": "float16"}],
}
LISTED = ("qwen2", "qwen3", "gemma2")
"""Their config.json lists a type for every layer: mergekit fails (D25) where the number of layers changes."""
_FILTERS = ("self_attn", "mlp", "o_proj", "layernorm", "embed", ".1.")


@st.composite
def _setting(draw: Draw, values: Values) -> Any:
    """A number, a gradient, or a choice by tensor name."""
    kind = draw(st.sampled_from(["number", "number", "gradient", "filters"]))
    if kind == "number":
        return draw(values)
    if kind == "gradient":
        return draw(st.lists(values, min_size=2, max_size=4))
    names = draw(st.lists(st.sampled_from(_FILTERS), min_size=1, max_size=2, unique=True))
    chosen = [
        {"filter": name, "value": draw(st.one_of(values, st.lists(values, min_size=2, max_size=3)))} for name in names
    ]
    return [*chosen, {"value": draw(values)}]


@st.composite
def _case(draw: Draw, method: str) -> dict[str, Any]:
    spec = SPECS[method]
    # deltas of 16-bit models are often equal, and rounding hides small changes: both spoil statistics of masks
    exactly = spec.compare == "random"
    family = draw(st.sampled_from(sorted(name for name in FAMILIES if not exactly or FAMILIES[name][0] == "F32")))
    stored = FAMILIES[family][0]
    dtypes = [{}] if exactly else _DTYPES[stored]
    if spec.wide:
        dtypes = [d for d in dtypes if d.get("dtype", "float32" if stored == "F32" else "") == "float32"]
    recipe: dict[str, Any] = {"merge_method": method, **draw(st.sampled_from(dtypes))}
    names = list(spec.names[: draw(st.integers(*spec.models))])
    based = spec.base == "required" or (spec.base == "optional" and draw(SWITCH))
    if based:
        recipe["base_model"] = "base"
    sources = [
        {"model": name, "parameters": {key: draw(_setting(v)) for key, v in spec.model.items()}} for name in names
    ]
    if based and (method == "slerp" or draw(SWITCH)):
        sources.insert(0, {"model": "base"})
    recipe |= draw(_layout(sources, based, [[2, 2]] if family in LISTED else [[2, 2], [3], [1, 2]]))
    options = {name: draw(values if values is SWITCH else _setting(values)) for name, values in spec.options.items()}
    if options:
        recipe["parameters"] = options
    return {"family": family, "compare": spec.compare, "recipe": _without_empty(recipe)}


@st.composite
def _layout(draw: Draw, sources: list[dict[str, Any]], based: bool, lengths: list[list[int]]) -> dict[str, Any]:
    """`models`, or slices of the same sources, each with its own ranges of layers."""
    if draw(st.sampled_from([True, True, False])):
        return {"models": sources}
    if based and sources[0]["model"] != "base":
        sources = [{"model": "base"}, *sources]
    slices = []
    for length in draw(st.sampled_from(lengths)):
        starts = [draw(st.integers(0, LAYERS - length))] * len(sources)
        if draw(SWITCH):
            starts[-1] = draw(st.integers(0, LAYERS - length))
        slices.append(
            {
                "sources": [
                    {**source, "layer_range": [start, start + length]}
                    for source, start in zip(sources, starts, strict=True)
                ]
            }
        )
    return {"slices": slices}


def _without_empty(recipe: Any) -> Any:
    if isinstance(recipe, Mapping):
        return {k: _without_empty(v) for k, v in recipe.items() if not (k == "parameters" and not v)}
    return [_without_empty(item) for item in recipe] if isinstance(recipe, list) else recipe


def drawn(methods: Iterable[str], each: int) -> list[dict[str, Any]]:
    """`each` different cases of every method, always the same."""
    return [
        {**case, "name": f"drawn {method} {number}"}
        for method in methods
        for number, case in enumerate(_examples(method, each))
    ]


def _examples(method: str, each: int) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    @settings(
        max_examples=16 * each,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=_case(method))
    def collect(case: dict[str, Any]) -> None:
        found.setdefault(yaml.safe_dump(case), case)

    collect()
    step = len(found) // each  # neighbours are alike, so they are taken from the whole run
    return list(found.values())[step - 1 :: step][:each]
