"""The rendered manifests, and KubeRay's definitions where this machine has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from crd import Definition, load_definitions
from kustomization import render

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def documents() -> list[dict[str, Any]]:
    """Every document of k8s/base."""
    return render(ROOT / "k8s" / "base")


@pytest.fixture(scope="session")
def definitions() -> dict[tuple[str, str], Definition]:
    """KubeRay's custom resources by (apiVersion, kind)."""
    chosen = os.environ.get("MERGEFLEET_KUBERAY_SCHEMAS")
    folder = Path(chosen) if chosen else ROOT.parent / "shared" / "schemas" / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no KubeRay definitions in {folder}: set MERGEFLEET_KUBERAY_SCHEMAS to a folder of CRDs as JSON")
    return load_definitions(folder)
