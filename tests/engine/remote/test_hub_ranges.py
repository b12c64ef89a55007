"""Models on the Hub by ranges: the bytes of a download without one, and no token for a host that is not the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_standin import Hub, Repository, commit_id, running_hub
from safetensors.numpy import save

from engine.recipes.model_ref import ModelRef
from engine.remote.ahead import RangeFile
from engine.remote.hub_ranges import HubRanges

ROOT = Path(__file__).resolve().parents[3]
COMMIT = commit_id("commit")
OPEN = """
import json, sys
from engine.models.checkpoint import open_checkpoint
from engine.errors import SourceError
from engine.recipes.model_ref import ModelRef

answers = []
for stream in (True, False):
    try:
        source = open_checkpoint(ModelRef("org/model"), stream=stream)
        answers.append({"identity": source.identity, "config": source.config,
                        "files": sorted(path.name for path in source.directory.iterdir()),
                        "digests": {name: source.content_digest(name) for name in source.tensors}})
        source.refuse_changed()
    except SourceError as error:
        answers.append({"error": str(error)})
    if len(sys.argv) > 1:
        break
print(json.dumps(answers))
"""


def opened(home: Path, hub: Hub, *arguments: str) -> list[dict[str, Any]]:
    """What a fresh process gets by ranges, and then (without arguments) by a download."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_OFFLINE"))}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_secret"}
    command = [sys.executable, "-c", OPEN, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def sharded() -> Mapping[str, bytes]:
    """Two shards, one of more than a window, and files that no merge reads."""
    large = np.random.default_rng(0).normal(size=(3 << 20)).astype(np.float32)
    shards = {"a-1.safetensors": save({"a": large}), "a-2.safetensors": save({"b": np.ones(2, np.float32)})}
    index = json.dumps({"weight_map": {"a": "a-1.safetensors", "b": "a-2.safetensors"}})
    other = {"consolidated.safetensors": b"twice", "original/params.json": b"{}"}
    return {"config.json": b'{"hidden_size": 3}', "model.safetensors.index.json": index.encode(), **shards, **other}


@pytest.mark.parametrize("redirects", [False, True])
def test_ranges_give_the_bytes_and_the_identity_of_a_download(redirects: bool, tmp_path: Path) -> None:
    with running_hub({"org/model": Repository({COMMIT: sharded()}, {"main": COMMIT})}) as hub:
        hub.redirects = redirects
        hub.broken_ranges = 1
        streamed, downloaded = opened(tmp_path, hub)
    assert "error" not in streamed
    assert {**streamed, "files": None} == {**downloaded, "files": None}
    assert streamed["files"] == ["config.json", "model.safetensors.index.json"]
    assert streamed["identity"] == {"kind": "hub", "repo": "org/model", "commit": COMMIT}


def test_the_token_goes_to_the_hub_and_to_nobody_else(tmp_path: Path) -> None:
    with running_hub({"org/model": Repository({COMMIT: sharded()}, {"main": COMMIT})}) as hub:
        hub.redirects = True
        opened(tmp_path, hub, "streamed")
        assert hub.tokens == {"Bearer hf_secret"}
        assert "Range" in hub.cdn_headers
        assert "Authorization" not in hub.cdn_headers


def test_an_address_that_has_expired_is_asked_for_again(tmp_path: Path) -> None:
    with running_hub({"org/model": Repository({COMMIT: sharded()}, {"main": COMMIT})}) as hub:
        hub.redirects = True
        hub.expires_after = 3
        (streamed,) = opened(tmp_path, hub, "streamed")
        assert hub.signature != "first"
    assert "error" not in streamed


def test_a_file_that_a_download_left_in_the_cache_is_read_there_if_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"0123456789")
    ranges = HubRanges(ModelRef("org/model"), COMMIT, tmp_path)
    whole, grown = (RangeFile("a.safetensors", size, None) for size in (10, 11))
    assert bytes(ranges.read(whole, 3, 8)) == b"34567"  # without asking the Hub where it lies
    assert ranges.cached(whole) == tmp_path / "a.safetensors"
    assert ranges.cached(grown) is None
    assert ranges.cached(RangeFile("b.safetensors", 10, None)) is None


def test_what_cannot_be_streamed_says_what_to_do(tmp_path: Path) -> None:
    pickled = {"config.json": b"{}", "pytorch_model.bin": b"pickled"}
    with running_hub({"org/model": Repository({COMMIT: pickled}, {"main": COMMIT})}) as hub:
        (answer,) = opened(tmp_path, hub, "streamed")
    assert "org/model: pytorch_model.bin is no .safetensors file: only those can be streamed" in answer["error"]
    assert "hf_secret" not in answer["error"]
