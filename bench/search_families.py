"""The families that the search is measured on, made on demand, and the campaign that both sides search.

    tiny    the demo's: Llama, tied; letters, numerals, plurals. Seed 0 is the shipped one
    second  GPT-NeoX, untied, with biases; reversals, thousands, pasts

A family is kept in $MERGEFLEET_BENCH_DIR/search/families; making one takes about 100 CPU-seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.families import data_directory
from search.campaign_file import Campaign, parse_campaign

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo"
SKILLS: Mapping[str, tuple[str, ...]] = {
    "tiny": ("letters", "numerals", "plurals"),
    "second": ("reversals", "thousands", "pasts"),
}
MODULES: Mapping[str, Mapping[str, str]] = {
    "tiny": {"attention": "self_attn", "mlp": "mlp"},
    "second": {"attention": "attention.", "mlp": "mlp."},  # with the dot: post_attention_layernorm belongs to the rest
}
LAYERS = 3
SEARCH_ITEMS = 200  # per skill: 600 items is what one full evaluation costs
HOLDOUT_ITEMS = 400  # per skill: true scores


@dataclass(frozen=True)
class Family:
    """One family on disk: a base, three specialists, their tasks."""

    kind: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        shipped = (self.kind, self.seed) == ("tiny", 0)
        return DEMO if shipped else data_directory() / "search" / "families" / self.name

    @property
    def skills(self) -> tuple[str, ...]:
        return SKILLS[self.kind]

    def make(self) -> Family:
        """Train it, unless it is there."""
        done = self.folder / "models" / self.skills[-1] / "tokenizer_config.json"  # what the script writes last
        if not done.exists():
            flags = ["--second"] if self.kind == "second" else []
            command = [sys.executable, DEMO / "family.py", "--out", self.folder, "--seed", str(self.seed), *flags]
            subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=sys.stderr)
        return self


STAGES: tuple[Mapping[str, Any], ...] = (
    {"name": "global", "by": "global", "population": 6, "sobol": 4, "candidates": 16},
    {"name": "layers", "by": "module_layer", "blocks": LAYERS},
)
"""The demo's ladder; population and step size of the fine stage are the product's defaults."""


def campaign(family: Family, *, seed: int, items: int, **changes: Any) -> Campaign:
    """The demo's campaign on this family, with the product's default windows and populations.

    Args:
        seed: of the search.
        items: its budget of item evaluations.
        changes: whole keys of the campaign to put in place of these (`items_` stands for `items`).
    """
    tasks = [
        {"name": skill} | {split: f"demo_{skill}_{split}" for split in ("search", "selection", "holdout")}
        for skill in family.skills
    ]
    data: dict[str, Any] = {
        "name": family.name,
        "base_model": str(family.folder / "models" / "base"),
        "sources": [str(family.folder / "models" / skill) for skill in family.skills],
        "dtype": "float32",
        "seed": seed,
        "space": {
            "method": "task_arithmetic",
            "parameters": {"weight": {"low": -0.25, "high": 1.75, "start": 0.5}},
            "modules": dict(MODULES[family.kind]),
            "stages": list(STAGES),
        },
        "include_path": str(family.folder / "tasks"),
        "tasks": tasks,
        "items": {"block_size": SEARCH_ITEMS * 3, "search": SEARCH_ITEMS, "holdout": HOLDOUT_ITEMS},
        "budget": {"items": items},
        "evaluator": {"engine": "hf", "dtype": "float32", "threads": 1, "batch_size": 150},
    }
    return parse_campaign(
        data | {name.rstrip("_"): value for name, value in changes.items()}, origin=f"<bench {family.name}>"
    )
