"""OUT either does not exist or is complete, whoever is killed, and whoever else writes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import Busy, InputError, InputsChanged, MergefleetError, OutputExists, PlanError, Refused
from engine.outputs.publish import Staging, clean, refuse_existing, refuse_inside, require_space

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "OUT"


def begin(out: Path, digest: str = "digest", *, seed: str = "0") -> Staging:
    return Staging.open(out, digest, {"seed": seed})


def tree(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in sorted(directory.rglob("*")) if p.is_file()}


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code` and waits wherever that reads a line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_nothing_is_visible_before_publish_and_everything_after_it(out: Path) -> None:
    with begin(out) as staging:
        (staging.directory / "sub").mkdir()
        (staging.directory / "model.safetensors").write_text("weights")
        (staging.directory / "sub" / "x.json").write_text("{}")
        assert not out.exists()
        assert staging.publish() == out
    assert tree(out) == {"model.safetensors": "weights", "sub/x.json": "{}"}
    assert [path.name for path in out.parent.iterdir()] == ["OUT"]


def test_everything_is_on_the_disk_before_the_rename(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(fd: int) -> None:
        events.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    staging = begin(out)
    (staging.directory / "a").write_text("a")
    (staging.directory / "sub").mkdir()
    (staging.directory / "sub" / "b").write_text("b")
    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    staging.publish()
    at = events.index("rename")
    assert set(events[:at]) == {"a", "sub", "b", "out"}
    assert events.index("b") < events.index("sub") < events.index("out")
    assert events[at + 1] == out.parent.name


def test_a_closed_run_is_resumed_with_its_files_and_records(out: Path) -> None:
    with begin(out) as staging:
        (staging.directory / "model.safetensors").write_text("half")
        staging.journal.append({"tile": 0})
    with begin(out) as staging:
        assert tree(staging.directory) == {"model.safetensors": "half"}
        assert staging.journal.records == [{"tile": 0}]
        assert not staging.journal.is_new


def test_files_without_a_journal_belong_to_no_plan_and_are_not_published(out: Path) -> None:
    with begin(out) as staging:
        (staging.directory / "stale.safetensors").write_text("old")
    (staging.partial / "journal").write_bytes(b"torn")
    with begin(out, "another") as staging:
        assert tree(staging.directory) == {}


def test_another_plan_is_refused_and_what_is_there_is_kept(out: Path) -> None:
    with begin(out) as staging:
        (staging.directory / "model.safetensors").write_text("half")
    with pytest.raises(InputsChanged, match=r"seed: 0 → 1.*mergefleet clean .*OUT`"):
        begin(out, "another", seed="1")
    with begin(out) as staging:
        assert tree(staging.directory) == {"model.safetensors": "half"}


def test_an_existing_output_of_any_kind_is_refused_and_left_alone(out: Path) -> None:
    out.mkdir()
    (out / "file").touch()
    with pytest.raises(OutputExists, match="OUT: a directory is there already"):
        begin(out)
    (out / "file").unlink()
    out.rmdir()
    out.write_text("mine")
    with pytest.raises(OutputExists, match="OUT: a file is there already"):
        begin(out)
    assert out.read_text() == "mine"
    out.unlink()
    out.symlink_to("nowhere")
    with pytest.raises(OutputExists, match="something is there already"):
        refuse_existing(out)
    assert [path.name for path in out.parent.iterdir()] == ["OUT"]


def test_an_empty_directory_is_filled_and_directories_above_it_are_made(out: Path, tmp_path: Path) -> None:
    out.mkdir()
    deep = tmp_path / "not" / "yet" / "there"
    for place in (out, deep):
        with begin(place) as staging:
            (staging.directory / "model.safetensors").write_text("weights")
            staging.publish()
        assert tree(place) == {"model.safetensors": "weights"}


def test_a_mount_point_is_no_output(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    with pytest.raises(OutputExists, match=r"OUT: is a mount point.*Name a directory in it"):
        begin(out)


def test_an_output_that_appears_meanwhile_is_not_overwritten_and_the_work_is_kept(out: Path) -> None:
    with begin(out) as staging:
        (staging.directory / "model.safetensors").write_text("weights")
        out.mkdir()
        (out / "theirs").touch()
        with pytest.raises(OutputExists, match="appeared while its output was made"):
            staging.publish()
        assert [path.name for path in out.iterdir()] == ["theirs"]
        (out / "theirs").unlink()
        staging.publish()
    assert tree(out) == {"model.safetensors": "weights"}


HOLD = """
import sys
from pathlib import Path
from engine.outputs.publish import Staging
staging = Staging.open(Path(sys.argv[1]), "digest", {"seed": "0"})
(staging.directory / "model.safetensors").write_text("half")
staging.journal.append({"tile": 0})
print("open", flush=True)
sys.stdin.readline()
staging.publish()
"""


def test_the_one_who_writes_is_named_and_only_his_death_frees_the_output(out: Path) -> None:
    with python(HOLD, out) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for attempt in (begin, clean):
            with pytest.raises(Busy, match=rf"OUT\.partial: process {holder.pid} on .* is writing it") as caught:
                attempt(out)
            assert caught.value.exit_code == 3
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with begin(out) as staging:
        assert staging.journal.records == [{"tile": 0}]
        staging.publish()
    assert tree(out) == {"model.safetensors": "half"}


def test_a_lock_is_held_within_one_process_too(out: Path) -> None:
    with begin(out), pytest.raises(Busy, match=f"process {os.getpid()} "):
        begin(out)


def test_a_lock_whose_file_was_removed_before_it_was_taken_is_taken_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def flock_late(fd: int, operation: int) -> None:
        if not removed:  # the process that held it publishes between our open() and our flock()
            removed.append((out.parent / "OUT.partial" / "mergefleet.lock").unlink())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with begin(out), pytest.raises(Busy):
        begin(out)


@pytest.mark.parametrize("has_work", [True, False])
def test_an_output_that_appears_while_locking_is_refused_and_earlier_work_is_kept(
    out: Path, monkeypatch: pytest.MonkeyPatch, has_work: bool
) -> None:
    if has_work:
        begin(out).close()
    flock = fcntl.flock

    def flock_late(fd: int, operation: int) -> None:
        out.touch()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with pytest.raises(OutputExists):
        begin(out)
    assert (out.parent / "OUT.partial").exists() == has_work


RACE = """
import sys
from pathlib import Path
from engine.errors import Refused
from engine.outputs.publish import Staging
sys.stdin.readline()
for i in range(40):
    try:
        with Staging.open(Path(sys.argv[1]) / str(i), "digest", {}) as staging:
            (staging.directory / "who").write_text(sys.argv[2])
            staging.publish()
        print(i, "won", flush=True)
    except Refused as error:
        print(i, type(error).__name__, flush=True)
