"""A candidate as a published model: merged again from its recipe, and visible only if it is what was scored.

    choose → merge aside → same bits?  → same sentinel scores from the files? → visible at once

Same bits: the digest of all tensors is the one that the evaluator reported. A directory appears by one rename, a Hub
repository's files by one commit, an output in an object store by its manifest. For the last two the model is made in
the run's `outbox` first, and checked there; for an object store it is then merged once more, straight into it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import (
    CampaignError,
    EvaluationError,
    InputError,
    OutputDamaged,
    OutputExists,
    Refused,
)
from engine.merging import merge
from engine.models.checkpoint import open_checkpoint
from engine.models.places import local_path
from engine.outputs.hub_upload import HubRepo, Upload, read_json, upload
from engine.outputs.naming import Names, unlike
from engine.outputs.publish import clean
from engine.planning.beside import compare, digests_said, held_in
from engine.planning.made import PROVENANCE
from engine.planning.options import Options
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model
from engine.recipes.reader import parse_recipe
from engine.recipes.recipe import Recipe
from engine.remote.url import is_url
from search.campaign_file import Campaign, campaign_to_dict
from search.publishing import sentinels as sentinel_items
from search.publishing.destination import (
    ELSEWHERE,
    Destination,
    parse_destination,
    provenance_at,
    refuse_unwritable,
)
from search.publishing.licences import Licence
from search.publishing.model_card import Published, card_extras, licence_of, parents_facts
from search.publishing.parents import Parent, read_parent
from search.publishing.present import refuse_altered, refuse_other
from search.publishing.public import public_data
from search.publishing.sentinels import Rescorer, Sentinels
from search.publishing.unaltered import refuse_altered_models
from search.publishing.versions import versions
from search.results import CandidateRow, Results
from search.run import RunDirectory, open_store

OUTBOX, PUBLISHED = "outbox", "published"
Inspect = Callable[[Path], None]


@dataclass(frozen=True)
class Order:
    """What to publish, where and how.

    candidate  its number; None for the winner
    anyway     the campaign's choice even if it is not shown to win
    rescore    score sentinel items from the files
    licence    instead of what follows from the parents
    """

    to: Destination
    candidate: int | None = None
    anyway: bool = False
    rescore: bool = True
    public: bool = False
    message: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Publication:
    """What came of an order. `made` is False where the very model was there already; `notes`: of files beside it."""

    place: Destination
    candidate: int
    label: str
    weights: str
    sentinels: int
    made: bool = True
    commit: str | None = None
    notes: tuple[str, ...] = ()


def order_of(campaign: Campaign, directory: RunDirectory) -> Order:
    """Where a campaign's winner goes by itself: `publish.to`, else `published` in the run.

    Raises CampaignError where that is no place.
    """
    entry = campaign.publish
    try:
        to = parse_destination(entry.to) if entry.to else directory.root / PUBLISHED
    except InputError as error:
        raise CampaignError(f"{campaign.origin}: publish.to: {error.message}") from error
    return Order(to, public=entry.public, licence=entry.license)


def refuse_target(campaign: Campaign, directory: RunDirectory) -> None:
    """Refuse, before anything is scored, a place that is taken (OutputExists), cannot be written to, or is the run's
    own (InputError).

    What is there may be the winner of this very run, if that has a verdict; no other model will be published over it.
    """
    order = order_of(campaign, directory)
    key = f"{campaign.origin}: publish.to: " if campaign.publish.to else ""
    try:
        _refuse_own(order.to, directory)
        facts = provenance_at(order.to)
        if facts is None:
            refuse_unwritable(order.to)
    except (InputError, OutputExists) as error:
        raise type(error)(f"{key}{error.message}", **error.facts) from error
    if facts is None:
        return
    of_campaign = facts.get("campaign", {}).get("name") == campaign.name
    if not of_campaign or not _is_judged(campaign, directory):
        whose = f"a model of another run of campaign {campaign.name!r}" if of_campaign else "no model of this campaign"
        raise OutputExists(f"{key}{order.to}: is there already and is {whose}. {ELSEWHERE}")


def _refuse_own(place: Destination, directory: RunDirectory) -> None:
    """InputError where a model would take the place of the run: by the time there is one, the run is there."""
    if isinstance(place, Path) and directory.is_own(place):
        raise InputError(
            f"{place}: is the run's own: in {directory.root} it keeps its rows and files. Name another place, such as "
            f"{directory.root / PUBLISHED}.",
            path=str(place),
        )


def _is_judged(campaign: Campaign, directory: RunDirectory) -> bool:
    with open_store(campaign, directory) as store:
        found = store.find(campaign.name)
    return found is not None and found["verdict"] is not None


def publish(
    results: Results, directory: RunDirectory, order: Order, *, rescorer: Callable[[], Rescorer]
) -> Publication:
    """Do it. A place that holds this very model already is left as it is, so that what was interrupted ends well; what
    is compared for that, search.publishing.present says.

    `rescorer` is called only where sentinel items are scored.

    Raises CampaignError where there is no such candidate, Refused where it is no winner and that is not asked for
    or files of its models were altered,
    OutputDamaged where the bits, merged or there already, differ from those that were scored, EvaluationError where
    the files score otherwise, OutputExists where something else is in the way, InputError where that is the run itself.
    """
    row, why = chosen(results, order)
    wanted = row.weights_digest
    assert wanted is not None  # `chosen` saw to it
    found = sentinel_items.choose(results, row.number) if order.rescore else None
    done = Publication(order.to, row.number, row.label, wanted, len(found.scores) if found else 0)
    _refuse_own(order.to, directory)
    there = provenance_at(order.to)
    if there is not None:
        notes = refuse_other(order.to, there, wanted=wanted, recipe=parse_recipe(dict(row.recipe), origin=row.label))
        return replace(done, made=False, notes=tuple(notes))
    refuse_unwritable(order.to)
    refuse_altered_models(row, directory)
    names = local_names(results.campaign)
    published = Published(
        results=results,
        row=row,
        why=why,
        names=names,
        parents=read_parents(results.campaign, names, row.recipe),
        licence=Licence(order.licence) if order.licence else None,
        sentinels=found,
        reference=order.to.name if isinstance(order.to, Path) else str(order.to),
    )
    return replace(done, commit=_make(published, directory, order, _inspector(results, found, rescorer)))


def _inspector(results: Results, found: Sentinels | None, rescorer: Callable[[], Rescorer]) -> Inspect | None:
    """Who scores sentinel items from files; None where there are none."""
    if found is None:
        return None
    _check_models(results.campaign)
    evaluator = rescorer()
    sentinel_items.check_key(evaluator, results.eval_key)
    return partial(sentinel_items.check, found, evaluator)


def _check_models(campaign: Campaign) -> None:
    """InputError for a model that is not where it was: what lies beside each of them is part of the evaluation key."""
    for name in (campaign.base_model, *(source.model for source in campaign.sources)):
        open_checkpoint(parse_model(name, KeyPath(campaign.origin))).close()


def chosen(results: Results, order: Order) -> tuple[CandidateRow, str]:
    """The candidate to publish, and why: winner, anyway (not shown to win), chosen (by number)."""
    name, verdict = results.campaign.name, results.verdict
    if order.candidate is not None:
        return _numbered(results, order.candidate), "chosen"
    if verdict is None:
        raise CampaignError(
            f"campaign {name!r} has no verdict yet: continue it with --resume, or publish a candidate by its number "
            "(--candidate)"
        )
    if not verdict.significant and not order.anyway:
        raise Refused(
            f"campaign {name!r}: {verdict.sentence}: nothing is published. --anyway publishes {verdict.label}, and its "
            "card says so; --candidate N publishes another one."
        )
    return _numbered(results, verdict.winner), "winner" if verdict.significant else "anyway"


def _numbered(results: Results, number: int) -> CandidateRow:
    if not 0 <= number < len(results.candidates):
        raise CampaignError(
            f"--candidate: got {number}, campaign {results.campaign.name!r} has candidates 0 to "
            f"{len(results.candidates) - 1}"
        )
    row = results.candidate(number)
    if row.weights_digest is None:
        cause = row.failure or "it was never scored"
        raise CampaignError(f"--candidate: {number} ({row.label}) has no weights to compare with: {cause}")
    return row


def local_names(campaign: Campaign) -> dict[str, str]:
    """Short names for the models and adapters that are on this machine's disks, by their paths."""
    refs = [_ref(campaign, entry.model) for entry in campaign.sources]
    named = [(ref.lora or ref, name) for ref, name in zip(refs, campaign.source_names, strict=True)]
    others = [_ref(campaign, campaign.base_model), *(ref.bare for ref in refs if ref.lora)]
    named += [(ref, Path(ref.path).name or "base") for ref in others]
    names: dict[str, str] = {}
    for ref, stem in named:
        if ref.path not in names and _is_local(ref):
            names[ref.path] = unlike(names.values(), stem)
    return names


