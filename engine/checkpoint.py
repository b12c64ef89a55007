"""A source model: tensor names → dtype, shape and place; a local directory or a Hub repository, never a model class."""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from engine.errors import SourceError
from engine.keypath import shown
from engine.recipe import ModelRef
from engine.tensorfile.header import ITEMSIZE, Header, parse_header, read_header_bytes
from engine.tensorfile.index import INDEX_NAME, load_json_object, read_index
from engine.tensorfile.reader import read_exactly

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

SINGLE_NAME = "model.safetensors"
_DIGEST_CHUNK_BYTES = 4 << 20
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
_OTHER_FORMATS = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's bytes lie: `nbytes` from byte `offset` of `file` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return self.nbytes // ITEMSIZE[self.dtype]


class Checkpoint:
    """An opened source: headers are read, data is read on demand by any number of threads.

    Attributes:
        ref: the model as the recipe names it.
        directory: where its files are (for the Hub: the snapshot in the cache).
        tensors: every tensor of every shard, by name, in the order of shards and of their bytes.
        config: the content of config.json.
        identity: JSON-able, equal exactly while the source is unchanged: for a directory each file's size, mtime
            and header digest and config.json's digest; for the Hub the commit.
    """

    def __init__(self, ref: ModelRef, directory: Path, *, commit: str | None = None) -> None:
        """Read config.json and all headers below `directory`; SourceError where the model is not whole and sound."""
        self.ref = ref
        self.directory = directory
        self.config: Mapping[str, Any] = _read_config(directory)
        self._stamps: dict[Path, tuple[int, int]] = {}  # size, mtime_ns
        self._fds: dict[Path, int] = {}
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()
        self.tensors, files = self._read_shards()
        if commit is not None:
            self.identity: Mapping[str, Any] = {"kind": "hub", "repo": ref.path, "commit": commit}
        else:
            config_digest = blake3((directory / "config.json").read_bytes()).hexdigest()
            self.identity = {"kind": "local", "config": config_digest, "files": files}

    def read_into(self, name: str, byte_offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor `name` from its `byte_offset` on.

        Thread safe; no copy, no mmap. Raises SourceError naming tensor and file where the file changed its size.
        """
        tensor = self.tensors[name]
        if byte_offset < 0 or byte_offset + buffer.nbytes > tensor.nbytes:
            last = byte_offset + buffer.nbytes
            raise SourceError(
                f"{tensor.file}: bytes {byte_offset:_} to {last:_} of tensor {name!r} were asked for, "
                f"it has {tensor.nbytes:_}: the plan was made for another source."
            )
        fd = self._fds.get(tensor.file)
        if fd is None:
            fd = self._open(tensor.file)
        read_exactly(fd, tensor.offset + byte_offset, buffer, origin=f"{tensor.file}: tensor {name!r}")

    def content_digest(self, name: str) -> str:
        """BLAKE3 (hex) of the tensor's stored bytes, read once in 4 MiB pieces and remembered."""
        known = self._digests.get(name)
        if known is not None:
            return known
        hasher, nbytes = blake3(), self.tensors[name].nbytes
        buffer = memoryview(bytearray(min(_DIGEST_CHUNK_BYTES, nbytes)))
        for start in range(0, nbytes, _DIGEST_CHUNK_BYTES):
            piece = buffer[: min(_DIGEST_CHUNK_BYTES, nbytes - start)]
            self.read_into(name, start, piece)
            hasher.update(piece)
        self._digests[name] = hasher.hexdigest()
        return self._digests[name]

    def refuse_changed(self) -> None:
        """SourceError where a file was written to or replaced since its header was read: what was read is a mixture."""
        for file, stamp in self._stamps.items():
            if not file.exists() or (file.stat().st_size, file.stat().st_mtime_ns) != stamp:
                raise SourceError(
                    f"{file}: was changed while it was merged; nothing is published. Leave sources alone."
                )

    def close(self) -> None:
        """Close all files; reading again opens them again."""
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def _open(self, file: Path) -> int:
        with self._lock:
            if file in self._fds:
                return self._fds[file]
            try:
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"{file}: cannot be opened: {error.strerror}.") from error
            size = os.fstat(fd).st_size
            if size != self._stamps[file][0]:
                os.close(fd)
                raise SourceError(
                    f"{file}: had {self._stamps[file][0]:_} bytes when its header was read and has {size:_} now. "
                    "Leave sources alone while merging, and run the command again."
                )
            self._fds[file] = fd
            return fd

    def _read_shards(self) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
        files, weight_map = _find_shards(self.directory)
        tensors: dict[str, StoredTensor] = {}
        identity: dict[str, Any] = {}
        for file in files:
            path = self.directory / file
            header, identity[file] = self._read_shard(path)
            for info in header.tensors.values():
                if info.name in tensors:
                    raise SourceError(
                        f"{path}: tensor {info.name!r} is also in {tensors[info.name].file.name}. "
                        "Shards of two versions are mixed: download the model again.",
                        tensor=info.name,
                    )
                tensors[info.name] = StoredTensor(info.name, info.dtype, info.shape, path, info.start, info.nbytes)
        _check_weight_map(weight_map, tensors, self.directory)
        return tensors, identity

    def _read_shard(self, path: Path) -> tuple[Header, dict[str, Any]]:
        data, size = read_header_bytes(path)
        header = parse_header(data, file_size=size, origin=str(path))
        self._stamps[path] = size, path.stat().st_mtime_ns
        return header, {"size": size, "mtime_ns": self._stamps[path][1], "header": blake3(data).hexdigest()}


