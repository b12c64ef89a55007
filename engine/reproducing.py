"""A published model made again from what it says of itself, and compared tensor by tensor and file by file.

    provenance.json: recipe, sources, digest of every tensor and file      the card alone: recipe, digest of the whole
                       ├─ where the sources are here ─→ merge ─→ digests ─→ equal, or which tensors differ
                       └─ the files beside it ─────────────────→ digests ─→ intact, or which tensors and files are not

Models on the Hub are taken at the commit that was merged; those that the publisher had on a disk go by names, and the
user says where they are (`NAME=PATH`). Without a place to keep the result nothing is written: digests are enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import digest
from engine.errors import InputError, OutputDamaged, SourceError, did_you_mean
from engine.execution.execute import execute
from engine.merging import merge
from engine.methods.contract import Array
from engine.models.checkpoint import Checkpoint, open_checkpoints
from engine.models.places import local_path
from engine.outputs.job import work_of
from engine.outputs.model_files import held_at, remade
from engine.outputs.naming import with_models
from engine.outputs.publish import clean, refuse_existing
from engine.planning.beside import CARD, CONFIG, Beside, compare, written
from engine.planning.made import PROVENANCE
from engine.planning.options import Options
from engine.planning.plan import OutputTensor
from engine.planning.planner import make_plan
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model
from engine.recipes.reader import parse_recipe
from engine.recipes.recipe import Recipe
from engine.recipes.yamlfile import parse_yaml
from engine.remote.url import is_url, parse_url

_CARD_RECIPE = re.compile(r"^## Recipe\n+(`{3,})yaml\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
_CARD_SOURCES = re.compile(r"^## Sources\n+((?:\|.*\n)+)", re.MULTILINE)
_CARD_SOURCE = re.compile(r"^\| `([^`]+)` \| `(?:([0-9a-f]{40})|([0-9a-f]{64}))` \|$", re.MULTILINE)
_CARD_WEIGHTS = re.compile(r"^\| weights \| `([0-9a-f]{64})` \|$", re.MULTILINE)


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    published  the digest of the weights that it says it has; `weights`: of those that were merged here
    different  names of the tensors that differ; none where the card alone is there: it knows the whole's digest only
    altered    names of the tensors that its own weight files do not hold as it says (None: a card, or provenance.json,
               was named, and no weight file was read)
    sources    names of the sources whose tensors are not those that were merged, where that is known
    files      what is said of the files beside the weights, and what became of them
    out        where the result is kept
    """

    name: str
    published: str
    weights: str
    tensors: int
    different: tuple[str, ...] = ()
    altered: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()
    files: Beside = field(default_factory=Beside)
    out: Path | None = None

    @property
    def equal(self) -> bool:
        return self.published == self.weights and not self.altered and not self.files.wrong

    @property
    def sentence(self) -> str:
        if self.equal:
            kept = f", kept in {self.out}" if self.out else ""
            unread = "; its weight files were not read: name its directory" if self.altered is None else ""
            return f"{self.name}: equal: {self.tensors} tensors, weights {self.weights}{kept}{unread}"
        if self.published == self.weights:
            count = f"{len(self.altered or ())} tensors in its weight files or digests"
            what = count if self.altered else f"{len(self.files.wrong)} files beside its weights"
            return (
                f"{self.name}: altered: what it says it is can be made again, but {what} are not that "
                f"({self.weights[:16]}). Download it again, or distrust it."
            )
        count = f"{len(self.different)} of {self.tensors} tensors differ" if self.different else "the weights differ"
        blame = f" {', '.join(self.sources)}: not the weights that were merged." if self.sources else ""
        return f"{self.name}: different: {count} ({self.published[:16]} published, {self.weights[:16]} here).{blame}"

    @property
    def details(self) -> list[str]:
        """What to say below it, a line each: tensors and files that are not as published, and what is no fault."""
        named = list(self.different or self.altered or ())
        doubt = "is not what the recipe makes here: altered with its digest, or made of other sources or versions"
        lines = named[:20] + ([f"and {len(named) - 20} more"] if len(named) > 20 else [])
        lines += [change for change in self.files.changes if not change.startswith(f"{CARD} ")]
        lines += [f"{name} {doubt}" for name in self.files.remade]
        if CARD in (*self.files.altered, *self.files.missing):
            lines.append(f"{CARD} was edited or removed since, as its owner may: the model is the same")
        lines += [f"what was made again is kept in {self.out}"] if self.out and not self.equal else []
        return lines + self.files.notes


