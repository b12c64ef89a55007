"""A source model: tensor names → dtype, shape and place: a directory, a Hub repository, a place in an object store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.errors import SourceError
from engine.models import architecture
from engine.models.places import local_path
from engine.models.vocabulary import Vocabulary, find_vocabulary
from engine.models.weight_files import check_weight_map, find_shards
from engine.recipes.model_ref import ModelRef
from engine.remote.url import is_url
from engine.tensorfile.index import INDEX_NAME, load_json_object
from engine.tensorfile.store import SourceTensor, Store, TensorStore

_DIGEST_CHUNK_BYTES = 4 << 20


class Checkpoint:
    """An opened source: headers are read, data is read on demand by any number of threads.

    Attributes:
        ref: the model as the recipe names it.
        directory: where its files are (for the Hub: the snapshot in the cache).
        store: what its tensors are read from.
        raw: whether it is a file of tensors, not a model.
        tokenizer_directory: where its tokenizer is: beside the adapter, where one brings its own.
        tensors: every tensor of every shard, by name, in the order of shards and of their bytes.
        config: the content of config.json; nothing of a file of tensors.
        identity: JSON-able, equal exactly while the source is unchanged: for a directory each file's size, mtime
            and header digest and config.json's digest; for the Hub the commit; in an object store ETags in place of
            times; with an adapter both identities.
        watch: is shown every piece that `content_digest` reads, with the tensor it is of: one pass over the data may
            serve two.
    """

    def __init__(
        self, ref: ModelRef, directory: Path, store: Store, *, config: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        self.ref = ref
        self.directory = self.tokenizer_directory = directory
        self.config = config
        self.identity = identity
        self.store = store
        self.raw = identity.get("kind") == "file"
        self.watch: Callable[[SourceTensor, memoryview], None] | None = None
        self._digests: dict[str, str] = {}

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        return self.store.tensors

    @property
    def paths(self) -> Collection[Path]:
        """Every file that is open while all tensors are read."""
        return self.store.paths

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Token → id, as the tokenizer's files say; None where there are none of a known format."""
        return None if self.raw else find_vocabulary(self.tokenizer_directory)

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor `name` from its `byte_offset` on.

        Thread safe. Raises SourceError naming tensor and file where the file changed its size.
        """
        self.store.read_into(name, byte_offset, buffer)

    def scratch_bytes(self, name: str) -> int:
        """What one thread holds, besides its buffer, while it reads tensor `name`."""
        return self.store.scratch_bytes(name)

    def content_digest(self, name: str) -> str:
        """BLAKE3 (hex) of the tensor's stored bytes, read once in 4 MiB pieces and remembered."""
        known = self._digests.get(name)
        if known is not None:
            return known
        hasher, tensor = blake3(), self.tensors[name]
        nbytes = tensor.nbytes
        buffer = memoryview(bytearray(min(_DIGEST_CHUNK_BYTES, nbytes)))
        for start in range(0, nbytes, _DIGEST_CHUNK_BYTES):
            piece = buffer[: min(_DIGEST_CHUNK_BYTES, nbytes - start)]
            self.read_into(name, start, piece)
            hasher.update(piece)
            if self.watch is not None:
                self.watch(tensor, piece)
        self._digests[name] = hasher.hexdigest()
        return self._digests[name]

    def refuse_changed(self) -> None:
        """SourceError where a file was written to or replaced since its header was read: what was read is a mixture."""
        self.store.refuse_changed()

    def close(self) -> None:
        """Close all files; reading again opens them again."""
        self.store.close()


def open_checkpoint(ref: ModelRef, *, stream: bool = False) -> Checkpoint:
    """Open a local directory (relative to the working directory, `~` expanded) or else a Hub repository.

    What begins with s3://, gs:// or az:// is a place in an object store, whose weights are read by ranges. A file of
    tensors (.safetensors, or of torch.save) is opened as a source without config.json and tokenizer.

    With `ref.lora` the model is read with its adapter on it (engine.models.adapted); with `ref.statistics` a directory
    need not be a model's.

    Of the Hub only what a merge needs is downloaded: the small files and the weight files that make up the model; with
    `stream` not even those, which are read by ranges. HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the stored token are
    honoured.

    Raises SourceError, one line, saying what to do; where the model is not whole and sound, too.
    """
    if ref.lora is not None:
        return with_adapter(open_checkpoint(ref.bare, stream=stream), ref.lora)
    if is_url(ref.path):
        return _open_remote(ref)
    directory, commit = local_path(ref), None
    if directory is not None and directory.is_file():
        store = TensorStore([directory])
        return Checkpoint(ref, directory.parent, store, config={}, identity={"kind": "file", "files": store.files})
    if directory is None and stream:
        return _open_streamed(ref)
    if directory is None:
        from engine.models.hub import download_model

        directory, commit = download_model(ref)
    return _open_directory(ref, directory, commit=commit)


