"""Packages are installed by uv as by pip: with what pip's configuration says, and by pip where uv cannot."""

from __future__ import annotations

import venv
import zipfile
from pathlib import Path

import pytest

from bench.install import install, parse_configuration, told_to_uv


def make_wheel(folder: Path) -> None:
    """tiny-1.0, one module."""
    facts = {"METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"}
    facts["WHEEL"] = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {"tiny.py": "X = 1\n", **{f"tiny-1.0.dist-info/{name}": text for name, text in facts.items()}}
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, "tiny-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


@pytest.mark.parametrize("broken", [False, True], ids=["uv", "pip because uv fails"])
def test_a_package_is_installed_from_where_pip_would_take_it(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    if broken:
        monkeypatch.setenv("UV_LINK_MODE", "by magic")
    make_wheel(tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    install(tmp_path / "venv" / "bin" / "python", "tiny==1.0")
    assert len(list((tmp_path / "venv").rglob("tiny.py"))) == 1
    assert ("pip does it" in capfd.readouterr().err) is broken


def test_variables_win_over_what_is_said_for_installing_and_that_over_the_rest() -> None:
    listed = ":env:.find-links='/variable'\nglobal.find-links='/a'\nglobal.extra-index-url='x\\ny'\ninstall.cert='/c'\n"
    listed += "global.cert='/b'\ndownload.cert='/d'\n"
    assert parse_configuration(listed) == {"find-links": "/variable", "extra-index-url": "x\ny", "cert": "/c"}


def test_uv_asks_no_index_that_pip_is_kept_from_and_passwords_are_no_arguments() -> None:
    configured = {"no-index": "true", "only-binary": ":all:,tiny", "find-links": "/a\n/b", "timeout": "9"}
    assert told_to_uv(configured) == (
        ["--no-index", "--find-links=/a", "--find-links=/b", "--only-binary=:all:", "--only-binary=tiny"],
        {},
    )
    configured = {"no-index": "false", "index-url": "https://me:secret@host/simple", "extra-index-url": "https://a\nb"}
    options, variables = told_to_uv(configured)
    assert options == []
    assert variables == {"UV_INDEX_URL": "https://me:secret@host/simple", "UV_EXTRA_INDEX_URL": "https://a b"}
