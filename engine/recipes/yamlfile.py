"""YAML (or JSON) text → plain Python data, with errors a person can act on: file, line, column, what was found.

Stricter than PyYAML's safe loader: a key given twice is refused (PyYAML keeps the last one in silence), so are the
dashes, quotes and spaces that web pages and word processors put in the place of ASCII ones, and so is nesting deep
enough to overflow libyaml's stack (a file of 100 000 brackets ends the process).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from engine.errors import InputError, RecipeError

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_MERGED_PAIRS = 10_000
MAX_NODES = 200_000

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d\u2022\u00b7"
_QUOTES = "\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\uff02\uff07"
_SPACES = "\u00a0\u2007\u202f\u3000\u200b\ufeff"
_ASCII_FOR = dict.fromkeys(_DASHES, "-") | dict.fromkeys(_QUOTES, '"') | dict.fromkeys(_SPACES, " ")
_TYPOGRAPHIC_START = re.compile(rf"^ *(?:- +)*([{_DASHES}{_SPACES}])")
_MERGE_TAG = "tag:yaml.org,2002:merge"

Origin = tuple[str, type[InputError]]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's safe loader where it is built in; dates stay strings, because no recipe has any."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Document:
    """One document of a YAML file: its data, its text as it stands there ("" where it was JSON), and its first line."""

    data: object
    text: str
    line: int


def read_yaml(path: str | Path, *, error: type[InputError] = RecipeError) -> object:
    """The one document of a YAML file as dicts, lists and scalars; `error` names the file, line and column.

    A file called *.json is read as JSON: the recipe.json of a published model, where 1e-05 is a number.
    """
    return _only(read_documents(path, error=error), (str(path), error)).data


def read_documents(path: str | Path, *, error: type[InputError] = RecipeError) -> list[Document]:
    """Every document of a YAML file that is not empty, at least one; a *.json file holds exactly one."""
    origin = str(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise error(f"{origin}: there is no such file.", file=origin) from None
    except OSError as failure:
        raise error(f"{origin}: cannot be read: {failure.strerror}.", file=origin) from None
    if len(data) > MAX_BYTES:
        raise error(f"{origin}: {len(data):_} bytes; at most {MAX_BYTES:_} expected. Is this a YAML file?", file=origin)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{origin}: byte {failure.start} is not UTF-8: save the file as UTF-8.", file=origin) from None
    if origin.endswith(".json"):
        return [Document(_parse_json(text, (origin, error)), "", 1)]
    return parse_documents(text, (origin, error))


def _parse_json(text: str, where: Origin) -> object:
    origin, error = where

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twin = next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None)
        if twin is not None:
            raise error(f"{origin}: key {twin!r} is given twice.", file=origin)
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return data
    except json.JSONDecodeError as failure:
        place = f"line {failure.lineno}, column {failure.colno}"
        raise error(f"{origin}: {place}: not valid JSON: {failure.msg}.", file=origin) from None
    except (RecursionError, ValueError) as failure:  # nested without end, or an integer of thousands of digits
        raise error(f"{origin}: cannot be read as JSON: {failure}.", file=origin) from None


def parse_yaml(text: str, *, origin: str, error: type[InputError] = RecipeError) -> object:
    """Like `read_yaml`, for text at hand; `origin` is what errors call it. Empty text is an error, too."""
    where = (origin, error)
    return _only(parse_documents(text, where), where).data


def parse_documents(text: str, where: Origin) -> list[Document]:
    """Like `read_documents`, for text at hand; `where` is what errors call it, and their class."""
    origin, error = where
    try:
        starts = _document_lines(text, where)
        loader = _Loader(text)
        roots = []
        while loader.check_node():
            roots.append(loader.get_node())
        _check_nodes(roots, text, where)
        lines = text.splitlines(keepends=True)
        pieces = ["".join(lines[start:end]) for start, end in pairwise([*starts, len(lines)])]
        made = [loader.construct_document(root) for root in roots]
    except yaml.YAMLError as failure:
        raise _explained(failure, text, where) from None
    except (ValueError, LookupError, RecursionError) as failure:  # a tag that does not fit its value: `!!int x`
        raise error(f"{origin}: a value does not fit its YAML tag: {failure}.", file=origin) from None
    documents = [
        Document(data, piece, start + 1)
        for data, piece, start in zip(made, pieces, starts, strict=True)
        if data is not None
    ]
    if not documents:
        raise error(f"{origin}: the file is empty.", file=origin)
    return documents


def _only(documents: list[Document], where: Origin) -> Document:
    if len(documents) > 1:
        place = f"line {documents[1].line}, column 1"
        raise where[1](f"{where[0]}: {place}: a second document starts here, only one is expected.", file=where[0])
    return documents[0]


def _document_lines(text: str, where: Origin) -> list[int]:
    """The line, from 0, where each document starts (comments before it included); refuses what is nested too deep."""
    depth = 0
    starts: list[int] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.DocumentStartEvent):
            starts.append(event.start_mark.line if starts and event.start_mark else 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _at(event.start_mark, f"nested more than {MAX_DEPTH} levels deep.", where)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return starts


def _check_nodes(roots: list[yaml.Node], text: str, where: Origin) -> None:
    """Refuse duplicate keys, merge bombs, and typographic characters outside quoted and block text."""
    literal_lines: set[int] = set()
    merged = 0
    for node in (node for root in roots for node in _walk(root)):
        if isinstance(node, yaml.MappingNode):
            merged += _check_mapping(node, where)
        elif isinstance(node, yaml.ScalarNode) and node.style:
            literal_lines.update(range(node.start_mark.line + 1, node.end_mark.line + 1))
        elif isinstance(node, yaml.ScalarNode) and node.value[:1] in _ASCII_FOR:
            raise _typographic(node.start_mark.line, node.start_mark.column, node.value[0], where)
    if merged > MAX_MERGED_PAIRS:
        raise where[1](f"{where[0]}: its '<<' merges expand to {merged:_} entries.", file=where[0])
    if sum(map(_expanded, roots)) > MAX_NODES:
        message = f"{where[0]}: more than {MAX_NODES:_} entries, every alias written out, or one that holds itself."
        raise where[1](message, file=where[0])
    _check_line_starts(text, where, skip=literal_lines)


def _walk(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, however often an alias repeats it."""
    seen: set[int] = set()
    queue = [root]
    while queue:
        node = queue.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        queue.extend(_children(node))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _expanded(root: yaml.Node) -> float:
    """How many nodes there are with every alias written out; infinitely many where one holds itself."""
    sizes: dict[int, float] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # until its parts are known; who needs it meanwhile is a part of it
            stack.extend({id(part): part for part in _children(node) if id(part) not in sizes}.values())
        else:
            stack.pop()
            if sizes[id(node)] == math.inf:
                sizes[id(node)] = 1 + sum(sizes[id(part)] for part in _children(node))
    return sizes[id(root)]


