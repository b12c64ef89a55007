"""The small families that mergekit and mergefleet both merge, and what they made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_vlm import make_vlm

from bench.arrays import decode, encode, read_model, write_file
from bench.families import Shape, make_family, write_configuration
from engine.planning.plan import Plan

SHAPE = Shape(hidden=64, layers=4, mlp=128, heads=4, kv_heads=2, vocab=128)
Case = dict[str, Any]
Models = dict[str, Path]


@dataclass(frozen=True)
class Merges:
    """What both programs made: directories by recipe name, mergekit's error where it made none, and our plan."""

    families: Mapping[str, Models]
    mergekit: Mapping[str, Path]
    errors: Mapping[str, str]
    mergefleet: Callable[[Case], Path]
    plan: Callable[[Case], Plan]


def _family(dtype: str, *, tied: bool = False, shards: int = 1) -> Callable[[Path], Models]:
    """base and the fine-tunes a, b, c; a model of other weights; the base with its signs turned."""
    shape = replace(SHAPE, tied=tied)

    def make(directory: Path) -> Models:
        family = make_family(directory / "family", shape, dtype=dtype, seed=3, tunes=3, shards=shards)
        unrelated = make_family(directory / "unrelated", shape, dtype=dtype, seed=4, tunes=0, shards=shards)
        models = dict(zip(("base", "a", "b", "c"), family.models, strict=True)) | {"unrelated": unrelated.base}
        if shards == 1:
            models["negated"] = _rewritten(family.base, directory / "negated", dtype=dtype, factor=-1.0)
        return models

    return make


def _far_apart(directory: Path) -> Models:
    """A float16 family whose fine-tune differs so much that the sum of |δ| of a tensor is beyond float16."""
    base = make_family(directory / "family", SHAPE, dtype="F16", seed=3, tunes=0).base
    return {"base": base, "a": _rewritten(base, directory / "a", dtype="F16", factor=1000.0)}


def _half_tied(directory: Path) -> Models:
    """A tied base (no head on disk) and an untied fine-tune of it."""
    base = make_family(directory / "tied", replace(SHAPE, tied=True), dtype="F32", seed=3, tunes=0).base
    return {"base": base, "a": make_family(directory / "untied", SHAPE, dtype="F32", seed=3, tunes=1).tunes[0]}


def _copies(directory: Path) -> Models:
    """Four models with the same weights."""
    base = make_family(directory / "family", SHAPE, dtype="F32", seed=3, tunes=0).base
    return {"base": base} | {name: _rewritten(base, directory / name, dtype="F32", factor=1.0) for name in "abc"}


def _padded(directory: Path) -> Models:
    """A base with generation settings, and a fine-tune with eight rows of padding less; both have one tokenizer."""
    family = make_family(directory / "family", SHAPE, dtype="F32", seed=3, tunes=1)
    models = {"base": directory / "base", "a": directory / "a"}
    for source, target, rows in zip(family.models, models.values(), (SHAPE.vocab, SHAPE.vocab - 8), strict=True):
        config = {**json.loads((source / "config.json").read_text()), "vocab_size": rows}
        write_configuration(target, config, vocab=64)
        tensors = {name: (code, np.asarray(stored)) for name, (code, stored) in read_model(source).items()}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            code, stored = tensors[name]
            tensors[name] = code, stored[:rows]
        write_file(target / "model.safetensors", tensors)
    (models["base"] / "generation_config.json").write_text("{}")
    return models


def _vlm(directory: Path) -> Models:
    """Models of a text, a vision and a projector module."""
    return {name: Path(make_vlm(directory / name, tune=tune)) for tune, name in enumerate(("base", "a", "b"))}


def _rewritten(source: Path, target: Path, *, dtype: str, factor: float) -> Path:
    """A copy of a model with every value multiplied."""
    tensors = read_model(source)
    write_configuration(target, json.loads((source / "config.json").read_text()), vocab=64)
    scaled = {name: decode(np.asarray(stored), code) * np.float32(factor) for name, (code, stored) in tensors.items()}
    write_file(target / "model.safetensors", {name: (dtype, encode(values, dtype)) for name, values in scaled.items()})
    return target


FAMILIES: dict[str, Callable[[Path], Models]] = {
    "bf16": _family("BF16"),
    "f16": _family("F16"),
    "f32": _family("F32"),
    "sharded": _family("BF16", shards=3),
    "tied": _family("BF16", tied=True),
    "f16 far apart": _far_apart,
    "half tied": _half_tied,
    "copies": _copies,
    "padded": _padded,
    "vlm": _vlm,
}
