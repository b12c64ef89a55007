"""mergekit-evolve's genome files as campaigns. Pure but for reading; what cannot be kept is said in comments.

A genome searches one vector: for every group of `layer_granularity` layers, model, filter (and the rest) and parameter
one number. Here that is a stage by blocks, or by knots where `smooth` is set. Where mergekit means something that a
campaign cannot say, the campaign says the nearest thing, and a comment above the key says what is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from engine.errors import CampaignError
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from engine.recipes.yamlfile import read_yaml

METHODS = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
"""What mergekit-evolve searches of each method that it knows."""
_NORMALIZED = ("linear", "ties", "dare_ties")
_GENOME_KEYS = (
    *("models", "merge_method", "base_model", "tokenizer_source", "layer_granularity"),
    *("normalize", "allow_negative_weights", "filters", "smooth"),
)
_TOP_KEYS = (
    *("genome", "tasks", "limit", "num_fewshot", "shuffle"),
    *("random_init", "apply_chat_template", "fewshot_as_multiturn"),
)
_FLAGS = {
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "candidates are scored in the campaign's `evaluator.dtype`"),
    "max_fevals": "the campaign's `budget` says how long it searches",
    "task_search_path": "it is the campaign's `include_path`",
    "batch_size": "it is the campaign's `evaluator.batch_size`",
    "vllm": "it is `evaluator: {engine: vllm}` of the campaign",
    "random_seed": "it is the campaign's `seed`",
    "sigma0": "it is `sigma` of the campaign's stages, as a share of the range",
    "force_population_size": "it is `population` of the campaign's stages",
    "wandb": "it is `trackers: [wandb]` of the campaign",
    "num_gpus": "it is `--workers` of `mergefleet search`",
}
"""Options of mergekit-evolve's command that people write into the file → what they are here."""
_HIGH = 1.5
_LAYERED = r"re:\.\d+\."
_EVALUATIONS = 100  # mergekit-evolve's --max-fevals, where nobody says otherwise
_SPLIT = {"search": 0.6, "selection": 0.15, "holdout": 0.25}


@dataclass
class Converted:
    """A campaign as plain data, and by top-level key what a reader should know about it."""

    data: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def say(self, key: str, note: str) -> None:
        self.notes.setdefault(key, []).append(note)

    def text(self) -> str:
        """The campaign file."""
        parts = []
        for key, value in self.data.items():
            parts += [f"# {note}" for note in self.notes.get(key, ())]
            parts.append(_written(key, value))
        return "\n".join([*(f"# {note}" for note in self.notes.get("", ())), *parts, ""])


def _written(key: str, value: Any) -> str:
    if isinstance(value, str | int | float):
        return yaml.safe_dump({key: value}).rstrip()
    body = yaml.safe_dump(value, sort_keys=False, width=110, default_flow_style=None)
    return f"{key}:\n{indent(body.rstrip(), '  ')}"


@dataclass(frozen=True)
class Genome:
    """The `genome:` part, checked. Models are as in recipes."""

    models: tuple[str, ...]
    method: str
    base: str | None
    filters: tuple[str, ...]
    granularity: int
    smooth: bool
    negative: bool
    normalize: bool
    tokenizer: str | None


def read_genome(path: str | Path) -> Mapping[str, Any]:
    """The YAML of a genome file. CampaignError where it is none."""
    where = KeyPath(str(path), "", CampaignError)
    data = read_yaml(path, error=CampaignError)
    _refuse_flags(where, data)
    return where.mapping(data, _TOP_KEYS)


def _refuse_flags(where: KeyPath, data: Any) -> None:
    """CampaignError for an option of the command line, which is no key and looks like none."""
    for name in data if isinstance(data, Mapping) else ():
        if name in _FLAGS:
            raise where.key(name).error(
                f"is no key of a genome file but an option of mergekit-evolve: here {_FLAGS[name]}. Remove it."
            )


def first_model(data: Mapping[str, Any], *, origin: str) -> str:
    """The model whose number of layers counts."""
    return _genome(data, origin).models[0]


def needs_layers(data: Mapping[str, Any], *, origin: str) -> bool:
    """Whether the number of layers matters: it decides how many groups there are."""
    return _genome(data, origin).granularity > 0


