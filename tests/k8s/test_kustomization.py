"""The small renderer and the real kustomize agree on our manifests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kustomization import render

ROOT = Path(__file__).resolve().parents[2]


def by_identity(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def test_the_renderer_and_kubectl_render_the_same_documents(documents: list[dict[str, Any]]) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on this machine")
    command = [kubectl, "kustomize", str(ROOT / "k8s" / "base")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert by_identity(documents) == by_identity(list(yaml.safe_load_all(shown)))


def test_a_feature_that_the_renderer_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nhelmCharts: []\n")
    with pytest.raises(ValueError, match="does not know \\['helmCharts'\\]"):
        render(tmp_path)
