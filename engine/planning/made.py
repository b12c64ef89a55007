"""What stands where a stage is to be made: nothing, the very thing that would be made, or what an older run left.

A directory counts as a stage of ours by its provenance.json, which says of which stage, made from what, and which
files were written. Whoever put a file there, or changed one, gets a refusal instead of a replaced directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine import digest
from engine.errors import Refused
from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.models.model_code import find_code
from engine.models.tokenizer import small_files
from engine.planning.beside import compare, held_in
from engine.planning.options import Options
from engine.planning.plan import OutputTensor, Plan
from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import Recipe
from engine.tensorfile.header import ITEMSIZE

PROVENANCE = "provenance.json"
_WEIGHTS = ".safetensors"
_ADVICE = "Move it away, or name another --intermediate-dir."


def made_from(recipe: Recipe, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], options: Options) -> str:
    """Digest of everything that the contents of an output depend on: the plan, and the files that are copied."""
    donor, tokenizer = checkpoints[plan.donor], checkpoints[plan.tokenizer]
    copied: list[Path] = []
    if plan.config and (options.copy_tokenizer or recipe.tokenizer_source):
        copied += small_files(tokenizer.tokenizer_directory, donor.directory)
    if plan.config and options.carry_code:
        copied += find_code(donor, tokenizer)
    contents = {path.name: blake3(path.read_bytes()).hexdigest() for path in copied}
    return digest.of_json([plan.digest, plan.chat_template, contents, options.model_card])


@dataclass(frozen=True)
class Made:
    """The output of a stage that an earlier run made, and what its provenance.json says."""

    directory: Path
    facts: Mapping[str, Any]

    @property
    def weights(self) -> str:
        return str(self.facts.get("weights"))

    def is_from(self, key: str) -> bool:
        """Whether `made_from` gave this when it was made."""
        return bool(self.facts.get("made_from") == key)

    def refuse_changed(self, plan: Plan) -> None:
        """Refused where the weights are not those that `plan` made, or what lies beside them is not what was written.

        Weight files that were not touched are taken at their word.
        """
        self._refuse_changed_files()
        if not any(name.endswith(_WEIGHTS) for name in self._touched()):
            return
        checkpoint = open_checkpoint(ModelRef(str(self.directory)))
        try:
            found = {tensor.name: _digest(checkpoint, tensor) for tensor in plan.tensors}
        finally:
            checkpoint.close()
        if found != self.facts.get("tensors"):
            raise Refused(f"{self.directory}: its weights were changed after they were made. {_ADVICE}")

    def _refuse_changed_files(self) -> None:
        """A later stage takes config.json and the tokenizer from here."""
        try:
            wrong = compare(held_in(self.directory), self.facts, None).wrong
        except TypeError:
            wrong = (PROVENANCE,)
        if wrong:
            raise Refused(f"{self.directory}: {wrong[0]} was changed, added or removed after it was made. {_ADVICE}")

    def refuse_replacing(self) -> None:
        """Refused where the directory holds anything but what was written there, as it was written."""
        there = {path.name for path in self.directory.iterdir()}
        strangers = sorted(there - set(self.facts.get("files", ())))
        changed = self._touched()
        if strangers or changed:
            what = f"it holds {strangers[0]}, which no merge wrote" if strangers else f"{changed[0]} was changed since"
            raise Refused(f"{self.directory}: is to be made again, but {what}. {_ADVICE}")

    def _touched(self) -> list[str]:
        """Files younger than provenance.json, which is written last."""
        written = (self.directory / PROVENANCE).stat().st_mtime_ns
        return sorted(path.name for path in self.directory.iterdir() if path.stat().st_mtime_ns > written)


def find_made(directory: Path, name: str) -> Made | None:
    """What is there of the stage `name`; None where there is nothing. Refused where it is anything else."""
    if not os.path.lexists(directory):
        return None
    try:
        facts = json.loads((directory / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict) or facts.get("stage") != name:
        raise Refused(f"{directory}: is in the way of stage {name!r} and was not made as one. {_ADVICE}")
    return Made(directory, facts)


def _digest(checkpoint: Checkpoint, tensor: OutputTensor) -> str:
    """A tensor's digest as `engine.execution` takes it, from the file; another one where it has another size."""
    step, nbytes = tensor.block * ITEMSIZE[tensor.dtype], tensor.nbytes
    stored = checkpoint.tensors.get(tensor.name)
    if stored is None or stored.nbytes != nbytes:
        return ""
    buffer = memoryview(bytearray(min(step, nbytes)))
    blocks = []
    for start in range(0, nbytes, step):
        piece = buffer[: min(step, nbytes - start)]
        checkpoint.read_into(tensor.name, start, piece)
        blocks.append(digest.of_block(piece))
    return digest.of_tensor(tensor, blocks)
