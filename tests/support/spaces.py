"""Spaces to test with: two sources, eight layers, every granularity; and what a recipe comes to by the engine."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import strategies as st
from simulated import campaign_data

from engine.recipes.keypath import KeyPath
from engine.recipes.settings import evaluate, parse_setting
from search.campaign_file import parse_campaign
from search.space import Axis, Space, make_space

LAYERS = 8
GRID = {"weight": 256, "density": 128}
QK = {"attention.qk": r"re:self_attn\.(q|k)_proj", "attention.vo": "self_attn", "mlp": "mlp"}
KINDS: dict[str, dict[str, Any]] = {
    "global": {"by": "global"},
    "module": {"by": "module"},
    "blocks2": {"by": "layer_block", "blocks": 2},
    "blocks4": {"by": "layer_block", "blocks": 4},
    "blocks8": {"by": "layer_block", "blocks": 8},
    "module_blocks2": {"by": "module_layer", "blocks": 2},
    "module_blocks8": {"by": "module_layer", "blocks": 8},
    "knots3": {"by": "gradient", "knots": 3},
    "knots5": {"by": "gradient", "knots": 5},
    "knots8": {"by": "gradient", "knots": 8},
    "cubic3": {"by": "gradient", "knots": 3, "curve": "cubic"},
    "cubic5": {"by": "gradient", "knots": 5, "curve": "cubic"},
    "module_knots3": {"by": "module_gradient", "knots": 3},
    "module_knots5": {"by": "module_gradient", "knots": 5},
    "module_cubic3": {"by": "module_gradient", "knots": 3, "curve": "cubic"},
    "patterns": {"by": "patterns", "patterns": {"attention": "self_attn", "mlp": "mlp"}},
    "parts": {"by": "patterns", "patterns": QK},
    "parts_blocks8": {"by": "patterns", "patterns": QK, "blocks": 8},
}
CONTAINED = [
    *[("global", other) for other in KINDS if other != "global"],
    *[("module", other) for other in KINDS if other.startswith(("module_", "patterns", "parts"))],
    ("blocks2", "blocks4"),
    ("blocks2", "knots8"),  # a knot at every layer follows anything
    ("module_blocks2", "module_blocks8"),
    ("module_blocks2", "parts_blocks8"),
    ("knots3", "knots5"),
    ("knots3", "blocks8"),
    ("module_knots3", "module_knots5"),
    ("module_knots3", "module_blocks8"),  # one block per layer follows any gradient
    ("module_knots3", "parts_blocks8"),
    ("cubic3", "cubic5"),  # the natural spline through more of its own points is itself
    ("cubic3", "blocks8"),
    ("cubic3", "knots8"),
    ("cubic5", "blocks8"),
    ("module_cubic3", "module_blocks8"),
]
NOT_CONTAINED = [
    ("module", "global"),
    ("module", "blocks2"),
    ("blocks4", "blocks2"),
    ("blocks2", "module_blocks2"),
    ("blocks2", "knots5"),
    ("knots5", "knots3"),
    ("knots3", "module_knots3"),
    ("knots3", "blocks4"),
    ("knots3", "cubic5"),
    ("cubic3", "knots5"),
    ("cubic5", "cubic3"),
    ("parts", "module"),
]
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
TENSORS = [
    "model.embed_tokens.weight",
    *[f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PARTS],
    "model.norm.weight",
]
WEIGHT = {"low": -0.5, "high": 1.5, "start": 0.5}
DENSITY = {"low": 0.1, "high": 1.0, "start": 0.5}


def space_of(*kinds: str, method: str = "ties", entry: dict[str, Any] | None = None, **stage: Any) -> Space:
    """A space of two sources with these stages, weight and density both searched; `entry` changes `space:`."""
    stages = [{"name": kind, **KINDS[kind], **stage} for kind in kinds]
    given = {"method": method, "parameters": {"weight": WEIGHT, "density": DENSITY}, "stages": stages}
    return bound(given | (entry or {}))


def bound(
    entry: dict[str, Any],
    *,
    sources: tuple[Any, ...] = ("m/a", "m/b"),
    base: str = "models/base",
    layers: int = LAYERS,
) -> Space:
    """The space of a campaign whose `space:` is this."""
    data = campaign_data(base_model=base, sources=list(sources), space=entry, dtype="float32")
    return make_space(parse_campaign(data, origin="c.yml"), layers=layers)


def values_of(axis: Axis) -> st.SearchStrategy[Any]:
    """Anything that an axis may be."""
    if axis.kind == "category":
        return st.sampled_from(axis.choices)
    if axis.kind == "int":
        return st.integers(round(axis.low), round(axis.high))
    return st.floats(axis.low, axis.high)


def points(space: Space, stage: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({axis.name: values_of(axis) for axis in space.stages[stage].axes})


def resolved(recipe: dict[str, Any]) -> dict[tuple[int, str, str], float]:
    """(source, parameter, tensor) → value, by the engine's own rules; source -1 for those of the whole merge."""
    values = {}
    levels = [*enumerate(model.get("parameters", {}) for model in recipe["models"]), (-1, recipe.get("parameters", {}))]
    for source, parameters in levels:
        for (name, raw), tensor in product(parameters.items(), TENSORS):
            layer = int(tensor.split(".")[2]) if "layers" in tensor else (0 if "embed" in tensor else LAYERS - 1)
            value = evaluate(parse_setting(raw, where=KeyPath("r")), tensor, layer / (LAYERS - 1))
            assert value is not None
            values[source, name, tensor] = float(value)
    return values
