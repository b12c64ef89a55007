"""A wrong address is one line that says what to do, within seconds, before anything is loaded or written."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import address
from cluster.address import check_address
from engine.errors import ClusterError

SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Something on a port of this machine that answers with these bytes and hangs up; None: does neither."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                if answer is None:
                    open_connections.append(connection)
                else:
                    connection.recv(64)
                    connection.sendall(answer)
                    connection.close()

        open_connections: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for connection in open_connections:
        connection.close()


def refusal(place: str) -> str:
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        check_address(place)
    assert time.monotonic() - started < 15
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_local_needs_no_look() -> None:
    assert check_address("local") == "local"


def test_ray_client_is_refused_with_the_line_that_submits_this_very_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "/usr/bin/mergefleet",
        "merge",
        "my recipe.yml",
        "out",
        "--address",
        "ray://head:10001",
        "--threads",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert refusal("ray://head:10001").endswith(
        " ray job submit --address http://head:8265 --working-dir . -- "
        "mergefleet merge 'my recipe.yml' out --address auto --threads 2"
    )


def test_the_address_may_be_one_word_with_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mergefleet", "search", "c.yml", "--address=ray://head:10001"])
    assert refusal("ray://head:10001").endswith("-- mergefleet search c.yml --address=auto")


@pytest.mark.parametrize("place", ["head", "head:", ":6379", "head:http", "head:99999", "head:0", ""])
def test_what_is_no_address_is_said_with_what_would_be_one(place: str) -> None:
    said = refusal(place)
    assert repr(place) in said
    assert "local, auto or HOST:PORT" in said


def test_nothing_listening_is_said_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = refusal(f"127.0.0.1:{port}")
    assert said.startswith(f"127.0.0.1:{port}: cannot be reached (Connection refused)")
    assert "ray start --head" in said


def test_a_host_without_an_address_is_said() -> None:
    assert "cannot be reached" in refusal("no-such-host.invalid:6379")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "CONNECT_S", 0.3)
    with server(None) as port:
        assert "no answer within 0.3 s" in refusal(f"127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_server_is_not_taken_for_a_ray(answer: bytes) -> None:
    with server(answer) as port:
        said = refusal(f"127.0.0.1:{port}")
    assert "no Ray head" in said


def test_a_ray_whose_node_this_machine_is_not_is_refused_with_the_line_that_submits() -> None:
    with server(SETTINGS_FRAME) as port:
        said = refusal(f"127.0.0.1:{port}")
    assert "not one of its nodes" in said
    assert "ray job submit --address http://127.0.0.1:8265" in said


@pytest.mark.parametrize(
    ("place", "head", "is_same"),
    [
        *(("127.0.0.1:6379", "127.0.0.1:6379", True), ("localhost:6379", "127.0.0.1:6379", True)),
        *(("127.0.0.2:6379", "127.0.0.1:6379", True), ("192.0.2.1:6379", "192.0.2.1:6379", True)),  # RFC 5737: nobody's
        *(("192.0.2.1:6379", "127.0.0.1:6379", False), ("127.0.0.1:6379", "192.0.2.1:6379", False)),
        *(("127.0.0.1:6379", "127.0.0.1:6380", False), ("no-such-host.invalid:6379", "127.0.0.1:6379", False)),
    ],
)
def test_a_head_is_known_by_its_host_and_its_port(place: str, head: str, is_same: bool) -> None:
    host, _, port = place.rpartition(":")
    assert address._is_same(host, int(port), head) is is_same


def test_auto_without_any_ray_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_raylets", list)
    assert "--address local" in refusal("auto")


def test_auto_with_several_rays_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    raylets = [(head, address.Path("/nowhere")) for head in ("10.0.0.1:1", "10.0.0.2:2", "10.0.0.1:1")]
    monkeypatch.setattr(address, "_raylets", lambda: raylets)
    monkeypatch.setattr(address, "_CURRENT", address.Path("/nowhere"))
    assert "10.0.0.1:1, 10.0.0.2:2" in refusal("auto")


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(SETTINGS_FRAME) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        monkeypatch.setattr(address, "_raylets", lambda: [(f"127.0.0.1:{port}", address.Path("/nowhere"))])
        assert check_address("auto") == f"127.0.0.1:{port}"


def test_auto_passes_by_a_ray_that_another_command_started_for_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "environ").write_bytes(f"HOME=/root\0{address.PRIVATE}=1\0".encode())
    monkeypatch.setattr(address, "_raylets", lambda: [("127.0.0.1:6379", tmp_path)])
    assert "no Ray runs on this machine" in refusal("auto")


def test_a_bad_address_in_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "garbage")
    assert refusal("auto").startswith("RAY_ADDRESS: got 'garbage'")


def test_a_ray_client_in_the_environment_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert "ray job submit" in refusal("auto")


def test_a_refusal_comes_without_loading_ray() -> None:
    script = (
        "import sys\nfrom cluster.address import check_address\n"
        "try: check_address('127.0.0.1:1')\n"
        "except Exception as error: print(type(error).__name__, 'ray' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.split() == ["ClusterError", "False"]
