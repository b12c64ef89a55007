"""What is known of a campaign before anything is loaded or written: the file, and the headers of its models.

    a winner could be named · models can be read · the space fits them · every fixed recipe can be planned · all have a
    tokenizer · transformers can make all · budget and sampler fit · the target is free

`mergefleet search` asks all of it first, and `--plan` all that is about models. What only items tell is asked next
(evaluators, search.opening), and what only the models' data tells (`refuse_nonfinite`), before there is a run, too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.errors import CampaignError, EvaluationError, InputError
from engine.models.architecture import Layout
from engine.models.chat_templates import own_template
from engine.models.tokenizer import TOKENIZER_FILES, has_tokenizer
from engine.outputs.hub_upload import is_hub
from engine.planning.plan import Plan
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model
from search.baselines import make_baselines
from search.campaign_file import Campaign, place_of_model
from search.evaluators.causal import why_unscorable
from search.evaluators.opening import refuse_missing_functions
from search.evaluators.perplexity import LONGEST_CONTEXT
from search.evaluators.plans import Plans
from search.live import sampler_of
from search.opening import check_budget
from search.run import RunDirectory, has_scores
from search.space import Space, check_tensors, make_space
from search.space.methods import merge_method
from search.trackers.outlet import refuse_missing
from search.whole_file import is_read_only

Recipe = Mapping[str, Any]
_COSTS = frozenset({"parameters", "measure:tokens", "measure:forwards", "measure:seconds"})
"""Of these less is better whatever the answers say; another measure that is minimized may be a skill (a perplexity)."""
_LOG = logging.getLogger(__name__)
_COMMON = ("dtype", "out_dtype", "tokenizer_source")


def check_start(campaign: Campaign, directory: RunDirectory, plans: Plans) -> None:
    """What would otherwise come out late. Raises InputError, with file and key."""
    from search.publishing.publish import refuse_target

    refuse_read_only(directory)
    refuse_target(campaign, directory)
    _warn_of_public(campaign)
    refuse_missing(campaign)
    refuse_missing_functions(campaign)
    new = not has_scores(campaign, directory)  # an earlier version may have begun it: then it goes on
    if new:
        refuse_senseless(campaign)
    space, baselines = check_models(campaign, plans), make_baselines(campaign)
    if new:
        refuse_speechless(campaign, plans)
        refuse_unmade(campaign, plans)
    check_budget(campaign, len(baselines), population=space.stages[0].population)
    sampler_of(campaign, space, baselines=len(baselines))


def refuse_read_only(directory: RunDirectory) -> None:
    """CampaignError for a run on a file system that takes no writes."""
    if directory.root.is_dir() and is_read_only(directory.root):
        raise CampaignError(
            f"{directory.root}: its file system is read-only: `report`, and `publish --to` elsewhere, work there. To "
            "go on with the run, copy it to where it can be written, and name that one (--run-dir)."
        )


def refuse_senseless(campaign: Campaign) -> None:
    """CampaignError for what would run to its end and come to nothing."""
    _refuse_base_as_source(campaign)
    _refuse_endless_stage(campaign)
    _refuse_unheeded(campaign)
    _refuse_unheeded_of_stages(campaign)
    if campaign.objectives and all(entry.of in _COSTS and entry.sign < 0 for entry in campaign.objectives):
        raise CampaignError(
            f"{campaign.origin}: objectives: got costs alone ({', '.join(e.title for e in campaign.objectives)}): the "
            "best model would be one that says nothing. Add what it shall be good at: score, worst or task:NAME.",
            key="objectives",
        )
    kinds = {baseline.kind for baseline in make_baselines(campaign)}
    groups = {"base": "base" in kinds, "parents": "parent" in kinds, "baselines": "baseline" in kinds}
    groups["best_global"] = len(campaign.space.stages) > 1
    if not any(groups[name] for name in campaign.comparators):
        named = ", ".join(campaign.comparators) or "none"
        raise CampaignError(
            f"{campaign.origin}: comparators: got {named}, of which this campaign has nobody: a winner has to beat "
            f"somebody. Name some of {', '.join(name for name, there in groups.items() if there)}; to have the best "
            "candidate published whatever it beats, say `mergefleet publish RUN --anyway` at the end.",
            key="comparators",
        )


def _refuse_endless_stage(campaign: Campaign) -> None:
    for index, (stage, after) in enumerate(pairwise(campaign.space.stages)):
        if stage.candidates is None:
            where = KeyPath(campaign.origin, "space", CampaignError).key("stages").item(index)
            raise where.error(
                f"stage {stage.name!r} has no `candidates`, so it never ends and stage {after.name!r} never begins. "
                "Say after how many candidates it ends."
            )


def _refuse_unheeded(campaign: Campaign) -> None:
    """Values in whose place others would be taken: looks are sorted, and a stride is cut to less than the context."""
    looks, where = campaign.items.looks, KeyPath(campaign.origin, error_class=CampaignError)
    if any(first >= second for first, second in pairwise(looks)):
        raise where.key("items").key("looks").error(f"got {list(looks)}, shares in ascending order expected.")
    for index, task in enumerate(campaign.tasks):
        context = task.context or LONGEST_CONTEXT
        if task.stride is not None and task.stride >= context:
            place = where.key("tasks").item(index).key("stride")
            raise place.error(
                f"got {task.stride}, less than the context expected: windows of {context} tokens overlap."
            )


def _refuse_unheeded_of_stages(campaign: Campaign) -> None:
    """What a stage says that nobody would act on."""
    in_blocks = campaign.sampler in ("cma", "quadratic") or (campaign.sampler == "auto" and not campaign.objectives[1:])
    for index, stage in enumerate(campaign.space.stages):
        where = KeyPath(campaign.origin, "space", CampaignError).key("stages").item(index)
        if index and stage.sobol:
            raise where.key("sobol").error("such points open the first stage alone. Leave it out here.")
        if stage.blocks_at_a_time and not in_blocks:
            raise where.key("blocks_at_a_time").error(
                f"cma and quadratic draw in blocks, sampler {campaign.sampler} does not here. Leave it out."
            )


def _refuse_base_as_source(campaign: Campaign) -> None:
    """A source that is the base adds nothing to it: no weight of it would change the model.

    Methods that average models as they are (linear, slerp of two sources, a stack of layers) do make sense of it.
    """
    space, origin = campaign.space, campaign.origin
    methods = [merge_method(name, use_base=space.use_base, origin=origin) for name in space.methods]
    merges_differences = {"campaign"} if len(campaign.sources) > 1 else {"campaign", "first"}
    if any(method.engine.base == "ignored" or method.base not in merges_differences for method in methods):
        return
    base = place_of_model(campaign.base_model)
    for index, source in enumerate(campaign.sources):
        if place_of_model(source.model) == base:
            raise CampaignError(
                f"{origin}: sources[{index}]: {source.model} is the base_model: {' and '.join(space.methods)} would "
                "merge its difference to the base, which is zero. Leave it out; the base is scored anyway.",
                key=f"sources[{index}]",
            )


def warn_of_threads(campaign: Campaign) -> None:
    """Say where an evaluator in this process has more threads than processors. No error: a run that was begun on a
    larger machine goes on with its number, on which the last bits of scores depend."""
    threads, processors = campaign.evaluator.threads, len(os.sched_getaffinity(0))
    if threads > processors:
        _LOG.warning(
            "%s: evaluator.threads: got %d, and this process may use %d: they will wait for each other. For a new "
            "campaign say %d or less.",
            campaign.origin,
            threads,
            processors,
            processors,
        )


def _warn_of_public(campaign: Campaign) -> None:
    """Say where a winner goes to a place that `public` does nothing for. No error: `publish --to hub:…` heeds it."""
    to = campaign.publish.to or "the run's directory"
    if campaign.publish.public and not is_hub(to):
        _LOG.warning("%s: publish.public: is for repositories on the Hub; the winner goes to %s.", campaign.origin, to)


def check_models(campaign: Campaign, plans: Plans) -> Space:
    """The campaign's space, where all of its models can be read and merged with each other, as their headers say."""
    for key, name in _models(campaign):
        try:
            plans.open(parse_model(name, KeyPath(campaign.origin).key(key)))
        except InputError as error:
            raise _said(error, campaign, key, more=_looked_for(error, campaign)) from error
    space = space_of(campaign, plans)
    start = space.recipe(0, space.stages[0].start())
    seen: set[str] = set()
    for key, recipe in [*_fixed(campaign), ("space", start)]:
        models = json.dumps([_model(entry) for entry in _entries(recipe)] + [recipe.get("base_model"), key == "space"])
        if models not in seen:  # methods do not differ in what models they take
            seen.add(models)
            plan = _check_recipe(campaign, plans, key=key, recipe=recipe)
            _check_scorable(campaign, plan, key=key)
            _check_chat(campaign, plans, plan, key=key)
            _check_contexts(campaign, plan)
    return space