def read_parents(campaign: Campaign, names: Names, recipe: Mapping[str, Any]) -> list[Parent]:
    """Base and the sources that the recipe takes, each once; of a model with an adapter both: both have a licence.

    The sources come from the base, so it is a parent of merges by methods without one, too.
    """
    parts = parse_recipe(dict(recipe), origin=campaign.origin).all_slices
    taken = {str(source.model) for part in parts for source in part.sources}
    sources = [ref for source in campaign.sources if str(ref := _ref(campaign, source.model)) in taken]
    refs = [_ref(campaign, campaign.base_model), *sources]
    places = dict.fromkeys(place for ref in refs for place in (ref.bare, ref.lora) if place is not None)
    return [read_parent(names.get(place.path, str(place)), place) for place in places]


def campaign_facts(published: Published) -> dict[str, Any]:
    """What provenance.json says of the campaign: how the candidate was found and judged."""
    results, row, found = published.results, published.row, published.sentinels
    return {
        "name": results.campaign.name,
        "seed": results.campaign.seed,
        "config": _public_config(results.campaign, published.names),
        "evaluation_key": results.eval_key,
        "items_digest": results.items_digest,
        "candidate": row.number,
        "label": row.label,
        "published_as": published.why,
        "recipe_hash": row.recipe_hash,
        "candidates": len(results.candidates),
        "items_spent": dict(results.items_spent),
        "seconds": results.seconds,
        "verdict": None if results.verdict is None else public_data(asdict(results.verdict), published.names),
        "sentinels": None if found is None else {"split": found.split, "scores": dict(found.scores)},
        "parents": parents_facts(published.parents),
        "license": licence_of(published)[0].text,
        "versions": versions(),
    }


