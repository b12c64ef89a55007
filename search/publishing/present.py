"""Whether a place that holds this very model holds it still as it was published.

files beside the weights     read, and compared by their digests in provenance.json
weights in a directory       read
on the Hub                   its listing has the SHA-256 of large files, and provenance.json those that were sent
in an object store           the listing has sizes and ETags, and the manifest those that were written; who wrote a
                             file anew, of the same bytes perhaps, has another ETag: then it is read
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine import digest
from engine.errors import InputError, OutputDamaged, OutputExists
from engine.outputs.hub_upload import WEIGHT_FILES, WEIGHTS, HubRepo, weights_on_hub
from engine.outputs.model_files import held_at, remade
from engine.planning.beside import Beside, compare, digests_said
from engine.planning.made import PROVENANCE
from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import Recipe
from engine.remote.url import Url
from engine.reproducing import held_digests
from search.publishing.destination import ELSEWHERE, Destination


def refuse_other(place: Destination, there: Mapping[str, Any], *, wanted: str, recipe: Recipe) -> list[str]:
    """OutputExists where a place holds another model than the one with these weights, OutputDamaged where it does not
    hold that as it was published.

    Returns what is to be told of it all the same.
    """
    if there.get("weights") != wanted:
        raise OutputExists(f"{place}: is there already and holds another model. {ELSEWHERE}", path=str(place))
    notes = _files_there(place, there, recipe).notes
    if isinstance(place, HubRepo):
        return notes + _weights_on_hub(place, there)
    if isinstance(place, Path) or _written_anew(place):
        refuse_altered(place, wanted)
    return notes


def _files_there(place: Destination, there: Mapping[str, Any], recipe: Recipe) -> Beside:
    """What became of the files beside the weights. OutputDamaged where any is not as it was written, the card too.

    An older version noted no digests; its files are compared with what is made again, if the sources are there.
    """
    try:
        again = None
        if digests_said(there) is None:
            with suppress(InputError):
                again = remade(recipe, there)
        files = compare(held_at(_model_at(place), there), there, again)
    except (TypeError, KeyError) as error:
        raise OutputDamaged(f"{place}: was published, and its {PROVENANCE} altered since. {ELSEWHERE}") from error
    if files.changes:
        raise OutputDamaged(
            f"{place}: was published, and altered since: {', '.join(files.changes)}. Remove or rename it, or name "
            "another place.",
            path=str(place),
        )
    return files


def _model_at(place: Destination) -> ModelRef:
    return ModelRef(place.repo, revision=place.branch) if isinstance(place, HubRepo) else ModelRef(str(place))


def refuse_altered(place: Path | Url, wanted: str) -> None:
    """OutputDamaged where weight files are not what provenance.json beside them says."""
    try:
        found = digest.of_weights(held_digests(ModelRef(str(place))))
    except InputError as error:
        raise OutputDamaged(f"{place}: was published, and altered since: {error.message} {ELSEWHERE}") from error
    if found != wanted:
        raise OutputDamaged(
            f"{place}: was published, and altered since: its weight files hold {found[:16]}, {wanted[:16]} was scored "
            f"and published. {ELSEWHERE}",
            path=str(place),
        )


def _weights_on_hub(place: HubRepo, there: Mapping[str, Any]) -> list[str]:
    said = there.get(WEIGHT_FILES)
    if not isinstance(said, dict):
        why = f"an older mergefleet noted no digests of them; `mergefleet reproduce {place}` reads them"
        return [f"weight files were not compared: {why}"]
    found = weights_on_hub(place)
    unlike = {name for name, sha256 in found.items() if sha256 not in (None, said.get(name))}
    altered = sorted(unlike | (said.keys() ^ found.keys()))
    if altered:
        raise OutputDamaged(
            f"{place}: was published, and altered since: {', '.join(altered)} not what was sent. {ELSEWHERE}",
            path=str(place),
        )
    return []


def _written_anew(place: Url) -> bool:
    """Whether size or ETag of a weight file is not what the manifest says."""
    from engine.remote.layout import MANIFEST
    from engine.remote.output import output_bucket, read_object

    bucket = output_bucket(place)
    written = (read_object(bucket, MANIFEST) or {}).get("files")
    said = written if isinstance(written, dict) else {}
    names = [name for name in said if name.endswith(WEIGHTS)]
    listed = bucket.list()
    found = {name: bucket.head(name) if listed is None else listed.get(name) for name in names}
    return not names or any(
        entry is None or said[name] != {"size": entry.size, "etag": entry.etag} for name, entry in found.items()
    )