def open_checkpoint(ref: ModelRef) -> Checkpoint:
    """Open a local directory (relative to the working directory, `~` expanded) or else a Hub repository.

    Of the Hub only what a merge needs is downloaded: *.json, *.jinja, *.txt, tokenizer.model and the .safetensors
    files that make up the model. HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the stored token are honoured.

    Raises SourceError, one line, saying what to do.
    """
    directory = _local_directory(ref)
    if directory is not None:
        return Checkpoint(ref, directory)
    directory, commit = _download(ref)
    return Checkpoint(ref, directory, commit=commit)


def open_checkpoints(refs: Iterable[ModelRef]) -> dict[ModelRef, Checkpoint]:
    """Open each distinct model once, in the given order; all are closed again where one cannot be opened."""
    opened: dict[ModelRef, Checkpoint] = {}
    try:
        for ref in refs:
            if ref not in opened:
                opened[ref] = open_checkpoint(ref)
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
        raise SourceError(f"{directory}: is a LoRA adapter, not a model. Merge it into its base model first.")
    raise SourceError(f"{path}: not found. A model directory needs its config.json next to the weights.")


def _find_shards(directory: Path) -> tuple[list[str], Mapping[str, str]]:
    """The .safetensors files that make up the model, and the index's weight map (empty without an index)."""
    index, single = directory / INDEX_NAME, directory / SINGLE_NAME
    if index.is_file():
        weight_map = read_index(index)
        files = sorted(set(weight_map.values()))
        if single.is_file() and SINGLE_NAME not in files:
            raise SourceError(
                f"{directory}: holds {SINGLE_NAME} and an index that names other files. "
                "One of the two is a left-over: remove it."
            )
        return files, weight_map
    if single.is_file():
        return [SINGLE_NAME], {}
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(names) == 1:
        return names, {}
    if names:
        raise _no_index(str(directory), names)
    raise _no_safetensors(str(directory), sorted(path.name for path in directory.iterdir()))


def _no_index(origin: str, names: list[str]) -> SourceError:
    found = f"{len(names)} .safetensors files ({', '.join(names[:3])}, ...)"
    return SourceError(f"{origin}: holds {found} but no {INDEX_NAME}, which says how they belong together: get it too.")


def _no_safetensors(origin: str, names: Iterable[str]) -> SourceError:
    others = [name for name in names if name.endswith(_OTHER_FORMATS)]
    if others:
        return SourceError(
            f"{origin}: holds {others[0]} but no .safetensors file, and other formats are not supported. Convert it: "
            "AutoModelForCausalLM.from_pretrained(OLD, dtype='auto').save_pretrained(NEW)."
        )
    return SourceError(f"{origin}: holds no .safetensors file. Name the directory with the model's weights.")


