"""An output in an object store, which can neither rename nor resume a file: whole files, and a manifest last of all.

A run that was killed is resumed by the same command anywhere: records beside the finished files say what is there
(engine.remote.layout). `begun.json` is written with If-None-Match, so two plans never share a prefix; its token is
looked at again before a file is completed and before the manifest is written. So a writer that was taken for dead does
no harm: under the same plan it writes the same bytes, and after `clean` it finds another token, or none, and stops.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from engine import failpoints
from engine.errors import InputError, MergefleetError, OutputDamaged, OutputExists, Refused
from engine.execution.execute import Executed
from engine.execution.journal import FORMAT, refuse_other_plan
from engine.execution.records import joined, unjoined
from engine.methods.contract import Facts
from engine.outputs.output import Finished
from engine.planning.plan import Plan, Tile
from engine.remote.bucket import Bucket, Found
from engine.remote.layout import BEGUN, MANIFEST, PARTIAL, PUBLISHING, record_of
from engine.remote.source import private_directory
from engine.remote.url import Url
from engine.tensorfile.index import INDEX_NAME

_AT_ONCE = 16


class BucketOutput:
    """The one output at a URL, of one plan; `open` makes it, or `join` in a process that helps."""

    def __init__(self, url: Url, plan: Plan, token: str, *, is_new: bool = False) -> None:
        self.out = url
        self.bucket = output_bucket(url)
        self._plan = plan
        self._token = token
        self._is_new = is_new
        self._directory: Path | None = None

    @classmethod
    def open(cls, url: Url, plan: Plan) -> BucketOutput:
        """Begin or resume it. Raises OutputExists, InputsChanged, or InputError where the place cannot be used."""
        refuse_existing_objects(url)
        bucket = output_bucket(url)
        token, files = secrets.token_hex(8), [file.name for file in plan.files]
        facts = {"mergefleet": FORMAT, "plan": plan.digest, "describe": dict(plan.describe)}
        begun = {**facts, "token": token, "files": files}
        if bucket.put(BEGUN, encoded(begun), create=True):
            failpoints.reach("bucket.begun")
            return cls(url, plan, token, is_new=True)
        return cls.join(url, plan)

    @classmethod
    def join(cls, url: Url, plan: Plan) -> BucketOutput:
        """Go on with what was begun. InputsChanged where that was another plan, Refused where nothing was begun."""
        begun = read_object(output_bucket(url), BEGUN)
        if begun is None:
            raise Refused(f"{url}: was finished or removed by another process meanwhile. Nothing is written any more.")
        refuse_other_plan(begun, plan.digest, plan.describe, place=url, out=url)
        return cls(url, plan, str(begun.get("token")))

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = private_directory()
        return self._directory

    @cached_property
    def _tiles(self) -> dict[str, list[Tile]]:
        """The tiles of every file, by its name."""
        tiles: dict[str, list[Tile]] = {file.name: [] for file in self._plan.files}
        for tile in self._plan.tiles:
            tiles[self._plan.files[self._plan.tensors[tile.tensor].file].name].append(tile)
        return tiles

    @property
    def left_in(self) -> str:
        return f"{self.out}/{PARTIAL}"

    def finished(self) -> Finished:
        """The tiles of files that are there as they were written. Facts die with the file they were measured for."""
        done: dict[int, list[bytes]] = {}
        for name, record in self._records().items():
            done |= self._tiles_of(name, record)
        return done, {}

    def finished_file(self, file: int) -> dict[int, list[bytes]]:
        """Its tiles, where it is recorded: by a worker that died before it could say so, perhaps. Else none."""
        name = self._plan.files[file].name
        record = read_object(self.bucket, record_of(name))
        return {} if record is None else self._tiles_of(name, record)

    def record(self, tile: Tile, blocks: list[bytes]) -> None:
        """A tile alone is worth nothing here: see `record_file`."""

    def record_facts(self, index: int, facts: Facts) -> None:
        """See `finished`."""

    def record_file(self, file: int, executed: Executed) -> None:
        """A file is written whole: from now on it is not made again."""
        name = self._plan.files[file].name
        found = self.bucket.head(name)
        if found is None or found.size != self._plan.files[file].nbytes:
            raise OutputDamaged(
                f"{self.out}/{name}: has {found.size if found else 0:_} bytes, {self._plan.files[file].nbytes:_} were "
                "written. Run the same command again.",
                transient=True,
            )
        blocks: dict[str, list[bytes]] = {}
        for number in sorted(executed.blocks):
            tensor = self._plan.tensors[self._plan.tiles[number].tensor]
            if tensor.file == file:
                blocks.setdefault(tensor.name, []).extend(executed.blocks[number])
        texts = {tensor: joined(pieces) for tensor, pieces in blocks.items()}
        self.bucket.put(record_of(name), encoded({"size": found.size, "etag": found.etag, "blocks": texts}))
        failpoints.reach("upload.recorded")

    def refuse_fenced(self) -> None:
        """Refused where this output was finished, or given up by `clean`: a writer taken for dead must not go on."""
        begun = read_object(self.bucket, BEGUN)
        if begun is None or begun.get("token") != self._token:
            raise Refused(f"{self.out}: was finished or removed by another process meanwhile. Nothing more is written.")

    def publish(self, weights: str) -> Url:
        """Upload the files beside the tensors, look at every file once more, write the manifest, tidy up."""
        from engine.remote.clean import abort_leftovers  # which knows this file

        small = sorted(path.relative_to(self.directory).as_posix() for path in self._small_files())
        small.sort(key=lambda name: name == INDEX_NAME)  # it names what is there by now
        self.refuse_fenced()
        self.bucket.put(PUBLISHING, encoded({"files": small}))
        for name in small:
            self.refuse_fenced()
            failpoints.reach("small_object.write")
            self.bucket.put(name, (self.directory / name).read_bytes())
        files = self._checked_files() | {name: self._head(name) for name in small}
        listing = {name: {"size": found.size, "etag": found.etag} for name, found in files.items()}
        manifest = {"mergefleet": FORMAT, "plan": self._plan.digest, "weights": weights, "files": listing}
        self.refuse_fenced()
        failpoints.reach("manifest.write")
        self._write_manifest(encoded(manifest))
        failpoints.reach("manifest.written")
        remove_partial(self.bucket, [file.name for file in self._plan.files])
        abort_leftovers(self.out)
        self.close()
        return self.out

    def abandon(self) -> None:
        if self._is_new:  # what was there may be another process's, which goes on
            with contextlib.suppress(MergefleetError):  # why it is abandoned is what the user must hear
                remove_partial(self.bucket, [])

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _tiles_of(self, name: str, record: Mapping[str, Any]) -> dict[int, list[bytes]]:
        """Digests of the blocks of a recorded file's tiles, if the file is the one that was recorded."""
        if self.bucket.head(name) != _found(record):
            return {}
        blocks = {tensor: unjoined(text) for tensor, text in record["blocks"].items()}
        return {
            tile.number: blocks[self._plan.tensors[tile.tensor].name][tile.first : tile.first + tile.count]
            for tile in self._tiles[name]
        }

    def _small_files(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file()]

    def _write_manifest(self, data: bytes) -> None:
        if not self.bucket.put(MANIFEST, data, create=True) and self.bucket.get(MANIFEST) != data:
            # ours, where the answer to a first try was lost
            raise OutputExists(f"{self.out}: was finished by another process meanwhile.", path=str(self.out))

    def _checked_files(self) -> dict[str, Found]:
        """The weight files, which must be those that were recorded."""
        records = self._records()
        found = {}
        for file in self._plan.files:
            found[file.name] = self._head(file.name)
            if file.name not in records or _found(records[file.name]) != found[file.name]:
                raise OutputDamaged(
                    f"{self.out}/{file.name}: is not what was written there. Run the same command again: what is not "
                    "right is made anew.",
                    path=str(self.out),
                )
        return found

    def _head(self, name: str) -> Found:
        found = self.bucket.head(name)
        if found is None:
            raise OutputDamaged(f"{self.out}/{name}: is gone again. Run the same command again.", path=str(self.out))
        return found

    def _records(self) -> dict[str, dict[str, Any]]:
        """What is recorded of finished files, by name."""
        names = [file.name for file in self._plan.files]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            records = pool.map(lambda name: read_object(self.bucket, record_of(name)), names)
            return {name: record for name, record in zip(names, records, strict=True) if record is not None}


