"""Warm starts: the best points of earlier campaigns on the same sources, as points of this campaign's stages.

Where a campaign is, its file says by a path (a run's directory, or its database) or by a name in the same store. A
point is taken if it is the same model here and there: its recipe here, its sources in the order that they had there
(which decides how sums are rounded, and who gets which random mask), has the hash that it had there, over the contents
of the sources. Their scores may come from other tasks; they say which points are good, and are told to nobody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import CampaignError
from search.baselines import PARENT, Baseline
from search.campaign_file import Campaign
from search.results import CandidateRow, Results, read_results, results_of
from search.run import RunDirectory
from search.space import Axis, Params, Space, Value, make_space
from search.space.sequence import PREFIX
from search.store.store import Store
from search.whereabouts import recall

_SQLITE = b"SQLite format 3\0"  # what a file of it begins with (sqlite.org/fileformat2.html, 1.3)
SHARE = 0.1
LEAST, MOST = 8, 200
HashesOf = Callable[[Mapping[str, Any]], Sequence[str]]
"""Recipe → what it may be called in the rows of a campaign, the likeliest first (Services.hashes)."""
Elites = dict[int, list[tuple[Params, float]]]
Names = Mapping[str, str]
"""Name of a source in the earlier campaign → its name here."""


def read_elites(
    campaign: Campaign, space: Space, baselines: Sequence[Baseline], *, url: str | None, hashes_of: HashesOf
) -> Elites:
    """Stage → the best tenth of the points that earlier campaigns scored there (8 to 200), the best first.

    `url` is the campaign's own store, None where that is a file of its own.

    Raises CampaignError where a campaign is not there, has other sources, or no stage with the axes of one here.
    """
    found: Elites = {}
    for index, place in enumerate(campaign.warm_start):
        where = f"{campaign.origin}: warm_start[{index}]: {place}"
        results = _results(place, url=url, where=where)
        names = _source_names(results, baselines, hashes_of=hashes_of, where=where)
        fitting = _fitting(results, space, names=names, hashes_of=hashes_of)
        if not any(row.params and row.estimate is not None for row in results.candidates):
            raise CampaignError(f"{where}: no point of its search is scored yet: continue it first", place=place)
        if not fitting:
            theirs = ", ".join(stage.name for stage in results.campaign.space.stages)
            raise CampaignError(
                f"{where}: none of its stages ({theirs}) has points that are points here: method, parameters, ranges "
                "and granularity of a stage have to be the same, and so has all else that its recipes say: settings, "
                "dtypes, tokenizer and seed",
                place=place,
            )
        for stage, points in fitting.items():
            found[stage] = sorted([*found.get(stage, []), *points], key=lambda pair: -pair[1])
    return {stage: points[: min(MOST, max(LEAST, int(SHARE * len(points))))] for stage, points in found.items()}


def elites_to_rows(elites: Elites) -> list[list[Any]]:
    """Plain data for the store: a continued run starts from the same points, whatever became of the earlier one."""
    return [[stage, dict(params), score] for stage, points in elites.items() for params, score in points]


def elites_from_rows(rows: Sequence[Sequence[Any]] | None) -> Elites:
    """The inverse of `elites_to_rows`."""
    found: Elites = {}
    for stage, params, score in rows or ():
        found.setdefault(int(stage), []).append((params, float(score)))
    return found


def _results(place: str, *, url: str | None, where: str) -> Results:
    path = Path(place)
    if not path.exists():
        return _shared(place, url=url, where=where)
    try:
        if path.is_dir():
            found, name = recall(RunDirectory(path))
            return read_results(found, name=name)
        return _of_file(path, where=where)
    except CampaignError as error:
        told = error.message.removeprefix(f"{where}: ").removeprefix(f"{place}: ")
        raise CampaignError(f"{where}: {told}", **error.facts) from error


def _of_file(path: Path, *, where: str) -> Results:
    """Of the one campaign in a database."""
    with path.open("rb") as file:
        begins = file.read(len(_SQLITE))
    store = Store(f"sqlite:///{path}")
    try:
        names = store.names() if begins == _SQLITE else []
    finally:
        store.close()
    if len(names) != 1:
        held = f"{len(names)} campaigns ({', '.join(names)})" if names else "no campaign"
        raise CampaignError(f"{where}: holds {held}; the directory of a run, or its campaign.sqlite, expected")
    return read_results(f"sqlite:///{path}", name=names[0])


def _shared(name: str, *, url: str | None, where: str) -> Results:
    """A campaign in the same store, where that is more than the run's own file."""
    if url is None:
        raise CampaignError(
            f"{where}: is no path; names are of campaigns in the same `store`, and this one has its own"
        )
    store = Store(url)
    try:
        found = store.find(name)
        if found is None:
            raise CampaignError(f"{where}: is neither a path nor a campaign in the store of this one")
        return results_of(store, found)
    finally:
        store.close()


