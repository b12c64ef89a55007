"""A LoRA adapter in PEFT's format: its tensors, its config, and the scale of every module's update.

`adapter_config.json` and `adapter_model.safetensors` (or .bin), as `save_pretrained` of PEFT writes them
(https://huggingface.co/docs/peft/developer_guides/checkpoint). What changes the arithmetic and is not known here is
refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.errors import SourceError
from engine.models.places import local_path
from engine.recipes.filters import PATTERN, parse_filter
from engine.recipes.keypath import KeyPath, shown
from engine.recipes.model_ref import ModelRef
from engine.remote.url import is_url
from engine.tensorfile.index import load_json_object
from engine.tensorfile.store import TensorStore

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_UNDERSTOOD = frozenset(
    (
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
        *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern"),
        *("layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config"),
        *("megatron_config", "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r"),
        *("rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config"),
    )
)
"""Keys of adapter_config.json that mean nothing for the merged weights, or whose meaning is followed here."""
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave W as it is; the others (PiSSA, OLoRA, CorDA, LoftQ ...) train against another W."""


class Adapter:
    """An opened adapter.

    Attributes:
        weights: the file with its tensors.
        store: its tensors, under their names in the file.
        identity: JSON-able, equal exactly while the adapter is unchanged, like a checkpoint's.
    """

    def __init__(self, ref: ModelRef, directory: Path, *, identity: Mapping[str, Any] | None = None) -> None:
        self.ref = ref
        self.directory = directory
        self._config = load_json_object(directory / CONFIG)
        self._refuse_unknown()
        self.weights = next(
            (directory / name for name in WEIGHTS if (directory / name).is_file()), directory / WEIGHTS[0]
        )
        self.store = TensorStore([self.weights])
        config_digest = blake3((directory / CONFIG).read_bytes()).hexdigest()
        self.identity = identity or {"kind": "local", "config": config_digest, "files": self.store.files}

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether square weights are stored as [in, out]."""
        return bool(self._config.get("fan_in_fan_out"))

    def scale(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / √r with use_rslora (Kalajdzievski 2023, arXiv:2312.03732), of one module.

        Raises SourceError where the config gives the module another rank than its tensors have.
        """
        said = self._pattern("rank_pattern", module, self._config.get("r"))
        if said != rank:
            raise self._config_error(f"the rank of {module!r} is {said!r}, its tensors have {rank}.")
        alpha = self._pattern("alpha_pattern", module, self._config.get("lora_alpha"))
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise self._config_error(f"lora_alpha of {module!r} is {alpha!r}, a number expected.")
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def error(self, message: str) -> SourceError:
        """An error about the adapter's tensors."""
        return SourceError(f"{self.weights}: {message}", adapter=str(self.ref))

    def _config_error(self, message: str) -> SourceError:
        return SourceError(f"{self.directory / CONFIG}: {message}", adapter=str(self.ref))

    def _refuse_unknown(self) -> None:
        kind = self._config.get("peft_type")
        if kind != "LORA":
            raise self._config_error(f"peft_type is {kind!r}, only 'LORA' can be added to a model's weights.")
        for name, value in self._config.items():
            if name not in _UNDERSTOOD and value:
                method = "DoRA" if name == "use_dora" else f"LoRA with {name!r}"
                raise self._config_error(f"{method} is not supported: merge the adapter with PEFT (merge_and_unload).")
        start = self._config.get("init_lora_weights")
        if start not in _PLAIN_STARTS:
            raise self._config_error(
                f"init_lora_weights is {start!r}, which changes the model's own weights before training, so that the "
                "adapter does not fit them: convert it with PEFT (path_initial_model_for_weight_conversion)."
            )

    def _pattern(self, key: str, module: str, default: Any) -> Any:
        """The value of the first pattern that matches the end of the module's name, whole components (as in PEFT)."""
        patterns = self._config.get(key) or {}
        where = KeyPath(str(self.directory / CONFIG), key, SourceError)
        if not isinstance(patterns, Mapping):
            raise where.error(f"got {shown(patterns)}, a mapping of modules' names to numbers expected.")
        for pattern, value in patterns.items():
            parse_filter(
                f"{PATTERN}{pattern}", where
            )  # an adapter may come from anywhere: no pattern that runs for ever
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default


def open_adapter(ref: ModelRef) -> Adapter:
    """A directory, a place in an object store or a repository on the Hub with a LoRA adapter.

    SourceError, one line, where it is none.
    """
    if is_url(ref.path):
        from engine.remote.source import at_its_place, fetch_adapter

        directory, identity = fetch_adapter(ref, WEIGHTS)
        with at_its_place(directory, ref.path):
            return _opened(ref, directory, identity)
    there = local_path(ref)
    if there is not None:
        return _opened(ref, there, None)
    from engine.models.hub import download_adapter

    directory, commit = download_adapter(ref)
    return _opened(ref, directory, {"kind": "hub", "repo": ref.path, "commit": commit})


def _opened(ref: ModelRef, directory: Path, identity: Mapping[str, Any] | None) -> Adapter:
    missing = [] if (directory / CONFIG).is_file() else [CONFIG]
    missing += [] if any((directory / name).is_file() for name in WEIGHTS) else [WEIGHTS[0]]
    if missing:
        raise SourceError(
            f"{directory / missing[0]}: not found. After '+' stands a LoRA adapter, which has {CONFIG} and "
            f"{WEIGHTS[0]}."
        )
    return Adapter(ref, directory, identity=identity)
