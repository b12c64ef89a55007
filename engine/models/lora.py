"""Which tensors of a model a LoRA adapter changes, and how: by names and shapes, no data read.

For a module with weight W the update is W + scale · B·A (Hu et al. 2021, arXiv:2106.09685, eq. 3).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import SourceError
from engine.models import architecture
from engine.models.adapter import Adapter
from engine.recipes.model_ref import ModelRef
from engine.tensorfile.header import ITEMSIZE
from engine.tensorfile.store import SourceTensor

FLOATS = ("BF16", "F16", "F32", "F64")
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<tail>(?:\.[^.]+)*)")
_WRAPPER = re.compile(r"\.(?:base_layer|modules_to_save(?:\.[^.]+)?)(?=\.[^.]+$)")
"""What PEFT puts into the name of a tensor that it trained as a whole: `lm_head.modules_to_save.default.weight`."""


@dataclass(frozen=True)
class Factors:
    """scale · left[rows, rank] · right[rank, columns]: names of the adapter's tensors, stored so, or both transposed.

    `right=None` stands for ones[1, 1]: a trained bias of B is a column that is added.
    """

    left: str
    right: str | None
    rank: int
    scale: float
    transposed: bool = False


@dataclass(frozen=True)
class Update:
    """What becomes of one tensor: `replaced` by a tensor of the adapter, then `factors` added; `tensor` is the result.

    The result has the dtype of the model's tensor, and its shape, unless a vocabulary was resized.
    """

    tensor: SourceTensor
    replaced: str | None = None
    factors: Factors | None = None


@dataclass
class _Module:
    """The factors that belong to one module: names of tensors by side ("A", "B", "bias")."""

    name: str
    is_embedding: bool
    sides: dict[str, str] = field(default_factory=dict)


def match(adapter: Adapter, model: ModelRef, tensors: Mapping[str, SourceTensor]) -> dict[str, Update]:
    """What an adapter does to a model with these tensors, by tensor name; every tensor of the adapter is used.

    Raises SourceError, naming adapter, tensor and the nearest name, where one belongs to no tensor of the model, or
    has another shape than it should.
    """
    matcher = _Matcher(adapter, model, tensors)
    modules: dict[str, _Module] = {}
    for name in adapter.store.tensors:
        found = _FACTOR.fullmatch(name.removeprefix(_PREFIX))
        if found is not None:
            matcher.sort(name, found, modules)
        else:
            matcher.replace(name, _WRAPPER.sub("", name.removeprefix(_PREFIX)))
    for module in modules.values():
        matcher.add(module)
    return matcher.updates


class _Matcher:
    def __init__(self, adapter: Adapter, model: ModelRef, tensors: Mapping[str, SourceTensor]) -> None:
        self._adapter = adapter
        self._model = model
        self._tensors = tensors
        self.updates: dict[str, Update] = {}

    def sort(self, name: str, found: re.Match[str], modules: dict[str, _Module]) -> None:
        """Note a factor under its module: `q_proj.lora_A.weight`, or `q_proj.lora_A.default.weight`."""
        is_embedding, side = found["embedding"] is not None, found["side"]
        adapter_name = found["tail"].split(".")[1:]
        if not is_embedding:
            leaf = adapter_name.pop() if adapter_name else ""
            side = "bias" if (side, leaf) == ("B", "bias") else side if leaf == "weight" else ""
        if not side or len(adapter_name) > 1:
            raise self._adapter.error(f"tensor {name!r} is none that a LoRA has (lora_A.weight, lora_B.weight ...).")
        module = modules.setdefault(found["module"], _Module(found["module"], is_embedding))
        if side in module.sides:
            raise self._adapter.error(
                f"{module.sides[side]!r} and {name!r} are of one module: keep one adapter a file."
            )
        module.sides[side] = name

    def replace(self, name: str, target: str) -> None:
        """A tensor trained as a whole (modules_to_save, bias); a vocabulary may have been resized."""
        new = self._adapter.store.tensors[name]
        old = self._tensors.get(target) or self._tensors.get(architecture.tied_source(target, self._tensors) or "")
        if old is None:
            raise self._unmatched(target, name)
        if target in self.updates:
            raise self._adapter.error(f"{self.updates[target].replaced!r} and {name!r} both stand for {target!r}.")
        is_resized = new.shape[1:] == old.shape[1:] and architecture.is_vocabulary(target)
        if new.shape != old.shape and not is_resized:
            raise self._misfit(repr(name), new.shape, old)
        if new.dtype != old.dtype and not {new.dtype, old.dtype} <= set(FLOATS):
            raise self._adapter.error(f"tensor {name!r} is {new.dtype}, {old.name!r} of {self._model} is {old.dtype}.")
        nbytes = new.elements * ITEMSIZE[old.dtype]
        made = SourceTensor(target, old.dtype, new.shape, nbytes)
        self.updates[target] = Update(made, replaced=name)

    def add(self, module: _Module) -> None:
        """The factors of a module's weight, and of its bias where one was trained with B."""
        for side in "AB":
            if side not in module.sides:
                there = next(iter(module.sides.values()))
                raise self._adapter.error(f"has {there!r}, but no lora_{side} to go with it. Get the adapter again.")
        weight = self._changed(f"{module.name}.weight", [module.sides["A"], module.sides["B"]])
        rank = self._rank(module)
        scale = self._adapter.scale(module.name, rank)
        transposed = self._is_transposed(module, weight)
        left, right = ("A", "B") if transposed else ("B", "A")
        self._note(weight, Factors(module.sides[left], module.sides[right], rank, scale, transposed))
        if "bias" in module.sides:
            name = module.sides["bias"]
            bias = self._changed(f"{module.name}.bias", [name])
            if self._shape(name) != bias.shape:
                raise self._misfit(repr(name), self._shape(name), bias)
            self._note(bias, Factors(name, None, 1, scale))

    def _note(self, weight: SourceTensor, factors: Factors) -> None:
        before = self.updates.get(weight.name)
        made = SourceTensor(weight.name, weight.dtype, weight.shape, weight.nbytes)
        self.updates[weight.name] = Update(made, before.replaced if before else None, factors)

    def _rank(self, module: _Module) -> int:
        shape_a, shape_b = self._shape(module.sides["A"]), self._shape(module.sides["B"])
        if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1] or not shape_a[0]:
            raise self._adapter.error(
                f"{module.sides['A']!r} is {list(shape_a)} and {module.sides['B']!r} is {list(shape_b)}: [r, in] and "
                "[out, r] expected (LoRA on convolutions is not supported)."
            )
        return shape_a[0]

    def _is_transposed(self, module: _Module, weight: SourceTensor) -> bool:
        """Whether the weight is stored as [in, out]: always an embedding's, and that of GPT-2's Conv1D."""
        plain = self._shape(module.sides["B"])[0], self._shape(module.sides["A"])[1]
        turned = plain[::-1]
        if weight.shape not in (plain, turned) or (module.is_embedding and weight.shape != turned):
            raise self._misfit(f"B·A of {module.name!r}", turned if module.is_embedding else plain, weight)
        if (
            module.is_embedding or plain != turned
        ):  # PEFT looks at the module's class; a shape that is not square says it
            return weight.shape == turned
        return self._adapter.fan_in_fan_out

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._adapter.store.tensors[name].shape

    def _changed(self, target: str, names: list[str]) -> SourceTensor:
        """The tensor that factors of these names are added to: the model's, or the one that replaced it."""
        if target not in self._tensors:
            raise self._unmatched(target, names[0])
        found = self.updates[target].tensor if target in self.updates else self._tensors[target]
        dtypes = {name: self._adapter.store.tensors[name].dtype for name in names} | {target: found.dtype}
        for name, dtype in dtypes.items():
            if dtype not in FLOATS:
                raise self._adapter.error(f"tensor {name!r} is {dtype}: a LoRA needs {', '.join(FLOATS)}.")
        return found

    def _misfit(self, what: str, shape: tuple[int, ...], target: SourceTensor) -> SourceError:
        return self._adapter.error(
            f"{what} is {list(shape)}, tensor {target.name!r} of {self._model} is {list(target.shape)}: "
            "the adapter was made for another model."
        )

    def _unmatched(self, target: str, name: str) -> SourceError:
        partner = architecture.tied_source(target, self._tensors)
        if partner is not None:
            return self._adapter.error(
                f"tensor {name!r} changes {target!r} alone, which {self._model} ties to {partner!r}: merge the adapter "
                "with PEFT (merge_and_unload)."
            )
        near = difflib.get_close_matches(target, self._tensors, n=1)
        hint = f"the nearest there is {near[0]!r}" if near else "no name there is near"
        return self._adapter.error(f"tensor {name!r} belongs to {target!r}, which {self._model} does not have; {hint}.")
