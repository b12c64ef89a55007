"""Recipes as the field's documents have them: what runs equals mergekit, what cannot run is explained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import Loaded, explained, load, outside, rounded, rounded_terms

from engine import MergeResult, merge
from engine.errors import InputError

RECIPES = Path(__file__).parent / "recipes"
RUNS = {"F1": 32, "F2": 7, "F4": 32, "F5": 32, "F6": 40, "F7": 32}
"""Layers of the output."""
STORED = {"F4": "F16"}
"""What is not written in bfloat16."""


@pytest.fixture
def merged(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], MergeResult]:
    monkeypatch.chdir(place)
    return lambda name: merge(RECIPES / f"{name}.yml", tmp_path / "out")


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_of_the_field_runs(name: str, merged: Callable[[str], MergeResult]) -> None:
    result = merged(name)
    config = json.loads((result.out / "config.json").read_text())
    assert config["num_hidden_layers"] == RUNS[name]
    assert config["model_type"] == ("llama" if name == "F7" else "mistral")
    made = load(result.out)
    assert sum(".self_attn.q_proj." in tensor for tensor in made.values) == RUNS[name]
    assert set(made.dtypes.values()) == {STORED.get(name, "BF16")}
    assert result.warnings == ()
    assert (result.out / "mergekit_config.yml").read_text() == (RECIPES / f"{name}.yml").read_text()


@pytest.mark.parametrize("name", RUNS)
def test_it_equals_what_mergekit_makes(
    name: str, mergekit: dict[str, Path], place: Path, merged: Callable[[str], MergeResult]
) -> None:
    ours, theirs = load(merged(name).out), load(mergekit[name])
    assert ours.dtypes == theirs.dtypes
    COMPARE.get(name, _close)(ours, theirs, place)


def _close(ours: Loaded, theirs: Loaded, place: Path) -> None:
    for tensor, values in ours.values.items():
        assert not outside(values, theirs.values[tensor], "BF16").any(), tensor


def _exact(ours: Loaded, theirs: Loaded, place: Path) -> None:
    for tensor, values in ours.values.items():
        assert np.array_equal(values, theirs.values[tensor]), tensor


def _elected(ours: Loaded, theirs: Loaded, place: Path) -> None:
    base, *sources = (_rounded(place / "org" / name, "F16") for name in ("base", "one", "two"))
    for tensor, values in ours.values.items():
        inputs = base[tensor], [source[tensor] for source in sources]
        wrong = outside(values, theirs.values[tensor], "F16")
        wrong &= ~explained(*inputs, [{"weight": weight, "density": 0.5} for weight in (0.5, 0.3)], "F16")
        assert not (wrong & ~rounded_terms(values, theirs.values[tensor], *inputs, "F16")).any(), tensor


def _random(ours: Loaded, theirs: Loaded, place: Path) -> None:
    """Other masks, but as many elements change, by as much."""
    base = load(place / "org" / "base").values
    shares, sizes = [], []
    for made in (ours, theirs):
        change = np.concatenate([(values - base[tensor]).ravel() for tensor, values in made.values.items()])
        shares.append(float(np.mean(change != 0)))
        sizes.append(float(np.abs(change).sum()))
    share = sum(shares) / 2
    assert abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * share * (1 - share) / change.size)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


COMPARE: Mapping[str, Callable[[Loaded, Loaded, Path], None]] = {"F4": _elected, "F5": _random, "F6": _exact}


def _rounded(model: Path, dtype: str) -> dict[str, Any]:
    return {tensor: rounded(values, dtype) for tensor, values in load(model).values.items()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "F3",
            "F3.yml: slices[0]: slerp's base_model must be one of its two sources; "
            "got org/base, sources org/first and org/llama-one.",
        ),
        ("F8", "F8.yml: line 11, column 5: found '—' (U+2014, em dash), '-' expected."),
        (
            "F9",
            "F9.yml: line 6, column 29: did not find expected key, found 'merge_method: slerp': "
            "is a line break or a comma missing before it?",
        ),
        (
            "C5",
            "C5.yml: layer_slices: this is a file for bakllama. `mergefleet assemble` will read it, later; "
            "write the slices as a passthrough recipe.",
        ),
        (
            "C6",
            "C6.yml: experts: this is a file for mergekit-moe. `mergefleet moe` will read it, later.",
        ),
    ],
)
def test_what_cannot_run_is_said_in_one_line_before_anything_is_read(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECIPES / f"{name}.yml", tmp_path)
    with pytest.raises(InputError) as caught:
        merge(f"{name}.yml", "out")
    assert caught.value.message == message
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.yml"]
