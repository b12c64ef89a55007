"""What went wrong at an object store: whether to try again, and how to say it in one line."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from obstore import exceptions

from engine.remote.url import Url

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_ADDRESS = re.compile(
    r"https?://(?:[\w.~!$&'()*+,;=:%-]*@)?"
    r"(?:[A-Za-z0-9](?:[\w-]*\w)?(?:\.[A-Za-z0-9](?:[\w-]*\w)?)*\.?|\[[0-9A-Fa-f:.]+\])"
    r"(?::\d+)?(?:/[\w.~!$&'()*+,;=:@/-]*)?",
    re.ASCII,
)
_NUMERIC = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$")  # how a host ends that the URL standard takes for IPv4
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_METADATA_SERVICES = (
    *("/latest/api/token", "/latest/meta-data/", "169.254.170.2"),  # EC2, ECS
    *("metadata.google.internal", "/computeMetadata/", "/metadata/identity/oauth2/token"),  # GCE, Azure
)
_TRANSIENT = {408, 429}  # and every 5xx


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long it is waited in between: twice as long each time, up to a limit."""

    tries: int
    first_s: float
    longest_s: float

    def pause_s(self, failures: int) -> float:
        """Before the next try after so many failures; by chance between half and all, lest clients march in step."""
        return min(self.longest_s, self.first_s * 2.0 ** (failures - 1)) * (0.5 + random.random() / 2)


AT_FIRST = Patience(tries=6, first_s=0.1, longest_s=2.0)
"""For the first requests to a place: a wrong address shall be told within seconds."""
LATER = Patience(tries=12, first_s=0.1, longest_s=15.0)
"""In the middle of a merge: an outage of a minute or two is survived."""


@dataclass(frozen=True)
class Failure:
    """What a request came to: HTTP's status, the store's own word for it, and the kind of error that obstore made."""

    kind: type[BaseException]
    status: int | None
    code: str | None
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        text = str(error)
        status, code = _STATUS.search(text), _CODE.search(text)
        return cls(type(error), int(status[1]) if status else None, code[1] if code else None, text)

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed in a moment."""
        if self.code == "NoSuchUpload":  # completed by a try whose answer was lost
            return True
        if not issubclass(self.kind, exceptions.GenericError) or self.no_credentials:
            return False
        return self.status is None or self.status >= 500 or self.status in _TRANSIENT

    @property
    def is_missing(self) -> bool:
        """Whether the object, and not its bucket, is missing."""
        return issubclass(self.kind, FileNotFoundError) and self.code not in _NO_BUCKET

    @property
    def is_changed(self) -> bool:
        return issubclass(self.kind, exceptions.PreconditionError)

    @property
    def is_taken(self) -> bool:
        """Whether something is there already, where nothing should have been."""
        return issubclass(self.kind, exceptions.AlreadyExistsError)

    @property
    def is_denied(self) -> bool:
        kinds = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
        return issubclass(self.kind, kinds) or self.status in (401, 403)

    @property
    def no_credentials(self) -> bool:
        """Nothing in the environment, so the store's client asked the cloud's metadata service, which is not there."""
        return any(address in self.text for address in _METADATA_SERVICES) or "MissingAccount" in self.text


@dataclass(frozen=True)
class _Cloud:
    """What its variables are called."""

    endpoint: tuple[str, ...]
    credentials: str
    anonymous: str
    region: str
    pairs: tuple[tuple[str, str], ...] = ()
    """Variables of which either needs the other."""
    files: tuple[str, ...] = ()
    """Variables that name a file."""


_CLOUDS: Mapping[str, _Cloud] = {
    "s3": _Cloud(
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_ENDPOINT_URL"),
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "AWS_SKIP_SIGNATURE=true",
        "AWS_REGION",
        pairs=(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),),
    ),
    "gs": _Cloud(
        ("GOOGLE_BASE_URL",),
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SKIP_SIGNATURE=true",
        "GOOGLE_BASE_URL",
        files=("GOOGLE_APPLICATION_CREDENTIALS",),
    ),
    "az": _Cloud(
        ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"),
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_SKIP_SIGNATURE=true",
        "AZURE_STORAGE_ACCOUNT_NAME",
    ),
}


def endpoint(scheme: str) -> str | None:
    """The address that the environment names for such stores, if it names one."""
    return next((os.environ[name] for name in _CLOUDS[scheme].endpoint if os.environ.get(name)), None)


def misset(scheme: str) -> str | None:
    """What is wrong with the variables that can be looked at before a client reads them; None where nothing is.

    A client panics at an address that is none. Variables that are set to nothing, as CI systems do, are unset.
    """
    for name in [name for name, value in os.environ.items() if name.startswith(_prefix(scheme)) and not value]:
        del os.environ[name]
    cloud = _CLOUDS[scheme]
    for name in cloud.endpoint:
        if name in os.environ and not _is_address(os.environ[name]):
            return f"{name} is no address: http://HOST:PORT or https://HOST expected."
    for first, second in cloud.pairs:
        if (first in os.environ) != (second in os.environ):
            there, missing = (first, second) if first in os.environ else (second, first)
            return f"{there} is set, but {missing} is not."
    for name in cloud.files:
        if name in os.environ and not Path(os.environ[name]).is_file():
            return f"{name} names no file."
    return None


def _is_address(text: str) -> bool:
    """Stricter than the standard: the client panics at what its own parser refuses, and at some that it does not."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if ":" in host or _NUMERIC.search(host):  # such a one can only be an IP address
            ip_address(host)
    except ValueError:  # of the port, or of the host
        return False
    return bool(_ADDRESS.fullmatch(text)) and port != 0


