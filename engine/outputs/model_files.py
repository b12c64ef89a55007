"""What makes a model of tensors, as a merge writes it: config.json, tokenizer, code; and their digests, made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine import failpoints
from engine.errors import MergefleetError, after_disk_failure
from engine.models.checkpoint import Checkpoint, open_checkpoints
from engine.models.model_code import copy_code, find_code
from engine.models.tokenizer import write_small_files
from engine.planning.beside import CONFIG, Held, digest_of, digests_in, held_in, shown, written
from engine.planning.options import Options
from engine.planning.plan import Plan
from engine.planning.planner import make_plan
from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import Recipe
from engine.remote.url import is_url, parse_url

RECIPE = "recipe.json"


def write_model_files(
    directory: Path, recipe: Recipe, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], options: Options
) -> None:
    """config.json, tokenizer and code, as the options say; nothing where the output is files of tensors."""
    if not plan.config:
        return
    donor, tokenizer = checkpoints[plan.donor], checkpoints[plan.tokenizer]
    write_text(directory / CONFIG, json_text(plan.config))
    if options.copy_tokenizer or recipe.tokenizer_source:
        write_small_files(
            directory,
            tokenizer=tokenizer.tokenizer_directory,
            donor=donor.directory,
            chat_template=plan.chat_template,
        )
    if options.carry_code:
        copy_code(find_code(donor, tokenizer), directory)


def remade(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that a merge of `recipe` writes here, for a model with these facts of provenance.json.

    Raises what opening the sources and planning do.
    """
    options = Options(carry_code=any(name.endswith(".py") for name in written(facts)))
    checkpoints: dict[ModelRef, Checkpoint] = open_checkpoints(recipe.opened)
    try:
        plan = make_plan(recipe, checkpoints)
        with TemporaryDirectory() as folder:
            write_model_files(Path(folder), recipe, plan, checkpoints, options)
            found = digests_in(Path(folder))
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    return found | {RECIPE: digest_of(json_text(facts["recipe"]).encode())}


def held_at(model: ModelRef, facts: Mapping[str, Any]) -> Held:
    """The files of a model where it is: a directory, a place in an object store, or the Hub (at a commit)."""
    if is_url(model.path):
        return _in_bucket(model.path, facts)
    if Path(model.path).expanduser().is_dir():
        return held_in(Path(model.path).expanduser())
    from engine.models.hub import download_file, download_small, list_repository

    directory = download_small(model)

    def read(name: str) -> bytes | None:
        if not (directory / name).is_file():
            download_file(model, directory.name, name)
        return held_in(directory).read(name)

    return Held(shown(list_repository(model, directory.name)), read)


def _in_bucket(url: str, facts: Mapping[str, Any]) -> Held:
    from engine.remote.bucket import Bucket
    from engine.remote.layout import MANIFEST, PARTIAL

    bucket = Bucket(parse_url(url))
    names = bucket.list()
    if names is None:  # this account may not list
        return Held(frozenset(name for name in written(facts) if bucket.head(name)), bucket.get)
    return Held(shown(names) - {MANIFEST, f"{PARTIAL}/"}, bucket.get)


def json_text(value: Any) -> str:
    """As all JSON files of an output are written."""
    return json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    failpoints.reach("small_file.write")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk, mostly, and then the error itself names no file
        advice = after_disk_failure(error)
        raise MergefleetError(f"{path}: cannot be written: {error.strerror}. {advice}", path=str(path)) from error
