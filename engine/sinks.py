"""Where merged blocks go: files of the output, or the live parameters of a loaded model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import MergefleetError, PlanError
from engine.plan import OutputTensor, Plan
from engine.tensorfile import writer
from engine.tensorfile.header import ITEMSIZE
from engine.views import as_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.methods.contract import Array


class Sink(Protocol):
    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        """Take block number `block` of output tensor number `index`: data[n] of stored bits. Thread safe."""


class FileSink:
    """Preallocated safetensors files; any worker may write any block at its offset, twice too."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        """Create what is missing of the plan's files in `directory`, headers included, and open them."""
        self._paths = [directory / file.name for file in plan.files]
        for path, file in zip(self._paths, plan.files, strict=True):
            writer.create(path, file.header, file.nbytes)
        self._fds: list[int] = []
        try:
            for path in self._paths:
                self._fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise MergefleetError(f"{path}: cannot be opened: {error.strerror}.", path=str(path)) from error

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        offset = tensor.offset + block * tensor.block * ITEMSIZE[tensor.dtype]
        origin = str(self._paths[tensor.file])
        writer.write_at(self._fds[tensor.file], offset, as_bytes(data), origin=origin)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class Binding:
    """Which parameter of a live model each output tensor fills; built once per skeleton.

    Refuses unless every parameter and persistent buffer is covered exactly once, with the right shape.
    """

    def __init__(self, parameters: tuple[Tensor, ...], names: tuple[str, ...]) -> None:
        self._parameters = parameters
        self.names = names

    @classmethod
    def build(cls, model: nn.Module, plan: Plan) -> Binding:
        """Bind the outputs of `plan` to the parameters of a transformers model, by name.

        Raises PlanError naming what is missing, left over or of another shape: this model needs another skeleton.
        """
        live = _live_tensors(model)
        names = tuple(tensor.name for tensor in plan.tensors)
        unknown = [name for name in names if name not in live]
        if unknown:
            raise PlanError(
                f"the live {type(model).__name__} has no parameter {unknown[0]!r} ({len(unknown)} such tensors): "
                "the recipe makes another architecture than the loaded skeleton.",
                unknown=unknown,
            )
        owners: dict[tuple[int, int], str] = {}
        for tensor in plan.tensors:
            _check_shape(tensor, live[tensor.name])
            key = (live[tensor.name].data_ptr(), live[tensor.name].numel())
            other = owners.setdefault(key, tensor.name)
            if other != tensor.name:
                raise PlanError(
                    f"tensors {other!r} and {tensor.name!r} share one live parameter: the skeleton ties them and the "
                    "recipe does not (tie_word_embeddings)."
                )
        missed = [name for name, value in live.items() if (value.data_ptr(), value.numel()) not in owners]
        if missed:
            raise PlanError(f"live parameter {missed[0]!r} ({len(missed)} in all) is filled by no output tensor.")
        return cls(tuple(live[name].view(-1) for name in names), names)

    def fits(self, plan: Plan) -> bool:
        """Whether `plan` makes the same tensors in the same order and shapes as the bound one."""
        return tuple(tensor.name for tensor in plan.tensors) == self.names and all(
            tensor.elements == live.numel() for tensor, live in zip(plan.tensors, self._parameters, strict=True)
        )

    def parameter(self, index: int) -> Tensor:
        return self._parameters[index]


class LiveSink:
    """Writes into a live model: values are rounded to the output dtype first, then cast to the live one."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        from engine.arithmetic import as_torch

        start = block * tensor.block
        self._binding.parameter(index)[start : start + data.size].copy_(as_torch(data))


def _live_tensors(model: nn.Module) -> Mapping[str, Any]:
    return {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}


def _check_shape(tensor: OutputTensor, live: Any) -> None:
    if tuple(live.shape) != tensor.shape:
        raise PlanError(
            f"tensor {tensor.name!r} is {list(tensor.shape)} in the recipe's output and {list(live.shape)} in the live "
            "model: another configuration needs another skeleton."
        )
    if not live.is_contiguous():
        raise PlanError(f"live parameter {tensor.name!r} is not contiguous in memory and cannot be filled in place.")
