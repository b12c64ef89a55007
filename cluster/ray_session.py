"""A connection to Ray: start one on this machine, or join one that runs, and end what was started.

A Ray of our own (`local`) stays on this machine: loopback only, a token of its own, no dashboard, 128 MiB object store.
What an address means and whether a Ray answers there is `cluster.address`.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.address import PRIVATE, check_address
from cluster.placement import Node
from engine.errors import ClusterError

OBJECT_STORE_BYTES = 128 << 20
LOG_S = 5.0
_LOOPBACK = ("localhost", "127.", "::1")
_WAIT = "RAY_gcs_server_port_wait_time_s"


@dataclass(frozen=True)
class Session:
    """An open connection: the head's HOST:PORT, where logs of this machine lie, and whether we started that Ray."""

    address: str
    logs: Path
    started: bool


@contextmanager
def session(address: str, *, cpus: int | None = None, verbose: bool = False) -> Iterator[Session]:
    """Connect to Ray for the time of a `with` block; reuse the connection that this process has already.

    Args:
        address: `local`, `auto` or HOST:PORT.
        cpus: processors that a `local` Ray lends; default: all of this machine's (or container's).
        verbose: show what workers print.

    Raises ClusterError, one line, saying what to do.
    """
    place = check_address(address)
    if "ray" in sys.modules:
        present = _present_session(address, place)
        if present is not None:
            yield present
            return
    _set_environment(place)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        opened = _start(cpus, verbose) if place == "local" else _join(place, verbose)
        _keep_off_stdout(verbose)
        if handler not in (signal.SIG_DFL, None):
            _handle_sigterm(handler)  # ray.init puts one of its own there
        yield opened
    finally:
        import ray

        ray.shutdown()
        _handle_sigterm(handler)


def alive_nodes() -> list[Node]:
    """The nodes of the connected cluster that have processors to lend, in a stable order.

    Nodes that say to have the same name, as several on one machine do, are told apart by their ids.
    """
    import ray

    there = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    named = Counter(node["NodeManagerHostname"] for node in there)
    found = []
    for node in there:
        host, resources = node["NodeManagerHostname"], node["Resources"]
        name = host if named[host] == 1 else f"{host}/{node['NodeID'][:6]}"
        gpus = float(resources.get("GPU", 0))
        found.append(Node(node["NodeID"], name, float(resources["CPU"]), gpus, node.get("Labels") or {}))
    return sorted(found, key=lambda node: node.id)


def draining_nodes() -> set[str]:
    """Ids of nodes that will go soon: Ray was told to drain them."""
    from ray._private.state import state  # where Ray's own libraries ask, too

    return set(state.get_draining_nodes())


def this_node() -> str:
    """The id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def log_tail(logs: Path, pid: int, *, lines: int = 8) -> str:
    """The last lines that a Ray worker of this machine printed; "" where there are none."""
    text: list[str] = []
    for path in sorted(logs.glob(f"worker-*-{pid}.[eo][ru][rt]")):
        text += path.read_text(errors="replace").splitlines()
    said = [line for line in text if line.strip() and not line.startswith(":")]  # ":actor_name:..." marks
    return "\n".join(said[-lines:])


def log_of(logs: Path, pid: int, node: Node) -> str:
    """`log_tail` of a worker on any node that is still there: its node reads the file."""
    import ray

    if node.id == this_node():
        return log_tail(logs, pid)
    reader = ray.remote(log_tail).options(num_cpus=0, label_selector={"ray.io/node-id": node.id})
    try:
        return str(ray.get(reader.remote(logs, pid), timeout=LOG_S))
    except ray.exceptions.RayError:  # it is gone, and its files with it
        return ""


def _handle_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def indented(text: str) -> str:
    """Lines to stand below a message."""
    return "".join(f"\n    {line}" for line in text.splitlines())


def cannot_start(host: str, said: str) -> ClusterError:
    """For an actor whose very constructor failed; the last line of what Ray says is the exception."""
    return ClusterError(
        f"node {host}: a worker cannot start there: {said.strip().splitlines()[-1]}. Is the same mergefleet installed "
        "on every node?",
        node=host,
    )


def _start(cpus: int | None, verbose: bool) -> Session:
    import ray

    context = ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        **_quiet(verbose),
    )
    return _opened(context, started=True)


def _join(place: str, verbose: bool) -> Session:
    import ray
    from ray.exceptions import AuthenticationError

    chosen = os.environ.get(_WAIT)
    os.environ.setdefault(_WAIT, "2")  # tries of a second, not 20: a Ray has answered there just now
    try:
        context = ray.init(address=place, **_quiet(verbose))
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise _explained(place, error) from None
    finally:
        if chosen is None:
            del os.environ[_WAIT]
    return _opened(context, started=False)


def _quiet(verbose: bool) -> dict[str, Any]:
    import logging

    return {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}


def _keep_off_stdout(verbose: bool) -> None:
    """Raylets' messages are printed on a driver's stdout, whatever `log_to_driver` says, and stdout may be for JSON.

    The switch is that of Ray's own debugger (ray/util/rpdb.py).
    """
    from ray._private import worker

    worker._worker_logs_enabled = verbose


def _opened(context: Any, *, started: bool) -> Session:
    facts = context.address_info
    return Session(facts["gcs_address"], Path(facts["session_dir"]) / "logs", started)


def _present_session(address: str, place: str) -> Session | None:
    """The connection that this process has, if it is the one that is asked for."""
    import ray

    if not ray.is_initialized():
        return None
    present = str(ray.get_runtime_context().gcs_address)
    if address not in ("auto", "local") and place != present:
        raise ClusterError(f"{address}: this process is connected to another Ray already, at {present}.")
    from ray._private import worker  # the one place that knows the session's folder

    return Session(present, Path(worker._global_node.get_session_dir_path()) / "logs", started=False)


def _explained(place: str, error: BaseException) -> ClusterError:
    """Ray's exception in one line. What went wrong is in the text of one of its causes."""
    said, cause = "", error
    while cause is not None:
        said, cause = f"{said}{cause}\n", cause.__cause__  # type: ignore[assignment]
    if "Version mismatch" in said:
        return ClusterError(f"{place}: {' '.join(said.split())} Install the same versions on both.", address=place)
    if "Authentication" in said or "InvalidAuthToken" in said:
        return ClusterError(
            f"{place}: this Ray asks for a token and does not accept what is set here "
            f"(RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE')}). Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE "
            "(or RAY_AUTH_TOKEN) as on its head.",
            address=place,
        )
    return ClusterError(
        f"{place}: Ray cannot be joined: {said.splitlines()[0]}. `ray status` says more.", address=place
    )


def _set_environment(place: str) -> None:
    """What Ray reads from the environment, here and in every process it starts; what the user set stays.

    Not undone afterwards: Ray caches the token for the life of the process.
    """
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if place == "local":
        settings |= {"RAY_AUTH_MODE": "token", PRIVATE: "1"}
        if not _names_token():
            settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray keeps one in a file that all may read
    else:
        settings["RAY_AUTH_MODE"] = "token" if _names_token() else "disabled"
    if place == "local" or place.startswith(_LOOPBACK):
        # Ray's switch for "this machine only": loopback instead of asking a name server for the way out
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules:  # it read the environment when it was imported
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def _names_token() -> bool:
    """Whether the user gave a token. The one that Ray keeps at home may be of another cluster: with it, one that asks
    for none is joined, and every worker dies there."""
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
