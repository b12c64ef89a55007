"""Models in an object store: the same merge as from a disk, through faults too, and errors that say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from adapters import factors, write_adapter
from backends import bytes_of, recipe_of
from faulty_proxy import Fault, Proxy, at, at_random, running_proxy
from s3_server import remove, upload
from shared_families import shared_family
from tiny_models import vocabulary_model

from engine import Options, ShardSize, merge
from engine.errors import InputsChanged, SourceError
from engine.models.checkpoint import open_checkpoint
from engine.recipes.model_ref import ModelRef
from engine.recipes.reader import parse_recipe
from engine.remote.faults import Patience
from engine.tensorfile.index import INDEX_NAME

MIB = 1 << 20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, without the waiting."""
    monkeypatch.setattr(Patience, "pause_s", lambda self, failures: 0.0)


@pytest.fixture
def proxy(bucket: str, s3_endpoint: str, quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server of `bucket` behind a proxy."""
    with running_proxy(s3_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def uploaded(bucket: str, models: tuple[Path, ...]) -> tuple[Path, ...]:
    """The models' places in the bucket, as a recipe names them."""
    return tuple(Url(upload(model, f"{bucket}/family/{model.name}")) for model in models)  # type: ignore[misc]


class Url(str):
    """`recipe_of` takes paths and writes their text."""


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_merge_of_models_in_a_bucket_is_the_merge_of_their_copies_on_disk(
    method: str, bucket: str, tmp_path: Path
) -> None:
    models = shared_family("mixed", mixed=True).models
    options = Options(threads=2, tile_bytes=MIB)
    expected = merge(recipe_of(method, models), tmp_path / "expected", options=options)
    made = merge(recipe_of(method, uploaded(bucket, models)), tmp_path / "made", options=options)
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert made.weights_digest == expected.weights_digest
    for name in ("config.json", "tokenizer.json"):
        assert (made.out / name).is_file() == (expected.out / name).is_file()


def test_faults_change_nothing_but_the_time(proxy: Proxy, bucket: str, tmp_path: Path) -> None:
    models = shared_family("mixed", mixed=True).models
    recipe = recipe_of("slerp", uploaded(bucket, models))
    proxy.choose = at_random(1, dict.fromkeys((Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET, Fault.CUT, Fault.SLOW), 0.06))
    made = merge(recipe, tmp_path / "made", options=Options(threads=2))
    expected = merge(recipe_of("slerp", models), tmp_path / "expected", options=Options(threads=2))
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert {Fault.RESET, Fault.CUT, Fault.SLOW_DOWN} <= set(proxy.faults)


def test_a_model_in_shards_is_read_by_its_index(bucket: str, tmp_path: Path) -> None:
    models = tuple(vocabulary_model(tmp_path / name, rows=64, seed=seed) for seed, name in enumerate("abc"))
    shards = merge(recipe_of("linear", models), tmp_path / "shards", options=Options(shard_size=ShardSize(600)))
    url = upload(shards.out, f"{bucket}/shards")
    local, there = open_checkpoint(ModelRef(str(shards.out))), open_checkpoint(ModelRef(url))
    assert len(json.loads((shards.out / INDEX_NAME).read_text())["weight_map"]) == len(there.tensors) > 1
    assert {name: there.content_digest(name) for name in there.tensors} == {
        name: local.content_digest(name) for name in local.tensors
    }
    lost = min(path.name for path in shards.out.glob("*.safetensors"))
    remove(f"{url}/{lost}")
    with pytest.raises(SourceError, match=rf"{url}.*1 of \d shards are missing \({lost}\)"):
        open_checkpoint(ModelRef(url))


def test_an_account_that_may_read_but_not_list_reads_the_model(proxy: Proxy, bucket: str, tmp_path: Path) -> None:
    url = upload(vocabulary_model(tmp_path / "model", rows=8), f"{bucket}/model")
    proxy.choose = lambda request: Fault.DENIED if "list-type" in request.query else None
    assert open_checkpoint(ModelRef(url)).config["vocab_size"] == 8


def test_an_adapter_in_a_bucket_is_the_adapter(bucket: str, tmp_path: Path) -> None:
    model = vocabulary_model(tmp_path / "model", rows=64)
    adapter = write_adapter(tmp_path / "adapter", factors("model.layers.0.self_attn.q_proj", 4, 4))
    local = open_checkpoint(ModelRef(str(model), lora=ModelRef(str(adapter))))
    places = [ModelRef(upload(path, f"{bucket}/{path.name}")) for path in (model, adapter)]
    there = open_checkpoint(replace(places[0], lora=places[1]))
    assert {n: there.content_digest(n) for n in there.tensors} == {n: local.content_digest(n) for n in local.tensors}
    assert there.identity["adapter"]["url"] == places[1].path


def test_an_object_that_is_replaced_in_mid_merge_is_noticed(proxy: Proxy, bucket: str, tmp_path: Path) -> None:
    first = upload(vocabulary_model(tmp_path / "first", rows=64), f"{bucket}/first")
    other = vocabulary_model(tmp_path / "other", rows=64, seed=1)
    checkpoint = open_checkpoint(ModelRef(first))
    upload(other, first)
    with pytest.raises(SourceError, match=rf"{first}/model.safetensors: was changed meanwhile"):
        checkpoint.content_digest("lm_head.weight")
    with pytest.raises(SourceError, match=rf"{first}/model.safetensors: was changed while it was merged"):
        checkpoint.refuse_changed()


def test_a_resume_from_another_version_of_an_object_is_refused_by_name(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tuple(vocabulary_model(tmp_path / name, rows=64, seed=seed) for seed, name in enumerate("abc"))
    places = uploaded(bucket, models)
    monkeypatch.setattr("engine.outputs.publish.Staging.publish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge(recipe_of("linear", places), tmp_path / "out")
    upload(vocabulary_model(tmp_path / "new", rows=64, seed=9), str(places[1]))
    with pytest.raises(InputsChanged, match=rf"{places[1]}/model.safetensors: .*ETag"):
        merge(recipe_of("linear", places), tmp_path / "out")


def test_a_truncated_object_is_an_error_that_names_it(bucket: str, tmp_path: Path) -> None:
    model = vocabulary_model(tmp_path / "model", rows=64)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    url = upload(model, f"{bucket}/model")
    with pytest.raises(SourceError, match=rf"{url}/model.safetensors: tensor .* the file has .* It is truncated"):
        open_checkpoint(ModelRef(url))


def test_a_range_that_stays_short_is_an_error(proxy: Proxy, bucket: str, tmp_path: Path) -> None:
    url = upload(vocabulary_model(tmp_path / "model", rows=64), f"{bucket}/model")
    proxy.choose = at(Fault.CUT, lambda request: "safetensors" in request.path, times=range(1000))
    with pytest.raises(SourceError, match=rf"{url}/model.safetensors: 127.0.0.1:\d+ cannot be reached"):
        open_checkpoint(ModelRef(url))


def test_what_is_wrong_with_a_place_is_said_in_one_line(
    bucket: str, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = upload(vocabulary_model(tmp_path / "model", rows=8), f"{bucket}/model")
    name = bucket.removeprefix("s3://")
    said = {}
    said["nothing there"] = _said(f"{bucket}/nothing")
    said["no bucket"] = _said("s3://no-such-bucket/model")
    said["a file"] = _said(f"{model}/model.safetensors")
    with pytest.raises(SourceError, match=rf"^r.yml: models\[0\].model: {bucket}/nothing: there is nothing"):
        merge(parse_recipe(recipe_naming(f"{bucket}/nothing", model), origin="r.yml"), tmp_path / "out")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    said["denied"] = _said(model)
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:password@127.0.0.1:9")
    said["wrong endpoint"] = _said(model)
    assert f"{bucket}/nothing: there is nothing under this prefix" in said["nothing there"]
    assert "there is no bucket 'no-such-bucket' at 127.0.0.1:" in said["no bucket"]
    assert "AWS_ENDPOINT_URL" in said["no bucket"]
    assert "names a file: name the folder" in said["a file"]
    assert "access denied" in said["denied"]
    assert "AWS_ACCESS_KEY_ID" in said["denied"]
    assert "127.0.0.1:9 cannot be reached: correct AWS_ENDPOINT_URL" in said["wrong endpoint"]
    for line in said.values():
        assert "\n" not in line
        assert "test-secret" not in line
        assert "test-key" not in line
        assert "password" not in line
    assert name in said["denied"]


def recipe_naming(*models: str) -> dict[str, object]:
    listed = [{"model": model, "parameters": {"weight": 1.0}} for model in models]
    return {"merge_method": "linear", "models": listed, "dtype": "float32"}


def _said(place: str) -> str:
    with pytest.raises(SourceError) as caught:
        open_checkpoint(ModelRef(place))
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "variables", "said"),
    [
        ("az://container/model", {}, "no credentials: set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
        ("az://container/model", {"NAME": "a", "KEY": "no-base64!"}, "begins with AZURE_ has a value that cannot"),
        ("gs://bucket/model", {"GOOGLE_APPLICATION_CREDENTIALS": "/not/there.json"}, "CREDENTIALS names no file"),
        (
            "s3://bucket/model",
            {"AWS_SKIP_SIGNATURE": "no-boolean!"},
            "begins with AWS_ has a value that cannot be used",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_told_without_its_value(
    place: str, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name if "_" in name else f"AZURE_STORAGE_ACCOUNT_{name}", value)
    line = _said(place)
    assert said in line
    assert not any(value in line for value in variables.values() if len(value) > 1)


def test_missing_credentials_are_told_from_a_denial(
    proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = upload(vocabulary_model(tmp_path / "model", rows=8), f"{bucket}/model")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # the cloud's service for credentials, which is not there: obstore reads its address from this variable
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    assert "no credentials: set AWS_ACCESS_KEY_ID" in _said(model)


def test_a_public_bucket_needs_no_credentials(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = upload(vocabulary_model(tmp_path / "model", rows=8), f"{bucket}/model")
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    client.put_bucket_acl(Bucket=name, ACL="public-read")
    for key in ("config.json", "model.safetensors"):
        client.put_object_acl(Bucket=name, Key=f"model/{key}", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    there = open_checkpoint(ModelRef(model))
    assert len({there.content_digest(name) for name in there.tensors}) == len(there.tensors)
