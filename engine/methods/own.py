"""Users' own merge methods: plain torch functions, found by name among the entry points of installed packages.

    def soft_swap(base: Tensor, models: list[Tensor], weight: list[float], t: float = 0.5) -> Tensor: ...

    [project.entry-points."mergefleet.methods"]
    soft_swap = "my_package:soft_swap"

What the method takes is read from the function's signature: `models`, the tensors of all models but the base; `base`,
where it has one (with a default: where the recipe gives one); and settings of a recipe, a `list[float]` with a number
for every model, or a `float`, `int` or `bool` for the whole merge. A package is imported only when a recipe names one
of its methods, and a method of the table is never replaced. See docs/own-methods.md.
"""

from __future__ import annotations

import inspect
import keyword
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from blake3 import blake3

from engine.errors import MethodError, RecipeError, did_you_mean
from engine.methods.contract import Block, Call, Facts, Method, Parameter, Scope

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "mergefleet.methods"
_PER_MODEL = ("list[float]", "Sequence[float]", "tuple[float, ...]")
_WHOLE_MERGE = ("float", "int", "bool")
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Traits:
    """What a signature cannot say; `merge_method` leaves it at the function."""

    scope: Scope = "element"
    exact: bool = False
    models: tuple[int, int | None] = (1, None)


def merge_method(
    *, scope: Scope = "element", exact: bool = False, models: tuple[int, int | None] = (1, None)
) -> Callable[[_Function], _Function]:
    """A decorator for a merge function that needs more than its signature says.

    Args:
        scope: "element": tensors come flat, in parts cut anywhere; "row": whole rows, of shape [rows, columns];
            "tensor": the whole tensor in its own shape, if it fits into memory.
        exact: the function keeps to the operations that give the same bits everywhere (docs/bits.md). Without it, a
            merge has the same bytes only on machines of one instruction set, with one version of torch.
        models: the least and the largest number of models besides the base; None: any.
    """

    if scope not in get_args(Scope):
        raise ValueError(f"scope {scope!r}; {did_you_mean(scope, get_args(Scope))}")

    def keep(function: _Function) -> _Function:
        function.__dict__["mergefleet"] = _Traits(scope, exact, models)
        return function

    return keep


def names() -> dict[str, str]:
    """Every installed method of a user: name → package and version. Imports none of them."""
    return {point.name: _package(point) for point in entry_points(group=GROUP)}


