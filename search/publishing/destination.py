"""Where a model is published, and what is there already: a directory, the Hub, a place in an object store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import OutputExists
from engine.outputs.hub_upload import HubRepo, is_hub, parse_hub, provenance_on_hub, read_json, refuse_hub
from engine.outputs.publish import refuse_existing
from engine.outputs.publish import refuse_unwritable as refuse_directory
from engine.planning.made import PROVENANCE
from engine.remote.url import Url, parse_place

Destination = Path | Url | HubRepo
ELSEWHERE = "Remove it, or name another place."


def parse_destination(text: str) -> Destination:
    """A directory, hub:ORG/NAME[@BRANCH], or s3://, gs://, az://BUCKET/PREFIX. InputError for anything else."""
    return parse_hub(text) if is_hub(text) else parse_place(text)


def provenance_at(place: Destination) -> Mapping[str, Any] | None:
    """provenance.json of the model that is there; None where nothing is.

    Raises OutputExists where something else is, InputError where a remote place cannot be asked.
    """
    if isinstance(place, Path):
        facts = _in_directory(place)
    elif isinstance(place, HubRepo):
        facts = provenance_on_hub(place)
    else:
        facts = _in_bucket(place)
    if facts == {}:
        raise OutputExists(f"{place}: is there already and is no model of mergefleet's. {ELSEWHERE}", path=str(place))
    return facts


def refuse_unwritable(place: Destination) -> None:
    """InputError where nothing can be published there for want of a token, of credentials, of a network or of rights:
    those to write to an object store show only when it is written to."""
    if isinstance(place, HubRepo):
        refuse_hub(place)
    elif isinstance(place, Path):
        refuse_directory(place)


def _in_directory(place: Path) -> Mapping[str, Any] | None:
    if not os.path.lexists(place):
        return None
    facts = read_json(place / PROVENANCE)
    if not facts:
        refuse_existing(place)  # an empty directory is no obstacle
        return None
    return facts


def _in_bucket(place: Url) -> Mapping[str, Any] | None:
    """None too where an output was begun there: merging goes on with it, or refuses it."""
    from engine.remote.layout import MANIFEST
    from engine.remote.output import output_bucket, read_object, refuse_existing_objects

    bucket = output_bucket(place)
    if bucket.get(MANIFEST) is None:
        refuse_existing_objects(place)
        return None
    return read_object(bucket, PROVENANCE) or {}