def refuse_nonfinite(campaign: Campaign, plans: Plans) -> None:
    """CampaignError where a model holds NaN or Inf: then no candidate that it enters could be scored.

    Costs no pass of its own: every candidate's hash is over the contents of its sources, which are read once, here.
    """
    for baseline in make_baselines(campaign):
        if baseline.kind in ("base", "parent"):
            plans(baseline.recipe)
    key_of = _keys_of(campaign)
    for (ref, tensor), count in plans.nonfinite.items():
        more = sum(1 for other, _ in plans.nonfinite if other == ref) - 1
        rest = f" (and so do {more} other tensors of it)" if more else ""
        raise CampaignError(
            f"{campaign.origin}: {key_of.get(ref, 'models')}: {ref}: tensor {tensor!r} holds {count} NaN or Inf{rest}. "
            "Repair the model, or leave it out.",
            tensor=tensor,
            source=str(ref),
            count=count,
        )


def refuse_speechless(campaign: Campaign, plans: Plans) -> None:
    """CampaignError for a model without tokenizer: base and parents are scored as they are.

    A function of the user's may do without one; it is rehearsed before anything is scored.
    """
    if all(task.kind == "python" for task in campaign.tasks):
        return
    models = {key: plans.open(parse_model(name, KeyPath(campaign.origin).key(key))) for key, name in _models(campaign)}
    places = {key: model.tokenizer_directory for key, model in models.items()}
    silent = next((key for key, place in places.items() if not has_tokenizer(place)), None)
    if silent is None:
        return
    other = next((key for key, place in places.items() if has_tokenizer(place)), None)
    whose = "a model of the same vocabulary" if other is None else f"{other} ({models[other].ref})"
    raise CampaignError(
        f"{campaign.origin}: {silent}: {models[silent].ref} has no tokenizer ({', '.join(TOKENIZER_FILES[:2])}, ...), "
        f"and base and parents are scored with their own: copy that of {whose} into its directory, if ids mean the "
        "same tokens (space.tokenizer_source is for merges alone).",
        key=silent,
    )


