"""An opened source with its tensors sorted into layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.architecture import Layout, has_head
from engine.checkpoint import Checkpoint
from engine.errors import SourceError


@dataclass(frozen=True)
class SortedModel:
    """A source with its tensors' names: templates by layer number (None: outside of layers)."""

    checkpoint: Checkpoint
    layout: Layout
    templates: Mapping[int | None, tuple[str, ...]]

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding: config.json says so, or says nothing and there is no head."""
        said = self.checkpoint.config.get("tie_word_embeddings")
        return bool(said) if said is not None else not has_head(self.checkpoint.tensors)


def sort_tensors(checkpoint: Checkpoint) -> SortedModel:
    layout = Layout.read(checkpoint.tensors, checkpoint.config, origin=str(checkpoint.ref))
    templates: dict[int | None, list[str]] = {}
    for name in checkpoint.tensors:
        if "{}" in name:
            raise SourceError(f"{checkpoint.ref}: tensor {name!r}: braces have no place in a name.", tensor=name)
        template, layer = layout.locate(name)
        templates.setdefault(layer, []).append(template)
    return SortedModel(checkpoint, layout, {layer: tuple(names) for layer, names in templates.items()})