def _check_mapping(node: yaml.MappingNode, where: Origin) -> int:
    """Refuse a key given twice; the number of entries that `<<` will copy into this mapping."""
    first_lines: dict[tuple[str, str], int] = {}
    merged = 0
    for key, value in node.value:
        if key.tag == _MERGE_TAG:
            merged += _merged_pairs(value, where)
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in first_lines:
            line = first_lines[key.tag, key.value]
            raise _at(key.start_mark, f"key {key.value!r} is given twice (first on line {line + 1}).", where)
        first_lines[key.tag, key.value] = key.start_mark.line
    return merged


def _merged_pairs(value: yaml.Node, where: Origin) -> int:
    parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
    pairs = [part.value for part in parts if isinstance(part, yaml.MappingNode)]
    if any(key.tag == _MERGE_TAG for part in pairs for key, _ in part):
        raise _at(value.start_mark, "'<<' merges a mapping that has a '<<' itself: write its entries out.", where)
    return sum(len(part) for part in pairs)


def _check_line_starts(text: str, where: Origin, *, skip: set[int]) -> None:
    for number, line in enumerate(text.splitlines()):
        found = _TYPOGRAPHIC_START.match(line)
        if found and number not in skip:
            raise _typographic(number, found.start(1), found[1], where)


def _explained(failure: yaml.YAMLError, text: str, where: Origin) -> InputError:
    """What went wrong, at which line and column, with the text found there."""
    try:  # a garbled dash is the likelier cause than what the parser tripped over later
        _check_line_starts(text, where, skip=set())
    except where[1] as typographic:
        return typographic
    mark = getattr(failure, "problem_mark", None)
    if mark is None:
        return _bad_character(failure, text, where)
    problem = str(getattr(failure, "problem", None) or getattr(failure, "context", None) or "not valid YAML")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return _at(mark, problem + _found(line, mark.column, failure), where)


def _found(line: str, column: int, failure: yaml.YAMLError) -> str:
    """What stands at the place of the error, and the likeliest remedy."""
    if line[column : column + 1] == "\t":
        return ", found a tab: indent with spaces."
    if line[column - 1 : column] == "*":
        return ": a lone * must be quoted: '*'."
    rest = line[column:].strip()
    if not rest:
        return "."
    glued = line[:column].strip(" -") and isinstance(failure, (yaml.parser.ParserError, yaml.scanner.ScannerError))
    return f", found {rest[:60]!r}" + (": is a line break or a comma missing before it?" if glued else ".")


def _bad_character(failure: yaml.YAMLError, text: str, where: Origin) -> InputError:
    """For the one YAML error without a mark: a character that no YAML file may hold."""
    origin, error = where
    position = getattr(failure, "position", None)
    character = getattr(failure, "character", None)
    if position is None or character is None:
        return error(f"{origin}: not valid YAML: {failure}", file=origin)
    bad = next((i for i, c in enumerate(text) if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\t\n\r\x85"), 0)
    line = text.count("\n", 0, bad)
    column = bad - (text.rfind("\n", 0, bad) + 1)
    return error(
        f"{origin}: line {line + 1}, column {column + 1}: control character U+{ord(text[bad]):04X}: delete it.",
        file=origin,
        line=line + 1,
        column=column + 1,
    )


def _typographic(line: int, column: int, character: str, where: Origin) -> InputError:
    origin, error = where
    name = unicodedata.name(character, "?").lower()
    return error(
        f"{origin}: line {line + 1}, column {column + 1}: found {character!r} (U+{ord(character):04X}, {name}), "
        f"{_ASCII_FOR[character]!r} expected.",
        file=origin,
        line=line + 1,
        column=column + 1,
    )


def _at(mark: Any, message: str, where: Origin) -> InputError:
    origin, error = where
    line, column = mark.line + 1, mark.column + 1
    return error(f"{origin}: line {line}, column {column}: {message}", file=origin, line=line, column=column)
