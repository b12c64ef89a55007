"""The part of the Hub that huggingface_hub 2.4 calls for a model, as a server on this machine; hub_writes.py writes.

    GET  /api/models/ORG/NAME[/revision/REV]    the commit behind a branch or tag
    GET  /api/models/ORG/NAME/tree/COMMIT       the files of a commit
    HEAD and GET /ORG/NAME/resolve/COMMIT/FILE  size and ETag, then the bytes, or those of a range
    GET  http://localhost:.../cdn/...           where `redirects` sends weight files to: another host, signed

Errors carry the X-Error-Code headers by which the client tells them apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from local_server import ANY_PORT, served

DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """Files by commit, commits by branch or tag. `access` is 'open', 'gated', 'private', 'forbidden' or 'broken'."""

    commits: Mapping[str, Mapping[str, bytes]]
    refs: Mapping[str, str]
    access: str = "open"
    visibility: str = "public"


@dataclass
class Hub:
    """A running stand-in: its address, its repositories (may be changed while it runs) and what was asked of it."""

    url: str
    repositories: dict[str, Repository]
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    redirects: bool = False
    signature: str = "first"  # what a signed address must carry: others have expired
    expires_after: int = 0  # the first signature, after so many requests; 0: never
    cdn_requests: int = 0
    cdn_headers: set[str] = field(default_factory=set)
    broken_ranges: int = 0  # so many ranges are answered by 503
    writers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # token -> organizations it may write to
    blobs: dict[str, bytes] = field(default_factory=dict)  # uploaded, in a commit or not yet
    broken_commits: int = 0  # so many commits are answered by 503

    def downloaded(self) -> set[str]:
        """The files whose bytes were sent."""
        return {
            line.split("/resolve/")[1].split("/", 1)[1]
            for line in self.requests
            if line.startswith("GET /") and "/resolve/" in line
        }


def commit_id(label: str) -> str:
    """40 hex digits, as a commit's name has."""
    return hashlib.sha1(label.encode(), usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def running_hub(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """Serve `repositories` on a free port until the block ends."""
    hub = Hub("", dict(repositories))
    with served(ThreadingHTTPServer(ANY_PORT, _handler_of(hub))) as hub.url:
        yield hub


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


_REFUSALS = {
    "gated": Answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}),
    "private": Answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "forbidden": Answer(403, b"", {"X-Error-Message": "The token has no access to this resource."}),
    "broken": Answer(500, b"", {"X-Error-Message": "Internal Error"}),
}


def answer(repositories: Mapping[str, Repository], path: str) -> Answer:
    """What the Hub answers to a GET of `path` (a HEAD is the same without the body)."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    is_api = parts[:2] == ["api", "models"]
    parts = parts[2:] if is_api else parts
    repository = repositories.get("/".join(parts[:2]))
    if repository is None:
        return Answer(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
    if repository.access != "open":
        return _REFUSALS[repository.access]
    revision = parts[3] if len(parts) > 3 else "main"
    commit = repository.refs.get(revision, revision)
    if commit not in repository.commits:
        return Answer(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
    files = repository.commits[commit]
    if not is_api:
        return _file("/".join(parts[4:]), files, commit)
    if len(parts) > 2 and parts[2] == "commits":
        history = [{"id": c, "title": "", "message": "", "authors": [], "date": DATE} for c in repository.commits]
        return json_answer(history[::-1])
    if len(parts) > 2 and parts[2] == "tree":
        return json_answer([_entry(name, data) for name, data in files.items()])
    return json_answer({"id": "/".join(parts[:2]), "sha": commit, "siblings": [{"rfilename": name} for name in files]})


def _file(name: str, files: Mapping[str, bytes], commit: str) -> Answer:
    if name not in files:
        return Answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
    etag = hashlib.sha256(files[name]).hexdigest()
    return Answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})


def _moved(whole: Answer, place: str) -> Answer:
    headers = {"Location": place, "X-Linked-Size": str(len(whole.body)), "X-Linked-ETag": whole.headers["ETag"]}
    return Answer(302, b"", {**whole.headers, **headers})


def _entry(name: str, data: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}
    large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry | ({"lfs": large} if name.endswith(".safetensors") else {})


def json_answer(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _routed(hub: Hub, path: str, query: str, headers: Message) -> Answer:
    """The Hub's own answer, or that of the host of weight files."""
    if path.startswith("/cdn/"):
        hub.cdn_headers |= {name.title() for name in headers}
        hub.cdn_requests += 1
        if hub.cdn_requests == hub.expires_after:
            hub.signature = "second"
        return answer(hub.repositories, path.removeprefix("/cdn")) if query == hub.signature else Answer(403)
    if "Authorization" in headers:
        hub.tokens.add(headers["Authorization"])
    if path == "/api/whoami-v2":
        organizations = hub.writers.get(headers.get("Authorization", "").removeprefix("Bearer "))
        token = {"accessToken": {"role": "write" if organizations else "read"}}
        return Answer(401) if organizations is None else json_answer({"name": "somebody", "auth": token})
    result = answer(hub.repositories, path)
    if hub.redirects and result.status == 200 and path.endswith(".safetensors"):
        return _moved(result, f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn{path}?{hub.signature}")
    return result


def _ranged(hub: Hub, result: Answer, wanted: str) -> Answer:
    """The bytes of a range of it, where one is asked for."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
    if result.status != 200 or not found:
        return result
    if hub.broken_ranges:
        hub.broken_ranges -= 1
        return Answer(503)
    return Answer(206, result.body[int(found[1]) : int(found[2]) + 1], result.headers)


def _handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_POST(self) -> None:
            from hub_writes import written

            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._send(written(hub, path, body, self.headers.get("Authorization", "")), with_body=True)

        do_PUT = do_POST

        def _answer(self, *, with_body: bool) -> None:
            parts, wanted = urlsplit(self.path), self.headers.get("Range", "")
            hub.requests.append(f"{self.command} {parts.path} {wanted}".rstrip())
            self._send(_ranged(hub, _routed(hub, parts.path, parts.query, self.headers), wanted), with_body=with_body)

        def _send(self, result: Answer, *, with_body: bool) -> None:
            self.send_response(result.status)
            for name, value in result.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(result.body)))
            self.end_headers()
            if with_body:
                self.wfile.write(result.body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
