"""Huge checkpoints in sparse files: real headers, no disk, and the page on huge models says what they give."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import safe_open

from bench import huge
from bench.sparse import DeepSeek, sparse_family

SMALL = DeepSeek(layers=4, experts=3)


def test_every_tensor_is_there_as_safetensors_reads_it_and_takes_no_disk(tmp_path: Path) -> None:
    family = sparse_family(tmp_path, SMALL, tunes=1)
    expected = SMALL.tensors()
    for model in family.models:
        found = {}
        for path in model.glob("*.safetensors"):
            with safe_open(path, "numpy") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            assert path.stat().st_blocks * 512 < 1 << 20
        assert found == {name: shape for name, (_, shape) in expected.items()}
        index = json.loads((model / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == found.keys()
        sizes = [math.prod(shape) * (4 if dtype == "F32" else 2) for dtype, shape in expected.values()]
        assert index["metadata"]["total_size"] == sum(sizes)


def test_the_page_on_huge_models_has_what_the_forecast_says_of_70b(tmp_path: Path) -> None:
    page = huge.PAGE.read_text()
    assert [row for row in huge.rows("70B", tmp_path) if row not in page] == []
