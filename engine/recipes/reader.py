"""mergekit-compatible YAML → a Recipe, checked for structure (schema in docs/recipes.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from engine.errors import InputError, RecipeError, did_you_mean
from engine.recipes.filters import parse_filter
from engine.recipes.keypath import KeyPath, shown
from engine.recipes.model_ref import parse_model
from engine.recipes.recipe import MAX_SOURCE_ID, ModelRef, Module, Recipe, Rule, Slice, SliceSource, TensorSet
from engine.recipes.settings import Setting, parse_setting

DTYPES = ("bfloat16", "float16", "float32", "float64")
CHAT_TEMPLATES = ("alpaca", "auto", "chatml", "exaone", "llama3", "mistral")
TENSOR_SETS: tuple[TensorSet, ...] = get_args(TensorSet)
MAX_SEED = 1 << 63
_DTYPE_NICKNAMES = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32"}


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML (or .json) file. RecipeError names the file, and the key, or line and column, at fault.

    A file of several recipes (stages) is for `engine.merge`; it is refused here.
    """
    from engine.recipes.yamlfile import read_documents

    documents = read_documents(path)
    if len(documents) > 1:
        place = f"{path}: line {documents[1].line}, column 1"
        raise RecipeError(f"{place}: a second recipe starts here, only one is expected.", file=str(path))
    return replace(parse_recipe(documents[0].data, origin=str(path)), text=documents[0].text)


_TOP_KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "seed", "base_source_id", "name", "tensors"),
    "tensor_set",
)


_FOREIGN = {
    "experts": "this is a file for mergekit-moe. `mergefleet moe` will read it, later.",
    "genome": "this is a file for mergekit-evolve: `mergefleet genome FILE` makes a campaign of it (docs/space.md).",
    "layer_slices": "this is a file for bakllama. `mergefleet assemble` will read it, later; write the slices as a "
    "passthrough recipe.",
}
"""Keys by which the files of mergekit's other programs are known."""


def parse_recipe(data: object, *, origin: str = "<recipe>") -> Recipe:
    """YAML or JSON data → Recipe; `origin` is the file that errors name. Opens no file, asks no network."""
    root = KeyPath(origin)
    for name, whose in _FOREIGN.items():
        if isinstance(data, Mapping) and name in data:
            raise root.key(name).error(whose)
    fields = root.mapping(data, _TOP_KEYS)
    reader = _Reader()
    modules = reader.modules(fields, root)
    slices = () if modules else reader.slices(fields, root)
    base_model = reader.optional_model(fields, "base_model", root)
    if fields.get("base_source_id") is not None:
        if base_model is None or base_model in reader.listed:
            raise root.key("base_source_id").error("is for a base_model that is not listed; give source_id there.")
        reader.number(base_model, fields["base_source_id"], root.key("base_source_id"))
    if fields.get("name") is not None:
        reader.ignored.append(str(root.key("name")))
    return Recipe(
        method=_method(fields, root),
        slices=slices,
        modules=modules,
        rules=reader.rules(fields, root, base_model),
        base_model=base_model,
        parameters=reader.parameters(fields, root),
        dtype=_dtype(fields, "dtype", root),
        out_dtype=_dtype(fields, "out_dtype", root),
        tokenizer_source=reader.tokenizer_source(fields, root, base_model),
        chat_template=_chat_template(fields, root),
        seed=0 if fields.get("seed") is None else root.key("seed").whole(fields["seed"], below=MAX_SEED),
        source_ids=reader.source_ids,
        tensor_set=_tensor_set(fields, root),
        origin=origin,
        ignored=tuple(reader.ignored),
    )