def convert(data: Mapping[str, Any], *, name: str, layers: int | None, origin: str) -> Converted:
    """The campaign that a genome file describes.

    Args:
        data: what `read_genome` gives.
        name: of the campaign.
        layers: of the models; needed where the genome has a layer_granularity.
    """
    genome, found = _genome(data, origin), Converted()
    found.say("", "Made from a genome file of mergekit-evolve. `mergefleet search` runs it; docs/space.md and")
    found.say("", "docs/search.md explain the keys. Comments say what mergekit-evolve would do otherwise.")
    found.data |= {"name": name, "base_model": genome.base or genome.models[0]}
    if genome.base is None:
        found.say(
            "base_model", "The genome names no base_model: this is its first model. Name the common base, if any:"
        )
        found.say("base_model", "the winner has to beat it.")
    sources = [model for model in genome.models if model != genome.base or genome.method in ("linear", "slerp")]
    if len(sources) < len(genome.models):
        found.say("sources", "The base is among the genome's models, too; its task vector is 0, so it is left out.")
    found.data |= {"sources": sources, "dtype": "bfloat16"}
    _space(found, genome, sources=len(sources), groups=_groups(genome, layers, origin))
    _tasks(found, data, origin)
    _items(found, data)
    return found


def _genome(data: Mapping[str, Any], origin: str) -> Genome:
    top = KeyPath(origin, "", CampaignError)
    where = top.key("genome")
    if data.get("genome") is None:
        raise where.error("is missing; this is no genome file of mergekit-evolve.")
    _refuse_flags(where, data["genome"])
    fields = where.mapping(data["genome"], _GENOME_KEYS)
    method = fields.get("merge_method")
    if method not in METHODS:
        raise where.key("merge_method").error(f"got {method!r}; mergekit-evolve has {', '.join(METHODS)}.")
    models = tuple(
        str(parse_model(raw, place)) for place, raw in where.key("models").items(fields.get("models"), "models")
    )
    raw_base = fields.get("base_model")
    base = None if raw_base is None else str(parse_model(raw_base, where.key("base_model")))
    if base is None and method not in ("linear", "slerp"):
        raise where.key("base_model").error(f"is missing, and {method} needs it.")
    if method == "slerp" and len(models) != 2:
        raise where.key("models").error(
            f"got {len(models)}: mergekit-evolve lets slerp pick two of them anew for every group of layers, which no "
            "recipe with one base_model says. Name the two, or search a `subset`."
        )
    for key in ("smooth", "filters"):
        if method == "slerp" and fields.get(key):
            raise where.key(key).error("is not for slerp, in mergekit-evolve neither.")
    filters = tuple(str(text) for text in fields.get("filters") or ())
    normalize = fields.get("normalize")
    tokenizer = fields.get("tokenizer_source")
    return Genome(
        models=models,
        method=str(method),
        base=base,
        filters=filters,
        granularity=max(0, where.key("layer_granularity").whole(fields.get("layer_granularity") or 0, below=1 << 20)),
        smooth=bool(fields.get("smooth")),
        negative=bool(fields.get("allow_negative_weights")),
        normalize=method in _NORMALIZED if normalize is None else bool(normalize),
        tokenizer=None if tokenizer is None else str(tokenizer).removeprefix("model:"),
    )


def _groups(genome: Genome, layers: int | None, origin: str) -> int:
    """How many groups of layers have numbers of their own."""
    if genome.granularity == 0:
        return 1
    where = KeyPath(origin, "genome.layer_granularity", CampaignError)
    if layers is None:
        raise where.error("the number of layers decides how many groups there are: give --layers.")
    if layers % genome.granularity:
        raise where.error(f"got {genome.granularity}, the models have {layers} layers, which is no multiple of it.")
    return layers // genome.granularity


def _space(found: Converted, genome: Genome, *, sources: int, groups: int) -> None:
    low = -_HIGH if genome.negative else 0.0
    bounds = {
        "weight": {"low": low, "high": _HIGH, "start": round(1 / sources, 4)},
        "density": {"low": 0.0, "high": 1.0, "start": 1.0},
        "t": {"low": 0.0, "high": 1.0, "start": 0.5},
    }
    space: dict[str, Any] = {"method": genome.method}
    space["parameters"] = {name: bounds[name] for name in METHODS[genome.method]}
    if genome.method != "slerp":
        space["fixed"] = {"normalize": genome.normalize}
    if genome.tokenizer is not None:
        space["tokenizer_source"] = genome.tokenizer
    fine = _stage(found, genome, groups)
    sigma = round(1 / 6 / (1.0 if genome.method == "slerp" else _HIGH - low), 3)  # mergekit-evolve's, of the range
    space["stages"] = [{"name": "global", "by": "global", "sobol": 4, "sigma": sigma}]
    if fine:
        space["stages"][0]["candidates"] = 24
        space["stages"].append({"name": "genome", **fine, "sigma": sigma})
        found.say("space", "A coarse stage goes before the genome's own: it finds in a few candidates where to start.")
    if genome.method == "slerp":
        found.say(
            "space", "t goes from the first model (0) to the second (1); mergekit-evolve searches two scores, and"
        )
        found.say("space", "takes their softmax, from the higher one on. The models are the same.")
    else:
        free = (
            "without bounds"
            if genome.negative
            else "without bounds and takes their absolute value (each is there twice)"
        )
        found.say("space", f"mergekit-evolve searches weights {free}; here they have")
        found.say("space", "bounds, and lie on a grid of 1/256.")
    found.data["space"] = space


