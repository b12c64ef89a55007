"""What the tests of the methods share."""

import pytest

from bench.arrays import read_model, write_file
from bench.families import Family
from bench.torture import torture_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Awkward shapes and all dtypes."""
    return torture_family(tmp_path_factory.mktemp("torture"), mixed=True, giant=False)


@pytest.fixture(scope="session")
def small_family(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """One tensor of each awkward shape of `family`, an eighth of its elements: for methods with many settings."""
    parts = ("layers.0.self_attn.q_proj", "self_attn.scale", "self_attn.gate", "block_and_one", "conv", "norm", "empty")
    models = []
    for model in family.models:
        models.append(tmp_path_factory.mktemp("small"))
        (models[-1] / "config.json").write_bytes((model / "config.json").read_bytes())
        tensors = read_model(model)
        chosen = {name: stored for name, stored in tensors.items() if any(part in name for part in parts)}
        write_file(models[-1] / "model.safetensors", chosen)
    return Family(models[0], tuple(models[1:]))