class _Reader:
    """Reads the parts that repeat, and gathers what belongs to the whole recipe: models, source ids, ignored keys."""

    def __init__(self) -> None:
        self.listed: list[ModelRef] = []
        self.source_ids: dict[ModelRef, int] = {}
        self.ignored: list[str] = []

    def modules(self, fields: Mapping[str, Any], root: KeyPath) -> tuple[Module, ...]:
        if fields.get("modules") is None or any(fields.get(name) is not None for name in ("models", "slices")):
            return ()
        where = root.key("modules")
        raw = fields["modules"]
        if not isinstance(raw, Mapping) or not raw:
            got = shown(raw or None)
            raise where.error(f"got {got}, a mapping of names (text_decoder, vision_tower, ...) expected.")
        return tuple(self.module(where.key(name).text(name), part, where.key(name)) for name, part in raw.items())

    def module(self, name: str, raw: object, where: KeyPath) -> Module:
        fields = where.mapping(raw, ("models", "slices", "parameters"))
        return Module(name, self.slices(fields, where), self.parameters(fields, where))

    def slices(self, fields: Mapping[str, Any], root: KeyPath) -> tuple[Slice, ...]:
        """What stands under `models` or `slices` of the recipe, or of one of its modules."""
        given = [name for name in ("models", "slices", "modules") if fields.get(name) is not None]
        if len(given) != 1:
            among = "'models' and 'slices'" if root.path else "'models', 'slices' and 'modules'"
            raise root.error(f"got {' and '.join(given) or 'none'}; exactly one of {among} expected.")
        items = root.key(given[0]).items(fields[given[0]], given[0])
        if given[0] == "slices":
            return tuple(self.slice(item, where) for where, item in items)
        sources = tuple(self.source(item, where, keys=_MODEL_KEYS) for where, item in items)
        _refuse_twins(sources, root.key("models"))
        return (Slice(sources),)

    def slice(self, raw: object, where: KeyPath) -> Slice:
        fields = where.mapping(raw, ("sources", "parameters", "base_model", "residual_weight"))
        items = where.key("sources").items(fields.get("sources"), "sources")
        sources = tuple(self.source(item, place, keys=_SOURCE_KEYS) for place, item in items)
        _refuse_twins(sources, where.key("sources"))
        _refuse_unequal(sources, where)
        base_model = self.optional_model(fields, "base_model", where)
        if base_model is not None and base_model not in [source.model for source in sources]:
            raise where.key("base_model").error(f"got {base_model}, which is not among the sources of this slice.")
        if fields.get("residual_weight") is not None:
            self.ignored.append(str(where.key("residual_weight")))
        return Slice(sources, self.parameters(fields, where), base_model)

    def source(self, raw: object, where: KeyPath, *, keys: tuple[str, ...]) -> SliceSource:
        fields = where.mapping(raw, keys)
        if fields.get("model") is None:
            raise where.error("has no 'model'.")
        model = self.model(fields["model"], where.key("model"))
        self.listed.append(model)
        if fields.get("source_id") is not None:
            self.number(model, fields["source_id"], where.key("source_id"))
        layers = None
        if "layer_range" in keys:
            layers = _layer_range(fields.get("layer_range"), where.key("layer_range"))
        return SliceSource(model, layers, self.parameters(fields, where), self.importance(fields, where))

    def importance(self, fields: Mapping[str, Any], where: KeyPath) -> ModelRef | None:
        found = self.optional_model(fields, "importance", where)
        if found is not None and found.lora is not None:
            raise where.key("importance").error(f"got {found}, a file or directory of tensors expected.")
        return found and replace(found, statistics=True)

    def rules(self, fields: Mapping[str, Any], root: KeyPath, base_model: ModelRef | None) -> tuple[Rule, ...]:
        where = root.key("tensors")
        if fields.get("tensors") is None:
            return ()
        rules = tuple(self.rule(raw, place) for place, raw in where.items(fields["tensors"], "rules"))
        keep = next((index for index, rule in enumerate(rules) if rule.action == "keep"), None)
        if keep is not None and base_model is None:
            raise where.item(keep).key("keep").error("the recipe has no base_model to keep tensors of.")
        return rules

    def rule(self, raw: object, where: KeyPath) -> Rule:
        fields = where.mapping(raw, ("filter", *_ACTIONS))
        given = [name for name in _ACTIONS if fields.get(name) is not None]
        if len(given) != 1 or fields.get("filter") in (None, ""):
            got = ", ".join(name for name in fields if fields[name] not in (None, "")) or "nothing"
            raise where.error(f"got {got}; a filter and one of {', '.join(_ACTIONS)} expected.")
        pattern = str(parse_filter(fields["filter"], where.key("filter")))
        place, value = where.key(given[0]), fields[given[0]]
        if given[0] == "copy":
            return Rule(pattern, "copy", self.model(value, place))
        if given[0] == "keep":
            if value != "base":
                raise place.error(f"got {shown(value)}, 'base' expected; for another model's tensor write copy.")
            return Rule(pattern, "keep")
        if value is not True and value != "anyway":
            raise place.error(f"got {shown(value)}, true or 'anyway' expected.")
        return Rule(pattern, "exclude" if value is True else "exclude_anyway")

    def number(self, model: ModelRef, raw: object, where: KeyPath) -> None:
        number = where.whole(raw, below=MAX_SOURCE_ID)
        if self.source_ids.setdefault(model, number) != number:
            raise where.error(f"got {number} for {model}, which has {self.source_ids[model]} elsewhere.")
        twin = next((ref for ref, other in self.source_ids.items() if other == number and ref != model), None)
        if twin is not None:
            raise where.error(f"got {number} for {model}, which {twin} has already; source ids must differ.")

    def parameters(self, fields: Mapping[str, Any], where: KeyPath) -> dict[str, Setting]:
        raw = fields.get("parameters")
        place = where.key("parameters")
        if raw is None:  # a bare `parameters:`, as below it often stands only a comment
            return {}
        if not isinstance(raw, Mapping):
            raise place.error(f"got {shown(raw)}, a mapping of names to values expected.")
        settings = {}
        for name, value in raw.items():
            inner = place.key(place.key(name).text(name))
            if isinstance(value, Mapping) and not {"value", "filter"} & set(value):
                raise self._values_by_model(value, inner)
            settings[name] = parse_setting(value, where=inner)
        return settings

    def _values_by_model(self, value: Mapping[object, object], where: KeyPath) -> InputError:
        """For `weight: {org/a: 0.5, org/b: 0.5}`: per-model values stand at their model."""
        known = [str(ref) for ref in self.listed]
        stranger = next((str(key) for key in value if str(key) not in known), None)
        if stranger is not None:
            return where.key(stranger).error(f"is no model of this recipe; {did_you_mean(stranger, known)}")
        return where.error("got a mapping; write each value at its model, under models[...].parameters.")

    def optional_model(self, fields: Mapping[str, Any], name: str, where: KeyPath) -> ModelRef | None:
        return None if fields.get(name) is None else self.model(fields[name], where.key(name))

    def model(self, raw: object, where: KeyPath) -> ModelRef:
        return parse_model(raw, where, ignored=self.ignored)

    def tokenizer_source(self, fields: Mapping[str, Any], root: KeyPath, base_model: ModelRef | None) -> str | None:
        where, raw = _tokenizer_field(fields, root)
        if raw is None or raw in ("base", "union"):
            return None if raw is None else str(raw)
        text = str(self.model(raw, where))
        names = [str(ref) for ref in (*self.listed, base_model) if ref is not None]
        if text not in names:
            raise where.error(
                f"got {text!r}, which is no model of this recipe; {did_you_mean(text, ['base', 'union', *names])}"
            )
        return text