def refuse_unmade(campaign: Campaign, plans: Plans) -> None:
    """CampaignError for a base or parent that the live model cannot be: they are scored as they are, and whoever is
    lost is beaten by nobody. It imports torch and transformers' models, so a plan alone is made without."""
    if campaign.evaluator.engine != "hf":
        return
    from search.evaluators.loading import check_fits

    seen: set[str] = set()
    for key, name in _models(campaign):
        recipe = {"merge_method": "passthrough", "models": [{"model": name}]}
        plan = _check_recipe(campaign, plans, key=key, recipe=recipe)
        made_of = json.dumps([plan.config, [(tensor.name, tensor.shape) for tensor in plan.tensors]], sort_keys=True)
        if made_of not in seen:  # most of a campaign's models have one config.json
            seen.add(made_of)
            try:
                check_fits(plan, campaign.evaluator)
            except EvaluationError as error:
                raise CampaignError(f"{campaign.origin}: {key}: {name}: {error.flagless}.", key=key) from error


def space_of(campaign: Campaign, plans: Plans) -> Space:
    """The campaign's space on its real base: layers and tensors' names from the headers."""
    base = plans.open(parse_model(campaign.base_model, KeyPath(campaign.origin).key("base_model")))
    space = make_space(campaign, layers=Layout.read(base.tensors, base.config, origin=campaign.base_model).layers)
    check_tensors(space, base.tensors)
    return space


def _models(campaign: Campaign) -> Iterator[tuple[str, str]]:
    """Key of the campaign file → the model named there."""
    yield "base_model", campaign.base_model
    yield from ((f"sources[{index}]", entry.model) for index, entry in enumerate(campaign.sources))


def _keys_of(campaign: Campaign) -> dict[ModelRef, str]:
    """Model → the (first) key of the campaign file that names it."""
    return {parse_model(name, KeyPath(campaign.origin).key(key)): key for key, name in reversed([*_models(campaign)])}


