"""Judges a custom resource as an API server with strict field validation would, from its CustomResourceDefinition.

Three checks: the structural schema with unknown fields refused, duplicate keys in lists that are maps, and the CEL
rules. Left out: transition rules (`oldSelf`: there is no old object here), quantities and string formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema

Schema = Mapping[str, Any]

# What a server adds to every object beside the CRD's own schema.
OBJECT_META: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
# Keywords of OpenAPI v3 that mean nothing to JSON schema, or are judged apart.
DROPPED = {"default", "description", "format", "nullable"}


@dataclass(frozen=True)
class Definition:
    """One served version of a custom resource."""

    api_version: str
    kind: str
    openapi: Schema
    strict: Schema

    def complaints(self, document: Mapping[str, Any]) -> list[str]:
        """Everything that is wrong with `document`, as 'path: reason'; empty means accepted."""
        found = [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in jsonschema.Draft202012Validator(self.strict).iter_errors(document)
        ]
        return found + list(_semantic_complaints(self.openapi, document, path=""))


def load_definitions(folder: Path) -> dict[tuple[str, str], Definition]:
    """The definitions of all JSON files in `folder`, by (apiVersion, kind)."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        spec = json.loads(path.read_text())["spec"]
        for version in spec["versions"]:
            if version["served"]:
                openapi = version["schema"]["openAPIV3Schema"]
                api_version, kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                root = strict(openapi)
                root["properties"]["metadata"] = OBJECT_META
                root["required"] = sorted({*root.get("required", []), "apiVersion", "kind", "metadata"})
                found[api_version, kind] = Definition(api_version, kind, openapi, root)
    return found


def strict(openapi: Schema) -> dict[str, Any]:
    """`openapi` as a JSON schema in which every field that it does not name is an error."""
    if openapi.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: value for key, value in openapi.items() if key not in DROPPED and not key.startswith("x-")}
    if "properties" in openapi:
        kept["properties"] = {name: strict(child) for name, child in openapi["properties"].items()}
    if isinstance(openapi.get("items"), Mapping):
        kept["items"] = strict(openapi["items"])
    if isinstance(openapi.get("additionalProperties"), Mapping):
        kept["additionalProperties"] = strict(openapi["additionalProperties"])
    elif openapi.get("type") == "object" and not openapi.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    if openapi.get("nullable") and "type" in kept:
        kept["type"] = [kept["type"], "null"]
    return kept


def _semantic_complaints(openapi: Schema, value: Any, *, path: str) -> Iterator[str]:
    for rule in openapi.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not holds(rule["rule"], value):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, Mapping):
        named = openapi.get("properties", {})
        others = openapi.get("additionalProperties")
        for key, child in value.items():
            schema = named.get(key, others if isinstance(others, Mapping) else {})
            yield from _semantic_complaints(schema, child, path=f"{path}.{key}")
    elif isinstance(value, list):
        yield from _duplicates(openapi.get("x-kubernetes-list-map-keys", []), value, path)
        for index, child in enumerate(value):
            yield from _semantic_complaints(openapi.get("items", {}), child, path=f"{path}[{index}]")


def _duplicates(keys: list[str], items: list[Any], path: str) -> Iterator[str]:
    seen = set()
    for item in items if keys else []:
        identity = tuple(item.get(key) for key in keys)
        if identity in seen:
            yield f"{path}: duplicate {dict(zip(keys, identity, strict=True))}"
        seen.add(identity)


def holds(rule: str, value: Any) -> bool:
    """Whether the CEL expression `rule` is true with `self` bound to the JSON value."""
    return bool(_program(rule).evaluate({"self": celpy.json_to_cel(value)}))


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
