"""Digests of plans, of recipes and of outputs. Plans: same digest, same bytes; recipes: canonical, over contents.

All are BLAKE3. A tensor's digest is taken over the digests of its blocks, so blocks may be written in any order and a
part can be checked alone; the digest of the weights is taken over those of all tensors, sorted by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from engine.models.checkpoint import Checkpoint
    from engine.models.views import View
    from engine.planning.plan import OutputTensor, Plan
    from engine.recipes.recipe import ModelRef

BLOCK_DIGEST_BYTES = 32
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
"""Canonical JSON: sorted keys, no spaces, floats as Python's shortest repr."""


def of_text(text: str) -> str:
    return blake3(text.encode()).hexdigest()


def of_json(value: Any) -> str:
    """BLAKE3 of canonical JSON."""
    return of_text(canonical(value))


def of_plan(plan: Plan) -> str:
    """`of_json` of what the plan's bytes depend on, tensor by tensor: 45,000 at once would take 150 MB."""
    hasher = blake3(f"[{canonical(dict(plan.describe))},[".encode())
    for number, tensor in enumerate(plan.tensors):
        hasher.update(f"{',' if number else ''}{canonical(call_facts(tensor, plan))}".encode())
    places = [[tensor.file, tensor.offset] for tensor in plan.tensors]
    hasher.update(f"],{canonical(places)},{canonical(dict(plan.config))}]".encode())
    return hasher.hexdigest()


def of_block(data: memoryview) -> bytes:
    return blake3(data).digest()


def of_tensor(tensor: OutputTensor, blocks: Iterable[bytes]) -> str:
    """Digest of one output tensor from its blocks' digests, in order; name, dtype and shape are part of it."""
    hasher = blake3(f"{tensor.name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
    for block in blocks:
        hasher.update(block)
    return hasher.hexdigest()


def of_weights(tensors: Mapping[str, str]) -> str:
    """Digest of a whole model from its tensors' digests."""
    return of_json(dict(sorted(tensors.items())))


def of_contents(checkpoint: Checkpoint) -> str:
    """Digest of all tensors of a source, whatever its files are called and however it is cut into them."""
    tensors = checkpoint.tensors
    return of_json({n: [t.dtype, list(t.shape), checkpoint.content_digest(n)] for n, t in tensors.items()})


def call_facts(tensor: OutputTensor, plan: Plan) -> dict[str, Any]:
    """What one output tensor's bytes depend on, sources by index."""
    facts: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "row": tensor.row_dtype,
        "inputs": [of_input(view, lambda view: [view.source, view.tensor, view.rounded]) for view in tensor.inputs],
    }
    call = tensor.call
    if call is not None:
        facts["method"] = [call.method, plan.method.version, *filter(None, [plan.method.package])]
        facts["sources"] = {name: list(values) for name, values in call.sources.items()}
        facts["options"] = dict(call.options)
        if not plan.method.exact:
            facts["arithmetic"] = plan.describe["arithmetic"]
        if plan.method.random:
            facts["random"] = [call.seed, list(call.source_ids)]
    return facts


def of_input(view: View, facts: Callable[[View], list[Any]]) -> list[Any]:
    """The facts of a view, and of the one that it goes on with where its tensor ends."""
    return facts(view) + ([view.elements, of_input(view.beyond, facts)] if view.beyond else [])


def of_content(view: View, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint]) -> list[Any]:
    """What a view gives to read, whatever its source is called."""
    return [checkpoints[plan.sources[view.source]].content_digest(view.tensor), view.stored, view.rounded]


def recipe_hash(plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint]) -> str:
    """The canonical identity of what a plan makes: a Merkle root over layers over tensors over source contents.

    Names and places of the sources do not enter, their bytes do (read once per checkpoint and remembered), so equal
    hashes mean equal weights; gradients are resolved and sources of weight 0 are gone by now.
    """
    return of_tensor_recipes(plan, tensor_recipes(plan, checkpoints))


def tensor_recipes(plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint]) -> list[str]:
    """The same of every output tensor: equal hashes mean equal bytes, in whatever plan."""

    return [of_json(content_facts(tensor, plan, checkpoints)) for tensor in plan.tensors]


def content_facts(tensor: OutputTensor, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint]) -> dict[str, Any]:
    """What one output tensor's bytes depend on, sources by their contents."""

    def content(view: View) -> list[Any]:
        return of_content(view, plan, checkpoints)

    return {**call_facts(tensor, plan), "inputs": [of_input(view, content) for view in tensor.inputs]}


def of_tensor_recipes(plan: Plan, tensors: Sequence[str]) -> str:
    """The root over layers over tensors."""
    layers: dict[str, list[str]] = {}
    for tensor, recipe in zip(plan.tensors, tensors, strict=True):
        layers.setdefault(str(tensor.layer), []).append(recipe)
    return of_json({layer: of_json(sorted(recipes)) for layer, recipes in layers.items()})