def _open_directory(ref: ModelRef, directory: Path, *, commit: str | None) -> Checkpoint:
    """A model's directory, on disk; `commit` where it is that of a download from the Hub."""
    config = {} if ref.statistics else _read_config(directory)
    names, weight_map = find_shards(directory)
    store = TensorStore(directory / name for name in names)
    places = {tensor.name: tensor.file.relative_to(directory).as_posix() for tensor in store.tensors.values()}
    check_weight_map(weight_map, places, index=str(directory / INDEX_NAME))
    if config.get("tie_word_embeddings"):
        _drop_tied_copy(store)
    if commit is not None:
        identity = _hub_identity(ref, commit)
    elif ref.statistics:
        identity = {"kind": "statistics", "files": store.files}
    else:
        config_digest = blake3((directory / "config.json").read_bytes()).hexdigest()
        identity = {"kind": "local", "config": config_digest, "files": store.files}
    return Checkpoint(ref, directory, store, config=config, identity=identity)


def _open_remote(ref: ModelRef) -> Checkpoint:
    """A model in an object store."""
    from engine.remote.source import at_its_place, identity_of, open_bucket_model

    model = open_bucket_model(ref)
    with at_its_place(model.directory, ref.path):
        config = {} if ref.statistics else _read_config(model.directory)
    return Checkpoint(ref, model.directory, model.store, config=config, identity=identity_of(ref, model))


def _open_streamed(ref: ModelRef) -> Checkpoint:
    """A model on the Hub, of which only the small files are downloaded."""
    from engine.remote.hub_ranges import open_hub_model

    directory, store, commit = open_hub_model(ref)
    config = {} if ref.statistics else _read_config(directory)
    return Checkpoint(ref, directory, store, config=config, identity=_hub_identity(ref, commit))


def _hub_identity(ref: ModelRef, commit: str) -> dict[str, Any]:
    return {"kind": "hub", "repo": ref.path, "commit": commit}


def _drop_tied_copy(store: TensorStore) -> None:
    """Forget an output head that is the embedding's storage under another name, as torch.save keeps it."""
    for name in [name for name in store.tensors if architecture.is_vocabulary(name)]:
        head = store.tensors[name]
        partner = store.tensors.get(architecture.tied_source(name, store.tensors) or "")
        if partner and architecture.has_head([name]) and (head.file, head.offset) == (partner.file, partner.offset):
            del store.tensors[name]


def with_adapter(model: Checkpoint, lora: ModelRef) -> Checkpoint:
    """An opened model, read with the adapter `lora` on it."""
    if model.raw:
        raise SourceError(f"{model.ref}: is a file of tensors; an adapter needs a model: name its directory.")
    from engine.models.adapted import AdaptedStore, adapted_config
    from engine.models.adapter import open_adapter
    from engine.models.lora import match

    ref = replace(model.ref, lora=lora)
    adapter = open_adapter(lora)
    store = AdaptedStore(model.store, adapter.store, match(adapter, model.ref, model.tensors))
    identity = {"kind": "lora", "model": model.identity, "adapter": adapter.identity}
    config = adapted_config(model.config, model.tensors, store.tensors, origin=ref)
    adapted = Checkpoint(ref, model.directory, store, config=config, identity=identity)
    if find_vocabulary(adapter.directory) is not None:
        adapted.tokenizer_directory = adapter.directory
    return adapted


def open_checkpoints(refs: Iterable[ModelRef], *, stream: bool = False) -> dict[ModelRef, Checkpoint]:
    """Open each distinct model once, in the given order; all are closed again where one cannot be opened."""
    opened: dict[ModelRef, Checkpoint] = {}
    try:
        for ref in refs:
            if ref not in opened:
                opened[ref] = open_checkpoint(ref, stream=stream)
    except SourceError:
        for checkpoint in opened.values():
            checkpoint.close()
        raise
    return opened


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if path.is_file():
        return load_json_object(path)
    if (directory / "adapter_config.json").is_file():
        raise SourceError(
            f"{directory}: is a LoRA adapter, not a model. Write MODEL+ADAPTER, the model it belongs to first."
        )
    raise SourceError(f"{path}: not found. A model directory needs its config.json next to the weights.")
