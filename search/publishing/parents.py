"""What the parents of a merge say of themselves in their cards: licence, languages, what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from engine.errors import SourceError
from engine.models.places import local_path
from engine.recipes.model_ref import ModelRef
from search.publishing.licences import OTHER, Licence

_CARD = "README.md"


@dataclass(frozen=True)
class Parent:
    """A model that is merged: what it is called, and what its card says, {} where there is none."""

    name: str
    card: Mapping[str, Any]

    @property
    def licence(self) -> Licence | None:
        """As its card states it; what goes by `other` by its name and link, too. A link to the text of a licence that
        has an identifier (many cards have one) makes it no other licence."""
        stated = self.card.get("license")
        if isinstance(stated, list):  # an old form
            stated = stated[0] if len(stated) == 1 else None
        if not isinstance(stated, str):
            return None
        if stated.lower() != OTHER:
            return Licence(stated.lower())
        return Licence(OTHER, _text(self.card.get("license_name")), _text(self.card.get("license_link")))

    @property
    def languages(self) -> tuple[str, ...]:
        stated = self.card.get("language", self.card.get("languages", ()))
        return (stated,) if isinstance(stated, str) else tuple(map(str, stated or ()))


def read_parent(name: str, ref: ModelRef) -> Parent:
    """The parent `ref`, by its own card: beside it, or on the Hub at the commit that is in the cache."""
    return Parent(name, front_matter(_card_text(ref)))


def agreed(values: Sequence[Any]) -> Any | None:
    """What all of them say; None where one says something else, or nothing."""
    return values[0] if values and values[0] and all(value == values[0] for value in values) else None


def front_matter(text: str) -> Mapping[str, Any]:
    """The YAML at the head of a card; {} where there is none that can be read."""
    if not text.startswith("---"):
        return {}
    try:
        found = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _card_text(ref: ModelRef) -> str:
    try:
        place = local_path(ref.bare)
        if place is None:
            from engine.models.hub import download_file, download_small

            directory = download_small(ref.bare)
            download_file(ref.bare, directory.name, _CARD)
            place = directory
        return (place / _CARD if place.is_dir() else place.with_name(_CARD)).read_text(encoding="utf-8")
    except (SourceError, OSError, ValueError):  # no card, or none that can be had now: it says nothing
        return ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
