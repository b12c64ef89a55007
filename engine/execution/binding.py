"""Which live memory each output tensor fills: a merge straight into the parameters of a loaded model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import PlanError
from engine.execution.checksum import Checksums
from engine.models.views import STORED
from engine.planning.plan import OutputTensor, Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.methods.contract import Array

# safetensors dtype -> torch's, as safetensors.torch has it
TORCH_DTYPES = {
    **{"BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
    **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"},
}

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Held(NamedTuple):
    """What the modules of a model hold by name: submodules, and the address of every value.

    Asked before and after every block, so these are plain tuples.
    """

    modules: tuple[tuple[Mapping[str, Any], str, Any], ...] = ()
    addresses: tuple[tuple[Mapping[str, Any], str, int], ...] = ()

    @classmethod
    def by(cls, model: nn.Module) -> Held:
        """Modules, parameters, persistent buffers; what no checkpoint holds may be made anew (the frequencies of
        rope)."""
        modules, addresses = list[tuple[Mapping[str, Any], str, Any]](), list[tuple[Mapping[str, Any], str, int]]()
        for module in model.modules():
            modules += [(module._modules, name, child) for name, child in module._modules.items()]
            for holds in (module._parameters, module._buffers):
                saved = {name: value for name, value in holds.items() if name not in module._non_persistent_buffers_set}
                addresses += [(holds, name, value.data_ptr()) for name, value in saved.items() if value is not None]
        return cls(tuple(modules), tuple(addresses))

    @property
    def still(self) -> bool:
        """Whether they do."""
        others = [name for holds, name, child in self.modules if holds.get(name) is not child]
        values = [(holds.get(name), address) for holds, name, address in self.addresses]
        return not others and not [0 for value, address in values if value is None or value.data_ptr() != address]


class Binding:
    """Which live memory each output tensor fills; built once per skeleton."""

    def __init__(
        self,
        parts: Sequence[Sequence[Tensor]],
        *,
        shapes: Shapes,
        live: Sequence[Tensor] = (),
        held: Held | None = None,
    ) -> None:
        """`parts`: of every output tensor the live memory that it fills; `shapes`: their names and shapes; `live`: all
        of that memory, each value once; `held`: where the model has it."""
        self._parts, self._held = parts, held or Held()
        self._shapes = shapes
        self._memory = [_memory(part) for part in parts]
        self._checksums = Checksums(live)
        self._first: dict[tuple[int, int], Tensor] = {}
        self._rows: dict[tuple[int, int], Array | None] = {}

    @classmethod
    def build(cls, model: nn.Module, plan: Plan, *, views: Mapping[str, Sequence[Tensor]] | None = None) -> Binding:
        """Bind the outputs of `plan` to the parameters and persistent buffers of a model.

        Args:
            model: its parameters are allocated; what they hold does not matter.
            views: by output tensor the live memory it fills: views of parameters, one after the other in the tensor's
                row-major order, none for a tensor that the model does not use. Default: the parameter of its name.

        Raises PlanError unless every element of every parameter and persistent buffer is filled exactly once; names
        what is missing, left over, filled twice or of another shape: this model needs another skeleton.
        """
        live = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
        if views is None:
            views = {name: (value,) for name, value in live.items()}
        unknown = [tensor.name for tensor in plan.tensors if tensor.name not in views]
        if unknown:
            raise PlanError(
                f"the live {type(model).__name__} has no parameter {unknown[0]!r} ({len(unknown)} such tensors): "
                "the recipe makes another architecture than the loaded skeleton.",
                unknown=unknown,
            )
        chosen = {tensor.name: tuple(views[tensor.name]) for tensor in plan.tensors}
        for tensor in plan.tensors:
            _check_shape(tensor, chosen[tensor.name])
        _check_coverage(live, chosen)
        once = {value.data_ptr(): value for value in live.values()}  # tied parameters are one memory
        return cls(tuple(chosen.values()), shapes=_shapes(plan), live=tuple(once.values()), held=Held.by(model))

    @property
    def in_use(self) -> bool:
        """Whether the model computes with the bound memory still: a cast (`model.half()`), a move or another parameter
        gives it memory of its own."""
        return self._held.still

    def fits(self, plan: Plan) -> bool:
        """Whether `plan` makes the same tensors in the same order and shapes as the bound one."""
        return _shapes(plan) == self._shapes

    def memory(self, index: int, dtype: str) -> Array | None:
        """The live bytes of output tensor number `index`, uint8[n], where they are just its values in torch's `dtype`.

        None where its values are cast, lie apart or on another device: then `fill` takes them there.
        """
        known, memory = self._memory[index]
        return memory if known == dtype else None

    def checksum(self) -> bytes:
        """By what to know again all that is in the live memory (engine.execution.checksum)."""
        return self._checksums.now()

    def is_intact(self, checksum: bytes) -> bool:
        """Whether the live memory is still that of this checksum, and the model computes with it."""
        return self.in_use and self.checksum() == checksum

    def first(self, index: int, count: int) -> Tensor | None:
        """The first `count` live elements (or all) of output tensor `index`; None where there are none."""
        key = index, count
        if key in self._first:
            return self._first[key]
        parts = self._parts[index]
        if not parts:
            return None
        found = parts[0].flatten()[:count]
        if parts[0].is_contiguous():  # a view of it, else a copy of what is there now
            self._first[key] = found
        return found

    def row(self, index: int, count: int) -> Array | None:
        """The same as the live memory itself, in the element type that kernels take (engine.models.views.STORED); None
        where they cannot."""
        key = index, count
        if key not in self._rows:
            dtype, memory = self._memory[index]
            stored = next((kind for name, kind in STORED.items() if TORCH_DTYPES[name] == dtype), None)
            self._rows[key] = None if memory is None or stored is None else memory.view(stored)[:count]
        return self._rows[key]

    def fill(self, index: int, start: int, values: Tensor) -> None:
        """Elements start … start + n of output tensor number `index` = values[n]; casts to the live dtype."""
        for part in self._parts[index]:
            count = min(part.numel() - start, values.numel())
            if count > 0:
                _copy_into(part, start, values[:count])
                values = values[count:]
            start = max(0, start - part.numel())


def _memory(parts: Sequence[Tensor]) -> tuple[str, Array | None]:
    """Torch's name of the format, and the bytes, of what fills one part without gaps; none on another device."""
    import torch

    if len(parts) != 1 or not parts[0].is_contiguous() or parts[0].device.type != "cpu":
        return "", None
    flat = parts[0].as_strided((parts[0].numel(),), (1,))  # of one element the stride may be any
    return str(parts[0].dtype).removeprefix("torch."), flat.view(torch.uint8).numpy()


