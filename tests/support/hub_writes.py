"""What the stand-in of the Hub answers to writes: repositories, branches, uploads, commits.

POST /api/repos/create                            a repository with the Hub's own first commit
POST /api/models/ORG/NAME/branch/BRANCH           a branch from `startingPoint`
POST /api/models/ORG/NAME/preupload/REV           which files go up as blobs
POST /ORG/NAME.git/info/lfs/objects/batch         where to put those that are not there yet
PUT  /lfs/SHA256                                  a blob, which nothing refers to until a commit does
POST /api/models/ORG/NAME/commit/REV              all files at once
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import unquote

from hub_standin import Answer, Hub, Repository, commit_id, json_answer

FIRST = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


def written(hub: Hub, path: str, body: bytes, authorization: str) -> Answer:
    """Do what is asked, if this token may."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "lfs":
        if hashlib.sha256(body).hexdigest() != parts[1]:
            return Answer(400)
        hub.blobs[parts[1]] = body
        return Answer(200)
    if path == "/api/validate-yaml":
        return json_answer({"errors": [], "warnings": []})
    token = authorization.removeprefix("Bearer ")
    if path == "/api/repos/create":
        asked = json.loads(body)
        return _created(hub, asked, may=asked["organization"] in hub.writers.get(token, ()))
    organization, name = parts[2:4] if parts[0] == "api" else (parts[0], parts[1].removesuffix(".git"))
    if organization not in hub.writers.get(token, ()):
        return Answer(403, b"", {"X-Error-Message": "Forbidden"})
    repository = hub.repositories[f"{organization}/{name}"]
    if parts[-1] == "batch":
        return _batch(hub, json.loads(body))
    action, target = parts[4], "/".join(parts[5:])
    if action == "branch":
        return _branch(repository, target, json.loads(body)["startingPoint"])
    if action == "preupload":
        return json_answer({"files": [_mode(entry) for entry in json.loads(body)["files"]]})
    return _commit(hub, f"{organization}/{name}", target, [json.loads(line) for line in body.splitlines()])


def _created(hub: Hub, asked: dict[str, Any], *, may: bool) -> Answer:
    name = f"{asked['organization']}/{asked['name']}"
    if not may:
        return Answer(403, b"", {"X-Error-Message": "You don't have the rights to create a model there"})
    if name in hub.repositories:
        there = json.dumps({"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
        return Answer(409, there.encode(), {"Content-Type": "application/json"})
    first = commit_id(name)
    hub.repositories[name] = Repository({first: FIRST}, {"main": first}, visibility=asked["visibility"])
    return json_answer({"url": f"{hub.url}/{name}", "name": name})


def _branch(repository: Repository, name: str, start: str) -> Answer:
    if name in repository.refs:
        return Answer(409)
    repository.refs = {**repository.refs, name: start}
    return json_answer({})


def _mode(entry: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if entry["path"].endswith(".safetensors") else "regular"
    return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _batch(hub: Hub, asked: dict[str, Any]) -> Answer:
    objects = []
    for entry in asked["objects"]:
        upload = {} if entry["oid"] in hub.blobs else {"actions": {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}}
        objects.append({"oid": entry["oid"], "size": entry["size"], **upload})
    return json_answer({"transfer": "basic", "objects": objects})


def _commit(hub: Hub, name: str, branch: str, lines: list[dict[str, Any]]) -> Answer:
    repository = hub.repositories[name]
    head, *operations = [line["value"] for line in lines]
    parent = repository.refs[branch]
    if head["parentCommit"] != parent:
        return Answer(412, b"", {"X-Error-Message": "A commit has happened since"})
    if hub.broken_commits:
        hub.broken_commits -= 1
        return Answer(503)
    files = dict(repository.commits[parent])
    for entry in operations:
        blob = hub.blobs[entry["oid"]] if "oid" in entry else base64.b64decode(entry["content"])
        files[entry["path"]] = blob
    made = commit_id(f"{parent} {head['summary']} {len(repository.commits)}")
    repository.commits = {**repository.commits, made: files}
    repository.refs = {**repository.refs, branch: made}
    return json_answer({"commitUrl": f"{hub.url}/{name}/commit/{made}", "commitOid": made, "pullRequestUrl": None})