def _fixed(campaign: Campaign) -> Iterator[tuple[str, Recipe]]:
    for baseline in make_baselines(campaign):
        yield f"baselines: {baseline.label}", baseline.recipe


def _entries(recipe: Recipe) -> list[Any]:
    return [entry for part in recipe.get("slices", ()) for entry in part["sources"]] or list(recipe.get("models", ()))


def _model(entry: Mapping[str, Any]) -> str:
    return str(entry["model"])


def _check_recipe(campaign: Campaign, plans: Plans, *, key: str, recipe: Recipe) -> Plan:
    """Its plan. CampaignError where there is none; about the first model, if any, that does not go with the base."""
    try:
        return plans.plan_of(recipe, origin=campaign.origin)
    except InputError as error:
        key_of = {model: key for key, model in reversed([*_models(campaign)])}
        named = list(dict.fromkeys(filter(None, [recipe.get("base_model"), *map(_model, _entries(recipe))])))
        common = {name: recipe[name] for name in _COMMON if name in recipe}
        for model in named if len(named) > 1 else ():
            pair = [{"model": each, "parameters": {"weight": 1}} for each in (campaign.base_model, model)]
            try:
                plans.plan_of({"merge_method": "linear", "models": pair, **common}, origin=campaign.origin)
            except InputError as found:
                raise _said(found, campaign, key_of.get(model, key)) from found
        raise _said(error, campaign, key if len(named) > 1 else key_of.get(named[0], key)) from error


def _looked_for(error: InputError, campaign: Campaign) -> str:
    """Where a model that is not there was looked for, and whether it is beside the campaign file."""
    missing, file = error.facts.get("missing"), Path(campaign.origin)
    if not isinstance(missing, str) or "://" in missing or missing.startswith(("/", "~")):
        return ""
    there = file.parent / missing
    beside = file.is_file() and there.exists()
    if not beside and error.facts.get("status", 404) not in (401, 404):  # it is on the Hub
        return ""
    said = f" It was looked for at {Path(missing).resolve()}: paths in a campaign file start at the working directory."
    return f"{said} There is {there}, beside the file: write so, or start in {file.parent}." if beside else said


def _said(error: InputError, campaign: Campaign, key: str, *, more: str = "") -> CampaignError:
    told = error.flagless.removeprefix(f"{campaign.origin}: ") + more
    facts = {name: value for name, value in error.facts.items() if name not in ("file", "key")}
    return CampaignError(f"{campaign.origin}: {key}: {told}", file=campaign.origin, key=key, **facts)


def _check_scorable(campaign: Campaign, plan: Plan, *, key: str) -> None:
    """The live model is one that predicts tokens. Which ones vLLM serves is not known here."""
    if campaign.evaluator.engine != "hf":
        return
    why = why_unscorable(plan.config, [tensor.name for tensor in plan.tensors])
    if why is not None:
        key = _keys_of(campaign).get(plan.donor, key)
        raise CampaignError(
            f"{campaign.origin}: {key}: {plan.donor}: {why}: no campaign can score such models. They can be merged to "
            "files (`mergefleet merge`).",
            key=key,
        )


def _check_contexts(campaign: Campaign, plan: Plan) -> None:
    """No text may be cut into windows that are longer than the models read."""
    config = plan.config.get("text_config") or plan.config
    limit = config.get("max_position_embeddings")
    for index, task in enumerate(campaign.tasks):
        if task.context is not None and isinstance(limit, int) and task.context > limit:
            raise CampaignError(
                f"{campaign.origin}: tasks[{index}].context: got {task.context}, the models read {limit} tokens at "
                "most (max_position_embeddings in config.json)",
                task=task.name,
            )


def _check_chat(campaign: Campaign, plans: Plans, plan: Plan, *, key: str) -> None:
    """A task with a chat template needs candidates and baselines that have one: base and parents are scored, too."""
    index = next((number for number, task in enumerate(campaign.tasks) if task.chat_template), None)
    if index is None or plan.chat_template or own_template(plans.open(plan.tokenizer).tokenizer_directory):
        return
    who = "candidates take" if key == "space" else f"baseline {key.partition(': ')[2]!r} takes"
    raise CampaignError(
        f"{campaign.origin}: tasks[{index}].chat_template: {who} the tokenizer of {plan.tokenizer}, which has no chat "
        "template: leave it out, or add one to that tokenizer (a file chat_template.jinja).",
        task=campaign.tasks[index].name,
    )