@dataclass(frozen=True)
class _Claim:
    """What a published model says of itself; where only its card is there, `tensors` is {} and `sources` say less.

    `model` is where its files are, if it was named, and not its card or provenance.json; `facts` is the latter.
    """

    name: str
    recipe: Recipe
    weights: str
    tensors: Mapping[str, str]
    sources: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    model: ModelRef | None = None

    @property
    def identities(self) -> dict[str, Mapping[str, Any]]:
        """What is known of every model and adapter, by its path in the recipe."""
        found: dict[str, Mapping[str, Any]] = {}
        for entry in self.sources:
            ref = parse_model(entry["model"], KeyPath(self.name))
            identity = entry.get("identity", {})
            if ref.lora is not None:
                found[ref.lora.path] = identity.get("adapter", {})
                identity = identity.get("model", {})
            found[ref.path] = {**identity, "path": entry.get("path")}
        return found


def parse_sources(given: Iterable[str]) -> dict[str, str]:
    """`NAME=PATH`, once a name."""
    sources: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise InputError(f"--sources: got {text!r}, NAME=PATH expected.")
        if name in sources:
            raise InputError(f"--sources: {name!r} is given twice.")
        sources[name] = path
    return sources


def reproduce(published: str, sources: Mapping[str, str], *, to: Path | None = None) -> Reproduction:
    """Merge it again and compare, what it says of its weights and files and what those hold.

    Args:
        published: a directory, its README.md or provenance.json, hub:ORG/NAME[@REVISION], or a place in an object
            store.
        sources: where models are that it names, by name.
        to: keep the result there, if it is equal.

    Raises OutputExists where there is anything at `to`, InputError where it says too little, SourceError where a source
    is missing (all of them are named), or its weight files are missing or cut off, and nothing else is wrong.
    """
    if to is not None:
        refuse_existing(to)  # whatever it holds: nothing is read before that is known
    claim = _read_claim(published)
    places = _places(claim, sources)
    recipe = with_models(claim.recipe, lambda ref: _at(ref, places))
    files, held = _held(claim, recipe)
    again = _digests(recipe) if to is None or files.remade else _merged(recipe, claim, places, to)
    weights = digest.of_weights(again)
    names = {*again, *claim.tensors}
    different = _unlike(again, claim.tensors) if claim.tensors else ()
    equal = weights == claim.weights
    return Reproduction(
        name=claim.name,
        published=claim.weights,
        weights=weights,
        tensors=len(names),
        different=different,
        altered=_altered(held, again if equal else claim.tensors, different if equal else ()),
        sources=() if equal else _changed_sources(claim, places),
        files=files,
        out=to if equal and not files.remade else None,
    )


def _held(claim: _Claim, recipe: Recipe) -> tuple[Beside, dict[str, str] | None]:
    """What became of its files, and the digests of the tensors that it holds: None where they cannot be read."""
    again = remade(recipe, claim.facts) if claim.facts else None
    if claim.model is None:
        return compare(None, claim.facts, again), None
    there = held_at(claim.model, claim.facts)
    files = compare(there, claim.facts, again)
    try:  # merges of files of tensors have no config.json
        return files, held_digests(claim.model) if CONFIG in there.names else None
    except InputError:
        if not files.wrong:  # else that is told, and may be why
            raise
        return files, None


