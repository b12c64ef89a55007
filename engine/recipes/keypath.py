"""Where in a file a value stands, so that every error names file and key: `recipe.yml: models[1].parameters`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError, RecipeError, did_you_mean


@dataclass(frozen=True)
class KeyPath:
    """A file and the path of keys inside it; `error` is the class of the errors it makes."""

    origin: str
    path: str = ""
    error_class: type[InputError] = RecipeError

    def __str__(self) -> str:
        return f"{self.origin}: {self.path}" if self.path else self.origin

    def key(self, name: object) -> KeyPath:
        """The place of `name` in the mapping that stands here."""
        text = str(name) if str(name).isprintable() and len(str(name)) <= 60 else shown(name)
        return KeyPath(self.origin, f"{self.path}.{text}" if self.path else text, self.error_class)

    def item(self, index: int) -> KeyPath:
        """The place of item `index` in the list that stands here."""
        return KeyPath(self.origin, f"{self.path}[{index}]", self.error_class)

    def error(self, message: str) -> InputError:
        """An error about what stands here; the facts are `file` and `key`."""
        return self.error_class(f"{self}: {message}", file=self.origin, key=self.path)

    def mapping(self, raw: object, known: Iterable[str]) -> Mapping[str, Any]:
        """`raw`, which must be a mapping without keys outside `known`."""
        if not isinstance(raw, Mapping):
            raise self.error(f"got {shown(raw)}, a mapping with the keys {', '.join(sorted(known))} expected.")
        for name in raw:
            if name not in known:
                raise self.key(name).error(f"unknown key; {did_you_mean(str(name), known)}")
        return raw

    def items(self, raw: object, what: str) -> list[tuple[KeyPath, Any]]:
        """The items of `raw`, which must be a list that is not empty, each with its place."""
        if not isinstance(raw, (list, tuple)) or not raw:
            raise self.error(f"got {shown(raw)}, a list of {what} expected.")
        return [(self.item(index), item) for index, item in enumerate(raw)]

    def text(self, raw: object) -> str:
        """`raw`, which must be text that is not empty; it may hold anything, so an error shows its `repr`."""
        if not isinstance(raw, str) or not raw:
            hint = "" if raw is None or isinstance(raw, (str, list, tuple, Mapping)) else ": write it in quotes"
            raise self.error(f"got {shown(raw)}, text expected{hint}.")
        return raw

    def whole(self, raw: object, *, below: int) -> int:
        """`raw`, which must be a whole number from 0 up to, not including, `below`."""
        if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < below:
            raise self.error(f"got {shown(raw)}, a whole number from 0 to {below - 1} expected.")
        return raw


def shown(raw: object) -> str:
    """A value as an error message shows it: short, and never the `repr` of something that may contain itself."""
    if raw is None:
        return "nothing"
    if isinstance(raw, (list, tuple)):
        return "a list" if raw else "an empty list"
    if isinstance(raw, Mapping):
        return "a mapping"
    if isinstance(raw, int) and abs(raw) > 10**30:
        return "a number beyond all bounds"
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."
