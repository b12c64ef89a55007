"""Which module of a model each tensor belongs to (text, vision, projector, encoder, ...), read from its name alone.

The modules have the names that mergekit's architecture files use. No table of architectures: a name's parts before
the first number tell, so a new model works on the day it appears.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

TEXT, VISION, AUDIO, PROJECTOR = "text_decoder", "vision_tower", "audio_tower", "multi_modal_projector"
ENCODER, DECODER, SHARED = "encoder", "decoder", "shared"
DEFAULT = "default"
"""What no other module of the recipe takes: the whole model where it stands alone."""

_SYNONYMS = {"vision_model": VISION}
_PROJECTORS = frozenset(
    (
        *("multi_modal_projector", "mm_projector", "merger", "deepstack_merger_list", "connector", "aligner", "mlp1"),
        *("qformer", "resampler", "perceiver_resampler", "abstractor", "modality_projection", "embed_vision"),
        *("embed_audio", "vision_proj", "vision_projection", "language_projection"),
    )
)
_NUMBER = re.compile(r"\.\d+(?=\.|$)", re.ASCII)
"""What stands after the first number is inside a layer and says nothing about the module."""
_MARKS = {AUDIO: ("audio", "speech"), VISION: ("vision", "visual", "image", "img")}


def roles(names: Collection[str]) -> dict[str, str]:
    """The module of every tensor of one model: one for all in most text models."""
    heads = {name: _NUMBER.split(name, maxsplit=1)[0] for name in names}
    found = {head: role_of(head) for head in set(heads.values())}
    if set(found.values()) <= {TEXT}:
        sides = {head: _side(head) for head in found}
        found = sides if {ENCODER, DECODER} <= set(sides.values()) else found
    return {name: found[head] for name, head in heads.items()}


def select(modules: Sequence[str], names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The tensors of each of a recipe's modules; those that belong to none are in none.

    A module's name is the beginning of its tensors' names (a leading `model.` may be left out; the longest counts),
    or one of the names above, or `default`.
    """
    by_role = roles(names)
    owners = {name: _owner(name, by_role[name], modules) for name in names}
    return {module: tuple(name for name in names if owners[name] == module) for module in modules}


def known(names: Collection[str]) -> list[str]:
    """What the modules of a model with these tensors may be called."""
    beginnings = {part for name in names for part in [_beginning(name)] if part is not None}
    return sorted({*roles(names).values(), DEFAULT, *beginnings})


def _owner(name: str, role: str, modules: Sequence[str]) -> str | None:
    literal = [module for module in modules if _begins(name, module) or _begins(name, f"model.{module}")]
    if literal:
        return max(literal, key=len)
    played = [module for module in modules if _SYNONYMS.get(module, module) == role]
    return played[0] if played else DEFAULT if DEFAULT in modules else None


def _begins(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def role_of(name: str) -> str:
    """Which of the modules of a vision-language or audio model a tensor, or a beginning of names, belongs to."""
    parts = _NUMBER.split(name, maxsplit=1)[0].split(".")
    if any(part in _PROJECTORS for part in parts):
        return PROJECTOR
    return next((role for role, marks in _MARKS.items() if any(mark in part for part in parts for mark in marks)), TEXT)


def _side(name: str) -> str:
    first = next((part for part in name.split(".") if part != "model"), "")
    return first if first in (ENCODER, DECODER) else SHARED


def _beginning(name: str) -> str | None:
    """`language_model` of `model.language_model.layers.0.mlp.up_proj.weight`; None for a tensor without a module."""
    first, dot, _ = name.removeprefix("model.").partition(".")
    return first if dot else None


def ordered(groups: Iterable[Iterable[str]]) -> list[str]:
    """Every name of several lists once, in order of first appearance."""
    return list(dict.fromkeys(name for group in groups for name in group))
