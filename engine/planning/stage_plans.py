"""The plans of all stages before any is made: what a stage will be is known from its plan, as if it were there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import RecipeError, SourceError, did_you_mean
from engine.models.checkpoint import Checkpoint, open_checkpoint, with_adapter
from engine.planning.made import Made, find_made, made_from
from engine.planning.options import Options
from engine.planning.plan import Plan
from engine.planning.planner import make_plan
from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import Recipe
from engine.recipes.stages import Stage, Stages
from engine.recipes.writer import at_its_key
from engine.tensorfile.store import PromisedStore, SourceTensor


@dataclass(frozen=True)
class PlannedStage:
    """One stage, decided as far as it can be.

    Attributes:
        stage: its recipe names the directories of other stages.
        directory: where it is made; None for the output.
        plan: where a source is still to be made, the digest will be another one.
        there: what an earlier run made of it.
        current: that is what would be made now.
    """

    stage: Stage
    directory: Path | None
    plan: Plan
    there: Made | None
    current: bool


class StagePlans:
    """The plans of all stages, and the opened sources that they are made from; close it."""

    def __init__(self, stages: Stages, directory: Path, options: Options) -> None:
        """Plan every stage whose outputs will lie in `directory`.

        Raises what `make_plan` does, RecipeError for a model that is neither there nor a stage, and Refused where
        something that must not be replaced is in a stage's place.
        """
        self.checkpoints: dict[ModelRef, Checkpoint] = {}
        self.parts: list[PlannedStage] = []
        self._options = options
        try:
            for stage, placed in zip(stages.parts, stages.placed(directory).parts, strict=True):
                _refuse_unknown(stage.recipe, stages.names)
                self.parts.append(self._planned(placed, directory))
        except BaseException:
            self.close()
            raise

    def _planned(self, stage: Stage, directory: Path) -> PlannedStage:
        try:
            for ref in stage.recipe.opened:
                if ref not in self.checkpoints:
                    self.checkpoints[ref] = self._open(ref)
        except SourceError as error:
            raise at_its_key(error, stage.recipe) from error
        options = self._options if stage.name is None else stage_options(self._options, stage.name)
        plan = make_plan(stage.recipe, self.checkpoints, options)
        if stage.name is None:
            return PlannedStage(stage, None, plan, None, current=False)
        place = directory / stage.name
        there = find_made(place, stage.name)
        current = there is not None and self._is_current(there, stage, plan, options)
        if there is not None and current:
            there.refuse_changed(plan)
        elif there is not None:
            there.refuse_replacing()
        ref = ModelRef(str(place))
        self.checkpoints[ref] = open_checkpoint(ref) if current else self._promised(ref, plan)
        return PlannedStage(stage, place, plan, there, current)

    def _open(self, ref: ModelRef) -> Checkpoint:
        if ref.lora is not None and ref.bare in self.checkpoints:
            return with_adapter(self.checkpoints[ref.bare], ref.lora)
        return open_checkpoint(ref, stream=self._options.stream)

    def _is_current(self, there: Made, stage: Stage, plan: Plan, options: Options) -> bool:
        if any(isinstance(self.checkpoints[ref].store, PromisedStore) for ref in stage.recipe.models):
            return False
        return there.is_from(made_from(stage.recipe, plan, self.checkpoints, options))

    def _promised(self, ref: ModelRef, plan: Plan) -> Checkpoint:
        """What `plan` will make, as a source; its small files are still where they will be copied from."""
        tensors = {t.name: SourceTensor(t.name, t.dtype, t.shape, t.nbytes) for t in plan.tensors}
        identity = {"kind": "promised", "plan": plan.digest}
        directory = self.checkpoints[plan.donor].directory
        promised = Checkpoint(ref, directory, PromisedStore(tensors), config=plan.config, identity=identity)
        promised.tokenizer_directory = self.checkpoints[plan.tokenizer].tokenizer_directory
        return promised

    def close(self) -> None:
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


def stage_options(options: Options, name: str) -> Options:
    """How a stage is made: its tokenizer may be what a later one needs; scores and proof belong to the output."""
    return replace(options, copy_tokenizer=True, extra={"stage": name}, card=None, expected_weights=None, inspect=None)


def _refuse_unknown(recipe: Recipe, names: Sequence[str]) -> None:
    """RecipeError for a mistyped name of a stage, which opening it would only call a missing directory."""
    for ref in recipe.models:
        plain = ref.revision is None and "/" not in ref.path and not ref.path.startswith((".", "~"))
        if names and plain and ref.path not in names and not Path(ref.path).exists():
            raise RecipeError(
                f"{recipe.origin}: {ref.path!r} is neither a directory here nor a stage of this file; "
                f"{did_you_mean(ref.path, names)}"
            )