def output_bucket(url: Url) -> Bucket:
    return Bucket(url, error=InputError, outage=MergefleetError)


def refuse_existing_objects(url: Url) -> None:
    """OutputExists (exit 3) where there is anything under the prefix but an output that was begun."""
    bucket = output_bucket(url)
    there = bucket.list()
    if there is None:  # this account may not list
        heads = {name: bucket.head(name) for name in (MANIFEST, BEGUN, "config.json")}
        there = {name: found for name, found in heads.items() if found is not None}
    if MANIFEST in there:
        rest = f" {PARTIAL}/ is left over: `mergefleet clean {url}` removes it." if BEGUN in there else ""
        raise OutputExists(f"{url}: an output is there already. Remove it or name another one.{rest}", path=str(url))
    if there and BEGUN not in there:
        many = "an object is" if len(there) == 1 else f"{len(there)} objects are"
        raise OutputExists(
            f"{url}: {many} there already ({min(there)}). Remove what is there or name another output.",
            path=str(url),
        )


def remove_partial(bucket: Bucket, files: list[str]) -> list[str]:
    """Remove what is only of use while an output is made, `begun.json` last; returns the names."""
    names = [*(record_of(name) for name in files), PUBLISHING, BEGUN]
    for name in names:
        failpoints.reach("object.remove")
        bucket.delete(name)
    return names


def _found(record: Mapping[str, Any]) -> Found:
    return Found(record["size"], record["etag"])


def encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def read_object(bucket: Bucket, name: str) -> dict[str, Any] | None:
    """A JSON object of ours; None where it is not there."""
    data = bucket.get(name)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(f"{bucket.url}/{name}: is in the way and was not written by mergefleet. Move it away.")
    return value
