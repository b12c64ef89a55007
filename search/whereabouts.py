"""What a run's directory remembers: which campaign it is a run of, and in which store, so that the directory is enough
to report on it or to publish. A password is never written down: PGPASSWORD or ~/.pgpass have it."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from engine.errors import CampaignError
from search.campaign_file import Campaign
from search.run import RunDirectory
from search.store.failures import without_password
from search.store.store import Store, store_url
from search.whole_file import whole_file


def remember(campaign: Campaign, directory: RunDirectory) -> None:
    """Note it in the run's directory, which is there; a store of the run's own needs no name and moves along."""
    store = None if campaign.store is None else _noted(make_url(store_url(campaign.store, default=directory.database)))
    facts = {"campaign": campaign.name, "store": store}
    with whole_file(directory.note) as partial:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def recall(directory: RunDirectory) -> tuple[str, str]:
    """(URL of the store, name of the campaign). CampaignError where the directory is no run's."""
    if directory.note.is_file():
        store, name = _read(directory.note)
        return store_url(store, default=directory.database), name
    if not directory.database.is_file():
        raise CampaignError(
            f"{directory.root}: is no run: there is no {directory.note.name} and no {directory.database.name} in it. "
            "Name the run's directory, or the campaign's file."
        )
    url = store_url(None, default=directory.database)  # of a version that made no notes
    return url, _only_campaign(url, directory)


def _noted(url: URL) -> str:
    """A path where it is a file, wherever one stands when it is read; else a URL as people write it."""
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").resolve())
    return without_password(url).render_as_string(hide_password=False)


def _read(note: Path) -> tuple[str | None, str]:
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        store, name = facts["store"], facts["campaign"]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_note(note) from error
    if not isinstance(name, str) or not isinstance(store, str | None):
        raise _no_note(note)
    return store, name


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