def _source_names(results: Results, baselines: Sequence[Baseline], *, hashes_of: HashesOf, where: str) -> Names:
    """What each source of the earlier campaign is called here, whatever it was called there and wherever it lies.

    Base and parents are candidates of every campaign, so their hashes say which models are the same (and in runs of
    earlier versions, which have the same weights). CampaignError where they are not the same models in both.
    """
    known = {row.recipe_hash: row.label for row in results.candidates if row.origin == "baseline"}
    models = [baseline for baseline in baselines if baseline.kind in ("base", "parent")]
    there = {b.label: next(filter(known.__contains__, hashes_of(b.recipe)), None) for b in models}
    mine = {found: label for label, found in there.items() if found is not None}
    other = [label for label, found in there.items() if found is None]
    if other:
        raise CampaignError(
            f"{where}: was searched on other models: {', '.join(other)} of this campaign is not among its base and "
            "parents (compared by content, dtype and what lies beside the weights)",
            other=other,
        )
    here = {
        theirs.removeprefix(PARENT): mine[found].removeprefix(PARENT)
        for found, theirs in known.items()
        if found in mine
    }
    further = [name for name in results.campaign.source_names if name not in here]
    if further:
        raise CampaignError(
            f"{where}: was searched on more models: its source{'s' * (len(further) > 1)} {', '.join(further)} "
            f"{'are' if len(further) > 1 else 'is'} not among the sources here (compared by content, "
            "dtype and what lies beside the weights)",
            other=further,
        )
    return {name: here[name] for name in results.campaign.source_names}


def _fitting(results: Results, space: Space, *, names: Names, hashes_of: HashesOf) -> Elites:
    """Stage here → points of stages there that have the same axes, and make the same models of them."""
    found: Elites = {}
    models = dict(zip(space.sources, space.models, strict=True))
    order = [models[names[name]] for name in results.campaign.source_names]
    for theirs in make_space(results.campaign, layers=results.layers).stages:
        rows = _best_first([row for row in results.candidates if row.stage == theirs.name and row.params])
        axes = [(axis, called_here(axis, results.campaign.source_names, names)) for axis in theirs.axes]
        points = [(point_here(row.params, axes), score) for row, score in rows]
        for stage, rule in enumerate(space.stages):
            same = bool(points) and ranges(axis for _, axis in axes) == ranges(rule.axes)
            if same and rows[0][0].recipe_hash in hashes_of(ordered(space.recipe(stage, points[0][0]), order)):
                found.setdefault(stage, []).extend(points)
    return found


def ordered(recipe: Mapping[str, Any], order: Sequence[str]) -> Mapping[str, Any]:
    """The same merge with its models in another order."""
    models = recipe.get("models")
    return recipe if models is None else {**recipe, "models": sorted(models, key=lambda m: order.index(m["model"]))}


def called_here(axis: Axis, sources: Sequence[str], names: Names) -> Axis:
    """An axis of the earlier campaign with the names that its sources have here."""
    name, choices = axis.name, axis.choices
    if axis.source is not None:
        theirs = f"{axis.parameter}/{sources[axis.source]}"
        name = f"{axis.parameter}/{names[sources[axis.source]]}{name.removeprefix(theirs)}"
    if axis.parameter == PREFIX:
        choices = tuple(names[str(choice)] for choice in choices)
    return dataclasses.replace(axis, name=name, choices=choices)


def point_here(params: Params, axes: Sequence[tuple[Axis, Axis]]) -> dict[str, Value]:
    """A point there (first of each pair) as a point here."""
    return {
        mine.name: mine.choices[axis.choices.index(params[axis.name])] if axis.choices else params[axis.name]
        for axis, mine in axes
    }


def ranges(axes: Iterable[Axis]) -> set[tuple[Any, ...]]:
    """What two stages have in common where their points are the same; not the order of sources."""
    return {(axis.name, axis.low, axis.high, axis.grid, frozenset(axis.choices)) for axis in axes}


def _best_first(rows: Sequence[CandidateRow]) -> list[tuple[CandidateRow, float]]:
    """Scored points by estimate; first of all the one that was best on selection, which may be a mean or a soup."""
    known = [(row, row.estimate) for row in rows if row.estimate is not None]
    known.sort(key=lambda pair: -pair[1])
    selected = [row for row in rows if row.selection_score is not None]
    if selected and known:
        best = max(selected, key=lambda row: row.selection_score or 0.0)
        known = [(best, known[0][1]), *((row, score) for row, score in known if row is not best)]
    return known