def _stage(found: Converted, genome: Genome, groups: int) -> dict[str, Any]:
    """The stage that says what the genome says; {} where that is one value for all tensors."""
    curve = "knots" if genome.smooth else "blocks"
    if not genome.filters:
        if groups == 1:
            return {}
        return {"by": "gradient" if genome.smooth else "layer_block", curve: groups}
    patterns = {text.replace("/", "_"): text for text in genome.filters}
    if groups == 1:
        return {"by": "patterns", "patterns": patterns}
    found.say("space", "Embeddings, the final norm and the head have one value; in mergekit-evolve the first goes with")
    found.say("space", "the first group of layers, the others with the last one.")
    return {"by": "patterns", "patterns": {**patterns, "other_layers": _LAYERED}, curve: groups}


def _tasks(found: Converted, data: Mapping[str, Any], origin: str) -> None:
    where = KeyPath(origin, "tasks", CampaignError)
    tasks: list[dict[str, Any]] = []
    for place, raw in where.items(data.get("tasks"), "tasks"):
        entry = {"name": raw} if isinstance(raw, str) else place.mapping(raw, ("name", "weight", "metric"))
        task = place.key("name").text(entry.get("name"))
        weight = float(entry.get("weight", 1.0))
        metric = str(entry.get("metric", "acc,none")).removesuffix(",none")
        if weight == 0:
            found.say("tasks", f"{task} has weight 0 in the genome file and is left out.")
            continue
        taken = sum(other["task"] == task for other in tasks)
        made = {"name": f"{task}-{taken + 1}" if taken else task, "task": task, "split": dict(_SPLIT), "metric": metric}
        made |= {"direction": "minimize"} if weight < 0 else {}
        tasks.append(made | ({"weight": abs(weight)} if abs(weight) != 1 else {}) | _prompting(data))
    found.data["tasks"] = tasks
    found.say("tasks", "mergekit-evolve searches on every item of a task and reports the best score it saw there. Here")
    found.say("tasks", "the items of each task are cut in three, and the winner is judged on those nobody searched on.")
    found.say("tasks", "Test sets that the world compares models on are refused (`allow_public_test_sets`): take")
    found.say("tasks", "other tasks; `include_path` names the folder of your own (--task-search-path).")


def _prompting(data: Mapping[str, Any]) -> dict[str, Any]:
    """How questions are put: mergekit-evolve uses the chat template unless told not to."""
    chat, shots = data.get("apply_chat_template", True), data.get("num_fewshot")
    made: dict[str, Any] = {} if shots is None else {"num_fewshot": shots}
    made |= {"chat_template": True} if chat else {}
    return made | ({"fewshot_as_multiturn": data.get("fewshot_as_multiturn", True)} if chat and shots else {})


def _items(found: Converted, data: Mapping[str, Any]) -> None:
    limit, tasks = data.get("limit"), len(found.data["tasks"])
    if limit is not None:
        found.data["items"] = {"search": int(limit)}
        found.say("items", "The genome's `limit`: so many items per task are searched on, a window of them at a time.")
    found.data["budget"] = {"items": max(5000, _EVALUATIONS * tasks * int(limit or 200))}
    found.say("budget", f"What mergekit-evolve would spend on {_EVALUATIONS} candidates (its --max-fevals); usually a")
    found.say("budget", "tenth of it is enough, because a candidate is scored on few items, and bad ones on fewer.")
    for key, note in (
        ("shuffle", "`shuffle`: items always lie in a fixed order, stratified by task."),
        ("random_init", "`random_init` has no counterpart: the search starts at `start` and at the baselines."),
    ):
        if data.get(key):
            found.say("budget", note)
