"""What is wrong with a space, said before anything is scored: one line with file and key, got and expected.

`check_entry` needs the campaign alone, `check_space` the number of layers, `check_tensors` the tensors' names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING

from engine.errors import CampaignError, InputError, did_you_mean
from engine.methods import Parameter
from engine.recipes.check import MAX_VALUE, check_parameters
from engine.recipes.filters import matches, nearest
from engine.recipes.keypath import KeyPath
from engine.recipes.reader import parse_recipe
from search.space import feasible
from search.space.axes import REST, Shape
from search.space.constraints import DRAWS, ROUNDS, Constraint, Interval, contradiction, parse_constraint, unreached
from search.space.entry import Choice, LayersEntry, Range, SpaceEntry
from search.space.lifting import contained, parent
from search.space.methods import MergeMethod, merge_method

if TYPE_CHECKING:
    from search.campaign_file import Campaign
    from search.space.codec import Space

CHOSEN = ("method", "use", "layers", "scale")
"""What a stage may search besides parameters."""


def check_entry(campaign: Campaign) -> tuple[MergeMethod, ...]:
    """The methods of a campaign's space. Raises CampaignError for what does not fit the engine's table of them."""
    entry, where = campaign.space, KeyPath(campaign.origin, "space", CampaignError)
    methods = tuple(merge_method(name, use_base=entry.use_base, origin=campaign.origin) for name in entry.methods)
    if entry.layers is not None:
        _check_alone(campaign, where)
    if entry.use_base and not any(method.engine.base == "optional" for method in methods):
        raise where.key("use_base").error(f"is for methods that can do without a base; {_named(methods)} cannot.")
    _check_names(campaign, methods, where)
    for method in methods:
        _check_sources(campaign, method, where)
        for name, row in method.parameters.items():
            if row.required and name not in {*entry.parameters, *entry.fixed}:
                text = f"{method.name} needs {name!r}: search it (parameters) or set it (fixed)."
                raise where.key("parameters").error(text)
    searchable = {*entry.parameters, *_chosen(campaign)}
    if not searchable:
        raise where.key("parameters").error(f"there is nothing to search; {_has(methods)}")
    for index, stage in enumerate(entry.stages):
        for name in stage.search:
            if name not in searchable:
                place = where.key("stages").item(index).key("search")
                raise place.error(f"{name!r} is not a parameter of the space, {did_you_mean(name, searchable)}")
    return methods


def _check_alone(campaign: Campaign, where: KeyPath) -> None:
    """A layer sequence is the whole space: nothing else of it would have an effect."""
    entry = campaign.space
    if entry.methods != ("passthrough",):
        raise where.key("layers").error("stacks layers, which passthrough does: write method: passthrough.")
    for key in ("parameters", "fixed", "subset", "constraints"):
        if getattr(entry, key):
            raise where.key(key).error("has no effect on a layer sequence; leave it out.")
    for index, stage in enumerate(entry.stages):
        if stage.by != "global":
            place = where.key("stages").item(index).key("by")
            raise place.error(f"got {stage.by}; a layer sequence has its own places, leave it out.")
    if entry.layers is not None and entry.layers.scale is not None:
        row = merge_method("passthrough", use_base=False, origin=campaign.origin).parameters["scale"]
        _check_bounds(entry.layers.scale, row, "passthrough", where.key("layers").key("scale"))


def _chosen(campaign: Campaign) -> list[str]:
    entry = campaign.space
    there = (len(entry.methods) > 1, entry.subset, entry.layers, entry.layers and entry.layers.scale)
    return [name for name, given in zip(CHOSEN, there, strict=True) if given]


def _check_names(campaign: Campaign, methods: tuple[MergeMethod, ...], where: KeyPath) -> None:
    """Every parameter is one that a method has, of one meaning, and within its bounds; modules are for some stage."""
    entry = campaign.space
    given = entry.modules != SpaceEntry.model_fields["modules"].default
    if given and not any(stage.by.startswith("module") for stage in entry.stages):
        raise where.key("modules").error("means nothing where no stage is by module, module_layer or module_gradient.")
    for key, given in (("parameters", entry.parameters), ("fixed", entry.fixed)):
        for name, value in given.items():
            owners = [method for method in methods if name in method.parameters]
            place = where.key(key).key(name)
            if not owners:
                known = sorted({name for method in methods for name in method.parameters})
                told = f"{_named(methods)} {'have' if len(methods) > 1 else 'has'} no parameter {name!r}"
                raise place.error(f"{told}; {did_you_mean(name, known)}" if known else f"{told}, nor any other.")
            if len({method.parameters[name].scope for method in owners}) > 1:
                told = ", ".join(f"{method.parameters[name].scope} for {method.name}" for method in owners)
                raise place.error(f"means different things ({told}): search these methods in campaigns of their own.")
            for method in owners:
                _check_bounds(value, method.parameters[name], method.name, place)
    both = sorted(set(entry.parameters) & set(entry.fixed))
    if both:
        raise where.key("fixed").key(both[0]).error(f"is searched already (space.parameters.{both[0]})")


def _check_bounds(value: Range | Choice | float | bool, row: Parameter, method: str, place: KeyPath) -> None:
    switch = isinstance(row.default, bool)
    if isinstance(value, Range):
        numbers: Collection[float | bool] = (value.low, value.high, value.start)
    else:
        numbers = value.choices if isinstance(value, Choice) else (value,)
    if switch and (isinstance(value, Range) or any(number not in (True, False) for number in numbers)):
        raise place.error(f"is a switch of {method}: write [true, false].")
    if any(abs(number) > MAX_VALUE for number in numbers):
        raise place.error(
            f"got {max(numbers, key=abs):g}; {method} takes numbers from {-MAX_VALUE:g} to {MAX_VALUE:g}."
        )
    if isinstance(value, Range) and value.high - value.low < 1 / MAX_VALUE:
        raise place.error(f"got {value.low} to {value.high}; a range that is {1 / MAX_VALUE:g} wide or more expected.")
    for number in numbers:
        whole = not row.whole or float(number) == int(number)
        if not switch and (isinstance(number, bool) or not row.low <= number <= row.high or not whole):
            kind = "whole numbers" if row.whole else "numbers"
            raise place.error(f"got {number}; {method} takes {kind} from {row.low:g} to {row.high:g}.")


def _check_sources(campaign: Campaign, method: MergeMethod, where: KeyPath) -> None:
    """The number of sources fits, or can be made to fit by leaving some out."""
    entry, count = campaign.space, len(campaign.sources)
    if entry.layers is None:
        fits = method.accepts(count) or (entry.subset and method.least <= count)
        if not fits:
            more = " Search a `subset`, or name fewer." if count > method.least and not entry.subset else ""
            if method.name == "passthrough":
                more = " To stack layers of several, search `layers`."
            key = KeyPath(campaign.origin, "sources", CampaignError)
            raise key.error(f"{method.name} takes {method.count()}, got {count}.{more}")
    for index, source in enumerate(campaign.sources):
        if method.engine.importance and source.importance is None:
            place = KeyPath(campaign.origin, "sources", CampaignError).item(index)
            raise place.error(f"has no `importance`, which {method.name} needs for every source.")


def _has(methods: tuple[MergeMethod, ...]) -> str:
    names = sorted({name for method in methods for name in method.parameters})
    found = f"has {', '.join(names)}." if names else "has no parameter; `subset` searches its sources."
    return f"{_named(methods)} {found}"


def _named(methods: tuple[MergeMethod, ...]) -> str:
    return " and ".join(method.name for method in methods)


def check_run(entry: LayersEntry, layers: int, origin: str) -> None:
    """Raise CampaignError where the layers of the models are no whole number of runs."""
    where = KeyPath(origin, "space.layers", CampaignError)
    if layers % entry.run:
        raise where.key("run").error(f"got {entry.run}, the models have {layers} layers, which is no multiple of it.")


def check_space(space: Space, campaign: Campaign) -> Space:
    """`space` with its constraints, if every stage fits the models and the next one, and the start may be."""
    where = KeyPath(space.origin, "space", CampaignError)
    for index, stage in enumerate(space.stages):
        place = where.key("stages").item(index)
        if stage.entry.blocks > space.layers:
            raise place.key("blocks").error(f"got {stage.entry.blocks}, the models have {space.layers} layers")
        if not stage.axes:
            raise place.error(f"stage {stage.name!r} has nothing to search.")
    for coarse, fine in pairwise(space.stages):
        parameter = contained(coarse, fine, space.layers)
        if parameter is not None:
            raise where.key("stages").error(
                f"stage {fine.name!r} cannot hold every point of {coarse.name!r} before it (parameter {parameter!r}). "
                "Order the stages from coarse to fine."
            )
    space = replace(space, constraints=_constraints(space, campaign, where))
    _check_start(space, where)
    return space


def _constraints(space: Space, campaign: Campaign, where: KeyPath) -> tuple[Constraint, ...]:
    by_parameter = feasible.names(space)
    names = [name for full in by_parameter.values() for name in full]
    groups = {parameter: full for parameter, full in by_parameter.items() if full != (parameter,)}
    found = []
    for index, text in enumerate(campaign.space.constraints):
        place = where.key("constraints").item(index)
        try:
            constraint = parse_constraint(text, names, groups)
        except ValueError as error:
            raise place.error(f"{text!r}: {error}.".replace("..", ".").replace("?.", "?")) from None
        bounds = {name: _interval(space, name) for name in constraint.names}
        if not constraint.satisfiable(bounds):
            raise place.error(f"{text!r}: nothing within the bounds of the parameters satisfies it.")
        found.append(constraint)
    return tuple(found)


def _refuse_contradiction(space: Space, where: KeyPath) -> None:
    """CampaignError where no point satisfies the constraints of a method, or none is found: no other start helps."""
    bounds = {name: _interval(space, name) for entry in space.constraints for name in entry.names}
    for method in space.methods:
        own = method.parameters
        mine = [entry for entry in space.constraints if all(n.split("/")[0] in own for n in entry.names)]
        clash, told = contradiction(mine, bounds), "nothing within the bounds"
        if len(clash) < 2:
            clash, told = unreached(mine, bounds), f"none of {DRAWS * ROUNDS} points drawn within the bounds"
        if clash:
            them = "satisfies it" if len(clash) == 1 else "satisfies them together"
            texts = " and ".join(repr(entry.text) for entry in clash)
            raise where.key("constraints").error(f"{texts}: {told} {them}.")


def _interval(space: Space, name: str) -> Interval:
    parameter = name.split("/", 1)[0]
    if parameter in space.fixed:
        return Interval(float(space.fixed[parameter]), float(space.fixed[parameter]))
    given = space.ranges[parameter]
    numbers = [given.low, given.high] if isinstance(given, Range) else [float(choice) for choice in given.choices]
    off = parameter == "weight" and any(axis.parameter == "use" for stage in space.stages for axis in stage.axes)
    return Interval(min([*numbers, 0.0] if off else numbers), max([*numbers, 0.0] if off else numbers))


def _check_start(space: Space, where: KeyPath) -> None:
    """The start satisfies the constraints, and the engine takes its recipe, with each of the methods."""
    start = space.stages[0].start()
    values = feasible.values(space, 0, start)
    for index, constraint in enumerate(space.constraints):
        excess = constraint.violation(values)
        if excess:
            _refuse_contradiction(space, where)
            place = where.key("constraints").item(index)
            how = f"breaks it by {excess:.4g}" if isfinite(excess) else "makes it divide by 0"
            raise place.error(f"{constraint.text!r}: the start of the search {how}; give other `start` values.")
    searched = "method" in space.stages[0].by_name
    for method in space.methods if searched else space.methods[:1]:
        point = start | ({"method": method.name} if searched else {})
        if not method.accepts(len(space.taking_part(point))) and method is not space.methods[0]:
            continue  # it takes another number of sources than the first one, where the search starts
        if feasible.violation(space, 0, point):
            told, why = f"{method.name} refuses the `start` values", feasible.why_refused(space, 0, point)
            raise where.key("parameters").error(f"{told}: {why}" if why else f"{told} of its parameters.")
        try:
            check_parameters(parse_recipe(space.recipe(0, point), origin=space.origin), {method.name: method.engine})
        except InputError as error:
            raise where.error(error.message.removeprefix(f"{space.origin}: ")) from error


def check_tensors(space: Space, tensors: Collection[str]) -> None:
    """Every filter of the space means some tensors, and what is a part of a group lies in that group.

    Raises CampaignError, naming stage and filter.
    """
    where = KeyPath(space.origin, "space", CampaignError)
    for index, stage in enumerate(space.stages):
        for shape in stage.shapes.values():
            owners = groups_of(shape, tensors)
            for name, text in shape.filters:
                if name not in owners.values():
                    key = (
                        where.key("modules")
                        if stage.entry.by != "patterns"
                        else (where.key("stages").item(index).key("patterns"))
                    )
                    raise key.key(name).error(f"{text!r} {_why(text, shape, tensors)}.".replace("?.", "?"))
    for coarse, fine in pairwise(space.stages):
        for name, shape in coarse.shapes.items():
            _check_parts(space, shape, fine.shapes[name], tensors=tensors, stage=fine.name)
    for text in space.sequence.scaled if space.sequence is not None and space.sequence.scale is not None else ():
        if not any(matches(text, tensor) for tensor in tensors):
            place = where.key("layers").key("scaled")
            raise place.error(f"{text!r} matches no tensor; {nearest(text, tensors)}.".replace("?.", "?"))


def _why(text: str, shape: Shape, tensors: Collection[str]) -> str:
    """Why a filter is left without tensors."""
    if any(matches(text, tensor) for tensor in tensors):
        return "matches only tensors that filters before it take"
    default = SpaceEntry.model_fields["modules"].default
    if dict(shape.filters) != default:
        return f"matches no tensor; {nearest(text, tensors)}"
    said = ", ".join(f"{name}: {filter_}" for name, filter_ in default.items())
    found = " and ".join(map(repr, _modules_of(tensors)))
    hint = f"the modules of these layers are {found}" if found else nearest(text, tensors)
    return f"matches no tensor. It is the default ({{{said}}}), for there is no space.modules: name them there; {hint}"


def _modules_of(tensors: Collection[str]) -> list[str]:
    """What a layer consists of, as its tensors' names say: the part behind the layer's number, of what has parts."""
    split = [name.split(".") for name in tensors]
    places = [next((at for at, part in enumerate(parts) if part.isdigit()), len(parts)) for parts in split]
    inner = [parts[at + 1 :] for parts, at in zip(split, places, strict=True)]
    return list(dict.fromkeys(parts[0] for parts in inner if len(parts) > 2))


def _check_parts(space: Space, coarse: Shape, fine: Shape, *, tensors: Collection[str], stage: str) -> None:
    before, after = groups_of(coarse, tensors), groups_of(fine, tensors)
    if not coarse.filters or not fine.filters:
        return
    for tensor, group in after.items():
        if parent(group, coarse, fine) != before[tensor]:
            raise CampaignError(
                f"{space.origin}: space.stages: stage {stage!r}: tensor {tensor!r} is in group {group!r}, and in "
                f"{before[tensor]!r} in the stage before, so that one's values cannot be kept. Let a group of that "
                f"name, or parts of it ({before[tensor]}.NAME), hold all of its tensors."
            )


def groups_of(shape: Shape, tensors: Iterable[str]) -> Mapping[str, str]:
    """Tensor → the first group whose filter matches it, else the rest."""
    filters = shape.filters
    return {name: next((group for group, text in filters if matches(text, name)), REST) for name in tensors}
