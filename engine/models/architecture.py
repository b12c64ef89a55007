"""Which layer each tensor belongs to, and which are tied, read from tensor names alone.

No table of architectures: the layers are the numbered stack `<prefix>.<N>.<rest>` that config.json counts, so a new
architecture works on the day it appears.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import SourceError
from engine.models.modules import TEXT, role_of

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
NESTED_CONFIGS = ("text_config", "llm_config", "language_config")

_HEADS: tuple[str, ...] = ("lm_head", "embed_out", "output_layer")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "tok_embeddings", "word_embeddings", "embeddings", "shared")
_VOCABULARIES = frozenset((*_HEADS, *_EMBEDDINGS))
_EMBEDDING_MARKS = ("embed", "wte", "wpe")
_TEXT_MARKS = ("text", "language", "decoder")


@dataclass(frozen=True)
class Layout:
    """The layers of one model: tensors `<prefix>.<N>.<rest>` with 0 ≤ N < layers; prefix is None where it has none."""

    prefix: str | None
    layers: int

    @classmethod
    def read(cls, names: Iterable[str], config: Mapping[str, Any], *, origin: str = "the model") -> Layout:
        """Find the stack of layers among tensor names.

        Of several stacks (vision and text, say) the one that config.json counts is meant; the others' tensors belong
        to no layer. Without a count in config.json, the largest gapless stack. SourceError, naming both, where
        config and names disagree.
        """
        _refuse_odd_count(config, origin)
        stacks = _stacks(names)
        key, count = layer_count(config)
        if count is None:
            prefix = _likeliest([p for p, stack in stacks.items() if stack.covers(len(stack.numbers))], stacks)
            return cls(prefix, len(stacks[prefix].numbers) if prefix is not None else 0)
        for total in (count, count + _prediction_layers(config)):
            prefix = _likeliest([p for p, stack in stacks.items() if stack.covers(total)], stacks)
            if prefix is not None or (total == 0 and not stacks):
                return cls(prefix, count)
        raise _disagreement(stacks, key, count, origin)

    def locate(self, name: str) -> tuple[str, int | None]:
        """(`<prefix>.{}.<rest>`, N) for a tensor of layer N, (name, None) for one outside the layers."""
        found = _split(name)
        if found is None or found[0] != self.prefix or found[1] >= self.layers:
            return name, None
        prefix, number, rest = found
        return f"{prefix}.{{}}.{rest}", number

    def beyond(self, name: str) -> bool:
        """Whether a tensor is numbered behind the layers: prediction layers, which config.json does not count."""
        found = _split(name)
        return found is not None and found[0] == self.prefix and found[1] >= self.layers

    def place(self, name: str) -> Literal["pre", "layer", "post"]:
        """Whether a tensor comes before, in or after the layers: embeddings before, heads and final norms after."""
        if self.locate(name)[1] is not None:
            return "layer"
        parts = name.split(".")
        if any(part in _HEADS for part in parts):
            return "post"
        return "pre" if any(mark in part for part in parts for mark in _EMBEDDING_MARKS) else "post"


@dataclass
class _Stack:
    numbers: set[int]
    tensors: int = 0

    def covers(self, count: int) -> bool:
        """Whether the numbers are exactly 0 to count − 1."""
        return len(self.numbers) == count and max(self.numbers) == count - 1


def _split(name: str) -> tuple[str, int, str] | None:
    """(prefix, N, rest) around the first numeric component that has something before and after it."""
    parts = name.split(".")
    for index, part in enumerate(parts[1:-1], start=1):
        if part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") and len(part) < 7:
            return ".".join(parts[:index]), int(part), ".".join(parts[index + 1 :])
    return None


def _stacks(names: Iterable[str]) -> dict[str, _Stack]:
    stacks: dict[str, _Stack] = {}
    for name in names:
        found = _split(name)
        if found is not None:
            stack = stacks.setdefault(found[0], _Stack(set()))
            stack.numbers.add(found[1])
            stack.tensors += 1
    return stacks


def _likeliest(prefixes: Iterable[str], stacks: Mapping[str, _Stack]) -> str | None:
    """Of several stacks that fit: the longest, of these one called text or decoder, else no tower, then the fullest."""

    def rank(prefix: str) -> tuple[int, bool, bool, int, str]:
        stack = stacks[prefix]
        is_text = any(mark in prefix for mark in _TEXT_MARKS)
        return -len(stack.numbers), not is_text, role_of(prefix) != TEXT, -stack.tensors, prefix

    return min(prefixes, key=rank, default=None)


def layer_count(config: Mapping[str, Any]) -> tuple[str, int | None]:
    """The key that counts the layers, with its dots, and the count; None where config.json says nothing."""
    for path, part in parts_of(config):
        for name in LAYER_COUNTS:
            if isinstance(part.get(name), int) and not isinstance(part[name], bool):
                return f"{path}{name}", part[name]
    return "", None


def _refuse_odd_count(config: Mapping[str, Any], origin: str) -> None:
    """SourceError for a count of layers that is no whole number: no class of transformers could build the model."""
    for path, part in parts_of(config):
        for name in LAYER_COUNTS:
            if isinstance(part.get(name), (str, float, bool)):
                raise SourceError(f"{origin}: config.json: {path}{name}: got {part[name]!r}, a whole number expected.")


def _prediction_layers(config: Mapping[str, Any]) -> int:
    """Multi-token-prediction layers, numbered after the others but not counted with them (DeepSeek V3, GLM 4.5)."""
    extra = [part.get("num_nextn_predict_layers") for _, part in parts_of(config)]
    return next((number for number in extra if isinstance(number, int) and number > 0), 0)


def parts_of(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The config and its nested language-model configs. A nested count goes before one on top."""
    nested = [(f"{name}.", config[name]) for name in NESTED_CONFIGS if isinstance(config.get(name), dict)]
    return [*nested, ("", config)]


