"""The model that candidates are merged into, with its tokenizer: made anew only where something else is needed.

What it is made of: config.json, the small files beside it (tokenizer, generation settings), the chat template. Models
of one family mostly have the very same files, so it is their contents that count, and not whose they are: parents take
the candidates' place without a new model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.execution.binding import Binding
from engine.planning.outline import Outline
from search import collector
from search.evaluators.contract import Subject
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.loading import filled_views, load_tokenizer, make_skeleton
from search.evaluators.plans import Planned, Plans

if TYPE_CHECKING:
    from torch import Tensor, nn


class Unsaved:
    """What a model is besides its weights, as it was when it was made: the buffers that no checkpoint holds (the
    frequencies of rope), the attributes of its modules, and what its config and generation settings say.

    Some models change these while they run (dynamic rope: for the longest text so far, whose length it keeps), and
    functions of users may write into them: no block is to feel what was done with the one before it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (module._buffers, name, value, value.detach().clone())
            for module in model.modules()
            for name, value in module._buffers.items()
            if name in module._non_persistent_buffers_set and value is not None and _can_be_written(value)
        ]
        self._known = [(vars(module), _public(module), frozenset(vars(module))) for module in model.modules()]
        self._settings = [(settings, _copied(vars(settings))) for settings in _settings_of(model)]

    def restore(self) -> None:
        """Put them back, object and contents."""
        import torch

        for own, known, names in self._known:
            for name in own.keys() - names:
                if not name.startswith("_"):
                    del own[name]
            own.update(known)
        for settings, said in self._settings:
            if vars(settings) != said:
                vars(settings).clear()
                vars(settings).update(_copied(said))
        with torch.no_grad():
            for holds, name, value, contents in self._kept:
                holds[name] = value.copy_(contents)


def _public(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes, but for torch's."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _settings_of(model: nn.Module) -> list[Any]:
    """The configs and generation settings that its modules have, each once, with those within (`text_config`)."""
    found: dict[int, Any] = {}
    waiting = [value for module in model.modules() for value in _public(module).values()]
    while waiting:
        value = waiting.pop()
        if _are_settings(value) and id(value) not in found:
            found[id(value)] = value
            waiting += vars(value).values()
    return [*found.values()]


def _are_settings(value: Any) -> bool:
    from transformers import GenerationConfig, PreTrainedConfig

    return isinstance(value, GenerationConfig | PreTrainedConfig)


def _copied(said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings within stay what they are: modules have them, too."""
    return {name: value if _are_settings(value) else copy.deepcopy(value) for name, value in said.items()}


def _can_be_written(value: Tensor) -> bool:
    """Not where one place in memory is several elements (positions that were expanded)."""
    return all(size == 1 or stride != 0 for size, stride in zip(value.shape, value.stride(), strict=True))


@dataclass(frozen=True)
class Skeleton:
    """`contents`: digest of all that it was made of."""

    subject: Subject
    binding: Binding
    unsaved: Unsaved
    contents: str


class Skeletons:
    """One at a time: the old one is let go before another takes its memory."""

    def __init__(self, entry: EvaluatorEntry, plans: Plans) -> None:
        self._entry, self._plans = entry, plans
        self._fits: Outline | None = None  # plans of one outline differ in numbers alone: what fits one fits all
        self.current: Skeleton | None = None

    def restore(self) -> None:
        """Make the present one what it was when it was made, but for its weights."""
        if self.current is not None:
            self.current.unsaved.restore()

    def serving(self, planned: Planned) -> Skeleton | None:
        """The present one, if it does for this plan, and nobody has given its model other memory."""
        if self.current is not None and not self.current.binding.in_use:
            self.current = None
        if self.current is None:
            return None
        if planned.outline is not None and planned.outline is self._fits:
            return self.current
        if self.current.contents != self._plans.made_of(planned.plan) or not self.current.binding.fits(planned.plan):
            return None
        self._fits = planned.outline
        return self.current

    @collector.paused()
    def make(self, planned: Planned) -> Skeleton:
        """Another one, for this plan."""
        self.current, self._fits = None, planned.outline
        plan = planned.plan
        model = make_skeleton(plan.config, self._entry, self._plans.open(plan.donor).directory)
        tokenizer = load_tokenizer(self._plans.open(plan.tokenizer).tokenizer_directory)
        tokenizer.chat_template = plan.chat_template or tokenizer.chat_template
        binding = Binding.build(model, plan, views=filled_views(model, [tensor.name for tensor in plan.tensors]))
        self.current = Skeleton(Subject(model, tokenizer), binding, Unsaved(model), self._plans.made_of(plan))
        return self.current

    def close(self) -> None:
        self.current = self._fits = None