def _altered(
    held: Mapping[str, str] | None, expected: Mapping[str, str], different: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Tensors in the files that are not as expected, and digests of `different` ones in its own words; None: unread."""
    unlike = () if held is None else _unlike(held, expected)
    return None if held is None and not different else tuple(sorted({*unlike, *different}))


def _unlike(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)))


# ---------------------------------------------------------------------------------------------------- what it says


def _read_claim(published: str) -> _Claim:
    if published.startswith("hub:"):
        from engine.models.hub import download_small
        from engine.outputs.hub_upload import parse_hub

        place = parse_hub(published)
        directory = download_small(ModelRef(place.repo, revision=place.branch))
        model = ModelRef(place.repo, revision=directory.name)  # the commit, whoever pushes meanwhile
        return replace(_from_directory(directory, published), model=model)
    if is_url(published):
        from engine.remote.bucket import Bucket

        claim = _from_provenance(Bucket(parse_url(published)).get(PROVENANCE) or b"", published)
        return replace(claim, model=ModelRef(published))
    path = Path(published).expanduser()
    if path.is_dir():
        return replace(_from_directory(path, published), model=ModelRef(str(path)))
    if not path.is_file():
        raise InputError(f"{published}: there is no such directory or card.")
    if path.suffix != ".md":
        return _from_provenance(path.read_bytes(), published)
    beside = path.with_name(PROVENANCE)
    return _from_directory(path.parent, published) if beside.is_file() else _from_card(path, published)


def _from_directory(directory: Path, name: str) -> _Claim:
    path = directory / PROVENANCE
    if not path.is_file():
        raise InputError(f"{name}: has no {PROVENANCE}: it was not made by mergefleet, or lost it.")
    return _from_provenance(path.read_bytes(), name)


def _from_provenance(text: bytes, name: str) -> _Claim:
    try:
        facts = json.loads(text)
        recipe, weights = facts["recipe"], facts["weights"]
        _want(str, weights)
        tensors, sources = dict(facts["tensors"]), tuple(map(_source, facts["sources"]))
        written(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: {PROVENANCE} has no recipe, sources and digests that can be read.") from error
    return _Claim(name, parse_recipe(recipe, origin=f"{name}: {PROVENANCE}"), weights, tensors, sources, facts)


def _source(entry: Any) -> Mapping[str, Any]:
    """An entry of `sources`. TypeError, or KeyError, where it is not what a merge writes."""
    identity = entry.get("identity", {})
    for part in (identity, identity.get("model", {}), identity.get("adapter", {})):
        _want(dict, part)
    for text in (entry["model"], entry.get("path", ""), entry.get("content", "")):
        _want(str, text)
    return dict(entry)


def _want(kind: type, value: object) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"got {type(value).__name__}, {kind.__name__} expected")


def _from_card(path: Path, name: str) -> _Claim:
    text = path.read_text(encoding="utf-8", errors="replace")
    recipe, weights = _CARD_RECIPE.search(text), _CARD_WEIGHTS.search(text)
    if recipe is None or weights is None:
        raise InputError(f"{name}: is no card of mergefleet's: it has no recipe and no digest of weights.")
    data = parse_yaml(recipe[2], origin=name)
    return _Claim(name, parse_recipe(data, origin=name), weights[1], {}, tuple(_card_sources(text)))


def _card_sources(text: str) -> Iterator[Mapping[str, Any]]:
    """What the table of sources says: the commit of a model on the Hub, the digest of the tensors of another."""
    table = _CARD_SOURCES.search(text)
    for model, commit, content in _CARD_SOURCE.findall(table[1] if table else ""):
        if commit:
            yield {"model": model, "identity": {"kind": "hub", "commit": commit}}
        elif content:
            yield {"model": model, "content": content}


# ------------------------------------------------------------------------------------------------- where sources are


def _places(claim: _Claim, given: Mapping[str, str]) -> dict[str, ModelRef]:
    """Where every model and adapter of the recipe is, by its path there."""
    refs = [part for ref in claim.recipe.opened for part in (ref.bare, ref.lora) if part is not None]
    known = {ref.path for ref in refs}
    identities = claim.identities
    places, missing = {}, []
    for ref in refs:
        place = _place(ref, given.get(ref.path), identities.get(ref.path, {}))
        if place is None:
            missing.append(ref.path)
        else:
            places[ref.path] = place
    unknown = next((name for name in given if name not in known), None)
    if missing and unknown is not None:  # else it is a source of the campaign that this recipe leaves out
        raise InputError(f"--sources: {claim.name} names no model {unknown!r}; {did_you_mean(unknown, known)}")
    if missing:
        wanted = " ".join(f"--sources {name}=PATH" for name in dict.fromkeys(missing))
        raise SourceError(
            f"{claim.name}: {', '.join(dict.fromkeys(missing))}: on a disk of whoever published it, and not here. Say "
            f"where: {wanted}",
            missing=missing,
        )
    return places


def _place(ref: ModelRef, given: str | None, identity: Mapping[str, Any]) -> ModelRef | None:
    if given is not None:
        return replace(parse_model(given, KeyPath("--sources")), statistics=ref.statistics)
    if identity.get("kind") == "hub":
        return replace(ref, lora=None, revision=str(identity["commit"]))
    if is_url(ref.path):
        return replace(ref, lora=None)
    for path in (identity.get("path"), ref.path):
        if path is not None and Path(path).expanduser().exists():
            return replace(ref, lora=None, path=path)
    try:  # only a card is there: what looks like a repository is one
        is_hub = not identity and local_path(ref.bare) is None
    except SourceError:
        is_hub = False
    return replace(ref, lora=None) if is_hub else None


def _at(ref: ModelRef, places: Mapping[str, ModelRef]) -> ModelRef:
    lora = None if ref.lora is None else places[ref.lora.path]
    place = places[ref.path]
    return place if lora is None else replace(place, lora=lora)


def _changed_sources(claim: _Claim, places: Mapping[str, ModelRef]) -> tuple[str, ...]:
    """The sources whose tensors are others than those that were merged; all of each are read."""
    changed = []
    for entry in claim.sources:
        if "content" in entry:
            ref = _at(parse_model(entry["model"], KeyPath(claim.name)), places)
            (checkpoint,) = open_checkpoints([ref]).values()
            if digest.of_contents(checkpoint) != entry["content"]:
                changed.append(str(entry["model"]))
            checkpoint.close()
    return tuple(changed)


# --------------------------------------------------------------------------------------------------------- merging


class _Nowhere:
    """A sink that keeps nothing."""

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        pass


def held_digests(model: ModelRef) -> dict[str, str]:
    """Digests of the tensors in a model's files: those of a merge of it alone."""
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "published"}]}, origin=str(model))
    return _digests(with_models(recipe, lambda _: model), stream=True)


def _digests(recipe: Recipe, *, stream: bool = False) -> dict[str, str]:
    checkpoints: dict[ModelRef, Checkpoint] = open_checkpoints(recipe.opened, stream=stream)
    try:
        plan = make_plan(recipe, checkpoints)
        return execute(plan, checkpoints, _Nowhere(), work=work_of(Options())).tensor_digests(plan)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()


def _merged(recipe: Recipe, claim: _Claim, places: Mapping[str, ModelRef], to: Path) -> dict[str, str]:
    """As `_digests`, and the result stays in `to` if it is equal."""
    seen: dict[str, str] = {}

    def look(directory: Path) -> None:
        seen.update(json.loads((directory / PROVENANCE).read_text(encoding="utf-8"))["tensors"])
        if digest.of_weights(seen) != claim.weights:
            raise OutputDamaged(f"{to}: is not what was published.")

    names = {place.path: name for name, place in places.items() if not Path(name).exists()}
    try:
        merge(recipe, to, options=Options(inspect=look, names=names, content_digests=True))
    except OutputDamaged:
        clean(to)
        if not seen:
            raise
    return seen
