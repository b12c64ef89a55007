"""What dead writers left at a URL: their unfinished uploads, and the objects of an output that was never finished."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.errors import InputError
from engine.remote.bucket import Bucket
from engine.remote.faults import endpoint
from engine.remote.layout import BEGUN, MANIFEST, PUBLISHING, record_of
from engine.remote.output import encoded, output_bucket, read_object
from engine.remote.url import Url

_RULES = {
    "s3": 'aws s3api put-bucket-lifecycle-configuration --bucket {bucket} --lifecycle-configuration \'{{"Rules": '
    '[{{"ID": "unfinished", "Status": "Enabled", "Filter": {{"Prefix": ""}}, '
    '"AbortIncompleteMultipartUpload": {{"DaysAfterInitiation": 1}}}}]}}\'',
    "gs": "gcloud storage buckets update gs://{bucket} --lifecycle-file=rule.json, with rule.json: "
    '{{"rule": [{{"action": {{"type": "AbortIncompleteMultipartUpload"}}, "condition": {{"age": 1}}}}]}}',
    "az": "none is needed: Azure itself drops what was uploaded and never completed, after a week.",
}


def clean_url(url: Url) -> tuple[list[str], list[str]]:
    """Remove what dead runs left there, never a finished output; returns what was removed, and what to know besides.

    A writer that is not dead after all is fenced off first: it will complete nothing any more.
    """
    bucket = output_bucket(url)
    bucket.list()  # of no use but to tell at once what is wrong with the place
    begun = read_object(bucket, BEGUN)
    names: list[str] = []
    if begun is not None:
        names = _leftovers(bucket, begun)
        bucket.put(BEGUN, encoded({**begun, "token": secrets.token_hex(8)}))
    removed, notes = _clean_uploads(url)
    for name in names:
        if bucket.head(name) is not None:
            bucket.delete(name)
            removed.append(f"{url}/{name}")
    return removed, notes


def _leftovers(bucket: Bucket, begun: Mapping[str, Any]) -> list[str]:
    """What an output that was begun may have left, `begun.json` last, by which it is known."""
    weights = [str(name) for name in begun.get("files", ())]
    names = [record_of(name) for name in weights]
    if bucket.head(MANIFEST) is None:
        publishing = read_object(bucket, PUBLISHING) or {}
        names += [*weights, *map(str, publishing.get("files", ()))]
    return [*names, PUBLISHING, BEGUN]


def abort_leftovers(url: Url) -> None:
    """Abort uploads that earlier writers of a finished output left open, where that can be done."""
    with contextlib.suppress(InputError):
        _clean_uploads(url)


def _clean_uploads(url: Url) -> tuple[list[str], list[str]]:
    """Abort the uploads of weight files under the prefix, where they can be listed: obstore cannot, boto3 can."""
    if url.scheme != "s3":
        return [], [f"unfinished uploads cannot be listed here. A lifecycle rule removes them: {_rule(url)}"]
    try:
        import boto3
    except ImportError:
        advice = "pip install 'mergefleet[s3]', and run this again; or let a lifecycle rule remove them"
        return [], [f"unfinished uploads can only be listed with boto3: {advice}: {_rule(url)}"]
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return _abort_uploads(boto3.client("s3", endpoint_url=endpoint("s3")), url), []
    except ClientError as error:
        said = error.response.get("Error", {}).get("Code", "an error")
        raise InputError(f"{url}: unfinished uploads cannot be listed or aborted: {said}.") from error
    except BotoCoreError as error:
        raise InputError(f"{url}: unfinished uploads cannot be listed: {type(error).__name__}.") from error


def _abort_uploads(client: Any, url: Url) -> list[str]:
    removed = []
    for found in list(_uploads(client.get_paginator("list_multipart_uploads"), url)):
        # gone: it was completed or aborted meanwhile, or the answer to a first try was lost
        with contextlib.suppress(client.exceptions.NoSuchUpload):
            client.abort_multipart_upload(Bucket=url.bucket, Key=found["Key"], UploadId=found["UploadId"])
        removed.append(f"an unfinished upload of {url.scheme}://{url.bucket}/{found['Key']}")
    return removed


def _uploads(pages: Any, url: Url) -> Iterator[Mapping[str, Any]]:
    """Uploads of weight files directly under the prefix: nothing else is uploaded in parts."""
    page: Mapping[str, Any]
    for page in pages.paginate(Bucket=url.bucket, Prefix=f"{url.prefix}/"):
        found: Iterable[Mapping[str, Any]] = page.get("Uploads", ())
        for upload in found:
            name = str(upload["Key"]).removeprefix(f"{url.prefix}/")
            if name.endswith(".safetensors") and "/" not in name:
                yield upload


def _rule(url: Url) -> str:
    return _RULES[url.scheme].format(bucket=url.bucket)
