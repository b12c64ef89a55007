"""Outputs in an object store: the files of a local merge, resumed and never half there, whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import bytes_of, recipe_of
from faulty_proxy import Fault, Proxy, at, at_random, running_proxy
from s3_server import objects, upload, upload_bytes, uploads
from shared_families import shared_family
from tiny_models import vocabulary_model

from engine import Options, ShardSize, merge
from engine.errors import InputError, InputsChanged, MergefleetError, OutputExists, PlanError, Refused, SourceError
from engine.execution.execute import Hooks
from engine.models.checkpoint import open_checkpoint
from engine.outputs.job import Job
from engine.planning.plan import Tile
from engine.recipes.model_ref import ModelRef
from engine.remote import streams
from engine.remote.faults import Patience
from engine.remote.layout import BEGUN, MANIFEST, PARTIAL
from engine.remote.output import BucketOutput
from engine.remote.streams import FileMaker
from engine.remote.url import parse_url

MIB = 1 << 20
Models = tuple[Path, ...]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, without the waiting; and parts as small as a store takes."""
    monkeypatch.setattr(Patience, "pause_s", lambda self, failures: 0.0)
    monkeypatch.setattr(streams, "PART_BYTES", 5 * MIB)


@pytest.fixture
def proxy(bucket: str, s3_endpoint: str, quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server of `bucket` behind a proxy."""
    with running_proxy(s3_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture(scope="module")
def models() -> Models:
    """Awkward shapes and all dtypes, 10 MB a model."""
    return shared_family("mixed", mixed=True).models


@pytest.fixture
def tiny(tmp_path: Path) -> Models:
    return tuple(vocabulary_model(tmp_path / name, rows=64, seed=seed) for seed, name in enumerate("abc"))


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def on_disk(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("method", "threads"), [("linear", 2), ("ties", 1)])
def test_the_objects_are_the_files_of_a_local_merge(
    method: str, threads: int, bucket: str, models: Models, tmp_path: Path
) -> None:
    options = Options(threads=threads, shard_size=ShardSize(3 * MIB))
    local = merge(recipe_of(method, models), tmp_path / "out", options=options)
    made = merge(recipe_of(method, models), f"{bucket}/some/out", options=options)
    there = objects(f"{bucket}/some/out")
    assert digests({**there, MANIFEST: b""}) == digests({**on_disk(tmp_path / "out"), MANIFEST: b""})
    assert made.weights_digest == local.weights_digest
    assert str(made.out) == f"{bucket}/some/out"
    manifest = json.loads(there[MANIFEST])
    assert {name: facts["size"] for name, facts in manifest["files"].items()} == {
        name: len(data) for name, data in there.items() if name != MANIFEST
    }


def test_what_was_merged_into_a_bucket_is_a_source(bucket: str, tiny: Models, tmp_path: Path) -> None:
    first = merge(recipe_of("linear", tiny), f"{bucket}/first", options=Options(shard_size=ShardSize(600)))
    again = merge(recipe_of("linear", (f"{bucket}/first", *tiny[1:])), tmp_path / "again")  # type: ignore[arg-type]
    merge(recipe_of("linear", tiny), tmp_path / "first")
    expected = merge(recipe_of("linear", (tmp_path / "first", *tiny[1:])), tmp_path / "expected")
    assert bytes_of(again.out) == bytes_of(expected.out)  # type: ignore[arg-type]
    assert first.weights_digest != again.weights_digest


def test_a_file_of_many_parts_is_the_file(bucket: str, quick: None, tmp_path: Path) -> None:
    large = shared_family("giant", giant=True).models
    local = merge(recipe_of("linear", large), tmp_path / "out", options=Options(threads=2))
    merge(recipe_of("linear", large), f"{bucket}/out", options=Options(threads=2))
    there = objects(f"{bucket}/out")
    assert bytes_of(local.out) == hashlib.sha256(b"model.safetensors" + there["model.safetensors"]).hexdigest()  # type: ignore[arg-type]
    assert len(there["model.safetensors"]) > 8 * 5 * MIB


def test_faults_change_nothing_but_the_time(proxy: Proxy, bucket: str, models: Models, tmp_path: Path) -> None:
    options = Options(threads=2, shard_size=ShardSize(3 * MIB))
    kinds = (Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET, Fault.LOST, Fault.CUT, Fault.SLOW)
    proxy.choose = at_random(2, dict.fromkeys(kinds, 0.04))
    merge(recipe_of("linear", models), f"{bucket}/out", options=options)
    injected, proxy.choose = proxy.faults, lambda request: None
    expected = merge(recipe_of("linear", models), tmp_path / "out", options=options)
    there = objects(f"{bucket}/out")
    assert digests({**there, MANIFEST: b""}) == digests({**on_disk(expected.out), MANIFEST: b""})  # type: ignore[arg-type]
    assert len(injected) >= 4


def test_a_file_that_another_worker_has_recorded_meanwhile_is_not_made_again(bucket: str, tiny: Models) -> None:
    options = Options(threads=1, shard_size=ShardSize(600))
    with Job.prepare(recipe_of("linear", tiny), parse_url(f"{bucket}/out"), options) as job:
        starts: list[Tile] = []
        assert isinstance(job.output, BucketOutput)
        maker = FileMaker(job.output, job.plan, job.checkpoints, job.work(), Hooks(on_start=starts.append))
        first, begun = maker.make(0), len(starts)
        assert maker.make(0).blocks == first.blocks
        assert len(starts) == begun > 0


def test_finished_files_are_not_made_again(proxy: Proxy, bucket: str, models: Models) -> None:
    recipe, options = recipe_of("linear", models), Options(threads=1, shard_size=ShardSize(3 * MIB))
    third = "model-00003-of-"
    proxy.choose = lambda request: Fault.DENIED if third in request.path and request.method != "GET" else None
    with pytest.raises(InputError, match=rf"{bucket}/out/{third}.*: access denied"):
        merge(recipe, f"{bucket}/out", options=options)
    assert MANIFEST not in objects(f"{bucket}/out")
    proxy.choose = lambda request: None
    proxy.log.clear()
    made = merge(recipe, f"{bucket}/out", options=options)
    assert made.resumed_tiles > 0
    written = {request.path.rpartition("/")[2] for request, _ in proxy.log if request.method in ("PUT", "POST")}
    assert "model-00001-of-" not in "".join(sorted(written))
    assert any(third in name for name in written)
    assert not [name for name in objects(f"{bucket}/out") if name.startswith(PARTIAL)]


def test_without_a_manifest_nothing_is_complete(proxy: Proxy, bucket: str, tiny: Models) -> None:
    recipe = recipe_of("linear", tiny)
    proxy.choose = lambda request: Fault.DENIED if MANIFEST in request.path and request.method == "PUT" else None
    with pytest.raises(InputError, match="access denied"):
        merge(recipe, f"{bucket}/out")
    proxy.choose = lambda request: None
    assert {"config.json", "model.safetensors", BEGUN} <= set(objects(f"{bucket}/out"))
    with pytest.raises(SourceError, match="is an output that is not finished"):
        open_checkpoint(ModelRef(f"{bucket}/out"))
    merge(recipe, f"{bucket}/out")
    assert open_checkpoint(ModelRef(f"{bucket}/out")).config["vocab_size"] == 64


def test_what_is_there_is_not_written_over(bucket: str, tiny: Models) -> None:
    merge(recipe_of("linear", tiny), f"{bucket}/out")
    with pytest.raises(OutputExists, match=rf"{bucket}/out: an output is there already") as caught:
        merge(recipe_of("linear", tiny), f"{bucket}/out")
    assert caught.value.exit_code == 3
    upload(tiny[0], f"{bucket}/model")
    with pytest.raises(OutputExists, match=r"2 objects are there already \(config.json\)"):
        merge(recipe_of("linear", tiny), f"{bucket}/model")


def test_an_output_inside_a_source_is_refused(bucket: str, tiny: Models) -> None:
    source = upload(tiny[0], f"{bucket}/model")
    with pytest.raises(PlanError, match=rf"{bucket}/model/out: lies inside the source {bucket}/model"):
        merge(recipe_of("linear", (source, *tiny[1:])), f"{bucket}/model/out")  # type: ignore[arg-type]


def begin_and_stop(proxy: Proxy, recipe: Any, out: str) -> None:
    """A run that dies when it would write the manifest."""
    proxy.choose = lambda request: Fault.DENIED if MANIFEST in request.path and request.method == "PUT" else None
    with pytest.raises(InputError):
        merge(recipe, out)
    proxy.choose = lambda request: None


def test_another_recipe_is_refused_and_says_what_changed(proxy: Proxy, bucket: str, tiny: Models) -> None:
    begin_and_stop(proxy, recipe_of("linear", tiny), f"{bucket}/out")
    with pytest.raises(InputsChanged, match=r'merge_method: "linear" → "task_arithmetic"') as caught:
        merge(recipe_of("task_arithmetic", tiny), f"{bucket}/out")
    assert f"mergefleet clean {bucket}/out" in str(caught.value)


def test_a_file_that_somebody_replaced_is_made_again(proxy: Proxy, bucket: str, tiny: Models, tmp_path: Path) -> None:
    begin_and_stop(proxy, recipe_of("linear", tiny), f"{bucket}/out")
    upload(tiny[0], f"{bucket}/out")  # another model.safetensors of the same size
    made = merge(recipe_of("linear", tiny), f"{bucket}/out")
    expected = merge(recipe_of("linear", tiny), tmp_path / "out")
    assert made.resumed_tiles == 0
    assert objects(f"{bucket}/out")["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert made.weights_digest == expected.weights_digest


def test_a_writer_that_was_given_up_completes_nothing(bucket: str, quick: None, models: Models) -> None:
    """`clean` and another run come while it is cut off: then it must find that it has nothing to say any more."""

    def another_run_begins(done: int, total: int) -> None:
        upload_bytes(f"{bucket}/out/{BEGUN}", b'{"token": "of another run"}')

    with pytest.raises(Refused, match="was finished or removed by another process meanwhile"):
        merge(recipe_of("linear", models), f"{bucket}/out", progress=another_run_begins)
    assert not [name for name in objects(f"{bucket}/out") if name.endswith(".safetensors")]
    assert uploads(bucket) == []


def test_an_upload_that_breaks_is_begun_anew(proxy: Proxy, bucket: str, models: Models, tmp_path: Path) -> None:
    completes = lambda request: request.method == "POST" and "uploadId" in request.query  # noqa: E731
    proxy.choose = at(Fault.LOST, completes)
    merge(recipe_of("linear", models), f"{bucket}/out", options=Options(threads=1))
    expected = merge(recipe_of("linear", models), tmp_path / "out")
    assert objects(f"{bucket}/out")["model.safetensors"] == (expected.out / "model.safetensors").read_bytes()  # type: ignore[operator]
    assert proxy.faults[Fault.LOST] == 1


def test_a_run_that_fails_leaves_no_upload_behind(bucket: str, quick: None, models: Models, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise MergefleetError("stop here")

    with pytest.raises(MergefleetError, match="stop here"):
        merge(recipe_of("linear", models), f"{bucket}/out", options=Options(tile_bytes=MIB, threads=1), progress=fail)
    assert uploads(bucket) == []
    assert list(objects(f"{bucket}/out")) == [BEGUN]


def test_bad_input_that_shows_late_leaves_nothing_behind(bucket: str, tiny: Models, tmp_path: Path) -> None:
    source = upload(tiny[0], f"{bucket}/source")
    other = vocabulary_model(tmp_path / "other", rows=64, seed=9)
    with pytest.raises(SourceError, match="was changed meanwhile"):
        merge(
            recipe_of("linear", (source, *tiny[1:])),  # type: ignore[arg-type]
            f"{bucket}/out",
            progress=lambda done, total: upload(other, source) if not done else None,  # type: ignore[arg-type]
        )
    assert objects(f"{bucket}/out") == {}


def test_too_little_memory_for_uploads_says_how_much_is_needed(bucket: str, tiny: Models) -> None:
    with pytest.raises(PlanError, match=r"an upload needs [\d_]+ bytes for this recipe. Give --memory \d+MiB\.$"):
        merge(recipe_of("linear", tiny), f"{bucket}/out", options=Options(memory_bytes=20 * MIB))


def test_an_endpoint_that_is_not_there_is_bad_input(
    bucket: str, quick: None, tiny: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=rf"{bucket}/out: 127.0.0.1:9 cannot be reached: correct AWS_ENDPOINT_URL"):
        merge(recipe_of("linear", tiny), f"{bucket}/out")


def test_an_empty_object_in_place_of_the_directory_is_no_obstacle(bucket: str, tiny: Models) -> None:
    upload_bytes(f"{bucket}/out/", b"")
    assert str(merge(recipe_of("linear", tiny), f"{bucket}/out").out) == f"{bucket}/out"


def test_a_bucket_that_is_not_there_says_so_before_anything_is_done(bucket: str, tiny: Models) -> None:
    with pytest.raises(InputError, match="there is no bucket 'no-such-bucket' at"):
        merge(recipe_of("linear", tiny), "s3://no-such-bucket/out")
