"""Models and adapters on the Hugging Face Hub: what a merge needs of a repository, and what went wrong in words."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import SourceError
from engine.models.places import near_directory
from engine.models.weight_files import SINGLE_NAME, TORCH_INDEX_NAME, TORCH_NAME, no_index, no_weights
from engine.recipes.model_ref import ModelRef
from engine.tensorfile.index import INDEX_NAME, load_json_object

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def download_model(ref: ModelRef) -> tuple[Path, str]:
    """Fetch what a merge needs of a Hub repository, at one commit; returns the snapshot directory and the commit.

    The small files come first: an index then says which weight files are the model, because repositories
    often hold the weights a second time (`consolidated.safetensors`, `original/`).
    """
    directory = download_small(ref)
    commit = directory.name
    if (directory / INDEX_NAME).is_file():
        _fetch_indexed(ref, directory / INDEX_NAME)
        return directory, commit
    _snapshot(ref, commit, [SINGLE_NAME])
    if any(directory.glob("*.safetensors")):
        return directory, commit
    if (directory / TORCH_INDEX_NAME).is_file():
        _fetch_indexed(ref, directory / TORCH_INDEX_NAME)
        return directory, commit
    names_there = [name for name in list_repository(ref, commit) if "/" not in name]
    weights = [name for name in names_there if name.endswith(".safetensors")] or [TORCH_NAME]
    if not set(weights) <= set(names_there):
        raise no_weights(str(ref), names_there)
    if len(weights) > 1:
        raise no_index(str(ref), weights)
    _snapshot(ref, commit, weights)
    return directory, commit


def download_small(ref: ModelRef) -> Path:
    """The snapshot directory with the small files of the revision; its name is the commit."""
    return _snapshot(ref, ref.revision, list(_SMALL_FILES), ignore=["*/*"])


def _fetch_indexed(ref: ModelRef, index: Path) -> None:
    """The shards that an index in a snapshot names."""
    weight_map = load_json_object(index).get("weight_map")
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    _snapshot(ref, index.parent.name, sorted(re.sub(r"([*?[])", r"[\1]", name) for name in names))


def download_file(ref: ModelRef, commit: str, name: str) -> None:
    """Fetch one more file into the snapshot at `commit`, if the repository has it."""
    _snapshot(ref, commit, [name])


def download_adapter(ref: ModelRef) -> tuple[Path, str]:
    """Fetch a LoRA adapter and the small files beside it; returns the snapshot directory and the commit."""
    directory = _snapshot(ref, ref.revision, [*_SMALL_FILES, "adapter_model.safetensors"], ignore=["*/*"])
    if not (directory / "adapter_model.safetensors").is_file():
        _snapshot(ref, directory.name, ["adapter_model.bin"])
    return directory, directory.name


def _snapshot(ref: ModelRef, revision: str | None, allow: list[str], *, ignore: list[str] | None = None) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                ref.path,
                revision=revision,
                allow_patterns=allow,
                ignore_patterns=ignore,
                cache_dir=os.environ.get("HF_HUB_CACHE"),  # as it is now: the library reads it once, when imported
                library_name="mergefleet",
            )
        )
    except hub_errors() as error:
        raise explain(ref, error) from error


def list_repository(ref: ModelRef, commit: str) -> list[str]:
    """The names of all files of the repository at this commit."""
    import huggingface_hub

    try:
        return sorted(huggingface_hub.HfApi().list_repo_files(ref.path, revision=commit))
    except hub_errors() as error:
        raise explain(ref, error) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """Whatever huggingface_hub raises for a reason that `explain` knows."""
    # HTTPError is that of whichever HTTP library this huggingface_hub uses; OSError is a full disk, ValueError a bad
    # name, RuntimeError the Xet transfer.
    from huggingface_hub.errors import HfHubHTTPError

    http_error = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return http_error, OSError, ValueError, RuntimeError


def explain(ref: ModelRef, error: Exception) -> SourceError:
    """One line for whatever huggingface_hub raised: what happened and what to do about it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, hub_errors()):
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
    return SourceError(f"{ref}: {advice}", missing=ref.path)


def _explain_answer(ref: ModelRef, error: HfHubHTTPError) -> SourceError:
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{ref.path}"
    login = "`hf auth login` or HF_TOKEN"
    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            advice = f"is gated: accept its conditions at {url} and log in ({login})."
        case errors.RepositoryNotFoundError():
            near = near_directory(Path(ref.path))
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
    return SourceError(f"{ref}: {advice}", missing=ref.path, status=status)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
