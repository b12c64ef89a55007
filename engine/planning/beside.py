"""The files beside the weights: their digests when they were written, and what became of them since.

What loaders read there (config.json, tokenizer, chat templates, generation settings, code) decides how a model answers
as much as its weights do. provenance.json, which is written last, has a digest of every one of them in `small_files`;
what older versions wrote has none, and is compared with what the same recipe makes now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.models.chat_templates import FILE, JSON_FILE
from engine.models.tokenizer import MODEL_FILES, NAMED_TEMPLATES, TOKENIZER_FILES

CARD = "README.md"
CONFIG = "config.json"
SMALL_FILES = "small_files"
_WEIGHTS = ".safetensors"
_COPIED = frozenset({*TOKENIZER_FILES, *MODEL_FILES, FILE, JSON_FILE})
_LOADED = _COPIED | {CONFIG, "adapter_config.json"}  # transformers applies an adapter that lies beside a model
_LOADED_KINDS = (_WEIGHTS, _WEIGHTS + ".index.json", ".py", ".jinja")


@dataclass(frozen=True)
class Held:
    """The files of a model where it is now: their names (see `shown`), and the bytes of one, None where unreadable."""

    names: frozenset[str]
    read: Callable[[str], bytes | None]


@dataclass(frozen=True)
class Beside:
    """What differs of the files beside the weights, by their names.

    altered    not the bytes that were written
    missing    written, and gone
    added      not written, and read by those who load the model
    remade     the same recipe makes others here
    others     not written, and no part of the model
    unknown    nothing is known to compare them with (an older version wrote no digests)
    """

    altered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[str, ...]:
        """The names of those that make it another model. A card is its owner's to edit."""
        return tuple(sorted({*self.altered, *self.missing, *self.added, *self.remade} - {CARD}))

    @property
    def changes(self) -> list[str]:
        """What is not as it was written, the card too, a clause each."""
        kinds = (
            (self.altered, "is not what was written"),
            (self.missing, "is missing"),
            (self.added, "was added, and is read by those who load the model"),
        )
        return [f"{name} {what}" for names, what in kinds for name in names]

    @property
    def notes(self) -> list[str]:
        """What is no fault, a line for each kind."""
        others = f"not written by mergefleet, and no part of the model: {_listed(self.others)}"
        unknown = f"not compared, for an older mergefleet noted no digests of files: {_listed(self.unknown)}"
        return [line for names, line in ((self.others, others), (self.unknown, unknown)) if names]


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()


def digests_in(directory: Path, but: Collection[str] = ()) -> dict[str, str]:
    """Digests of all files under `directory` by their names, `but` those."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: digest_of(files[name].read_bytes()) for name in sorted(files) if name not in but}


def shown(names: Iterable[str]) -> frozenset[str]:
    """Names as `Held` has them: nothing hidden, and of a folder its name alone but where it holds chat templates."""
    visible = (name for name in names if not name.startswith("."))
    return frozenset(
        name if "/" not in name or name.startswith(f"{NAMED_TEMPLATES}/") else f"{name.partition('/')[0]}/"
        for name in visible
    )


def held_in(directory: Path) -> Held:
    """The files of a directory."""
    names = [f"{path.name}/" if path.is_dir() else path.name for path in directory.iterdir()]
    templates = directory / NAMED_TEMPLATES
    if templates.is_dir():
        names.remove(f"{NAMED_TEMPLATES}/")
        names += [f"{NAMED_TEMPLATES}/{path.name}" for path in templates.iterdir()]

    def read(name: str) -> bytes | None:
        try:
            return (directory / name).read_bytes()
        except OSError:
            return None

    return Held(shown(names), read)


def digests_said(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """The digests that a provenance.json has; None in one of an older version. TypeError where they are no such."""
    said = facts.get(SMALL_FILES)
    if said is None:
        return None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise TypeError(f"{SMALL_FILES}: names and digests expected")
    return said


def written(facts: Mapping[str, Any]) -> set[str]:
    """The names of the files beside the weights that its provenance.json says were written, but of itself."""
    said = digests_said(facts)
    if said is not None:
        return set(said)
    names = set(map(str, facts.get("files", ())))
    return {name for name in names if not name.endswith(_WEIGHTS) and name != "provenance.json"}


def compare(held: Held | None, facts: Mapping[str, Any], remade: Mapping[str, str] | None) -> Beside:
    """What is there (None: nothing was looked at) with what was written, and with what is made again, by digests.

    Where provenance.json has no digests, those of what is made again take their place. `remade` is None where it could
    not be made.
    """
    said, wanted = digests_said(facts), written(facts)
    again = {name: value for name, value in (remade or {}).items() if name in wanted}
    expected = again if said is None else said
    unlike: set[str] = set()
    if said is not None and remade is not None:
        unlike = {name for name in wanted if (name in again or _is_copied(name)) and again.get(name) != said[name]}
    if held is None:
        return Beside(remade=_sorted(unlike))
    there = {name for name in wanted if name in held.names}
    absent = {name for name in wanted - there if not any(one.startswith(f"{name}/") for one in held.names)}
    extra = held.names - wanted - set(facts.get("files", held.names))
    if said is None:  # the names of folders were noted, and not what is in them
        extra = frozenset(name for name in extra if name.partition("/")[0] not in wanted)
    loaded = {name for name in extra if _is_loaded(name)}
    return Beside(
        altered=_sorted(name for name in there & expected.keys() if not _is(held.read(name), expected[name])),
        missing=_sorted(absent),
        added=_sorted(loaded),
        remade=_sorted(unlike),
        others=_sorted(extra - loaded),
        unknown=_sorted(there - expected.keys()),
    )


def _is(data: bytes | None, wanted: str) -> bool:
    return data is not None and digest_of(data) == wanted


def _is_copied(name: str) -> bool:
    return name in _COPIED or name.startswith(f"{NAMED_TEMPLATES}/") or name.endswith(".py")


def _is_loaded(name: str) -> bool:
    return name in _LOADED or name.endswith(_LOADED_KINDS)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
