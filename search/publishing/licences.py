"""The licence of a merge, from those of its parents: a partial order over the Hub's identifiers. Pure. No legal advice.

A merge may be given away under a parent's licence that allows no more than each of the others does, where there is
one: the least upper bound among the parents. Where there is none (`llama3` and `cc-by-nc-4.0`), the merge is `other`,
and the card names all of them; where a parent says nothing, it is `unknown`.

    cc0-1.0 … ── mit, bsd … ── apache-2.0 ─┬─ mpl-2.0 ── lgpl-3.0 ── gpl-3.0 ── agpl-3.0
                                           ├─ cc-by-4.0 ─┬─ cc-by-sa-4.0
                                           │             └─ cc-by-nc-4.0 ── cc-by-nc-sa-4.0
                                           └─ openrail …, llama2 … llama4, gemma      (none above another)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

UNKNOWN, OTHER = "unknown", "other"

_BELOW: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("mit", "isc", "zlib", "bsd-2-clause", "bsl-1.0"), ("cc0-1.0", "unlicense", "wtfpl", "0bsd", "pddl")
    ),
    **dict.fromkeys(("bsd-3-clause", "bsd"), ("bsd-2-clause", "mit", "isc", "zlib", "bsl-1.0")),
    "apache-2.0": ("bsd-3-clause", "bsd"),
    "mpl-2.0": ("apache-2.0",),
    "lgpl-3.0": ("mpl-2.0",),
    "gpl-3.0": ("lgpl-3.0",),
    "agpl-3.0": ("gpl-3.0",),
    "cc-by-4.0": ("apache-2.0",),
    "cc-by-sa-4.0": ("cc-by-4.0",),
    "cc-by-nc-4.0": ("cc-by-4.0",),
    "cc-by-nc-sa-4.0": ("cc-by-nc-4.0",),
    **dict.fromkeys(
        ("openrail", "creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m", "openrail++"),
        ("apache-2.0",),
    ),
    **dict.fromkeys(("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma"), ("apache-2.0",)),
}
"""Licence → those that it is stricter than, without steps between. Share-alike and non-commercial works of the Creative
Commons do not mix below by-nc-sa, and by-sa is not below it: a work under by-sa stays under by-sa."""

_NO_DERIVATIVES = frozenset({"cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-nd-3.0"})


def checked_identifier(text: str) -> str:
    """The text. ValueError where the Hub would not take it for a licence."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise ValueError(f"got {text!r}, an identifier of the Hub expected: apache-2.0, cc-by-4.0, other …")
    return text


@dataclass(frozen=True)
class Licence:
    """An identifier of the Hub; `name` and `link` belong to `other`, where the model's author wrote them."""

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def text(self) -> str:
        return self.id if self.name is None else f"{self.id} ({self.name})"


@dataclass(frozen=True)
class Verdict:
    """The merge's licence, and what has to be said about it ("" where it is everybody's)."""

    licence: Licence
    note: str = ""


def merged_licence(parents: Sequence[tuple[str, Licence | None]]) -> Verdict:
    """The licence of a merge of these models (name, licence or None where it says none)."""
    silent = [name for name, licence in parents if licence is None or licence.id == UNKNOWN]
    known = {name: licence for name, licence in parents if licence is not None and licence.id != UNKNOWN}
    listed = ", ".join(f"{name}: {licence.text}" for name, licence in known.items())
    warning = _warning(known)
    if silent:
        rest = f" The others: {listed}." if known else ""
        return Verdict(
            Licence(UNKNOWN),
            f"No licence is stated by {', '.join(silent)}: find out before you give the model away.{rest}{warning}",
        )
    kinds = list(dict.fromkeys(known.values()))
    if len(kinds) == 1:
        return Verdict(kinds[0], warning.strip())
    strictest = [kind for kind in kinds if all(kind == other or _is_stricter(kind, other) for other in kinds)]
    if strictest:
        return Verdict(strictest[0], f"The strictest of the parents' licences ({listed}).{warning}")
    return Verdict(
        Licence(OTHER), f"The parents' licences all apply, and none contains the others ({listed}).{warning}"
    )


def _warning(known: Mapping[str, Licence]) -> str:
    closed = [name for name, licence in known.items() if licence.id in _NO_DERIVATIVES]
    return f" {', '.join(closed)} must not be changed and given away: a merge is a change." if closed else ""


def _is_stricter(licence: Licence, other: Licence) -> bool:
    return other.id in _all_below(licence.id)


@cache
def _all_below(licence: str) -> frozenset[str]:
    below = _BELOW.get(licence, ())
    return frozenset(below).union(*(_all_below(step) for step in below))