def _disagreement(stacks: Mapping[str, _Stack], key: str, count: int, origin: str) -> SourceError:
    """Names what config.json says and what the tensors say."""
    says = f"{origin}: config.json says {key} = {count}"
    prefix = _likeliest(stacks, stacks)
    if prefix is None:
        return SourceError(f"{says}, but no tensor has a layer number in its name.")
    numbers = stacks[prefix].numbers
    missing = sorted(set(range(max(numbers) + 1)) - numbers) if max(numbers) < 1_000_000 else []
    gaps = f", without {', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''}" if missing else ""
    return SourceError(
        f"{says}, but its tensors have {len(numbers)} layers: {prefix}.{min(numbers)} to {prefix}.{max(numbers)}"
        f"{gaps}. One of the two is incomplete: get the model again."
    )


def fill(template: str, layer: int) -> str:
    """The name of a tensor of that layer."""
    return template.replace("{}", str(layer), 1)


def template_of(name: str) -> str:
    """The name with its layer number, if it has one, replaced by {}."""
    found = _split(name)
    return name if found is None else f"{found[0]}.{{}}.{found[2]}"


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """What config.json says about the output head being the token embedding."""
    said = [part["tie_word_embeddings"] for _, part in parts_of(config) if part.get("tie_word_embeddings") is not None]
    return bool(said[-1]) if said else None


def tied_source(name: str, names: Iterable[str]) -> str | None:
    """The tensor of `names` that a missing tensor `name` is tied to: the output head's is the token embedding's.

    Works both ways. None where `name` is neither, or where no, or more than one, partner is there.
    """
    partners = _EMBEDDINGS if _owner(name) in _HEADS else _HEADS if _owner(name) in _EMBEDDINGS else ()
    leaf = name.rpartition(".")[2]
    found = [other for other in names if _owner(other) in partners and other.rpartition(".")[2] == leaf]
    return found[0] if len(found) == 1 else None


def has_head(names: Iterable[str]) -> bool:
    """Whether an output head's weight is among the tensors; without one the token embedding serves."""
    return any(_owner(name) in _HEADS and name.endswith(".weight") for name in names)


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has one row per token: the token embedding, the output head, and the head's bias."""
    return _owner(name) in _VOCABULARIES and _split(name) is None


def _owner(name: str) -> str:
    """`embed_tokens` of `model.embed_tokens.weight`."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else ""
