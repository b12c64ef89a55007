"""LoRA adapters on disk, as small as tests need them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PREFIX = "base_model.model."


def write_adapter(directory: Path, tensors: Mapping[str, Any], **config: Any) -> Path:
    """An adapter with these tensors (names without PEFT's prefix) and what PEFT would say about them."""
    directory.mkdir(parents=True)
    save_file({PREFIX + name: np.ascontiguousarray(values) for name, values in tensors.items()}, directory / WEIGHTS)
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    (directory / "adapter_config.json").write_text(json.dumps(said))
    return directory


WEIGHTS = "adapter_model.safetensors"


def factors(module: str, rows: int, columns: int, *, rank: int = 2, seed: int = 0) -> dict[str, Any]:
    """lora_A and lora_B of one module with a weight [rows, columns]."""
    random = np.random.default_rng(seed)
    return {
        f"{module}.lora_A.weight": random.normal(size=(rank, columns)).astype(np.float32),
        f"{module}.lora_B.weight": random.normal(size=(rows, rank)).astype(np.float32),
    }
