"""Sources on the Hub, against a server on this machine that answers as the Hub does.

huggingface_hub reads its settings when it is imported, so each group of requests runs in a process of its own, as
the command does: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured from the environment.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hub_standin import Hub, Repository, commit_id, running_hub
from safetensors.numpy import save

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = commit_id("old"), commit_id("new")

OPEN_EACH = """
import json, sys
from engine.models.checkpoint import open_checkpoint
from engine.errors import SourceError
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model

for path, revision in json.loads(sys.argv[1]):
    try:
        source = open_checkpoint(parse_model(path, KeyPath("")) if "+" in path else ModelRef(path, revision))
    except SourceError as error:
        print(json.dumps({"error": str(error)}))
        continue
    digests = {name: source.content_digest(name) for name in source.tensors}
    print(json.dumps({"identity": source.identity, "digests": digests, "config": source.config,
                      "files": sorted(path.name for path in source.directory.iterdir())}))
"""


def open_each(refs: Sequence[tuple[str, str | None]], home: Path, **environment: str) -> list[dict[str, Any]]:
    """What a fresh process gets for each (repository, revision): its identity, digests and files, or the error."""
    hidden = ("HF_", "HUGGING_FACE", "TRANSFORMERS_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    env |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", OPEN_EACH, json.dumps(list(refs))]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def model(value: float, **more: bytes) -> Mapping[str, bytes]:
    weights = save({"w": np.full((2, 3), value, np.float32)})
    return {"config.json": b'{"hidden_size": 3}', "model.safetensors": weights, "tokenizer.json": b"{}", **more}


def sharded(*extra: tuple[str, bytes]) -> Mapping[str, bytes]:
    files = {"a-1.safetensors": save({"a": np.zeros(3, np.float32)}), "a-2.safetensors": save({"b": np.ones(2)})}
    index = {"weight_map": {"a": "a-1.safetensors", "b": "a-2.safetensors"}}
    return {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **files, **dict(extra)}


def only(files: Mapping[str, bytes]) -> Repository:
    return Repository({NEW: files}, {"main": NEW})


def test_a_branch_resolves_to_a_commit_and_the_commit_is_the_identity(tmp_path: Path) -> None:
    repository = Repository({OLD: model(1.0), NEW: model(2.0)}, {"main": NEW, "v1": OLD})
    with running_hub({"org/model": repository}) as hub:
        refs = [("org/model", None), ("org/model", "v1"), ("org/model", OLD)]
        main, tag, commit = open_each(refs, tmp_path, HF_ENDPOINT=hub.url)
    assert main["identity"] == {"kind": "hub", "repo": "org/model", "commit": NEW}
    assert tag["identity"] == commit["identity"] == {"kind": "hub", "repo": "org/model", "commit": OLD}
    assert tag["digests"] == commit["digests"] != main["digests"]
    assert main["config"] == {"hidden_size": 3}


def test_only_what_a_merge_needs_is_downloaded(tmp_path: Path) -> None:
    unneeded = {"pytorch_model.bin": b"x", "README.md": b"x", "consolidated.safetensors": b"x", "code.py": b"x"}
    nested = {"original/params.json": b"{}", "original/w.safetensors": b"x"}
    repositories = {"org/one": only({**model(1.0), **unneeded, **nested}), "org/two": only(sharded(*unneeded.items()))}
    with running_hub(repositories) as hub:
        one, two = open_each([("org/one", None), ("org/two", None)], tmp_path, HF_ENDPOINT=hub.url)
        assert hub.downloaded() == {
            *("config.json", "tokenizer.json", "model.safetensors"),
            *("model.safetensors.index.json", "a-1.safetensors", "a-2.safetensors"),
        }
    assert one["digests"].keys() == {"w"}
    assert two["digests"].keys() == {"a", "b"}


def test_one_safetensors_file_of_any_name_is_the_model(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "weights.safetensors": save({"w": np.ones(2)}), "sub/x.safetensors": b"x"}
    with running_hub({"org/odd": only(files)}) as hub:
        (odd,) = open_each([("org/odd", None)], tmp_path, HF_ENDPOINT=hub.url)
    assert odd["files"] == ["config.json", "weights.safetensors"]


def torch_file(**tensors: Any) -> bytes:
    import torch

    torch.save({name: torch.tensor(values) for name, values in tensors.items()}, buffer := io.BytesIO())
    return buffer.getvalue()


def test_files_of_torch_save_are_downloaded_only_where_there_is_no_safetensors(tmp_path: Path) -> None:
    one, two = torch_file(a=[1.0]), torch_file(b=[2.0, 3.0])
    index = {"pytorch_model.bin.index.json": b'{"weight_map": {"a": "p-1.bin", "b": "p-2.bin"}}'}
    shards = {"config.json": b"{}", "p-1.bin": one, "p-2.bin": two, "training_args.bin": b"x", **index}
    repositories = {
        "org/one": only({"config.json": b"{}", "pytorch_model.bin": one, "optimizer.bin": b"x"}),
        "org/two": only(shards),
        "org/both": only({**shards, "model.safetensors": save({"w": np.ones(2)})}),
    }
    with running_hub(repositories) as hub:
        found = open_each([(name, None) for name in repositories], tmp_path, HF_ENDPOINT=hub.url)
        assert {"training_args.bin", "optimizer.bin"}.isdisjoint(hub.downloaded())
    assert [result["digests"].keys() for result in found] == [{"a"}, {"a", "b"}, {"w"}]
    assert "p-1.bin" not in found[2]["files"]


def test_an_adapter_comes_from_the_hub_at_a_commit_of_its_own(tmp_path: Path) -> None:
    factors = {"w.lora_A.weight": np.ones((1, 3), np.float32), "w.lora_B.weight": np.full((2, 1), 3, np.float32)}
    config = b'{"peft_type": "LORA", "r": 1, "lora_alpha": 2}'
    adapter = {"adapter_config.json": config, "adapter_model.safetensors": save(factors), "adapter_model.bin": b"x"}
    plain = {"config.json": b"{}", "model.safetensors": save({"w.weight": np.ones((2, 3), np.float32)})}
    baked = {**plain, "model.safetensors": save({"w.weight": np.full((2, 3), 7, np.float32)})}
    repositories = {
        "org/model": only(plain),
        "org/baked": only(baked),
        "org/lora": Repository({OLD: adapter}, {"v1": OLD}),
    }
    with running_hub(repositories) as hub:
        refs = [("org/model+org/lora@v1", None), ("org/baked", None)]
        adapted, expected = open_each(refs, tmp_path, HF_ENDPOINT=hub.url)
        assert "adapter_model.bin" not in hub.downloaded()
    assert adapted["identity"]["model"] == {"kind": "hub", "repo": "org/model", "commit": NEW}
    assert adapted["identity"]["adapter"] == {"kind": "hub", "repo": "org/lora", "commit": OLD}
    assert adapted["digests"] == expected["digests"]


def refused(hub: Hub, home: Path, path: str, revision: str | None = None, **environment: str) -> str:
    (result,) = open_each([(path, revision)], home, HF_ENDPOINT=hub.url, **environment)
    assert "\n" not in result["error"]
    return str(result["error"])


def test_every_refusal_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    good = only(model(1.0))
    repositories = {
        "org/good": good,
        "org/gated": replace(good, access="gated"),
        "org/private": replace(good, access="private"),
        "org/forbidden": replace(good, access="forbidden"),
        "org/bin": only({"config.json": b"{}", "pytorch_model.bin": b"x"}),
        "org/gguf": only({"config.json": b"{}", "model.q4.gguf": b"x"}),
        "org/many": only({"config.json": b"{}", "a.safetensors": b"x", "b.safetensors": b"x"}),
        "org/lost": only({name: data for name, data in sharded().items() if name != "a-2.safetensors"}),
        "org/escape": only(
            {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"w": "../x.safetensors"}}'}
        ),
        "org/bare": only({"model.safetensors": save({"w": np.ones(2)})}),
    }
    expected = {
        ("org/none", None): ("is no directory here and no repository at", "hf auth login"),
        ("org/good", "v9"): ("org/good@v9: has no revision 'v9'",),
        ("org/gated", None): ("is gated: accept its conditions at", "/org/gated"),
        ("org/private", None): ("if private, log in", "HF_TOKEN"),
        ("org/forbidden", None): ("403", "another"),
        ("org/bin", None): ("pytorch_model.bin: is no archive that torch.save writes",),
        ("org/gguf", None): ("model.q4.gguf", "Convert it"),
        ("org/many", None): ("2 .safetensors files", "index.json"),
        ("org/lost", None): ("1 of 2 shards are missing (a-2.safetensors)",),
        ("org/escape", None): ("outside the model's directory",),
        ("org/bare", None): ("config.json: not found",),
    }
    with running_hub(repositories) as hub:
        results = open_each(list(expected), tmp_path, HF_ENDPOINT=hub.url)
    for (ref, parts), result in zip(expected.items(), results, strict=True):
        assert result.keys() == {"error"}, ref
        assert "\n" not in result["error"]
        assert ref[0].split("/")[1] in result["error"]
        for part in parts:
            assert part in result["error"]


def test_a_directory_that_looks_local_is_never_looked_up_on_the_hub(tmp_path: Path) -> None:
    refs = [
        ("./org/model", None),
        ("/org/model", None),
        ("~/org-x/model", None),
        ("org/model/deep", None),
        ("model", None),
    ]
    with running_hub({"org/model": only(model(1.0))}) as hub:
        results = open_each(refs, tmp_path, HF_ENDPOINT=hub.url)
        assert hub.requests == []
    assert all("there is no such directory" in result["error"] for result in results)


def test_the_token_is_sent_and_a_second_run_needs_no_network(tmp_path: Path) -> None:
    with running_hub({"org/model": only(sharded()), "org/other": only(model(1.0))}) as hub:
        (online,) = open_each([("org/model", None)], tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret")
        assert hub.tokens == {"Bearer hf_secret"}
        offline = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
        before = len(hub.requests)
        again, missing = open_each([("org/model", None), ("org/other", None)], tmp_path, **offline)
        assert len(hub.requests) == before
    assert again == online
    assert "HF_HUB_OFFLINE is set" in missing["error"]


def test_a_cache_with_a_missing_shard_is_noticed_offline(tmp_path: Path) -> None:
    with running_hub({"org/model": only(sharded())}) as hub:
        open_each([("org/model", None)], tmp_path, HF_ENDPOINT=hub.url)
    next(tmp_path.rglob("a-2.safetensors")).unlink()
    (result,) = open_each([("org/model", None)], tmp_path, HF_HUB_OFFLINE="1")
    assert "not whole in the cache" in result["error"]


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound but not listening: connections are refused at once
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        (result,) = open_each([("org/model", None)], tmp_path, HF_ENDPOINT=url)
    assert f"is no directory here, and {url} cannot be reached" in result["error"]
    assert "\n" not in result["error"]
