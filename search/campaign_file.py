"""A campaign as the user wrote it: YAML → frozen, checked data. docs/search.md lists every key.

Paths of models, of `include_path` and of `publish.to` are relative to the working directory, as in recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from engine.errors import CampaignError, did_you_mean
from engine.recipes.keypath import shown
from engine.recipes.reader import MAX_SEED
from engine.recipes.yamlfile import read_yaml
from search.baselines import check_baseline
from search.evaluators.entries import DTYPES, EvaluatorEntry, ItemsEntry, TaskEntry
from search.judging.objectives import ConstraintEntry, ObjectiveEntry, refuse_contradictions, refuse_unknown
from search.part import MOST_OF_A_NAME, Name, Part, wanted
from search.publishing.licences import checked_identifier
from search.space.checks import check_entry
from search.space.entry import SpaceEntry
from search.trackers.entries import TrackerEntry

ComparatorGroup = Literal["parents", "base", "baselines", "best_global"]
_NOT_IN_FILES = {"origin", "homes"}
_UNION_MEMBERS = frozenset({"str", "int", "float", "bool"})
SAMPLERS = ("auto", "quadratic", "cma", "catcma", "nsga2", "nsga3", "niches", "tpe", "gp", "random", "sobol")
"""The names of the table in search.samplers, which knows this file and so cannot be asked here; a test compares."""


class SourceEntry(Part):
    """A model to merge: `model` is a local directory or `org/name[@revision]`; `name` is what reports call it.

    `importance` is where the numbers are that `fisher` weighs its elements by.
    """

    model: str
    name: Name = ""
    importance: str | None = None


class BudgetEntry(Part):
    """When the search ends, whichever comes first; selection and holdout come on top.

    `gpu_hours` count the time for which evaluators held work, times the GPUs of one evaluator.
    """

    items: int | None = Field(default=None, ge=1)
    candidates: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> BudgetEntry:
        if all(part is None for part in (self.items, self.candidates, self.hours, self.gpu_hours)):
            raise ValueError("a budget needs items, candidates, hours or gpu_hours")
        return self


class SelectionEntry(Part):
    """Who is re-scored on selection items: best candidates, latest distribution means, and a soup of the best.

    `front`: of several objectives, how many members of the front are re-scored, and how many meet the holdout.
    """

    front: int = Field(default=8, ge=1)
    top: int = Field(default=3, ge=0)
    means: int = Field(default=3, ge=1)
    soup: int = Field(default=5, ge=0)


class PublishEntry(Part):
    """Where the winner goes: a directory that does not exist yet (None: `published` in the run), hub:ORG/NAME[@BRANCH],
    or s3://, gs://, az://BUCKET/PREFIX. `public`: a repository made for it is seen by all. `license`: instead of what
    follows from the parents' licences.
    """

    to: str | None = Field(default=None, min_length=1)
    public: bool = False
    license: str | None = None

    @field_validator("license")
    @classmethod
    def _an_identifier(cls, value: str | None) -> str | None:
        return None if value is None else checked_identifier(value)


class Campaign(Part):
    """A whole campaign file. `origin` names the file in messages, and `homes` are the folders where modules of its
    functions are looked for after Python's path (none: in that of `origin`); neither is part of the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_OF_A_NAME)
    base_model: str
    sources: tuple[SourceEntry, ...] = Field(min_length=1)
    dtype: DTYPES | None = None
    out_dtype: DTYPES | None = None
    seed: int = Field(default=0, ge=0, lt=MAX_SEED)
    space: SpaceEntry
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    include_path: str | None = None
    contamination: str | None = None
    allow_public_test_sets: bool = False
    items: ItemsEntry = ItemsEntry()
    budget: BudgetEntry
    sampler: str = "auto"
    warm_start: tuple[str, ...] = ()
    sampler_options: Mapping[str, Any] = {}
    objectives: tuple[ObjectiveEntry, ...] = ()
    constraints: tuple[ConstraintEntry, ...] = ()
    baselines: Literal["auto"] | tuple[str, ...] = "auto"
    comparators: tuple[ComparatorGroup, ...] = ("parents", "base", "baselines", "best_global")
    selection: SelectionEntry = SelectionEntry()
    publish: PublishEntry = PublishEntry()
    evaluator: EvaluatorEntry = EvaluatorEntry()
    trackers: tuple[TrackerEntry, ...] = ()
    store: str | None = None
    origin: str = "<campaign>"
    homes: tuple[str, ...] = ()

    @field_validator("sources", mode="before")
    @classmethod
    def _short_sources(cls, value: Any) -> Any:
        """`- path` is short for `- model: path`."""
        if not isinstance(value, list | tuple):
            return value
        return [{"model": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        if value not in SAMPLERS and ":" not in value:
            raise ValueError(f"got {value!r}, {did_you_mean(value, SAMPLERS)} Or an import path, module:Class")
        return value

    @field_validator("store")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        scheme, is_url, rest = (value or "").partition("://")
        if is_url and scheme.partition("+")[0] not in ("sqlite", "postgresql"):  # the rest may hold a password
            raise ValueError(f"got {scheme}://..., a path or a URL of sqlite or postgresql expected")
        if value is not None and not scheme.startswith("postgresql"):
            file = rest.removeprefix("/") if is_url else value
            if not file.strip() or file.startswith(":memory:") or "mode=memory" in file:
                raise ValueError(f"got {value!r}, a file expected; leave it out for one in the run's directory")
        return value

    @model_validator(mode="after")
    def _goals_known(self) -> Campaign:
        tasks = [task.name for task in self.tasks]
        refuse_unknown(self.objectives, key="objectives", tasks=tasks)
        refuse_unknown(self.constraints, key="constraints", tasks=tasks)
        refuse_contradictions(self.constraints, tasks=tasks)
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Campaign:
        tasks = [task.name for task in self.tasks]
        stages = [stage.name for stage in self.space.stages]
        for what, names in (("task", tasks), ("stage", stages), ("source", list(self.source_names))):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two entries are called {twice[0]!r}: give every {what} a name of its own")
        places: dict[str, str] = {}
        for source in self.sources:
            place = place_of_model(source.model)
            if place in places:
                other = "" if places[place] == source.model else f", the other time as {places[place]!r}"
                raise ValueError(f"sources: {source.model!r} is listed twice{other}")
            places[place] = source.model
        return self

    @field_validator("trackers")
    @classmethod
    def _trackers_differ(cls, value: tuple[TrackerEntry, ...]) -> tuple[TrackerEntry, ...]:
        kinds = [entry.kind for entry in value]
        if len(set(kinds)) < len(kinds):
            raise ValueError("the same tracker is there twice")
        return value

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """Short names in order: `name`, else the last part of the path; the second of two alike gets `-2`."""
        names: list[str] = []
        for source in self.sources:
            stem = source.name or source.model.rstrip("/").rsplit("/", 1)[-1]
            alike = sum(other == stem or other.startswith(f"{stem}-") for other in names)
            names.append(stem if source.name or stem not in names else f"{stem}-{alike + 1}")
        return tuple(names)

    @property
    def task_weights(self) -> dict[str, float]:
        """Task name → its share of the score; the shares sum to 1."""
        total = sum(task.weight for task in self.tasks)
        return {task.name: task.weight / total for task in self.tasks}


def place_of_model(model: str) -> str:
    """The same text for all ways to write a model's place: a directory may have a slash behind it, or links to it."""
    try:
        return str(Path(model).resolve()) if Path(model).is_dir() else model.rstrip("/")
    except OSError:  # longer than a path may be: told where it is opened
        return model


def load_campaign(path: str | Path, *, allow_public_test_sets: bool = False) -> Campaign:
    """Read and check a campaign file; CampaignError names file and key, and the nearest known name.

    `allow_public_test_sets`: as if the file said so.
    """
    if Path(path).is_dir():
        raise CampaignError(
            f"{path}: is a directory, the campaign's YAML file expected. (report and publish take a run's directory.)"
        )
    campaign = parse_campaign(read_yaml(path, error=CampaignError), origin=str(path))
    return campaign.model_copy(update={"allow_public_test_sets": True}) if allow_public_test_sets else campaign


def parse_campaign(data: object, *, origin: str, homes: Sequence[str] = ()) -> Campaign:
    """Check a campaign given as plain data; `origin` is what errors call it. `homes`: see Campaign."""
    if not isinstance(data, Mapping):
        raise CampaignError(f"{origin}: got {shown(data)}, a mapping expected.", file=origin)
    for key in data.keys() & _NOT_IN_FILES:
        raise CampaignError(f"{origin}: {key}: unknown key.", file=origin, key=key)
    try:
        campaign = Campaign.model_validate({**data, "origin": origin, "homes": tuple(homes)})
    except ValidationError as failure:
        raise _explained(failure, origin) from None
    check_entry(campaign)
    for name in campaign.baselines if campaign.baselines != "auto" else ():
        check_baseline(name, campaign)
    return campaign


def campaign_to_dict(campaign: Campaign) -> dict[str, Any]:
    """Plain data that `parse_campaign` reads back as the same campaign."""
    data: dict[str, Any] = campaign.model_dump(mode="json", exclude=_NOT_IN_FILES)
    return data


def _explained(failure: ValidationError, origin: str) -> CampaignError:
    """The first error of pydantic as one line: file, key, what was found and what is known."""
    errors = failure.errors()
    # a misspelt key is missing, too, and the misspelling is what helps
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    place = _keys(first)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "extra_forbidden":
        told = f"unknown key; {did_you_mean(str(place[-1]), _known_keys(place[:-1]))}"
    elif first["type"] == "missing":
        told = "is missing."
    elif first["type"] == "value_error":
        told = str(first["ctx"]["error"])
    else:
        alike = [wanted(error) for error in errors if _keys(error) == place]
        told = f"got {shown(first['input'])}, {' or '.join(dict.fromkeys(alike))} expected."
    return CampaignError(f"{origin}: {key}: {told}" if key else f"{origin}: {told}", file=origin, key=key)


def _keys(error: Mapping[str, Any]) -> list[Any]:
    """The place of an error of pydantic, without what it calls the members of a union."""
    return [part for part in error["loc"] if not (isinstance(part, str) and ("[" in part or part in _UNION_MEMBERS))]


def _known_keys(place: list[Any]) -> set[str]:
    """The keys of the mapping that stands at `place` in a campaign file."""
    part: Any = Campaign
    for step in place:
        known = part.model_fields if isinstance(step, str) and _is_part(part) else {}
        inner = known[step].annotation if step in known else part  # else the key of a mapping: its values are meant
        part = next((found for found in _parts(inner)), part)
    return set(part.model_fields) - _NOT_IN_FILES


def _parts(annotation: Any) -> list[Any]:
    if _is_part(annotation):
        return [annotation]
    return [part for argument in get_args(annotation) for part in _parts(argument)]


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)
