"""A real S3 server (moto's) in a process of its own, and the variables by which clients find it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import boto3
import obstore
from obstore.store import from_url

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


@contextlib.contextmanager
def running_s3() -> Iterator[str]:
    """moto's server on a free port; yields its address. It takes any credentials and checks no signature."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            raise AssertionError("moto's server did not start")
        threading.Thread(target=_read_away, args=[server.stderr], daemon=True).start()
        yield found[1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def make_bucket(endpoint: str, name: str) -> None:
    """An empty bucket."""
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request).close()


def upload(directory: Path, url: str) -> str:
    """Copy a directory to s3://BUCKET/PREFIX, whole objects; returns the URL."""
    store = _store(url)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            obstore.put(store, path.relative_to(directory).as_posix(), path.read_bytes(), use_multipart=False)
    return url


def objects(url: str) -> dict[str, bytes]:
    """Every object under s3://BUCKET[/PREFIX], by its name there."""
    store = _store(url)
    return {
        meta["path"]: bytes(obstore.get(store, meta["path"]).bytes()) for page in obstore.list(store) for meta in page
    }


def uploads(url: str) -> list[str]:
    """Keys of multipart uploads in the bucket that were neither completed nor aborted."""
    bucket = url.removeprefix("s3://").split("/")[0]
    found = boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return sorted(upload["Key"] for upload in found)


def upload_bytes(url: str, data: bytes) -> None:
    """An object at s3://BUCKET/KEY."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)


def remove(url: str) -> None:
    """The object at s3://BUCKET/KEY."""
    place, _, name = url.rpartition("/")
    obstore.delete(_store(place), name)


def _store(url: str) -> Any:
    return from_url(url, client_options={"allow_http": True})


def _read_away(stream: IO[str]) -> None:
    """What the server says about every request: a full pipe would stop it."""
    for _ in stream:
        pass
