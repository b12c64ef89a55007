"""`mergefleet clean`: what dead runs left beside an output, in a directory or at a URL."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cluster import output
from engine.errors import InputError
from engine.remote.url import Url, parse_place


def clean(out: str, *, as_json: bool) -> None:
    """Remove it, and say what was removed."""
    if not out.strip():
        raise InputError("clean: name the output whose leftovers are to go, a directory or a URL.")
    place = parse_place(out)
    removed, notes = _clean_url(place) if isinstance(place, Url) else (_clean_directory(place), [])
    if as_json:
        output.print_json({"removed": removed, "notes": notes})
        return
    print("\n".join(f"removed {what}" for what in removed) or f"nothing to remove beside {place}")
    for note in notes:
        output.print_note(note, quiet=False)


def _clean_directory(out: Path) -> list[str]:
    from engine.outputs.publish import clean as clean_output
    from engine.recipes.stages import stages_directory

    stages = stages_directory(out).absolute()
    begun = sorted(stages.glob("*.partial"))
    places = [out, *(path.with_suffix("") for path in begun)]
    removed = [path for place in places for path in clean_output(place)]
    with suppress(OSError):  # it is not there, or holds stages that are made
        stages.rmdir()
        removed.append(stages)
    return [str(path) for path in removed]


def _clean_url(url: Url) -> tuple[list[str], list[str]]:
    from engine.remote.clean import clean_url

    return clean_url(url)