_ACTIONS = ("keep", "copy", "exclude")
_MODEL_KEYS = ("model", "parameters", "source_id", "importance")
_SOURCE_KEYS = (*_MODEL_KEYS, "layer_range")


def _refuse_twins(sources: tuple[SliceSource, ...], where: KeyPath) -> None:
    """The same layers of one model twice (mergekit lets the last entry win in silence)."""
    places: dict[tuple[ModelRef, tuple[int, int] | None], int] = {}
    for index, source in enumerate(sources):
        first = places.setdefault((source.model, source.layers), index)
        if first != index:
            raise where.item(index).error(f"{source.model} is listed already, as item {first}.")


def _refuse_unequal(sources: tuple[SliceSource, ...], where: KeyPath) -> None:
    lengths = [source.layers[1] - source.layers[0] for source in sources if source.layers]
    for index, length in enumerate(lengths):
        if length != lengths[0]:
            place = where.key("sources").item(index).key("layer_range")
            raise place.error(f"got {length} layers, {lengths[0]} expected as in sources[0]: lengths must be equal.")


def _layer_range(raw: object, where: KeyPath) -> tuple[int, int]:
    if raw is None:
        raise where.error("is missing; every source of a slice needs layer_range: [start, end].")
    if not isinstance(raw, (list, tuple)) or len(raw) != 2:
        raise where.error(f"got {shown(raw)}, [start, end] expected (end is not included).")
    start, end = (where.item(index).whole(bound, below=1 << 31) for index, bound in enumerate(raw))
    if start >= end:
        raise where.error(f"got [{start}, {end}], start < end expected (end is not included).")
    return start, end


