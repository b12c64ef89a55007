"""transformers models as `from_pretrained` makes them: from disk, or a skeleton to merge into, and how that is filled.

transformers 5 keeps many models in another form than their files: the experts of a layer stacked in one parameter, gate
and up joined, names changed. How is written in its table of conversions, for every architecture. `filled_views` runs
them backwards on the live parameters; nothing is guessed from names.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from engine.errors import EvaluationError, MergefleetError, SourceError
from engine.execution.binding import shape_of
from search import collector
from search.evaluators.contract import Subject
from search.evaluators.entries import EvaluatorEntry

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

    from engine.planning.plan import Plan

Views = dict[str, tuple["Tensor", ...]]
MOST_SAID = 300
"""Letters that are told of what a library says."""


def make_skeleton(config: Mapping[str, Any], entry: EvaluatorEntry, source: Path) -> Any:
    """A model of this config whose parameters are allocated and not filled; other buffers (rope) are computed.

    All goes the way of `from_pretrained`: the config, the buffers, what stays in float32, the generation settings in
    `source`; so that the live model computes and decodes as the published one will. Raises EvaluationError for an
    architecture transformers has not, and for a config or settings that it makes nothing of.
    """
    import torch

    with _refusals_told("config.json"):
        model = _of_config(config, entry)
    _widen(model, getattr(torch, entry.dtype))
    _compute_buffers(model)
    model.tie_weights()
    model.to(entry.device)  # only now: sines made on a GPU have other bits than those that loading moves there
    if (source / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with _refusals_told("generation_config.json"):
            model.generation_config = GenerationConfig.from_pretrained(source, local_files_only=True)
    return model.eval().requires_grad_(False)


@contextmanager
def _refusals_told(file: str) -> Iterator[None]:
    """Make an EvaluationError of whatever transformers raises over a file of the user's.

    Its checks of fields raise bare Exceptions, and its models whatever they stumble over. What may pass, passes.
    """
    try:
        yield
    except (MergefleetError, OSError, MemoryError):
        raise
    except Exception as error:
        raise EvaluationError(f"transformers cannot build a model of this {file}: {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """What a library raised, and where: one that nobody foresaw may be a bug."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _of_config(config: Mapping[str, Any], entry: EvaluatorEntry) -> Any:
    """The model of a config, as its class makes it; nothing is initialised."""
    import torch

    with collector.importing():
        from transformers import AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        settings = _settings(config)
        AutoModelForCausalLM._model_mapping.get(type(settings), None)  # imports the architecture
        with no_init_weights():  # imports all that it has to stop
            pass
    dtype = getattr(torch, entry.dtype)
    with no_init_weights():
        return AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation=entry.attention)


def check_fits(plan: Plan, entry: EvaluatorEntry) -> None:
    """EvaluationError where transformers makes no model of this plan's config.json, or one that its tensors do not fit.

    On torch's device `meta`, as from_pretrained begins: that takes no memory and reads nothing.
    """
    import torch

    with _refusals_told("config.json"):
        with torch.device("meta"):
            model = _of_config(plan.config, entry)
            model.tie_weights()
        views = filled_views(model, [tensor.name for tensor in plan.tensors])
    made = f"the {type(model).__name__} that transformers makes of this config.json"
    for tensor in plan.tensors:
        parts = views.get(tensor.name)
        if parts is None:
            raise EvaluationError(f"{made} has no place for tensor {tensor.name!r}")
        if parts and shape_of(parts) != tensor.shape:
            shapes = f"is {list(tensor.shape)}, and {list(shape_of(parts))} in {made}"
            raise EvaluationError(f"tensor {tensor.name!r} {shapes}")
    filled = {part.untyped_storage()._cdata for parts in views.values() for part in parts}
    for name, value in model.state_dict(keep_vars=True).items():
        if value.numel() and value.untyped_storage()._cdata not in filled:
            raise EvaluationError(f"{made} has {name!r}, which none of its tensors fills")


