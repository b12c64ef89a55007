"""What may leave this machine: text and plain data without secrets and without its directories. Pure but for the
environment, whose secrets are looked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.outputs.naming import Names, is_private
from search.masking import masked

_LOCAL_PATH = re.compile(r"(?<![\w:/.])(?:file://)?(?:~|(?=/))(?:/[\w.@+-]+)*/([\w.@+-]+)/?")


def public_text(text: str) -> str:
    """One line: of a path of this machine its last part, of a URL what is no credential, of a secret nothing.

    >>> public_text("ties: /home/me/models/a.json is gone,\\nsee https://me:pw@host/x?key=1")
    'ties: …/a.json is gone, see https://host/x'
    """
    return _cleaned(" ".join(text.split()))


def public_data(value: Any, names: Names) -> Any:
    """Plain data likewise; models by the names that are given to them, paths by their last part."""
    if isinstance(value, Mapping):
        return {key: public_data(inner, names) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [public_data(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    return Path(value).name if is_private(value) and " " not in value else _cleaned(value)


def _cleaned(text: str) -> str:
    return _LOCAL_PATH.sub(r"…/\1", masked(text))