def _make(published: Published, directory: RunDirectory, order: Order, inspect: Inspect | None) -> str | None:
    """Merge, check, make visible; returns the commit, on the Hub."""
    row, place = published.row, order.to
    recipe = parse_recipe(dict(row.recipe), origin=f"candidate {row.number} of {published.results.campaign.name}")
    options = Options(
        content_digests=True,
        card=card_extras(published),
        names=published.names,
        extra={"campaign": campaign_facts(published)},
        expected_weights=row.weights_digest,
        inspect=inspect,
    )
    if isinstance(place, Path):
        _merge_checked(recipe, place, options)
        return None
    aside = directory.root / OUTBOX / place.name
    if not _is_waiting(aside, options):
        _merge_checked(recipe, aside, options)
    commit = None
    if isinstance(place, HubRepo):
        message = order.message or f"{row.label} of campaign {published.results.campaign.name}"
        commit = upload(aside, place, Upload(public=order.public, message=message))
    else:
        merge(recipe, str(place), options=replace(options, inspect=None))
    shutil.rmtree(aside)
    return commit


def _merge_checked(recipe: Recipe, out: Path, options: Options) -> None:
    """Merge; what cannot become visible is removed: a later try finds other inputs."""
    try:
        merge(recipe, out, options=options)
    except (OutputDamaged, EvaluationError):
        clean(out)
        raise


def _is_waiting(aside: Path, options: Options) -> bool:
    """Whether an earlier try left this very directory in the outbox, checked; what else is there goes."""
    if not aside.exists():
        if aside.parent.exists():  # begun for another candidate, perhaps
            clean(aside)
        return False
    there = read_json(aside / PROVENANCE)
    same = there.get("weights") == options.expected_weights and there.get("campaign") == options.extra["campaign"]
    if same and digests_said(there) is not None and not compare(held_in(aside), there, None).changes:
        with suppress(OutputDamaged):
            refuse_altered(aside, str(options.expected_weights))
            return True
    shutil.rmtree(aside)
    return False


def _ref(campaign: Campaign, text: str) -> ModelRef:
    return parse_model(text, KeyPath(campaign.origin))


def _is_local(ref: ModelRef) -> bool:
    return not is_url(ref.path) and local_path(ref.bare) is not None


def _public_config(campaign: Campaign, names: Names) -> dict[str, Any]:
    """The campaign file without what belongs to this machine: where its store is (with a password, perhaps), paths."""
    mine = ("store", "publish", "trackers")
    data = {key: value for key, value in campaign_to_dict(campaign).items() if key not in mine}
    return dict(public_data(data, names))
