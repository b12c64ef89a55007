"""Filters: which tensors a setting or a rule is meant for, by name: a part of the name, or `re:` and a pattern.

`None`, '' and '*' are for every tensor. A pattern is Python's, searched anywhere in the name (`re.search`). Patterns
that can take exponential time are refused: a recipe may come from anywhere, and nothing can stop a search that runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from engine.recipes.keypath import KeyPath, shown

PATTERN = "re:"
MAX_PATTERN = 200
MAX_WIDE_REPEATS, MAX_CHOICES = 3, 8
"""Each `.*` multiplies the time by the length of the name, which is about 50; each choice may double it."""

_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?P=|.", re.DOTALL)
_REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")
_NARROW = ("\\d", "[0-9]")


def parse_filter(raw: object, where: KeyPath) -> str | None:
    """What stands under `filter:`; RecipeError for a pattern that is wrong or could run for ever."""
    if raw in (None, ""):
        return None if raw is None else ""
    text = where.text(raw)
    if not text.startswith(PATTERN):
        return text
    pattern = text.removeprefix(PATTERN)
    if not pattern or len(pattern) > MAX_PATTERN:
        raise where.error(f"got a pattern of {len(pattern)} characters, 1 to {MAX_PATTERN} expected.")
    try:
        re.compile(pattern)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise where.error(f"{shown(pattern)} is no regular expression: {error.msg}{at}.") from None
    except (OverflowError, RecursionError) as failure:
        raise where.error(f"{shown(pattern)} is no regular expression: {failure}.") from None
    wrong = _too_slow(pattern)
    if wrong is not None:
        raise where.error(f"{shown(pattern)} {wrong}, which can take for ever: write it without.")
    return text


def is_total(pattern: str | None) -> bool:
    """Whether the filter is for every tensor, whatever its name."""
    return pattern in (None, "", "*")


def matches(pattern: str | None, name: str) -> bool:
    """Whether the filter is for the tensor `name`."""
    if pattern is None or is_total(pattern):
        return True
    return _found(pattern, name) if pattern.startswith(PATTERN) else pattern in name


@lru_cache(maxsize=1 << 16)
def _found(pattern: str, name: str) -> bool:
    return re.search(pattern.removeprefix(PATTERN), name) is not None


def unmatched(patterns: Iterable[str | None], names: Collection[str]) -> list[str]:
    """The filters that are for none of `names`, each once."""
    return [pattern for pattern in dict.fromkeys(patterns) if pattern and not any(matches(pattern, n) for n in names)]


def nearest(pattern: str, names: Iterable[str]) -> str:
    """How a message about a filter that matches nothing goes on: the nearest parts of names, or how names look."""
    sample = next(iter(names), None)
    if sample is None:
        return "there are no tensors to choose from"
    text = pattern.removeprefix(PATTERN)
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    close = difflib.get_close_matches(text, sorted(parts), n=3, cutoff=0.6)
    near = [part for part in close if part not in text]  # `layers.99.` is not a misspelt `layers`
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"names look like {sample!r}"


def _too_slow(pattern: str) -> str | None:
    """What makes a pattern's time explode: back-references, and a repeated group that can match a text in two ways.

    Without these, time grows with a power of the name's length, by one for every wide repeat (`.*`, but not `\\d+`),
    and doubles with every choice (`x?`, a group that is not plain): both are counted.
    """
    groups = [False]  # for every open group: whether it can match one text in two ways
    closed, last, wide, choices = False, "", 0, 0
    for token in _TOKENS.findall(pattern):
        match _kind(token, last):
            case "open":
                groups.append(False)
            case "close" if len(groups) > 1:
                closed = groups.pop()
                groups[-1] |= closed
                choices += closed
            case "repeat" if last == ")" and closed:
                return f"repeats ({token}) a group that holds a repeat or a choice itself"
            case "repeat":
                groups[-1] = True
                wide += last not in _NARROW
            case "choice":
                groups[-1] = True
                choices += token == "?"
            case "reference":
                return f"refers back to a group ({token})"
        last = token
    if wide > MAX_WIDE_REPEATS:
        return f"has {wide} repeats like .* (at most {MAX_WIDE_REPEATS} are allowed)"
    return f"has {choices} choices (at most {MAX_CHOICES} are allowed)" if choices > MAX_CHOICES else None


def _kind(token: str, last: str) -> str:
    """What a token of a pattern does, after `last`."""
    if token in ("(", ")"):
        return "open" if token == "(" else "close"
    if re.fullmatch(r"\\[1-9]|\(\?P=", token):
        return "reference"
    if _REPEAT.fullmatch(token) and last not in ("", "(", "|"):
        return "repeat"
    optional = token == "?" and last not in ("", "(", "|") and not _REPEAT.fullmatch(last)
    return "choice" if optional or token == "|" else "plain"
