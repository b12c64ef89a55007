"""What every test runs under: no telemetry, no hub, no connection that leaves this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cluster.ray_session import Session

# Read by libraries when they are first imported, and inherited by every process that a test starts.
OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for "this machine only"
    "RAY_USAGE_STATS_ENABLED": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in the process that compiles: others would import torch first
    "TRANSFORMERS_OFFLINE": "1",
}
for name, value in OFFLINE.items():
    os.environ.setdefault(name, value)


# wall-clock limits make tests fail on busy machines
settings.register_profile("mergefleet", deadline=None)
settings.load_profile("mergefleet")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, one keeps a process busy while there is nothing left for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def no_connection_leaves_this_machine() -> Iterator[None]:
    """Fail on the first TCP connection to an address that is not this machine's.

    UDP stays open: `connect` on a datagram socket sends nothing, and Ray asks the kernel that way which of this
    machine's addresses it would use.
    """
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def ray_here() -> Iterator[Session]:
    """One Ray for all tests that need one; its 8 processors are a number, so that many small actors fit.

    Its workers find the fakes of tests/support.
    """
    from cluster.ray_session import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "support"), prepend=os.pathsep)
        with session("local", cpus=8) as opened:
            yield opened


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a real S3 server on this machine."""
    from s3_server import running_s3

    with running_s3() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://NAME, an empty bucket of this test, which the standard variables lead to."""
    from s3_server import CREDENTIALS, make_bucket

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": s3_endpoint}).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_endpoint, name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL of this session: a URL with {name} for the database."""
    from postgres_server import binaries, running_postgres

    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL on this machine, and no wheel with its binaries (extra `dev`)")
    with running_postgres(folder) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test, as a campaign's `store` says it."""
    from postgres_server import drop_database, make_database

    name = f"db{uuid.uuid4().hex[:12]}"
    yield make_database(postgres_server, name)
    drop_database(postgres_server, name)


def _guarded(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type & socket.SOCK_STREAM:
            assert _is_ours(str(address[0])), f"a test tried to connect to {address}: tests stay on this machine"
        return connect(self, address)

    return guarded


def _is_ours(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"localhost", socket.gethostname()}
    return address.is_loopback or host in _own_addresses()


def _own_addresses() -> set[str]:
    """This machine's address on its network, where it has one: Ray's processes listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return set()
        return {str(probe.getsockname()[0])}
