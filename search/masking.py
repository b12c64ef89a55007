"""Secrets out of what foreign libraries say: the values of the variables that hold them, and credentials in URLs. Pure
but for the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_TELLING = re.compile(r"(KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|TRACKING_URI|DATABASE_URL)$", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>[^\s'\"<>)]+)")
SHORTEST = 8
"""A secret shorter than this is a word that messages need."""


def masked(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without what is secret in it."""
    given = os.environ if environment is None else environment
    secrets = [value for name, value in given.items() if _TELLING.search(name) and len(value) >= SHORTEST]
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "***")
    return _URL.sub(_without_credentials, text)


def _without_credentials(found: re.Match[str]) -> str:
    """A URL without user, password, query and fragment."""
    rest = re.split(r"[?#]", found["rest"])[0]
    authority, slash, path = rest.partition("/")
    return found["scheme"] + authority.rpartition("@")[2] + slash + path
