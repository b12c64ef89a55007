"""A finished model directory to the Hub: weight files first, unseen, then one commit that shows all of it at once.

What was interrupted leaves at most an empty repository and blobs that nothing refers to; the same call goes on, and the
Hub takes no blob twice. The token is HF_TOKEN's or that of `hf auth login`; it never stands in a message.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, MergefleetError, OutputExists
from engine.models.hub import hub_errors
from engine.outputs.model_files import json_text
from engine.planning.made import PROVENANCE

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_PLACE = re.compile(r"hub:([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]+))?", re.ASCII)
WEIGHTS = ".safetensors"
WEIGHT_FILES = "weight_files"
"""What provenance.json on the Hub has besides: the SHA-256 of every weight file. The Hub tells it of what it holds."""
_OFFERED = frozenset({".gitattributes", "README.md"})
"""What the Hub itself puts into a new repository."""


@dataclass(frozen=True)
class HubRepo:
    """hub:ORG/NAME, or hub:ORG/NAME@BRANCH."""

    repo: str
    branch: str | None = None

    def __str__(self) -> str:
        return f"hub:{self.repo}" + (f"@{self.branch}" if self.branch else "")

    @property
    def name(self) -> str:
        return self.repo.partition("/")[2]


def is_hub(text: str) -> bool:
    return text.startswith("hub:")


def parse_hub(text: str) -> HubRepo:
    """InputError where it is not hub:ORG/NAME[@BRANCH]."""
    found = _PLACE.fullmatch(text)
    if found is None or "--" in found[1] or ".." in text:
        raise InputError(f"{text}: is no place on the Hub: write hub:ORG/NAME, or hub:ORG/NAME@BRANCH.")
    return HubRepo(found[1], found[2])


@dataclass(frozen=True)
class Upload:
    """How a model goes up: seen by all or not, under which message."""

    public: bool = False
    message: str = "A merged model"


def provenance_on_hub(place: HubRepo) -> Mapping[str, Any] | None:
    """provenance.json of what is there: None where nothing is (no repository, no branch, an empty one).

    {} where there is something else than a model of ours. Raises InputError where it cannot be known: no network, no
    token, no rights.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    api = _api(place)
    try:
        files = set(api.list_repo_files(place.repo, revision=place.branch))
        if files <= _OFFERED:
            return None
        path = huggingface_hub.hf_hub_download(place.repo, PROVENANCE, revision=place.branch, library_name="mergefleet")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except EntryNotFoundError:
        return {}
    except hub_errors() as error:
        raise _explained(place, error) from error
    return read_json(Path(path))


def refuse_hub(place: HubRepo) -> None:
    """InputError where nothing can be written there, as far as that shows without writing."""
    import huggingface_hub

    api = _api(place)
    if huggingface_hub.get_token() is None:
        raise InputError(f"{place}: needs a token that may write: set HF_TOKEN, or `hf auth login`.")
    try:
        role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    except hub_errors() as error:
        raise _explained(place, error) from error
    if role == "read":
        raise InputError(f"{place}: this token may only read: set HF_TOKEN to one that may write.")


def upload(directory: Path, place: HubRepo, how: Upload) -> str:
    """Publish the files of `directory` by one commit; returns its id.

    A repository that is not there is made, private unless `how.public`; one that is there keeps what it is, and must
    be empty (OutputExists). Raises InputError where the token may not write, MergefleetError where the way there fails.
    """
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in directory.rglob("*") if path.is_file())
    api = _api(place)
    operations = [CommitOperationAdd(path.relative_to(directory).as_posix(), path) for path in files]
    weights = {op.path_in_repo: op.upload_info.sha256.hex() for op in operations if op.path_in_repo.endswith(WEIGHTS)}
    facts = read_json(directory / PROVENANCE)
    told = json_text({**facts, WEIGHT_FILES: weights}).encode()
    operations = [op for op in operations if op.path_in_repo != PROVENANCE] + [CommitOperationAdd(PROVENANCE, told)]
    try:
        api.create_repo(place.repo, private=not how.public, exist_ok=True)
        if place.branch is not None:  # from the first commit, which is empty, and not from a model on main
            first = api.list_repo_commits(place.repo)[-1].commit_id
            api.create_branch(place.repo, branch=place.branch, revision=first, exist_ok=True)
        parent = api.repo_info(place.repo, revision=place.branch).sha
        _refuse_filled(api, place)
        commit = api.create_commit(
            place.repo,
            operations,
            commit_message=how.message,
            revision=place.branch,
            parent_commit=parent,  # whoever was faster wins, and is not written over
        )
    except hub_errors() as error:
        raise _explained(place, error) from error
    return str(commit.oid)


def weights_on_hub(place: HubRepo) -> dict[str, str | None]:
    """The weight files that are there now, and their SHA-256 where the Hub tells it: it does of large files."""
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = list(_api(place).list_repo_tree(place.repo, revision=place.branch))
    except hub_errors() as error:
        raise _explained(place, error) from error
    files = [entry for entry in tree if isinstance(entry, RepoFile) and entry.path.endswith(WEIGHTS)]
    return {entry.path: None if entry.lfs is None else entry.lfs.sha256 for entry in files}


def _refuse_filled(api: HfApi, place: HubRepo) -> None:
    there = set(api.list_repo_files(place.repo, revision=place.branch)) - _OFFERED
    if there:
        raise OutputExists(
            f"{place}: {len(there)} files are there already ({min(there)}). Name another repository, or a branch of "
            f"its own: hub:{place.repo}@BRANCH."
        )


def _api(place: HubRepo) -> HfApi:
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{place}: HF_HUB_OFFLINE is set: unset it to publish there.")
    return huggingface_hub.HfApi(library_name="mergefleet")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _explained(place: HubRepo, error: Exception) -> MergefleetError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HfHubHTTPError):
        return _explained_answer(place, error)
    if isinstance(error, ValueError):  # a name or a card that the Hub does not take
        return InputError(f"{place}: {_one_line(error)}.")
    xet = importlib.util.find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
    plainly = " Where something in between does not speak Xet, HF_HUB_DISABLE_XET=1 sends plainly." if xet else ""
    return MergefleetError(
        f"{place}: {constants.ENDPOINT} cannot be reached ({_one_line(error)}). Nothing is visible there; run the same "
        f"command again.{plainly}"
    )


def _explained_answer(place: HubRepo, error: HfHubHTTPError) -> MergefleetError:
    from huggingface_hub import constants

    status = error.response.status_code
    if status in (401, 403, 404):
        return InputError(
            f"{place}: {constants.ENDPOINT} answers {status}: this token may not write there. Use one with the right "
            "to write to this organization (HF_TOKEN), or name another."
        )
    if status in (409, 412):
        return OutputExists(f"{place}: was changed by somebody else meanwhile. Look at it, then run the command again.")
    return MergefleetError(
        f"{place}: {constants.ENDPOINT} answers {status}. Nothing is visible there; run the same command again later.",
        status=status,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