def _prefix(scheme: str) -> str:
    return f"{_CLOUDS[scheme].region.partition('_')[0]}_"


def explain_setting(url: Url, failure: Failure) -> str:
    """What is wrong where a client cannot even be made. Values are not repeated: one of them may be a secret."""
    if failure.no_credentials:
        return explain(url, failure)
    return f"a variable of the environment that begins with {_prefix(url.scheme)} has a value that cannot be used."


def explain(url: Url, failure: Failure) -> str:
    """What is wrong with a place and what to do. No text of the server's is repeated: it may hold keys."""
    cloud = _CLOUDS[url.scheme]
    given = endpoint(url.scheme)
    host = urlsplit(given).netloc.rpartition("@")[2] if given else f"the {url.scheme}:// service"
    variable = next((name for name in cloud.endpoint if os.environ.get(name)), cloud.endpoint[-1])
    if failure.no_credentials:
        return f"no credentials: set {cloud.credentials}, or {cloud.anonymous} for a public bucket."
    if failure.code in _NO_BUCKET:
        return f"there is no bucket {url.bucket!r} at {host}: correct the name or {variable}, or make it."
    if failure.is_missing:
        return f"is not there (at {host})."
    if failure.is_denied or failure.code in ("ExpiredToken", "InvalidToken"):
        said = failure.code or failure.status or "denied"
        return (
            f"access denied ({said}): these credentials may not do it; set {cloud.credentials} of an account that may."
        )
    if failure.code in ("PermanentRedirect", "AuthorizationHeaderMalformed") or failure.status in (301, 307):
        return f"lies in another region ({failure.code or failure.status}): set {cloud.region} to its own."
    if failure.is_changed:
        return "was changed meanwhile: run the command again when nobody writes there any more."
    if failure.status is None and failure.kind is not exceptions.GenericError:
        return f"cannot be used ({failure.kind.__name__}): see docs/object-stores.md for what must be set."
    if failure.status is None:
        return f"{host} cannot be reached: correct {variable}, or try again when it can."
    said = f"{failure.status} {failure.code}" if failure.code else f"{failure.status}"
    return f"{host} answers {said}: try again later, or correct {variable}."
