"""Every `dtype` and `out_dtype`, on sources that are stored in different ones."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bench.arrays import Array, decode, encode, read_model, write_file
from engine import merge, parse_recipe

CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
WEIGHTS = (0.5, 0.25, 0.25)


def rounded(values: Array, dtype: str | None) -> Array:
    """Values, as float64, as a recipe's dtype holds them."""
    return values if dtype is None else decode(encode(values, CODES[dtype]), CODES[dtype]).astype(np.float64)


@pytest.mark.parametrize("stored", [("BF16", "F16", "F32"), ("F64", "BF16", "F16"), ("F16", "F16", "F16")])
def test_sources_are_rounded_to_dtype_and_the_result_once_to_out_dtype(stored: tuple[str, ...], tmp_path: Path) -> None:
    values = [np.random.default_rng(n).integers(-200, 200, (3, 5)) / 64 for n in range(3)]  # sums are exact in float32
    kept = []
    for number, (code, array) in enumerate(zip(stored, values, strict=True)):
        (tmp_path / str(number)).mkdir()
        write_file(tmp_path / str(number) / "model.safetensors", {"model.norm.weight": (code, encode(array, code))})
        (tmp_path / str(number) / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 0}))
        kept.append(decode(encode(array, code), code).astype(np.float64))
    models = [{"model": str(tmp_path / str(n)), "parameters": {"weight": w}} for n, w in enumerate(WEIGHTS)]
    for dtype, out in product((None, *CODES), (None, *CODES)):
        kinds = {key: value for key, value in (("dtype", dtype), ("out_dtype", out)) if value}
        target = tmp_path / f"{dtype}-{out}"
        merge(parse_recipe({"merge_method": "linear", "models": models, **kinds}), target)
        code, made = read_model(target)["model.norm.weight"]
        total = sum(weight * rounded(array, dtype) for weight, array in zip(WEIGHTS, kept, strict=True))
        assert code == CODES.get(out or dtype or "", stored[0])
        assert np.array_equal(decode(np.asarray(made), code), decode(encode(total, code), code)), (dtype, out)
