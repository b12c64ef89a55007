"""Python files that a model brings along, named by `auto_map` in its config.json: they are copied, never run.

transformers loads them as `module.Class` from beside config.json, and with them what they import from `.module`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import MergefleetError, SourceError
from engine.models.checkpoint import Checkpoint
from engine.tensorfile.index import load_json_object

_REFERENCE = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*", re.ASCII)


def code_warning(donor: Checkpoint) -> str | None:
    """What to say where a model needs code that will not be copied."""
    names = sorted(f"{module}.py" for module in _modules(donor.config))
    if not names:
        return None
    return f"{donor.ref}: needs {', '.join(names)} to load, which is not copied: give --trust-remote-code to copy it."


def find_code(donor: Checkpoint, tokenizer: Checkpoint) -> list[Path]:
    """The Python files that the donor's config.json and the tokenizer's tokenizer_config.json need.

    Those of a model on the Hub are downloaded. SourceError where one is missing or is no Python.
    """
    found: dict[str, Path] = {}
    settings = tokenizer.tokenizer_directory / "tokenizer_config.json"
    said = load_json_object(settings) if settings.is_file() else {}
    for checkpoint, config in ((donor, donor.config), (tokenizer, said)):
        wanted = sorted(_modules(config))
        while wanted:
            module = wanted.pop()
            name = f"{module}.py"
            if name in found:
                continue
            _fetch(name, checkpoint)
            found[name] = checkpoint.directory / name
            wanted += _imported(found[name], checkpoint)
    return [found[name] for name in sorted(found)]


def copy_code(files: Iterable[Path], out: Path) -> None:
    """Copy the files into `out`, byte for byte; links become files."""
    for path in files:
        try:
            (out / path.name).write_bytes(path.read_bytes())
        except OSError as error:
            raise MergefleetError(f"{out / path.name}: cannot be written: {error.strerror}.") from error


def _fetch(name: str, checkpoint: Checkpoint) -> None:
    commit = checkpoint.identity.get("model", checkpoint.identity).get("commit")  # a model with an adapter has both
    if commit and not (checkpoint.directory / name).is_file():
        from engine.models.hub import download_file

        download_file(checkpoint.ref.bare, commit, name)


def _modules(config: Mapping[str, Any]) -> set[str]:
    """Modules beside config.json that `auto_map` names; `org/name--module.Class` lies in a repository of its own."""
    auto_map = config.get("auto_map")
    modules = set()
    for value in auto_map.values() if isinstance(auto_map, Mapping) else ():
        for reference in value if isinstance(value, list) else [value]:  # a tokenizer has a slow and a fast class
            match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
            if match:
                modules.add(match[1])
    return modules


def _imported(path: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """Modules that a file imports from its own folder, whether at its top or inside a function."""
    if not path.is_file():
        raise SourceError(f"{checkpoint.ref}: {path.name} is named by auto_map and is not there: get it too.")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(f"{path}: is no Python that can be read: {error}.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
