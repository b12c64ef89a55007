"""Where a model is: the local directory that a name means, or a repository on the Hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from engine.errors import SourceError
from engine.recipes.keypath import shown
from engine.recipes.model_ref import ModelRef
from engine.remote.url import without_secrets
from engine.tensorfile import torchfile

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


WEIGHT_FILES = (".safetensors", *torchfile.SUFFIXES)


def local_path(ref: ModelRef) -> Path | None:
    """The directory, or the file of tensors, that `ref` names; None where it can only be a Hub repository.

    SourceError where it is neither.
    """
    text = ref.path
    if not text:
        raise SourceError("a model without a name: name its directory, or ORG/NAME on the Hub.")
    for name in (text, str(ref)):  # a directory's name may contain '@'
        try:
            path = Path(name).expanduser()
            if path.is_dir() or (path.is_file() and path.suffix in WEIGHT_FILES):
                if ref.revision is not None and name == text:
                    raise SourceError(f"{ref}: {text} is a local {_kind(path)}, which has no revisions. Drop '@'.")
                return path
        except (RuntimeError, OSError) as error:  # an unknown ~user; a name that is too long
            told = error.strerror if isinstance(error, OSError) else error  # which would have the whole name once more
            raise SourceError(f"{shown(text)}: is no path: {told}.") from error
    path = Path(text).expanduser()
    if path.is_file():
        known = ", ".join(WEIGHT_FILES)
        raise SourceError(f"{text}: is a file, but none of tensors ({known}). Name a model's directory.")
    if "://" in text:
        raise SourceError(
            f"{without_secrets(text)}: models are read from local directories, the Hub, s3://, gs:// and az://. "
            "Download it first.",
            missing=text,
        )
    looks_local = text.startswith((".", "/", "~")) or "\\" in text or path.suffix in WEIGHT_FILES
    if not looks_local and _REPO_ID.fullmatch(text) and "--" not in text and ".." not in text:
        return None
    raise SourceError(f"{text}: there is no such {_kind(path)}{_hint(text)}", missing=text)


def _kind(path: Path) -> str:
    return "file" if path.suffix in WEIGHT_FILES and not path.is_dir() else "directory"


def _hint(text: str) -> str:
    """How the message about a missing directory or file ends."""
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        return f", nor {path.parent}."
    if (near := near_directory(path)) is not None:
        return f": did you mean {near}?"
    return ", and models on the Hub are called ORG/NAME." if "/" not in text else "."


def near_directory(path: Path) -> Path | None:
    """What beside `path` was probably meant: a directory, or for a file of tensors one of those."""
    kinds = WEIGHT_FILES if path.suffix in WEIGHT_FILES else ()
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [entry.name for entry in there if entry.suffix in kinds or (not kinds and entry.is_dir())]
    near = difflib.get_close_matches(path.name, names, n=1)
    return path.with_name(near[0]) if near else None
