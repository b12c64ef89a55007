"""Names of models, as recipes and campaigns write them: text `path@revision`, or mergekit's mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import InputError
from engine.keypath import KeyPath, shown


@dataclass(frozen=True, order=True)
class ModelRef:
    """A model by place: a local directory, or `org/name` on the Hub, at an optional revision."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


def parse_model(raw: object, where: KeyPath, *, ignored: list[str] | None = None) -> ModelRef:
    """`path`, `path@revision`, or {model: {path, revision}}, which takes the path as it is.

    Text that starts with / or . is a local path, and has no revision. LoRA adapters (`+`) are refused. Keys that
    mean nothing here (override_architecture) are added to `ignored`.
    """
    if not isinstance(raw, Mapping):
        return _from_text(_printable(raw, where), where)
    fields = where.mapping(raw, ("model", "lora", "override_architecture"))
    if fields.get("lora") is not None:
        raise where.key("lora").error("LoRA adapters are not supported yet; merge it into its model first.")
    if fields.get("override_architecture") is not None and ignored is not None:
        ignored.append(str(where.key("override_architecture")))
    place = where.key("model")
    inner = place.mapping(fields.get("model"), ("path", "revision"))
    revision = inner.get("revision")
    path = _printable(inner.get("path"), place.key("path"))
    return ModelRef(path, None if revision is None else _printable(revision, place.key("revision")))


def model_to_data(ref: ModelRef) -> object:
    """The shortest data that `parse_model` reads back as `ref`."""
    try:
        if _from_text(str(ref), KeyPath("")) == ref:
            return str(ref)
    except InputError:  # a path with + or @ in it needs the mapping
        pass
    return {"model": {"path": ref.path} if ref.revision is None else {"path": ref.path, "revision": ref.revision}}


def _printable(raw: object, where: KeyPath) -> str:
    """Text that can stand in a message, a card and a log as it is."""
    text = where.text(raw)
    if not text.isprintable():
        raise where.error(f"got {shown(text)}, which holds a character that cannot be printed.")
    return text


def _from_text(text: str, where: KeyPath) -> ModelRef:
    verbatim = "for a directory of this very name write {model: {path: '...'}}."
    if "+" in text:
        raise where.error(f"got {shown(text)}: LoRA adapters (model+adapter) are not supported yet; {verbatim}")
    if text.startswith(("/", ".")):
        return ModelRef(text)
    path, at, revision = text.partition("@")
    if "@" in revision or not path or (at and not revision):
        raise where.error(f"got {shown(text)}, 'model' or 'model@revision' expected; {verbatim}")
    return ModelRef(path, revision or None)
