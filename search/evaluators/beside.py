"""What lies beside the weights of a campaign's models, and decides their answers, too: config.json, tokenizer, chat
templates, generation settings.

The engine's recipe hash goes over weights alone. So the evaluation key goes over these: a tokenizer or a template that
was changed between a run and its continuation is other inputs, and two campaigns share scores only where it is the
same. A merge takes config.json of its base (or first source), and its tokenizer from there or from `tokenizer_source`,
so it counts which model has what. Models of one family mostly have the very same files: then it does not count how many
they are. Which candidate is which depends on them as well (plans.py): a source with the base's weights and another
template is not the base.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import digest
from engine.errors import InputError
from engine.models.checkpoint import Checkpoint
from engine.models.tokenizer import small_files
from engine.planning.beside import CONFIG, digest_of
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from search.campaign_file import Campaign

if TYPE_CHECKING:
    from search.evaluators.plans import Plans

_TELLS_NOTHING = frozenset({"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype"})
"""Keys of these files by which no answer differs: who wrote them, and the weights' format, which the evaluator says."""


def beside_models(campaign: Campaign, plans: Plans) -> dict[str, Any]:
    """JSON-able facts about them: what base and sources have, in order, or once what all of them have; and what the
    model has whose tokenizer merges get. A model that is not there, as in a file of tasks alone, adds nothing."""
    names = (campaign.base_model, *(source.model for source in campaign.sources))
    found = [contents for name in names for contents in _contents(name, campaign.origin, plans)]
    owner = campaign.space.tokenizer_source
    if owner in names:
        owner = next(_contents(owner, campaign.origin, plans), owner)
    return {"files": found if len({*found}) > 1 else found[:1], "tokenizer": owner}


def files_of_models(campaign: Campaign, plans: Plans) -> dict[str, dict[str, str]]:
    """`files_of` base and sources, by what recipes call them; of those that are there."""
    names = dict.fromkeys((campaign.base_model, *(source.model for source in campaign.sources)))
    return {str(model.ref): files_of(model) for name in names for model in _opened(name, campaign.origin, plans)}


def files_of(model: Checkpoint) -> dict[str, str]:
    """What a model has beside its weights: digests by the names of files."""
    files = small_files(model.tokenizer_directory, model.directory)
    return {CONFIG: digest.of_json(_telling(model.config))} | {file.name: _digest(file) for file in files}


def _contents(name: str, origin: str, plans: Plans) -> Iterator[str]:
    for model in _opened(name, origin, plans):
        yield plans.beside(model.ref, model.ref)


def _opened(name: str, origin: str, plans: Plans) -> list[Checkpoint]:
    """The model; nothing where it is not there."""
    try:
        return [plans.open(parse_model(name, KeyPath(origin)))]
    except InputError:
        return []


def contents(donor: Checkpoint, tokenizer: Checkpoint) -> str:
    """Digest of what a model has beside its weights that takes it from these two. The config beside the tokenizer may
    decide its class."""
    files = small_files(tokenizer.tokenizer_directory, donor.directory)
    config, beside = _telling(donor.config), _telling(tokenizer.config)
    told = [config, sorted([file.name, _digest(file)] for file in files)]
    return digest.of_json(told if beside == config else [*told, beside])


def _digest(file: Path) -> str:
    """Of what a file says; of JSON without what tells nothing."""
    data = file.read_bytes()
    if file.suffix == ".json":
        try:
            settings = json.loads(data)
        except ValueError:
            settings = None
        if isinstance(settings, dict) and not _TELLS_NOTHING.isdisjoint(settings):
            return digest.of_json(_telling(settings))
    return digest_of(data)


def _telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _TELLS_NOTHING}