def _shapes(plan: Plan) -> Shapes:
    return tuple((tensor.name, tensor.shape) for tensor in plan.tensors)


def _copy_into(view: Tensor, start: int, values: Tensor) -> None:
    """Elements start … start + n of a view, in its row-major order, = values[n]; the view may have any strides."""
    if view.is_contiguous():
        view.view(-1)[start : start + values.numel()].copy_(values)
        return
    row = view[0].numel()
    while values.numel():
        first, offset = divmod(start, row)
        rows = 0 if offset else values.numel() // row
        count = rows * row or min(row - offset, values.numel())
        if rows:
            view[first : first + rows].copy_(values[:count].view(rows, *view.shape[1:]))
        else:
            _copy_into(view[first], offset, values[:count])
        start, values = start + count, values[count:]


def shape_of(parts: Sequence[Tensor]) -> tuple[int, ...]:
    """Of the tensor that fills them: several are cut along its first dimension."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:]) if len(parts) > 1 else tuple(parts[0].shape)


def _check_shape(tensor: OutputTensor, parts: Sequence[Tensor]) -> None:
    shape = shape_of(parts) if parts else tensor.shape
    if shape != tensor.shape:
        raise PlanError(
            f"tensor {tensor.name!r} is {list(tensor.shape)} in the recipe's output and {list(shape)} in the live "
            "model: another configuration needs another skeleton."
        )


def _check_coverage(live: Mapping[str, Tensor], chosen: Mapping[str, Sequence[Tensor]]) -> None:
    """PlanError unless every element of `live` is filled by exactly one tensor; tied parameters are one memory."""
    names: dict[int, str] = {}
    for name, value in live.items():
        names.setdefault(value.data_ptr(), name)
    addresses = sorted(names)
    fillers: dict[str, list[tuple[str, Tensor]]] = {name: [] for name in names.values()}
    for tensor, parts in chosen.items():
        for part in parts:
            owner = names[addresses[bisect_right(addresses, part.data_ptr()) - 1]]
            fillers[owner].append((tensor, part))
    missed = [name for name, filling in fillers.items() if not filling and live[name].numel()]
    if missed:
        raise PlanError(f"live parameter {missed[0]!r} ({len(missed)} in all) is filled by no output tensor.")
    for name, filling in fillers.items():
        _check_filled_once(name, live[name], filling)


def _check_filled_once(name: str, value: Tensor, filling: Sequence[tuple[str, Tensor]]) -> None:
    """PlanError unless the parts in `filling` (tensor, part) lie in a parameter side by side and without gaps."""
    import torch

    if not value.is_contiguous():
        raise PlanError(f"live parameter {name!r} is not contiguous in memory and cannot be filled in place.")
    if len(filling) == 1 and filling[0][1].numel() == value.numel():
        return
    # the number of the part that fills an element: two bytes for each element, of one parameter at a time
    owners = torch.zeros(value.shape, dtype=torch.int16, device=value.device)
    for number, (tensor, part) in enumerate(filling, start=1):
        offset = (part.data_ptr() - value.data_ptr()) // value.element_size()
        region = owners.as_strided(part.shape, part.stride(), offset)
        if region.any():
            other = filling[int(region.max()) - 1][0]
            raise PlanError(
                f"tensors {other!r} and {tensor!r} share one live parameter: the skeleton ties them and the recipe "
                "does not (tie_word_embeddings)."
            )
        region.fill_(number)
    gaps = int((owners == 0).sum())
    if gaps:
        raise PlanError(f"{gaps} elements of live parameter {name!r} are filled by no output tensor.")