def _method(fields: Mapping[str, Any], root: KeyPath) -> str:
    if fields.get("merge_method") is None:
        raise root.error("has no 'merge_method'.")
    return root.key("merge_method").text(fields["merge_method"])


def _dtype(fields: Mapping[str, Any], name: str, root: KeyPath) -> str | None:
    raw = fields.get(name)
    if raw is None:
        return None
    text = root.key(name).text(raw).removeprefix("torch.")
    if text.startswith(("int", "uint", "float8", "bool")):
        raise root.key(name).error(f"got {shown(raw)}, which holds no weights; {', '.join(DTYPES)} expected.")
    if text not in DTYPES:
        hint = f"did you mean {_DTYPE_NICKNAMES[text]!r}?" if text in _DTYPE_NICKNAMES else did_you_mean(text, DTYPES)
        raise root.key(name).error(f"unknown dtype {shown(raw)}; {hint}")
    return text


def _tokenizer_field(fields: Mapping[str, Any], root: KeyPath) -> tuple[KeyPath, Any]:
    """`tokenizer_source`, or `source` of mergekit's newer `tokenizer`, where nothing means `union`."""
    if fields.get("tokenizer") is None:
        return root.key("tokenizer_source"), fields.get("tokenizer_source")
    if fields.get("tokenizer_source") is not None:
        raise root.error("has both 'tokenizer_source' and 'tokenizer': leave one out.")
    where = root.key("tokenizer")
    parts = where.mapping(fields["tokenizer"], ("source", "tokens", "pad_to_multiple_of"))
    for name, wanted in (("tokens", "choosing the rows of single tokens"), ("pad_to_multiple_of", "padding")):
        if parts.get(name) is not None:
            raise where.key(name).error(f"{wanted} is not supported yet; leave it out.")
    return where.key("source"), parts.get("source", "union")


def _tensor_set(fields: Mapping[str, Any], root: KeyPath) -> TensorSet:
    raw = fields.get("tensor_set")
    chosen = next((known for known in TENSOR_SETS if known == raw), None)
    if raw is not None and chosen is None:
        raise root.key("tensor_set").error(f"got {shown(raw)}; {did_you_mean(str(raw), TENSOR_SETS)}")
    return chosen or "same"


def _chat_template(fields: Mapping[str, Any], root: KeyPath) -> str | None:
    raw = fields.get("chat_template")
    if raw is None:
        return None
    where = root.key("chat_template")
    text = where.text(raw)
    if text not in CHAT_TEMPLATES and not (len(text) >= 20 and "{" in text):
        raise where.error(
            f"got {shown(raw)}, a Jinja template or a name expected; {did_you_mean(text, CHAT_TEMPLATES)}"
        )
    if text not in CHAT_TEMPLATES:
        _check_jinja(text, where)
    return text


def _check_jinja(text: str, where: KeyPath) -> None:
    """RecipeError where transformers could not parse the template, which would show only in the merged model."""
    from jinja2 import Environment, TemplateSyntaxError

    known = re.sub(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", r"{#\1 \2#}", text)  # transformers' own tag
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(known)
    except TemplateSyntaxError as error:
        raise where.error(
            f"is no Jinja template: line {error.lineno}: {' '.join(str(error.message).split())}"
        ) from error
