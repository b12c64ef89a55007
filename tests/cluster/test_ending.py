"""Every way to end that somebody foresaw: one line on stderr, the exit code, and one object with --json."""

from __future__ import annotations

import errno
import gc
import io
import json
import signal
import sys

import pytest
import typer

from cluster import entry, main
from cluster.search_command import pausing_signals
from engine.errors import InputError, OutputExists

INTERRUPTED = "interrupted; run the same command again to resume."
ENDINGS = [
    (InputError("r.yml: is empty."), "InputError", "r.yml: is empty.", 2),
    (OutputExists("out: is there."), "OutputExists", "out: is there.", 3),
    (KeyboardInterrupt(), "Interrupted", INTERRUPTED, 130),
    (typer.Abort(), "Interrupted", INTERRUPTED, 130),
    (OSError(errno.ENOSPC, "No space left on device", "out/x"), "OSError", "out/x: No space left on device.", 1),
    (FileNotFoundError(errno.ENOENT, "No such file", "r.yml"), "FileNotFoundError", "r.yml: No such file.", 2),
]


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mergefleet", *arguments])
    with pytest.raises(SystemExit) as exit_:
        entry.run()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.mark.parametrize(("error", "name", "message", "code"), ENDINGS)
def test_an_error_is_a_line_an_exit_code_and_with_json_an_object(
    error: BaseException,
    name: str,
    message: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    assert ended(monkeypatch, "doctor") == code
    assert capfd.readouterr() == ("", f"mergefleet: {message}\n")
    assert ended(monkeypatch, "doctor", "--json") == code
    out, err = capfd.readouterr()
    assert json.loads(out) == {"error": name, "message": message, "exit_code": code}
    assert err == f"mergefleet: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["merge", "r.yml", "out", "--workers", "0"], "--workers: 0 is not in the range x>=1."),
        (["plan", "r.yml", "--nodes", "0"], "--nodes: 0 is not in the range x>=1."),
        (
            ["merge", "r.yml", "out", "--metrics-port", "99999"],
            "--metrics-port: 99999 is not in the range 1<=x<=65535.",
        ),
        (
            ["publish", "nowhere", "--license", "MIT!"],
            "--license: got 'MIT!', an identifier of the Hub expected: apache-2.0, cc-by-4.0, other …",
        ),
    ],
)
def test_a_value_that_an_option_cannot_have_is_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    assert capfd.readouterr() == ("", f"mergefleet: {said}\n")


def test_after_the_last_word_no_garbage_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise InputError("r.yml: is empty.")

    monkeypatch.setattr("cluster.doctor.examine", fail)
    gc.unfreeze()
    try:
        assert ended(monkeypatch, "doctor") == 2
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_several_places_of_sources_may_follow_one_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(
        "cluster.publish_command.reproduce", lambda published, sources, **_: given.append(sources) or True
    )
    for arguments in (["--sources", "a=A", "b=B", "c=C"], ["--sources", "a=A", "--sources", "b=B", "c=C"]):
        assert ended(monkeypatch, "reproduce", "hub:o/n", *arguments) == 0
    assert given == [["a=A", "b=B", "c=C"]] * 2


def test_ctrl_c_inside_a_command_says_that_it_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.doctor.examine", interrupt)
    assert ended(monkeypatch, "doctor") == 130
    assert INTERRUPTED in capfd.readouterr().err


def test_a_connection_that_breaks_is_not_taken_for_a_reader_who_went(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("cluster.doctor.examine", fail)
    assert ended(monkeypatch, "doctor") == 1
    assert capfd.readouterr().err.startswith("mergefleet: a connection was closed by the other side (broken pipe).")


def test_ctrl_c_twice_in_a_search_says_resume_since_the_same_command_would_be_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        with pausing_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("cluster.doctor.examine", interrupt)
    assert ended(monkeypatch, "doctor") == 130
    assert capfd.readouterr().err.endswith("mergefleet: interrupted; what is scored is kept: continue with --resume.\n")


def test_ctrl_c_while_the_command_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cluster.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "cluster.main")
    monkeypatch.delattr("cluster.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert ended(monkeypatch, "doctor") == 130
    assert capfd.readouterr().err == f"mergefleet: {INTERRUPTED}\n"


def test_a_mistyped_flag_is_an_object_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, "doctor", "--jsn", "--json") == 2
    out, err = capfd.readouterr()
    assert json.loads(out)["error"] == "UsageError"
    assert "--jsn" in json.loads(out)["message"]
    assert "--jsn" in err


def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert ended(monkeypatch, "clean", "mödell") == 0
    shown.flush()
    assert isinstance(shown.buffer, io.BytesIO)
    assert shown.buffer.getvalue() == b"nothing to remove beside m\\xf6dell\n"
