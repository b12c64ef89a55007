"""Names of models, as recipes and campaigns write them: text `path@revision+lora@revision`, or mergekit's mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.errors import InputError
from engine.recipes.keypath import KeyPath, shown
from engine.remote.url import without_secrets


@dataclass(frozen=True)
class ModelRef:
    """A model by place: a local path, or `org/name` on the Hub, at an optional revision, with an optional adapter.

    With `statistics` it is tensors about a model (their importance), which need no config.json.
    """

    path: str
    revision: str | None = None
    lora: ModelRef | None = None
    statistics: bool = False

    def __str__(self) -> str:
        place = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return place if self.lora is None else f"{place}+{self.lora}"

    @property
    def bare(self) -> ModelRef:
        """The model without its adapter."""
        return replace(self, lora=None)


def parse_model(raw: object, where: KeyPath, *, ignored: list[str] | None = None) -> ModelRef:
    """`path[@revision][+lora[@revision]]`, or {model: {path, revision}, lora: ...}, which takes the paths as they are.

    Text that starts with / or . is a local path, and has no revision. `lora` is a mapping or text. Keys that mean
    nothing here (override_architecture) are added to `ignored`.
    """
    if not isinstance(raw, Mapping):
        return _from_text(_printable(raw, where), where)
    fields = where.mapping(raw, ("model", "lora", "override_architecture"))
    if fields.get("override_architecture") is not None and ignored is not None:
        ignored.append(str(where.key("override_architecture")))
    model = _from_mapping(fields.get("model"), where.key("model"))
    lora = fields.get("lora")
    if lora is None:
        return model
    place = where.key("lora")
    if isinstance(lora, Mapping):
        return replace(model, lora=_from_mapping(lora, place))
    return replace(model, lora=_place(_printable(lora, place), place))


def model_to_data(ref: ModelRef) -> object:
    """The shortest data that `parse_model` reads back as `ref`."""
    try:
        if _from_text(str(ref), KeyPath("")) == ref:
            return str(ref)
    except InputError:  # a path with + or @ in it needs the mapping
        pass
    data = {"model": _to_mapping(ref)}
    return data if ref.lora is None else {**data, "lora": _to_mapping(ref.lora)}


def _to_mapping(ref: ModelRef) -> dict[str, str]:
    return {"path": ref.path} if ref.revision is None else {"path": ref.path, "revision": ref.revision}


def _from_mapping(raw: object, where: KeyPath) -> ModelRef:
    fields = where.mapping(raw, ("path", "revision"))
    revision = fields.get("revision")
    path = _printable(fields.get("path"), where.key("path"))
    return ModelRef(path, None if revision is None else _printable(revision, where.key("revision")))


def _printable(raw: object, where: KeyPath) -> str:
    """Text that can stand in a message, a card and a log as it is."""
    text = where.text(raw)
    if not text.isprintable():
        raise where.error(f"got {shown(text)}, which holds a character that cannot be printed.")
    return text


_VERBATIM = "for a directory of this very name write {model: {path: '...'}}."


def _from_text(text: str, where: KeyPath) -> ModelRef:
    _refuse_secrets(text, where)
    model, plus, lora = text.partition("+")
    if not plus:
        return _place(text, where)
    if "+" in lora or not model or not lora:
        raise where.error(f"got {shown(text)}, 'model+lora' with one adapter expected; {_VERBATIM}")
    return replace(_place(model, where), lora=_place(lora, where))


def _refuse_secrets(text: str, where: KeyPath) -> None:
    """Before any message repeats it: `scheme://` must not be followed by a password or a signature."""
    if any(without_secrets(part) != part for part in text.split("+")):
        raise where.error(
            "got a URL with '@', '?' or '#', which may hold a secret and is not repeated here; a place is "
            "s3://BUCKET/PREFIX, and credentials come from the environment (docs/object-stores.md)."
        )


def _place(text: str, where: KeyPath) -> ModelRef:
    if text.startswith(("/", ".")):
        return ModelRef(text)
    path, at, revision = text.partition("@")
    if "@" in revision or not path or (at and not revision):
        raise where.error(f"got {shown(text)}, 'model' or 'model@revision' expected; {_VERBATIM}")
    return ModelRef(path, revision or None)
