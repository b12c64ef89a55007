"""Verdict ↔ plain data, for the store and for `--json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from search.ports import BoundKept, Comparison, FrontMember, Verdict


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """Plain data that `verdict_from_dict` reads back as an equal verdict."""
    return dataclasses.asdict(verdict)


def verdict_from_dict(data: Mapping[str, Any]) -> Verdict:
    """The inverse of `verdict_to_dict`, also after a trip through JSON (which has no tuples)."""
    comparisons = [_comparison(entry) for entry in data["comparisons"]]
    interval = None if data["interval"] is None else tuple(data["interval"])
    lists = {name: tuple(data.get(name, ())) for name in ("unscored", "notes", "objectives")}
    front = [FrontMember(**{**entry, **_pairs(entry)}) for entry in data.get("front", ())]
    bounds = [_bound(entry) for entry in data.get("bounds", ())]
    parts = {"comparisons": tuple(comparisons), "front": tuple(front), "bounds": tuple(bounds)}
    return Verdict(**{**data, **lists, **parts, "interval": interval})


def _bound(entry: Mapping[str, Any]) -> BoundKept:
    return BoundKept(**{**entry, "interval": None if entry["interval"] is None else tuple(entry["interval"])})


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    facts = {name: value for name, value in entry.items() if name != "sign_p"}  # of an older version
    return Comparison(**{"flip_p": None, **facts, "interval": tuple(entry["interval"])})


def _pairs(entry: Mapping[str, Any]) -> dict[str, Any]:
    pairs = {"values": tuple(entry["values"]), "intervals": tuple(tuple(ends) for ends in entry["intervals"])}
    return {**pairs, "broken": tuple(entry.get("broken", ()))}
