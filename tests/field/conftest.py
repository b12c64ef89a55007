"""Tiny models under the names that the recipes of this folder use, and what mergekit makes of those that run there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conformance import with_models

from bench import oracle
from bench.families import Shape, make_family

RECIPES = Path(__file__).parent / "recipes"
SHAPE = Shape(hidden=8, layers=32, mlp=16, heads=2, kv_heads=1, vocab=32)
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Mistral-shaped models org/base, its fine-tunes one, two, three, org/first, org/second, and two
    Llama-shaped ones."""
    place = tmp_path_factory.mktemp("field")
    (place / "org").mkdir()
    families = {"base one two three": 1, "first": 2, "second": 3, "llama-one llama-two": 4}
    for names, seed in families.items():
        family = make_family(place / "made" / str(seed), SHAPE, seed=seed, tunes=names.count(" "))
        for name, model in zip(names.split(), family.models, strict=True):
            model.rename(place / "org" / name)
            if not name.startswith("llama"):
                config = place / "org" / name / "config.json"
                config.write_text(json.dumps({**json.loads(config.read_text()), **MISTRAL}))
    return place


@pytest.fixture(scope="session")
def mergekit(place: Path) -> dict[str, Path]:
    """What mergekit makes of each recipe that it runs, in one process."""
    if not oracle.available():
        pytest.skip("mergekit's environment is absent: `make oracle` makes it")
    models = {f"org/{path.name}": path for path in (place / "org").iterdir()}  # it runs in another directory
    outs = {name: place / "mergekit" / name for name in ("F1", "F2", "F4", "F5", "F6", "F7")}
    texts = {out: (RECIPES / f"{name}.yml").read_text() for name, out in outs.items()}
    results = oracle.merge_all({out: with_models(yaml.safe_load(text), models) for out, text in texts.items()})
    assert not any(results.values()), results
    return outs
