"""Places in object stores, as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InputError
from engine.models.checkpoint import open_checkpoint
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model
from engine.remote.bucket import Bucket
from engine.remote.faults import _CLOUDS, AT_FIRST, LATER, Failure, explain, misset
from engine.remote.url import Url, is_url, parse_place, parse_url


def test_a_place_is_a_bucket_and_a_prefix() -> None:
    assert parse_url("s3://bucket/some/where/") == Url("s3", "bucket", "some/where")
    assert str(parse_url("gs://bucket/some/where")) == "gs://bucket/some/where"
    assert parse_url("az://container/out").name == "out"


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///x", "s3://bucket", "s3://bucket/", "s3://bucket/a/../b", "s3://b/a//b"]
)
def test_a_place_without_a_bucket_or_a_prefix_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"a place is s3://BUCKET/PREFIX"):
        parse_url(text)


@pytest.mark.parametrize("text", ["s3://key:SECRET@bucket/x", "az://container/x?sig=SECRET", "gs://bucket/x#SECRET"])
def test_a_secret_in_a_place_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_url(text)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("s3://key:SECRET@models/tune", "https://key:SECRET@host/model", "./base+s3://k:SECRET@models/lora"),
        *("s3://key:SEC+RET-SECRET@models/tune", "org/name+az://c/x?sig=SECRET", "s3://models/tune#SECRET"),
    ],
)
def test_a_secret_in_a_source_or_an_output_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_model(text, KeyPath("recipe.yml"))
    assert "SECRET" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        open_checkpoint(ModelRef(text[text.rfind("+", 0, text.index("://")) + 1 :]))
    assert "SECRET" not in str(caught.value)
    if "+" not in text:
        with pytest.raises(InputError) as caught:
            parse_place(text)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        *("127.0.0.1:15055", "garbage", "http://127.0.0.1:abc", "http://", "ftp://host", "http://a b", "http://%zz"),
        *(
            "http://h<x>",
            "http://a..b",
            "http://-",
            "http://[::1",
            "http://h:0",
            "http://0x7f.1.1.999",
            "http://1.2.3:1",
        ),
    ],
)
def test_an_endpoint_that_is_no_address_is_named_and_not_asked(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    with pytest.raises(InputError, match="s3://bucket/x: AWS_ENDPOINT_URL is no address"):
        Bucket(parse_url("s3://bucket/x")).list()


def test_variables_that_are_set_to_nothing_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    assert misset("s3") is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    assert misset("s3") == "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not."
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
    assert misset("gs") == "GOOGLE_APPLICATION_CREDENTIALS names no file."


def test_what_is_no_url_is_a_path() -> None:
    assert parse_place("out/s3") == Path("out/s3")
    assert not is_url("https://host/model")
    assert not is_url("org/name")
    assert is_url("gs://bucket/model")


@pytest.mark.parametrize("text", ["https://host/out", "s3:/bucket/out", "hub:/org/name", "S3://bucket/out"])
def test_an_output_at_another_kind_of_url_is_no_directory(text: str) -> None:
    with pytest.raises(InputError, match=r"name a directory, or s3://, gs:// or az://BUCKET/PREFIX") as caught:
        parse_place(text)
    assert ("Write s3:// in lower case." in str(caught.value)) == text.startswith("S3")


@pytest.mark.parametrize("patience", [AT_FIRST, LATER])
def test_pauses_grow_to_a_limit_and_never_beyond(patience: object) -> None:
    assert isinstance(patience, type(LATER))
    pauses = [patience.pause_s(failures) for failures in range(1, 40)]
    assert all(0 < pause <= patience.longest_s for pause in pauses)
    assert pauses[0] <= patience.first_s
    assert min(pauses[-5:]) >= patience.longest_s / 2


@pytest.mark.parametrize("scheme", _CLOUDS)
@pytest.mark.parametrize(
    ("text", "transient", "said"),
    [
        ("status code: 503 Service Unavailable: <Code>SlowDown</Code>", True, "answers 503 SlowDown"),
        ("status code: 429 Too Many Requests", True, "answers 429"),
        ("HTTP error: error sending request", True, "cannot be reached"),
        ("status code: 404: <Code>NoSuchBucket</Code>", False, "there is no bucket 'bucket'"),
        ("status code: 403: <Code>InvalidAccessKeyId</Code>", False, "access denied (InvalidAccessKeyId)"),
        ("status code: 400: <Code>ExpiredToken</Code>", False, "access denied (ExpiredToken)"),
        ("status code: 301: <Code>PermanentRedirect</Code>", False, "another region"),
        ("PUT http://169.254.169.254/latest/api/token: status code: 403", False, "no credentials"),
    ],
)
def test_every_failure_is_told_in_one_line_with_what_to_do(scheme: str, text: str, transient: bool, said: str) -> None:
    from obstore.exceptions import GenericError

    failure = Failure.of(GenericError(f"{text}\n<AWSAccessKeyId>hidden-key</AWSAccessKeyId>"))
    line = explain(Url(scheme, "bucket", "x"), failure)
    assert failure.is_transient == transient
    assert said in line
    assert "\n" not in line
    assert "hidden-key" not in line
