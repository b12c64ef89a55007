"""What merging makes of every architecture, measured: `python tests/support/architecture_matrix.py` renews the page."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES, Architecture
from device import DEVICE
from live_bytes import fingerprint
from safetensors.torch import load_file
from transformers.utils import logging

from engine import merge, parse_recipe
from engine.errors import MergefleetError
from engine.models.output_config import INDEX_LISTS
from engine.outputs.job import MergeResult
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.loading import load_from_disk
from search.evaluators.resident import ResidentModel

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOKENS = torch.arange(3, 15)[None]
Recipe = Mapping[str, Any]


class Family:
    """A base and two fine-tunes on disk, what is made of them, and a resident model."""

    def __init__(self, architecture: Architecture, folder: Path, dtype: str, *, tied: tuple[bool, bool]) -> None:
        """`tied`: whether the base, and whether the fine-tunes have their embedding for a head."""
        self.architecture, self.folder = architecture, folder
        self.models = tuple(folder / name for name in ("base", "a", "b"))
        for seed, model in enumerate(self.models):
            tie = {"tie_word_embeddings": tied[min(seed, 1)]}
            architecture.save(model, seed=seed, dtype=DTYPES[dtype], **tie)
        self.entry = EvaluatorEntry(threads=1, dtype=dtype, device=DEVICE)
        self.resident = ResidentModel(self.entry)
        self._made: dict[str, MergeResult] = {}
        self._loaded: dict[Path, Any] = {}

    def merged(self, recipe: Recipe) -> MergeResult:
        """The published output of a recipe, made once."""
        key = json.dumps(recipe)
        if key not in self._made:
            self._made[key] = merge(parse_recipe(dict(recipe)), self.folder / f"out-{len(self._made)}")
        return self._made[key]

    def loaded(self, directory: Path) -> Any:
        """A model as its users load it; refuses tensors that are missing, left over or of another shape."""
        if directory not in self._loaded:
            self._loaded[directory] = load_from_disk(directory, self.entry).model
        return self._loaded[directory]

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """Several methods over all models, and a stack of layers."""
        base, *tunes = map(str, self.models)
        sparse = [{"model": model, "parameters": {"weight": 0.6, "density": 0.5}} for model in tunes]
        slerp = {"models": [{"model": base}, {"model": tunes[0]}], "parameters": {"t": 0.3}}
        return (
            {"merge_method": "linear", "models": weighed(*tunes)},
            {"merge_method": "slerp", "base_model": base, **slerp},
            {"merge_method": "ties", "base_model": base, "models": sparse},
            self.random,
            self.stack,
        )

    @property
    def random(self) -> Recipe:
        """A recipe whose result is another for every tensor's name."""
        sparse = [{"model": str(m), "parameters": {"weight": 0.6, "density": 0.5}} for m in self.models[1:]]
        return {"merge_method": "dare_ties", "base_model": str(self.models[0]), "models": sparse}

    @property
    def stack(self) -> Recipe:
        """The base's layers, then some of a fine-tune's."""
        ranges = zip(self.models, self.architecture.stack, strict=False)
        slices = [{"sources": [{"model": str(model), "layer_range": list(layers)}]} for model, layers in ranges]
        return {"merge_method": "passthrough", "slices": slices}


def weighed(*models: Path | str) -> list[Recipe]:
    """Models of equal weight: half and half gives exactly what is the same in both."""
    return [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]


def check_copies(family: Family) -> str:
    """Passthrough of a model, and linear of a model and itself, have its tensors and give its logits."""
    model = family.models[1]
    again = shutil.copytree(model, family.folder / "again")
    expected, logits = load_file(model / "model.safetensors"), logits_of(family.loaded(model))
    for recipe in (
        {"merge_method": "passthrough", "models": [{"model": str(model)}]},
        {"merge_method": "linear", "models": weighed(model, again)},
    ):
        out = family.merged(recipe).out
        assert_same(load_file(out / "model.safetensors"), expected)
        assert torch.equal(logits_of(family.loaded(out)), logits), "other logits"
    return "yes"


def check_loads(family: Family) -> str:
    """Every method's output loads with nothing missing, left over or newly made, and generates."""
    for recipe in family.recipes:
        answer = family.loaded(family.merged(recipe).out).generate(
            TOKENS.to(DEVICE), min_new_tokens=2, max_new_tokens=2
        )
        assert answer.shape == (1, TOKENS.shape[1] + 2), "generates nothing"
    return "yes"


