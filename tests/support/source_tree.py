"""The tree in README.md, from the first sentence of every module: `python tests/support/source_tree.py` renews it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "engine": "merge math and bytes, one process; knows neither Ray nor Optuna",
    "search": "proposing and judging; knows no Ray",
    "cluster": "where and when: Ray, and the command",
}
OTHERS = {
    "configs/": "recipes/ campaigns/ and demo/, the tiny family of models with its tasks",
    "k8s/": "kustomize base: RayCluster, RayJobs, volume, secret",
    "bench/": "`make bench`: against mergekit, installed beside",
    "tests/": "mirrors the source, plus contracts/, conformance/, e2e/",
    "docs/": "recipes, sources, object-stores, cluster, search, bits, reliability, performance, and more; log",
}
BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without the module's own name."""
    text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    text = re.split(r"(?<! al)\. |; |(?<=[a-z]) \(", text.removeprefix(f"{path.stem}: "))[0]
    return text.rstrip(".")


def lines() -> list[str]:
    found = []
    for folder, purpose in FOLDERS.items():
        found.append(f"{folder + '/':<26}{purpose}")
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name != "__init__.py":
                found.append(f"  {path.name:<24}{sentence(path)}")
        for package in sorted(path.parent for path in (ROOT / folder).glob("*/__init__.py")):
            inside = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
            if inside:
                found.append(f"  {package.name + '/':<24}{sentence(package / '__init__.py')}")
                found.extend(f"    {path.name:<22}{sentence(path)}" for path in inside)
    return [*found, *(f"{folder:<26}{purpose}" for folder, purpose in OTHERS.items())]


def renewed(text: str) -> str:
    """README text with the tree as it is now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n".join(lines()) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(renewed(readme.read_text()))