def find(name: str, origin: str) -> Method | None:
    """The user's method of this name, imported now; None where no package has one.

    Raises RecipeError, naming the recipe `origin`, where two packages have it, or it cannot be imported or used.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        return None
    if len(points) > 1:
        packages = " and ".join(sorted(map(_package, points)))
        raise RecipeError(f"{origin}: merge_method: {name!r} is in {packages}: uninstall one of them.")
    (point,) = points
    where = f"{origin}: merge_method: {name!r} ({point.value}, of {_package(point)})"
    found = _loaded(point, where)
    if not callable(found) and not isinstance(found, Method):
        raise RecipeError(f"{where} is a {type(found).__name__}, a function or an engine.methods.Method expected.")
    made = found if isinstance(found, Method) else _as_method(found, where)
    return replace(made, name=name, package=f"{_package(point)}, {_source_digest(getattr(found, 'merge', found))}")


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _loaded(point: EntryPoint, where: str) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        raise RecipeError(f"{where}: cannot be imported: {_one_line(error)}.") from error


def _source_digest(function: Any) -> str:
    """The file a function is written in, by digest: an editable install keeps its version while its code changes."""
    try:
        path = Path(inspect.getsourcefile(function) or "")
        return f"{path.name} {blake3(path.read_bytes()).hexdigest()[:16]}"
    except (OSError, TypeError):
        return "no source file"


def _as_method(function: Callable[..., Any], where: str) -> Method:
    traits: _Traits = getattr(function, "mergefleet", _Traits())
    base, settings = _signature(function, where)
    return Method(
        name="",
        summary=(inspect.getdoc(function) or "a method of your own").splitlines()[0].rstrip("."),
        merge=_definition(function, settings, traits.scope, where),
        kernel=None,
        parameters={parameter.name: parameter for parameter in settings.values()},
        base=base,
        models=traits.models,
        scope=traits.scope,
        exact=traits.exact,
        drops_zero_weights=False,
    )


def _signature(
    function: Callable[..., Any], where: str
) -> tuple[Literal["required", "optional", "ignored"], dict[str, Parameter]]:
    """What the function wants of a base, and its settings by argument."""
    try:
        arguments = inspect.signature(function).parameters
    except ValueError as error:  # a function of C without one
        raise RecipeError(f"{where}: its arguments cannot be read: {error}.") from error
    if "models" not in arguments:
        raise RecipeError(f"{where}: has no argument 'models', which takes the list of the models' tensors.")
    settings = {}
    for argument in arguments.values():
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise RecipeError(f"{where}: argument {argument}: only arguments that can be given by name are supported.")
        if argument.name not in ("models", "base"):
            settings[argument.name] = _setting(argument, where)
    if "base" not in arguments:
        return "ignored", settings
    return "required" if arguments["base"].default is inspect.Parameter.empty else "optional", settings


def _setting(argument: inspect.Parameter, where: str) -> Parameter:
    """The parameter of a recipe that fills this argument; `lambda_` is `lambda`."""
    # by its text, because that is all there is under `from __future__ import annotations`
    kind = (
        argument.annotation if isinstance(argument.annotation, str) else inspect.formatannotation(argument.annotation)
    )
    bare = argument.name.removesuffix("_")
    name = bare if keyword.iskeyword(bare) else argument.name
    required = argument.default is inspect.Parameter.empty
    default = None if required else argument.default
    if kind in _PER_MODEL:
        if isinstance(default, Sequence) and len(default) == 1:
            (default,) = default
        scope: Literal["model", "global"] = "model"
    elif kind in _WHOLE_MERGE:
        scope = "global"
    else:
        raise RecipeError(f"{where}: argument {argument}: {', '.join(_WHOLE_MERGE)} or {_PER_MODEL[0]} expected.")
    if not required and not isinstance(default, (int, float)):
        raise RecipeError(f"{where}: argument {argument}: a number expected as its default (of a list: [number]).")
    return Parameter(name, scope, default=default, required=required, whole=kind == "int")


def _definition(
    function: Callable[..., Any], settings: Mapping[str, Parameter], scope: Scope, where: str
) -> Callable[[Call, Block, Facts], Tensor]:
    """`Method.merge`: shape the tensors, call the function, look at what it gives."""

    def merge(call: Call, block: Block, facts: Facts) -> Tensor:
        shape = {"element": (-1,), "row": (-1, call.columns), "tensor": call.shape}[scope]
        inputs = [value.view(shape) for value in block.values]
        arguments: dict[str, Any] = {"models": inputs[int(call.base) :]} | ({"base": inputs[0]} if call.base else {})
        for argument, parameter in settings.items():
            arguments[argument] = _value(call, parameter)
        try:
            result = function(**arguments)
        except (Exception, SystemExit) as error:  # a user's function may raise anything, and call sys.exit
            raise MethodError(f"{where}: tensor {call.tensor!r}: {_one_line(error)}.", tensor=call.tensor) from error
        return _checked(result, inputs[0], f"{where}: tensor {call.tensor!r}").flatten()

    return merge


def _value(call: Call, parameter: Parameter) -> Any:
    if parameter.scope == "model":
        return [float(value) for value in call.sources[parameter.name]]
    kind = bool if isinstance(parameter.default, bool) else int if parameter.whole else float
    return kind(call.options[parameter.name])


def _checked(result: Any, like: Tensor, where: str) -> Tensor:
    import torch

    if not isinstance(result, torch.Tensor):
        raise MethodError(f"{where}: returned a {type(result).__name__}, a tensor expected.")
    if result.shape != like.shape:
        raise MethodError(f"{where}: returned shape {list(result.shape)}, {list(like.shape)} expected, as its inputs.")
    if not result.dtype.is_floating_point:
        raise MethodError(f"{where}: returned {result.dtype}, floating point expected.")
    if result.device != like.device:
        raise MethodError(f"{where}: returned a tensor on {result.device}, {like.device} expected, as its inputs.")
    return result.to(like)


def _one_line(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero (my_package.py, line 7)`: the deepest line that is not of this file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    text = " ".join(str(error).split()).rstrip(".")
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"
