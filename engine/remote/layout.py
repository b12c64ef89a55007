"""The objects of an output in an object store, by name.

PREFIX/mergefleet-partial/begun.json            whose the prefix is: the plan, and a token of this output
PREFIX/mergefleet-partial/done/SHARD.json       one finished file: its size, its ETag, digests of its blocks
PREFIX/mergefleet-partial/publishing.json       the names of the small files that are about to come
PREFIX/model-0000k-of-0000n.safetensors         written by multipart upload: there whole or not at all
PREFIX/config.json, ..., index.json             once all files are finished
PREFIX/mergefleet-manifest.json                 last, and only where there is none: without it nothing is complete
"""

from __future__ import annotations

MANIFEST = "mergefleet-manifest.json"
PARTIAL = "mergefleet-partial"
BEGUN = f"{PARTIAL}/begun.json"
PUBLISHING = f"{PARTIAL}/publishing.json"


def record_of(name: str) -> str:
    """What is said of the finished file `name`."""
    return f"{PARTIAL}/done/{name}.json"
