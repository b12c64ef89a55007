"""An opened source with its tensors sorted into modules and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import SourceError
from engine.models import modules
from engine.models.architecture import Layout, fill, has_head, says_tied
from engine.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class SortedModule:
    """One module's tensors: templates by layer number (None: outside of layers), and which module of a model it is."""

    layout: Layout
    templates: Mapping[int | None, tuple[str, ...]]
    role: str

    @property
    def sample(self) -> str:
        """The name of one of its tensors."""
        layer, group = next(iter(self.templates.items()))
        return group[0] if layer is None else fill(group[0], layer)


@dataclass(frozen=True)
class SortedModel:
    """A source with its modules, under the recipe's names for them or, where it has none, those of `models.modules`.

    Attributes:
        layout: of the layers that config.json counts.
        main: the module that holds them.
        outside: tensors that belong to none of the recipe's modules.
    """

    checkpoint: Checkpoint
    layout: Layout
    modules: Mapping[str, SortedModule]
    main: str | None
    outside: tuple[str, ...]

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding: config.json says so, or says nothing and there is no head."""
        said = says_tied(self.checkpoint.config)
        return said if said is not None else not has_head(self.checkpoint.tensors)


def sort_tensors(checkpoint: Checkpoint, wanted: Sequence[str]) -> SortedModel:
    """Sort by the modules `wanted`, the recipe's; by those the model has where there are none.

    The layers of a module are those that config.json counts, where it has them, else its own longest stack.
    """
    names = tuple(checkpoint.tensors)
    strange = next((name for name in names if "{}" in name), None)
    if strange is not None:
        raise SourceError(f"{checkpoint.ref}: tensor {strange!r}: braces have no place in a name.", tensor=strange)
    roles = dict.fromkeys(names, modules.TEXT) if checkpoint.raw else modules.roles(names)
    groups = modules.select(wanted, names) if wanted else _grouped(roles)
    # a file of tensors has neither layers nor, unless the recipe names some, modules
    layout = Layout(None, 0) if checkpoint.raw else Layout.read(names, checkpoint.config, origin=str(checkpoint.ref))
    parts, main = {}, None
    for module, group in groups.items():
        counted = any(layout.locate(name)[1] is not None for name in group)
        parts[module] = _sorted(group, layout if counted or checkpoint.raw else Layout.read(group, {}), roles)
        main = module if counted else main
    inside = {name for group in groups.values() for name in group}
    return SortedModel(checkpoint, layout, parts, main, tuple(name for name in names if name not in inside))


def _grouped(roles: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, role in roles.items():
        groups.setdefault(role, []).append(name)
    return groups


def _sorted(names: Sequence[str], layout: Layout, roles: Mapping[str, str]) -> SortedModule:
    templates: dict[int | None, list[str]] = {}
    for name in names:
        template, layer = layout.locate(name)
        templates.setdefault(layer, []).append(template)
    layered = next((name for name in names if layout.locate(name)[1] is not None), None)
    role = roles.get(layered or next(iter(names), ""), "")
    return SortedModule(layout, {layer: tuple(group) for layer, group in templates.items()}, role)