def _settings(config: Mapping[str, Any]) -> Any:
    """The config as transformers reads it from a file, where infinity, for one, has a form of its own."""
    from transformers import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise EvaluationError(f"config.json: transformers has no model_type {kind!r}, so it cannot be evaluated here")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        return CONFIG_MAPPING[kind].from_json_file(path)


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Give parameters that loading keeps in float32 whatever the dtype (routers' biases, say) that format here, too."""
    patterns = model._get_dtype_plan(dtype)
    if patterns:
        kept = re.compile("|".join(pattern.replace("*", ".*") for pattern in patterns))
        for name, value in model.state_dict(keep_vars=True).items():
            if kept.search(name):
                value.data = value.data.float()


def _compute_buffers(model: Any) -> None:
    """Compute what no checkpoint holds anew, in float32, as loading does: GPT-J's sines made in bfloat16 differ."""
    for value in model.state_dict(keep_vars=True).values():
        value._is_hf_initialized = True  # transformers' mark of a tensor that is not to be initialised
    model.initialize_weights()


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a local model. Raises SourceError where there is none that transformers can read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # a broken tokenizer.json is a bare Exception
        said = " ".join(str(error).split())[:MOST_SAID]
        raise SourceError(
            f"{directory}: transformers cannot read its tokenizer: {said}", path=str(directory)
        ) from error


def load_from_disk(directory: Path, entry: EvaluatorEntry) -> Subject:
    """A published model as its users load it, in the evaluator's dtype and attention.

    Raises SourceError where there is none, EvaluationError where its files cannot be loaded, or not whole.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not directory.is_dir():
        raise SourceError(f"{directory}: there is no such model directory", path=str(directory))
    if not (directory / "config.json").is_file():
        raise SourceError(f"{directory}: is no model: there is no config.json in it", path=str(directory))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, entry.dtype),
            attn_implementation=entry.attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # checks of a config's fields raise bare ones
        said = " ".join(str(error).split())[:MOST_SAID]
        raise EvaluationError(f"{directory}: transformers cannot load this model: {said}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            raise EvaluationError(f"{directory}: {what.replace('_', ' ')}: {sorted(map(str, report[what]))[:3]}")
    return Subject(model.to(entry.device).eval().requires_grad_(False), load_tokenizer(directory))


def filled_views(model: Any, names: Iterable[str]) -> Views:
    """The live memory that `from_pretrained` would fill from each tensor of a checkpoint: what a Binding needs.

    Args:
        model: a transformers model whose parameters are allocated.
        names: of all tensors of the checkpoint.

    Returns, by name, views of parameters and buffers: usually one; several, filled one after the other, where a fused
    tensor is taken apart on loading; none where the model ignores the tensor. Names it does not know are left out.
    Raises EvaluationError where values are rearranged on loading so that no view has them in the file's order.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    live = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    views: Views = {}
    taken: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names, key=dot_natural_key):  # the order in which from_pretrained stacks them
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, live)
        if target not in live and name in live:  # in its live form already
            target, pattern = name, None
        if target in live and pattern is not None:
            taken.setdefault(target, {}).setdefault(pattern, []).append(name)
        elif target in live:
            views[name] = (live[target],)
        elif _ignores(model, target):
            views[name] = ()
    for target, sources in taken.items():
        converter = next(entry for entry in converters if next(iter(sources)) in entry.source_patterns)
        views |= _before(converter, target, sources, model=model, live=live)
    return views


def _ignores(model: Any, name: str) -> bool:
    """Whether from_pretrained passes over a tensor without a word (rotary buffers of old checkpoints, say)."""
    report = SimpleNamespace(missing_keys=set(), unexpected_keys={name})
    model._adjust_missing_and_unexpected_keys(report)
    return not report.unexpected_keys


def _before(
    converter: Any, target: str, sources: Mapping[str, Sequence[str]], *, model: Any, live: Mapping[str, Tensor]
) -> Views:
    """The views that a conversion's sources fill.

    Args:
        converter: transformers' WeightConverter.
        target: the (first) live parameter that it makes.
        sources: by the converter's source patterns the names that it takes, in order.
    """
    import torch

    backwards = converter.reverse_transform()
    # one parameter, or several that are cut from one source; their names differ in the pattern alone
    made = [live[target.replace(converter.target_patterns[0], other)] for other in converter.target_patterns]
    parts: dict[str, Any] = dict(zip(converter.target_patterns, ([value] for value in made), strict=True))
    with _views_for_copies():
        for operation in backwards.operations:
            parts = operation.convert(
                parts,
                source_patterns=backwards.source_patterns,
                target_patterns=backwards.target_patterns,
                full_layer_name=target,
                model=model,
                config=model.config,
            )
    memory = {value.untyped_storage().data_ptr() for value in made}
    views: Views = {}
    for pattern, key in zip(converter.source_patterns, backwards.target_patterns, strict=True):
        for number, name in enumerate(sources.get(pattern, ())):
            part = parts.get(key.replace("*", str(number)), ())
            views[name] = (part,) if isinstance(part, torch.Tensor) else part
            if not views[name] or {view.untyped_storage().data_ptr() for view in views[name]} - memory:
                raise EvaluationError(
                    f"tensor {name!r} cannot be merged into the live {type(model).__name__}: loading makes {target!r} "
                    f"of it by {converter.operations}, which shows its values nowhere in their order."
                )
    return views


def _views_for_copies() -> AbstractContextManager[Any]:
    """Within it transformers' operations return where their input lies, not a copy of it.

    Tensors that are joined along the first dimension come out as a tuple, unjoined.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class ViewsForCopies(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.contiguous:
                return args[0]
            if func is torch.cat and kwargs == {"dim": 0}:
                return tuple(args[0])
            return func(*args, **(kwargs or {}))

    return ViewsForCopies()