def _check_weight_map(weight_map: Mapping[str, str], tensors: Mapping[str, StoredTensor], directory: Path) -> None:
    # Tensors that the index does not list are kept: transformers loads whole shards, and nothing is dropped silently.
    for name, file in weight_map.items():
        if name not in tensors:
            raise SourceError(
                f"{directory / INDEX_NAME}: tensor {name!r} should be in {file}, which does not hold it. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )
        if tensors[name].file != directory / file:
            raise SourceError(
                f"{directory / INDEX_NAME}: tensor {name!r} should be in {file}, is in {tensors[name].file.name}. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )


def _local_directory(ref: ModelRef) -> Path | None:
    """The directory that `ref` names; None where it can only be a Hub repository; SourceError where it is neither."""
    text = ref.path
    if not text:
        raise SourceError("a model without a name: name its directory, or ORG/NAME on the Hub.")
    for name in (text, str(ref)):  # a directory's name may contain '@'
        try:
            path = Path(name).expanduser()
            if path.is_dir():
                if ref.revision is not None and name == text:
                    raise SourceError(f"{ref}: {text} is a local directory, which has no revisions. Drop '@'.")
                return path
        except (RuntimeError, OSError) as error:  # an unknown ~user; a name that is too long
            raise SourceError(f"{shown(text)}: is no path: {error}.") from error
    path = Path(text).expanduser()
    if path.is_file():
        raise SourceError(f"{text}: is a file. Name the directory it lies in, the model's config.json beside it.")
    if "://" in text:
        raise SourceError(f"{text}: models are read from local directories and the Hub only. Download it first.")
    looks_local = text.startswith((".", "/", "~")) or "\\" in text
    if not looks_local and _REPO_ID.fullmatch(text) and "--" not in text and ".." not in text:
        return None
    raise SourceError(f"{text}: there is no such directory{_hint(text)}", path=text)


def _hint(text: str) -> str:
    """How the message about a missing directory ends."""
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        return f", nor {path.parent}."
    if (near := _near(path)) is not None:
        return f": did you mean {near}?"
    return ", and models on the Hub are called ORG/NAME." if "/" not in text else "."


def _near(path: Path) -> Path | None:
    """The directory beside `path` that was probably meant."""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return path.with_name(near[0]) if near else None


def _download(ref: ModelRef) -> tuple[Path, str]:
    """Fetch what a merge needs of a Hub repository, at one commit; returns the snapshot directory and the commit.

    The small files come first: an index then says which .safetensors files are the model, because repositories
    often hold the weights a second time (`consolidated.safetensors`, `original/`).
    """
    directory = _snapshot(ref, ref.revision, list(_SMALL_FILES), ignore=["*/*"])
    commit = directory.name
    if (directory / INDEX_NAME).is_file():
        weight_map = load_json_object(directory / INDEX_NAME).get("weight_map")
        names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
        _snapshot(ref, commit, sorted(re.sub(r"([*?[])", r"[\1]", name) for name in names))
        return directory, commit
    _snapshot(ref, commit, [SINGLE_NAME])
    if not any(directory.glob("*.safetensors")):
        names_there = _list_repository(ref, commit)
        weights = [name for name in names_there if name.endswith(".safetensors") and "/" not in name]
        if len(weights) != 1:
            raise _no_safetensors(str(ref), names_there) if not weights else _no_index(str(ref), weights)
        _snapshot(ref, commit, weights)
    return directory, commit


def _snapshot(ref: ModelRef, revision: str | None, allow: list[str], *, ignore: list[str] | None = None) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                ref.path, revision=revision, allow_patterns=allow, ignore_patterns=ignore, library_name="mergefleet"
            )
        )
    except _hub_errors() as error:
        raise _explain(ref, error) from error


def _list_repository(ref: ModelRef, commit: str) -> list[str]:
    import huggingface_hub

    try:
        return sorted(huggingface_hub.HfApi().list_repo_files(ref.path, revision=commit))
    except _hub_errors() as error:
        raise _explain(ref, error) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    # HTTPError is that of whichever HTTP library this huggingface_hub uses; OSError is a full disk, ValueError a bad
    # name, RuntimeError the Xet transfer.
    from huggingface_hub.errors import HfHubHTTPError

    http_error = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return http_error, OSError, ValueError, RuntimeError


def _explain(ref: ModelRef, error: Exception) -> SourceError:
    """One line for whatever huggingface_hub raised: what happened and what to do about it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, _hub_errors()):
        error = error.__cause__  # hub wraps what went wrong when it finds nothing in the cache either
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(ref, error)
    match error:
        case errors.OfflineModeIsEnabled():
            advice = "is not whole in the cache and HF_HUB_OFFLINE is set: unset it, or download the model first."
        case OSError() if error.errno is not None and not isinstance(error, ConnectionError):
            advice = f"cannot be stored in {constants.HF_HUB_CACHE}: {error.strerror}. Set HF_HOME to another disk."
        case ValueError():
            advice = f"is neither a directory here nor a name the Hub could know: {_one_line(error)}."
        case _:
            advice = f"is no directory here, and {constants.ENDPOINT} cannot be reached ({_one_line(error)})."
    return SourceError(f"{ref}: {advice}")


def _explain_answer(ref: ModelRef, error: HfHubHTTPError) -> SourceError:
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{ref.path}"
    login = "`hf auth login` or HF_TOKEN"
    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            advice = f"is gated: accept its conditions at {url} and log in ({login})."
        case errors.RepositoryNotFoundError():
            near = _near(Path(ref.path))
            meant = f" (did you mean {near}?)" if near else ""
            advice = (
                f"is no directory here{meant} and no repository at {constants.ENDPOINT}; if private, log in ({login})."
            )
        case errors.RevisionNotFoundError():
            advice = f"has no revision {ref.revision!r}: see the branches and tags at {url}."
        case _ if status in (401, 403):
            advice = f"may not be read with this token ({status} from {url}): log in with another one ({login})."
        case _:
            advice = f"could not be downloaded: {url} answers {status}. Try again later."
    return SourceError(f"{ref}: {advice}", status=status)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