"""


def test_of_racing_processes_exactly_one_publishes_each_output_whole(tmp_path: Path) -> None:
    racers = [python(RACE, tmp_path, who) for who in ("a", "b", "c")]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [racer.communicate(timeout=60) for racer in racers]
    assert [errors for _, errors in results] == [""] * 3
    for i in range(40):
        outcomes = [line.split()[1] for text, _ in results for line in text.splitlines() if line.split()[0] == str(i)]
        winner = [who for who, (text, _) in zip("abc", results, strict=True) if f"{i} won" in text.splitlines()]
        assert sorted(set(outcomes) - {"won"}) in ([], ["Busy"], ["OutputExists"], ["Busy", "OutputExists"])
        assert len(winner) == 1
        assert (tmp_path / str(i) / "who").read_text() == winner[0]
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(40))


DIE_AT = """
import os, sys
from pathlib import Path
from engine.outputs import publish
staging = publish.Staging.open(Path(sys.argv[1]), "digest", {"seed": "0"})
(staging.directory / "a").write_text("weights")
left = int(sys.argv[2])
def step(event, arguments):  # runs before every file operation of publish()
    global left
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(step)
staging.publish()
"""


def test_a_kill_before_any_step_of_publishing_leaves_nothing_or_everything(tmp_path: Path) -> None:
    seen = set()
    for step in range(100):
        out = tmp_path / str(step)
        partial = tmp_path / f"{step}.partial"
        with python(DIE_AT, out, step) as process:
            process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        seen.add((out.exists(), partial.exists()))
        if out.exists():  # complete; a rerun is refused, and clean takes away the rest
            assert tree(out) == {"a": "weights"}
            with pytest.raises(
                OutputExists, match="is left over: `mergefleet clean" if partial.exists() else "is there"
            ):
                begin(out)
            clean(out)
        else:
            begin(out).publish()
        assert tree(out) == {"a": "weights"}
        assert not partial.exists()
    assert step > 6
    assert {(False, True), (True, True)} <= seen <= {(False, True), (True, True), (True, False)}


def test_clean_removes_what_is_ours_and_nothing_else(out: Path) -> None:
    assert clean(out) == []
    with begin(out) as staging:
        (staging.directory / "model.safetensors").write_text("half")
    assert clean(out) == [staging.partial]
    assert list(out.parent.iterdir()) == []
    staging.partial.mkdir()  # killed right after mkdir
    assert clean(out) == [staging.partial]


def test_a_directory_that_only_looks_like_ours_is_refused(out: Path, tmp_path: Path) -> None:
    partial = tmp_path / "OUT.partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("ten years")
    for attempt in (begin, clean):
        with pytest.raises(Refused, match="was not made by mergefleet"):
            attempt(out)
    assert tree(partial) == {"thesis.tex": "ten years"}
    (partial / "thesis.tex").rename(tmp_path / "thesis.tex")
    partial.rmdir()
    partial.write_text("a file")
    with pytest.raises(Refused, match="was not made by mergefleet"):
        clean(out)
    partial.unlink()
    (tmp_path / "elsewhere").mkdir()
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="was not made by mergefleet"):
        begin(out)


def test_clean_follows_no_link_out_of_the_directory(out: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.safetensors").write_text("precious")
    with begin(out) as staging:
        (staging.directory / "link").symlink_to(tmp_path / "source")
    (staging.partial / "link").symlink_to(tmp_path / "source")
    clean(out)
    assert tree(tmp_path) == {"source/model.safetensors": "precious"}


def test_a_place_that_cannot_be_written_to_is_named_with_what_to_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.touch()
    with pytest.raises(InputError, match=r"no/such/OUT\.partial: cannot be made: Not a directory\. Name an output"):
        begin(out / "no" / "such" / "OUT")
    out.unlink()
    with pytest.raises(InputError, match="is no name for an output directory"):
        begin(Path("/"))
    with pytest.raises(InputError, match=r"/proc/x\.partial: cannot be made"):
        begin(Path("/proc/x"))

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(InputError, match=r"OUT\.partial: cannot be made: Permission denied\. Name an output"):
        begin(out)


def test_an_output_is_relative_to_the_working_directory_and_may_end_in_a_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a/", "./b", "~/c"):
        with begin(Path(name)) as staging:
            staging.publish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_output_inside_a_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "link").symlink_to(source)
    for out in (source / "OUT", source / "deep" / "OUT", source, tmp_path / "link" / "OUT"):
        with pytest.raises(PlanError, match="lies inside the source"):
            refuse_inside(out, [tmp_path / "other", source])
    refuse_inside(tmp_path / "source2", [source])


def test_space_is_compared_with_what_is_free_and_already_reserved(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(free_bytes: int) -> os.statvfs_result:
        return os.statvfs_result((4096, 1, 0, 0, free_bytes, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", lambda _: disk(1_000_000))
    require_space(out / "not" / "yet" / "there", 1_000_000)
    with pytest.raises(PlanError, match=r"needs 1_000_001 bytes, .* has 1_000_000 free") as caught:
        require_space(out, 1_000_001)
    assert (caught.value.needed, caught.value.got) == (1_000_001, 1_000_000)
    with begin(out) as staging:
        (staging.directory / "model.safetensors").write_bytes(bytes(2_000_000))
    require_space(out, 3_000_000)
    with pytest.raises(PlanError, match="needs 3_500_000"):
        require_space(out, 3_500_000)


def test_a_closed_staging_publishes_nothing(out: Path) -> None:
    staging = begin(out)
    staging.close()
    staging.close()
    with pytest.raises(MergefleetError, match="is closed"):
        staging.publish()
    assert not out.exists()


@pytest.mark.parametrize("name", ["x" * 248, "x\0y", "x\udcff"], ids=["too long", "NUL", "no UTF-8"])
def test_a_name_that_no_output_can_have_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        refuse_existing(tmp_path / name)
    refuse_existing(tmp_path / ("x" * 247))