def check_stack(family: Family) -> str:
    """Stacked layers are their sources' tensors, and what config.json says layer by layer moved with them."""
    out = family.merged(family.stack).out
    tensors = {model: load_file(model / "model.safetensors") for model in family.models}
    origins = [
        (model, n) for model, r in zip(family.models, family.architecture.stack, strict=False) for n in range(*r)
    ]
    for name, value in load_file(out / "model.safetensors").items():
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        model, layer = origins[int(number[0])] if number else (None, 0)
        sources = [model] if model else family.models
        there = name if number is None else f"{name[: number.start()]}{layer}{name[number.end() :]}"
        assert any(there in tensors[m] and torch.equal(value, tensors[m][there]) for m in sources), name
    before, after = (family.loaded(path).config.get_text_config() for path in (family.models[0], out))
    assert after.num_hidden_layers == len(origins), "another depth"
    lists = {n: v for n, v in before.to_dict().items() if isinstance(v, list) and "layer" in n and len(v) == 2}
    for name, items in lists.items():
        expected = [items[layer] for _, layer in origins]
        if name in INDEX_LISTS:
            expected = [place for place, (_, layer) in enumerate(origins) if layer in items]
        assert getattr(after, name) == expected, name
    return f"yes, {', '.join(f'`{name}`' for name in lists)}" if lists else "yes"


def check_live(family: Family) -> str:
    """Merging into the live model gives the published files' weights, parameters and logits."""
    for recipe in family.recipes:
        assert_live_as_published(family, recipe)
    return "yes"


def check_tied(family: Family) -> str:
    """Of tied models no head is written, and the loaded head is the embedding."""
    loaded = family.loaded(family.merged(family.random).out)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight, "not tied"
    assert_live_as_published(family, family.random)
    return "yes"


def check_half_tied(family: Family) -> str:
    """Of a tied base and untied fine-tunes an untied model is made, with a head of its own."""
    loaded = family.loaded(family.merged(family.random).out)
    head, embedding = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert loaded.config.get_text_config().tie_word_embeddings is False, "config.json says tied"
    assert not torch.equal(head, embedding), "the head is the embedding"
    assert_live_as_published(family, family.random)
    return "yes"


def assert_live_as_published(family: Family, recipe: Recipe) -> None:
    published = family.merged(recipe)
    assert family.resident.load(recipe).weights_digest == published.weights_digest, "other weights"
    live, loaded = family.resident.subject.model, family.loaded(published.out)
    assert fingerprint(live) == fingerprint(loaded), "other parameters"
    dtypes = [[value.dtype for value in model.state_dict().values()] for model in (live, loaded)]
    assert dtypes[0] == dtypes[1], "other dtypes"
    assert torch.equal(logits_of(live), logits_of(loaded)), "other logits"


CHECKS: dict[str, tuple[tuple[bool, bool], Sequence[Callable[[Family], str]]]] = {
    "untied": ((False, False), (check_copies, check_loads, check_stack, check_live)),
    "tied": ((True, True), (check_tied,)),
    "half tied": ((True, False), (check_half_tied,)),
}


def measure(architecture: Architecture, folder: Path) -> str:
    """The architecture's row of the page."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # two threads on tiny tensors only wait for each other
    dtypes = list(DTYPES) if architecture.core else ["bfloat16"]
    cells: dict[str, list[str]] = {}
    for dtype in dtypes:
        for kind, (tied, checks) in CHECKS.items():
            family = Family(architecture, folder / dtype / kind, dtype, tied=tied)
            for check in checks:
                cells.setdefault(check.__name__, []).append(_outcome(check, family))
            if kind == "untied":
                size = _size(family)
            family.resident.close()
    outcomes = [" / ".join(dict.fromkeys(cell)) for cell in cells.values()]
    return " | ".join(["", architecture.name, f"`{size[0]}`", size[1], ", ".join(dtypes), *outcomes, ""]).strip()


def _outcome(check: Callable[[Family], str], family: Family) -> str:
    try:
        return check(family)
    except (AssertionError, MergefleetError) as error:
        return f"no: {str(error).splitlines()[0]}"


def _size(family: Family) -> tuple[str, str]:
    """model_type; tensors on disk and in the live model."""
    loaded = family.loaded(family.models[0])
    on_disk = load_file(family.models[0] / "model.safetensors")
    return loaded.config.model_type, f"{len(on_disk)} → {len(loaded.state_dict())}"


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS.to(DEVICE)).logits


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected), "other tensors"
    for name, value in found.items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name


def rows(page: str) -> list[str]:
    """The rows of the page's table, without its head."""
    return page.split(BEGIN)[1].split(END)[0].splitlines()[2:]


def renew() -> None:
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    head = page.split(BEGIN)[1].splitlines()[:2]
    measured = []
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(architecture, Path(folder)))
        print(measured[-1], file=sys.stderr, flush=True)
    PAGE.write_text(before + BEGIN + "\n".join([*head, *measured]) + "\n" + END + after)


if __name__ == "__main__":
    renew()
