"""Renders the part of kustomize that k8s/ uses, so that the manifests can be checked where no kubectl is.

resources, namespace, labels, images, configMapGenerator (files, without a name suffix) and replacements of whole
fields. A key that is not known here is an error: the renderer must not quietly render something else than kustomize
would. A test compares the two where kubectl is present.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
KNOWN = {
    "apiVersion",
    "configMapGenerator",
    "generatorOptions",
    "images",
    "kind",
    "labels",
    "namespace",
    "replacements",
    "resources",
}
WITHOUT_NAMESPACE = {"Namespace"}


def render(folder: Path) -> list[Document]:
    """The documents that `kubectl kustomize folder` prints, in no particular order."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(kustomization) - KNOWN
    if unknown:
        raise ValueError(f"{folder}/kustomization.yaml: this renderer does not know {sorted(unknown)}")
    documents = _resources(folder, kustomization)
    documents += [_config_map(folder, entry, kustomization) for entry in kustomization.get("configMapGenerator", [])]
    for document in documents:
        metadata = document["metadata"]
        if "namespace" in kustomization and document["kind"] not in WITHOUT_NAMESPACE:
            metadata["namespace"] = kustomization["namespace"]
        for label in kustomization.get("labels", []):
            metadata["labels"] = metadata.get("labels", {}) | label["pairs"]
        for container in _containers(document):
            container["image"] = _image(container["image"], kustomization.get("images", []))
    for replacement in kustomization.get("replacements", []):
        _replace(documents, replacement)
    return documents


def _resources(folder: Path, kustomization: Document) -> list[Document]:
    documents: list[Document] = []
    for name in kustomization.get("resources", []):
        path = folder / name
        found = render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
        documents += [_unshared(document) for document in found]
    return documents


def _unshared(document: Document) -> Document:
    """A copy in which what a YAML anchor wrote once is an object of its own in each place, as after kustomize."""
    unshared: Document = json.loads(json.dumps(document))
    return unshared


def _config_map(folder: Path, entry: Document, kustomization: Document) -> Document:
    if not kustomization.get("generatorOptions", {}).get("disableNameSuffixHash"):
        raise ValueError(f"{folder}/kustomization.yaml: this renderer makes no name suffixes: disable them")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": entry["name"], "labels": dict(entry.get("options", {}).get("labels", {}))},
        "data": {name: (folder / name).read_text() for name in entry["files"]},
    }


def _containers(node: Any) -> Iterator[Document]:
    """Every container in the document; like kustomize, found by the name of the list that holds it."""
    if isinstance(node, dict):
        for key, child in node.items():
            if key in {"containers", "initContainers"}:
                yield from child
            else:
                yield from _containers(child)
    elif isinstance(node, list):
        for child in node:
            yield from _containers(child)


def _image(image: str, rules: list[Document]) -> str:
    name, _, tag = image.partition(":")
    for rule in rules:
        if rule["name"] == name:
            name = rule.get("newName", name)
            return f"{name}@{rule['digest']}" if "digest" in rule else f"{name}:{rule.get('newTag', tag)}"
    return image


def _replace(documents: list[Document], replacement: Document) -> None:
    source = replacement["source"]
    (origin,) = (document for document in documents if _selected(document, source))
    value = _field(origin, source["fieldPath"].split("."))
    for target in replacement["targets"]:
        for document in documents:
            if _selected(document, target["select"]):
                for path in target["fieldPaths"]:
                    *parents, last = path.split(".")
                    _field(document, parents)[last] = _unshared(value)


def _selected(document: Document, select: Document) -> bool:
    named = select.get("name", document["metadata"]["name"])
    return bool(document["kind"] == select["kind"] and document["metadata"]["name"] == named)


def _field(document: Document, path: list[str]) -> Any:
    for key in path:
        document = document[key]
    return document
