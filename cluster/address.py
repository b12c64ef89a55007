"""What an address of a Ray means, and whether a Ray answers there: found out, and said, before anything slow is loaded.

    local        a Ray of our own on this machine
    auto         the Ray that RAY_ADDRESS names, or else the one that this machine is a node of
    HOST:PORT    the Ray whose head listens there; this machine must be one of its nodes
    ray://...    refused: when a Ray Client's connection drops, the job ends with it

Imports no Ray.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path

from engine.errors import ClusterError

CONNECT_S = 4.0
PRIVATE = "MERGEFLEET_PRIVATE_RAY"
"""In the environment of a Ray that ends with the command that started it: nobody else is to join it."""
_CURRENT = Path("/tmp/ray/ray_current_cluster")
# HTTP/2's connection preface with an empty SETTINGS frame; a gRPC server answers with a SETTINGS frame (RFC 9113, 3.4)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4


def check_address(address: str) -> str:
    """`local`, or the HOST:PORT that `address` means, after a look whether a Ray answers there (at most 8 s).

    Raises ClusterError; does not import ray.
    """
    if "://" in address:
        raise _refused_scheme(address)
    if address == "local":
        return address
    place = _find() if address == "auto" else address
    said = "--address" if place == address else "RAY_ADDRESS"
    if place != address and "://" in place:
        raise _refused_scheme(place)
    host, port = _split(place, said)
    _greet(place, host, port)
    if not any(_is_same(host, port, gcs) for gcs in _local_nodes()):
        raise ClusterError(
            f"{place}: a Ray answers there, but this machine is not one of its nodes, and a driver must run on one. "
            f"Start the command on a node, or submit it:\n  {submission(host)}",
            address=place,
        )
    return place


def _find() -> str:
    """What `auto` means here."""
    named = os.environ.get("RAY_ADDRESS")
    if named and named != "auto":
        return named
    found = sorted(set(_public_nodes()))
    if len(found) > 1:
        current = _CURRENT.read_text().strip() if _CURRENT.is_file() else ""
        found = [current] if current in found else found
    if len(found) == 1:
        return found[0]
    if found:
        raise ClusterError(
            f"auto: several Rays run on this machine: {', '.join(found)}. Give one as --address HOST:PORT."
        )
    raise ClusterError(
        "auto: no Ray runs on this machine, and RAY_ADDRESS is not set. Give --address local to start one, or "
        "`ray start --address HOST:PORT` to make this machine a node of a cluster."
    )


def _local_nodes() -> list[str]:
    """Addresses of the heads that the Ray nodes on this machine belong to."""
    return [address for address, _ in _raylets()]


def _public_nodes() -> list[str]:
    """The same without those that another command started for itself."""
    return [address for address, process in _raylets() if not _is_private(process)]


def _raylets() -> list[tuple[str, Path]]:
    """Of every raylet on this machine the address of its head, and its process in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended, or is somebody else's
            continue
        if Path(words[0]).name == "raylet":
            heads = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
            found += [(head, path.parent) for head in heads]
    return found


def _is_private(process: Path) -> bool:
    """Whether a Ray was started by `--address local` for one command, as far as this user may see that."""
    try:
        return f"{PRIVATE}=1".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _split(place: str, said: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClusterError(
            f"{said}: got {place!r}, want local, auto or HOST:PORT (a Ray head's port is 6379 as a rule)."
        )
    return host.strip("[]"), int(port)


def _is_same(host: str, port: int, head: str) -> bool:
    """Whether HOST and PORT mean the head at the address `head`; a machine has several addresses and names."""
    name, _, number = head.rpartition(":")
    if number != str(port):
        return False
    ours, theirs = _addresses(host), _addresses(name.strip("[]"))
    return bool(ours & theirs) or (any(map(_is_here, ours)) and any(map(_is_here, theirs)))


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:  # no name server knows it
        return {host}


def _is_here(address: str) -> bool:
    """Whether it is one of this machine's: only such a one can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _greet(place: str, host: str, port: int) -> None:
    """ClusterError unless something at HOST:PORT speaks HTTP/2, as a Ray head does."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false"):
                return
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except TimeoutError:
        raise ClusterError(
            f"{place}: no answer within {CONNECT_S:g} s. Is it the address of a Ray head that this machine may reach?",
            address=place,
        ) from None
    except OSError as error:
        raise ClusterError(
            f"{place}: cannot be reached ({error.strerror or error}). Is a Ray head running there (`ray start --head`)?"
            " --address local starts one on this machine.",
            address=place,
        ) from None
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ClusterError(
            f"{place}: something answers there that is no Ray head. Its port is 6379 as a rule.", address=place
        )


def _refused_scheme(address: str) -> ClusterError:
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]") or rest or "HOST"
    reason = (
        "a Ray Client's job ends when its connection drops"
        if scheme == "ray"
        else f"{scheme}:// is no address of a Ray"
    )
    return ClusterError(f"{address}: {reason}. Submit the command instead: {submission(host)}", address=address)


def submission(host: str) -> str:
    """The line that runs this very command as a job on the cluster."""
    words = ["mergefleet", *sys.argv[1:]] if Path(sys.argv[0]).name == "mergefleet" else ["mergefleet", "..."]
    for place, word in enumerate(words):
        if word.startswith("--address="):
            words[place] = "--address=auto"
        elif place and words[place - 1] == "--address":
            words[place] = "auto"
    return f"ray job submit --address http://{host}:8265 --working-dir . -- {shlex.join(words)}"
