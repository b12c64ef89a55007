"""docs/command.md: its stages are made, its Python runs, and it names every flag that the command knows."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bench.families import Shape, make_family
from cluster.flags import How, Look, Run, Talk

PAGE = (Path(__file__).parents[2] / "docs" / "command.md").read_text()


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(text)


def test_the_example_of_stages_runs_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = Shape(hidden=8, layers=1, mlp=8, heads=2, kv_heads=1, vocab=16)
    family = make_family(tmp_path / "family", shape, tunes=2)
    (tmp_path / "models").mkdir()
    for name, path in zip(("base", "code", "math"), family.models, strict=True):
        path.rename(tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(block("yaml"))
    exec(compile(block("python"), "docs/command.md", "exec"), {})
    assert capsys.readouterr().out == "[('specialists', True)]\n"
    assert (tmp_path / "out.stages" / "specialists" / "model.safetensors").exists()


def test_the_page_names_every_flag() -> None:
    names = {field.name for group in (How, Run, Look, Talk) for field in fields(group)} - {"verbose"}
    missing = [name for name in sorted(names) if f"`--{name.replace('_', '-')}" not in PAGE]
    assert missing == []
