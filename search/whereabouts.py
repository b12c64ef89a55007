"""What a run's directory remembers: which campaign it is a run of, in which store, and in which folders its file lay
when it was started, where functions of the user's own are; and what lay beside the weights of its models when it was
begun. So the directory is enough to report on it or to publish.
A password is never written down: PGPASSWORD or ~/.pgpass have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.engine import URL, make_url

from engine.errors import CampaignError
from search.campaign_file import Campaign
from search.run import RunDirectory
from search.store.failures import without_password
from search.store.store import Store, store_url
from search.whole_file import whole_file

Models = Mapping[str, Mapping[str, str]]
"""Model → file beside its weights → digest (search.evaluators.beside)."""


def remember(campaign: Campaign, directory: RunDirectory, *, models: Models | None = None) -> None:
    """Note it in the run's directory, which is there; a store of the run's own needs no name and moves along."""
    store = None if campaign.store is None else _noted(make_url(store_url(campaign.store, default=directory.database)))
    homes = at_home(campaign, directory).homes
    facts = {"campaign": campaign.name, "store": store, "homes": homes, "models": models or {}}
    with whole_file(directory.note) as partial:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def at_home(campaign: Campaign, directory: RunDirectory) -> Campaign:
    """The campaign with all its homes: the folder of its file, then those that its run's directory remembers."""
    folder = Path(campaign.origin).resolve().parent
    own = campaign.homes or ((str(folder),) if Path(campaign.origin).is_file() else ())
    noted = _note_of(directory)
    return campaign.model_copy(update={"homes": tuple(dict.fromkeys((*own, *(noted.homes if noted else ()))))})


def models_noted(directory: RunDirectory) -> Models:
    """What lay beside the weights of the run's models when it was begun; nothing where that was not noted."""
    noted = _note_of(directory)
    return noted.models if noted else {}


def recall(directory: RunDirectory) -> tuple[str, str]:
    """(URL of the store, name of the campaign). CampaignError where the directory is no run's."""
    if directory.note.is_file():
        note = _read(directory.note)
        return store_url(note.store, default=directory.database), note.campaign
    if not directory.database.is_file():
        raise CampaignError(
            f"{directory.root}: is no run: there is no {directory.note.name} and no {directory.database.name} in it. "
            "Name the run's directory, or the campaign's file."
        )
    url = store_url(None, default=directory.database)  # of a version that made no notes
    return url, _only_campaign(url, directory)


def _note_of(directory: RunDirectory) -> _Note | None:
    """None for a damaged one, too: who has the campaign's file needs no note, and the next start makes it anew."""
    with suppress(CampaignError):
        return _read(directory.note) if directory.note.is_file() else None
    return None


def _noted(url: URL) -> str:
    """A path where it is a file, wherever one stands when it is read; else a URL as people write it."""
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").resolve())
    return without_password(url).render_as_string(hide_password=False)


class _Note(NamedTuple):
    """What run.json says; versions before noted no homes, and no models."""

    campaign: str
    store: str | None
    homes: tuple[str, ...]
    models: Models


def _read(note: Path) -> _Note:
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        models = {name: dict(files) for name, files in dict(facts.get("models", {})).items()}
        found = _Note(facts["campaign"], facts["store"], tuple(facts.get("homes", ())), models)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_note(note) from error
    texts = (found.campaign, *found.homes)
    if not all(isinstance(text, str) for text in texts) or not isinstance(found.store, str | None):
        raise _no_note(note)
    return found


def _no_note(note: Path) -> CampaignError:
    return CampaignError(
        f"{note}: got something else than a run's campaign and store. Remove it, and name the campaign's file."
    )


def _only_campaign(url: str, directory: RunDirectory) -> str:
    store = Store(url)
    try:
        names = store.names()
    finally:
        store.close()
    if len(names) != 1:
        raise CampaignError(f"{directory.database}: holds {len(names)} campaigns: name the file of the one you mean.")
    return names[0]
