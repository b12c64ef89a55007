"""A merge of many shards raises its own limit of open files, or says at once that it may not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SCRIPT = """
import resource, sys
from engine import MergefleetError, Options, ShardSize, merge, parse_recipe
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[4])))
models = [{"model": sys.argv[1], "parameters": {"weight": 1}}]
options = Options(shard_size=ShardSize(4))
try:
    merge(parse_recipe({"merge_method": "linear", "models": models}), sys.argv[2], options=options)
except MergefleetError as error:
    sys.exit(error.message)
"""


def merged(tmp_path: Path, *, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    """Merge 60 shards into 60, in a process with these limits."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    for layer in range(60):
        save_file({f"model.layers.{layer}.w": np.ones(1, np.float32)}, source / f"{layer}.safetensors")
    weight_map = {f"model.layers.{layer}.w": f"{layer}.safetensors" for layer in range(60)}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (source / "config.json").write_text(json.dumps({"num_hidden_layers": 60}))
    command = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out"), str(soft), str(hard)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_more_shards_than_the_soft_limit_allows_are_merged(tmp_path: Path) -> None:
    done = merged(tmp_path, soft=100, hard=1000)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hard_limit_that_is_too_low_is_named_before_anything_is_written(tmp_path: Path) -> None:
    done = merged(tmp_path, soft=100, hard=150)
    assert done.returncode == 1
    assert done.stderr.startswith("184 files have to be open at once, the limit is 150: raise it (ulimit -Hn)")
    assert not (tmp_path / "out.partial").exists()
