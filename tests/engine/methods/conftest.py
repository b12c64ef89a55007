"""What the tests of the methods share."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from own_packages import HEAD, Installer
from shared_families import excerpt

from bench.families import Family
from bench.torture import torture_family
from engine.methods import own


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Awkward shapes and all dtypes."""
    return torture_family(tmp_path_factory.mktemp("torture"), mixed=True, giant=False)


@pytest.fixture(scope="session")
def small_family(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """One tensor of each awkward shape of `family`, an eighth of its elements: for methods with many settings."""
    parts = ("layers.0.self_attn.q_proj", "self_attn.scale", "self_attn.gate", "block_and_one", "conv", "norm", "empty")
    models = excerpt(family.models, tmp_path_factory.mktemp("small"), parts)
    return Family(models[0], tuple(models[1:]))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Put a package of one module on the path, with its entry points: (code, method="module:name" …)."""
    made: list[str] = []

    def put(code: str, *, package: str = "mine", version: str = "1.0", **points: str) -> Path:
        site = tmp_path / f"site-{package}"
        information = site / f"{package}-{version}.dist-info"
        information.mkdir(parents=True, exist_ok=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (information / "entry_points.txt").write_text("\n".join([f"[{own.GROUP}]", *lines]))
        module = site / f"{package}_code.py"
        module.write_text(HEAD + dedent(code))
        monkeypatch.syspath_prepend(site)
        made.append(module.stem)
        sys.modules.pop(module.stem, None)
        return module

    yield put
    for name in made:
        sys.modules.pop(name, None)
