"""`clean` of a URL: what dead runs left goes, what is finished or somebody else's stays."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
import pytest
from backends import recipe_of
from faulty_proxy import Fault, running_proxy
from s3_server import objects, upload, upload_bytes, uploads
from tiny_models import vocabulary_model

from engine import Options, ShardSize, merge
from engine.errors import InputError
from engine.remote.clean import clean_url
from engine.remote.layout import BEGUN, MANIFEST
from engine.remote.url import parse_url

Models = tuple[Path, ...]


@pytest.fixture
def tiny(tmp_path: Path) -> Models:
    return tuple(vocabulary_model(tmp_path / name, rows=64, seed=seed) for seed, name in enumerate("abc"))


def die_before_the_manifest(out: str, tiny: Models, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_proxy(endpoint) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.choose = lambda request: Fault.DENIED if MANIFEST in request.path and request.method == "PUT" else None
        with pytest.raises(InputError):
            merge(recipe_of("linear", tiny), out, options=Options(shard_size=ShardSize(600)))


def begin_upload(url: str) -> None:
    """An upload whose writer dies before it is completed."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    boto3.client("s3").create_multipart_upload(Bucket=bucket, Key=key)


def test_what_an_unfinished_output_left_goes_and_the_next_run_begins_anew(
    bucket: str, tiny: Models, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_before_the_manifest(f"{bucket}/out", tiny, s3_endpoint, monkeypatch)
    begin_upload(f"{bucket}/out/model-00001-of-00003.safetensors")
    upload_bytes(f"{bucket}/out/notes.txt", b"not ours")
    upload_bytes(f"{bucket}/outer/model.safetensors", b"not ours either")
    begin_upload(f"{bucket}/outer/model.safetensors")
    removed, notes = clean_url(parse_url(f"{bucket}/out"))
    assert objects(bucket).keys() == {"out/notes.txt", "outer/model.safetensors"}
    assert uploads(bucket) == ["outer/model.safetensors"]
    assert removed[-1] == f"{bucket}/out/{BEGUN}"
    assert f"an unfinished upload of {bucket}/out/model-00001-of-00003.safetensors" in removed
    assert notes == []


def test_a_run_that_ends_well_leaves_no_upload_of_earlier_ones(bucket: str, tiny: Models) -> None:
    begin_upload(f"{bucket}/out/model.safetensors")
    begin_upload(f"{bucket}/outer/model.safetensors")
    merge(recipe_of("linear", tiny), f"{bucket}/out")
    assert uploads(bucket) == ["outer/model.safetensors"]


def test_a_finished_output_stays_and_what_was_left_beside_it_goes(bucket: str, tiny: Models) -> None:
    merge(recipe_of("linear", tiny), f"{bucket}/out")
    finished = objects(f"{bucket}/out")
    upload_bytes(f"{bucket}/out/{BEGUN}", b'{"files": ["model.safetensors"], "token": "x"}')
    begin_upload(f"{bucket}/out/model.safetensors")
    clean_url(parse_url(f"{bucket}/out"))
    assert objects(f"{bucket}/out") == finished
    assert uploads(bucket) == []


def test_what_no_merge_began_is_not_touched(bucket: str, tiny: Models) -> None:
    upload(tiny[0], f"{bucket}/model")
    before = objects(bucket)
    assert clean_url(parse_url(f"{bucket}/model")) == ([], [])
    assert clean_url(parse_url(f"{bucket}/nothing")) == ([], [])
    assert objects(bucket) == before


def test_without_boto3_it_says_how_uploads_are_removed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    _, notes = clean_url(parse_url(f"{bucket}/out"))
    assert len(notes) == 1
    assert "pip install 'mergefleet[s3]'" in notes[0]
    assert "AbortIncompleteMultipartUpload" in notes[0]
