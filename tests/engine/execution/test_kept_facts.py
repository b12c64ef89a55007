"""Facts on disk are those that were measured, bit for bit, or are measured anew; and nothing ever waits or fails."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backends import recipe_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from shared_families import shared_family

from engine import make_plan, open_checkpoints
from engine.execution import kept_facts
from engine.execution.execute import Work, execute
from engine.execution.kept_facts import KeptFacts
from engine.execution.known_facts import KnownFacts
from engine.methods.contract import Array, Facts, Stage
from engine.planning.plan import OutputTensor

ANY_ARRAY = st.sampled_from(["<f8", "<i8", "<f4", "<i4"]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
)
MIXED_UP = """
import sys
from pathlib import Path
import numpy as np
from engine.execution.kept_facts import KeptFacts
for turn in range(20):
    kept = KeptFacts(Path(sys.argv[1]))
    for number in range(5):
        kept.add(f"{sys.argv[2]} {turn} {number}", {"mass": np.arange(float(turn))})
    kept.write()
"""
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from engine.execution import kept_facts
file = kept_facts._open(Path(sys.argv[1]))
file.execute("PRAGMA cache_size = 1")  # what is not committed is in the file by then
file.execute("BEGIN IMMEDIATE")
file.execute("UPDATE facts SET value = x'00'")
file.executemany("INSERT INTO facts VALUES (?, x'00', zeroblob(3000), 0)", ((b"%d" % n,) for n in range(100)))
os.kill(os.getpid(), signal.SIGKILL)
"""


class Nowhere:
    """A sink that keeps nothing: digests tell."""

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        pass


def numbers(scale: float = 1.0) -> dict[str, Array]:
    return {"trim": np.arange(6, dtype=np.int64).reshape(2, 1, 3), "mass": np.array([scale, np.nan, -0.0])}


def equal(found: Facts | None, expected: Facts) -> bool:
    return found is not None and {n: (v.dtype, v.shape, v.tobytes()) for n, v in found.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in expected.items()
    }


def keep(file: Path, **facts: Facts) -> None:
    kept = KeptFacts(file)
    for key, values in facts.items():
        kept.add(key, values)
    kept.write()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "facts" / "facts.sqlite"


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=8), ANY_ARRAY, max_size=3))
def test_facts_come_back_bit_for_bit_and_may_be_written_to(facts: dict[str, Array]) -> None:
    found = kept_facts._decode(kept_facts._encode(facts))
    assert equal(found, facts)
    assert all(values.flags.writeable for values in found.values())


def test_another_process_finds_what_was_written_under_its_own_key(file: Path) -> None:
    keep(file, one=numbers(1), two=numbers(2))
    kept = KeptFacts(file)
    assert equal(kept.find("one"), numbers(1))
    assert equal(kept.find("two"), numbers(2))
    assert kept.find("three") is None
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_row_that_was_altered_or_swapped_is_not_used_and_is_replaced(file: Path) -> None:
    keep(file, one=numbers(1), two=numbers(2), three=numbers(3))
    with closing(sqlite3.connect(file)) as rows:
        places = {name: KeptFacts(file)._place(name) for name in ("one", "two", "three")}
        rows.execute("UPDATE facts SET (seal, value) = (SELECT seal, value FROM facts WHERE key = ?)", (places["two"],))
        rows.execute("UPDATE facts SET value = CAST(x'ff00' AS TEXT) WHERE key = ?", (places["three"],))
        rows.commit()
    kept = KeptFacts(file)
    assert [kept.find("one"), kept.find("three")] == [None, None]
    assert equal(kept.find("two"), numbers(2))
    keep(file, one=numbers(1))
    assert equal(KeptFacts(file).find("one"), numbers(1))


def test_a_file_that_is_none_is_removed_and_the_next_process_makes_one(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(file, one=numbers())
    file.write_bytes(b"nothing of the kind" * 1000)
    kept = KeptFacts(file)
    assert [kept.find("one"), kept.find("one")] == [None, None]
    kept.add("one", numbers())
    kept.write()
    assert len(caplog.records) == 1
    keep(file, one=numbers())
    assert equal(KeptFacts(file).find("one"), numbers())


def test_a_killed_process_leaves_all_of_its_facts_or_none(file: Path) -> None:
    keep(file, one=numbers())
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert file.with_name("facts.sqlite-journal").stat().st_size > 0
    assert equal(KeptFacts(file).find("one"), numbers())
    with closing(sqlite3.connect(file)) as rows:
        assert rows.execute("SELECT count(*) FROM facts").fetchone() == (1,)


def test_two_processes_at_once_lose_nothing(file: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", MIXED_UP, str(file), name]) for name in ("left", "right")]
    assert [writer.wait() for writer in writers] == [0, 0]
    kept = KeptFacts(file)
    for turn in range(20):
        for key in (f"{name} {turn} {number}" for name in ("left", "right") for number in range(5)):
            assert equal(kept.find(key), {"mass": np.arange(float(turn))})


@pytest.mark.parametrize("trouble", ["no room", "no file", "locked"])
def test_a_file_that_cannot_be_used_costs_one_warning(
    trouble: str, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(file, one=numbers())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    holder = sqlite3.connect(file, isolation_level=None)
    kept = KeptFacts(file)
    kept.add("two", {"mass": np.zeros(10_000)})
    try:
        if trouble == "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, limits[1]))
        elif trouble == "no file":
            kept._file = file.parent
        else:
            monkeypatch.setattr(kept_facts, "_WAIT_S", 0.01)
            holder.execute("BEGIN EXCLUSIVE")
        kept.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        holder.close()
    kept.add("three", numbers())
    kept.write()
    assert kept.find("one") is None
    assert len(caplog.records) == 1
    assert "in memory alone" in caplog.text
    later = KeptFacts(file)
    assert equal(later.find("one"), numbers())
    assert later.find("two") is None
    assert later.find("three") is None


def test_where_no_directory_is_private_nothing_is_kept_and_nothing_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("MERGEFLEET_CACHE_DIR", str(tmp_path))
    kept = KeptFacts()
    kept.add("one", numbers())
    kept.write()
    assert kept.find("one") is None
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def test_what_was_of_no_use_for_longest_makes_room(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    keys = [str(number) for number in range(40)]
    for key in keys:
        now += 100_000
        kept = KeptFacts(file, most_bytes=400_000)
        kept.find("0")
        kept.add(key, {"mass": np.full(4000, float(key))})
        kept.write()
        assert file.stat().st_size < 450_000
    kept = KeptFacts(file)
    there = [key for key in keys if kept.find(key) is not None]
    assert there == ["0", *keys[-len(there) + 1 :]]
    assert 5 < len(there) < 13


def test_facts_of_other_code_are_not_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(file, one=numbers())
    measures = kept_facts._what_measures()
    assert measures is not None
    monkeypatch.setattr(kept_facts, "_what_measures", lambda: measures[::-1])
    assert KeptFacts(file).find("one") is None
    monkeypatch.setattr(kept_facts, "_what_measures", lambda: None)
    keep(file, two=numbers())
    monkeypatch.undo()
    kept = KeptFacts(file)
    assert equal(kept.find("one"), numbers())
    assert kept.find("two") is None


def test_sources_that_were_changed_since_they_were_loaded_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_facts, "_LOADED_AT", 0.0)
    assert kept_facts._what_measures.__wrapped__() is None


@pytest.fixture(scope="module")
def models() -> tuple[Path, ...]:
    return shared_family("mixed", mixed=True).models


def refuse(tensor: OutputTensor, stage: Stage, facts: Facts) -> Array:
    raise AssertionError(f"{stage.name} of {tensor.name} is measured again")


def damage(file: Path) -> None:
    """Bytes all over the file are others, and its end is missing."""
    draw = random.Random(0)
    content = bytearray(file.read_bytes())
    for _ in range(40):
        content[draw.randrange(100, len(content))] ^= draw.randrange(1, 256)
    file.write_bytes(content[: len(content) * 3 // 4])


@pytest.mark.parametrize("method", ["ties", "slerp"])
def test_a_merge_is_the_same_with_facts_from_disk_without_them_and_with_damaged_ones(
    method: str, models: tuple[Path, ...], file: Path
) -> None:
    recipe = recipe_of(method, models)
    sources = open_checkpoints(recipe.opened)
    plan = make_plan(recipe, sources)

    def merged(known: KnownFacts | None = None) -> object:
        made = execute(plan, sources, Nowhere(), work=Work(threads=2, known=known)).blocks
        if known is not None:
            known.keep()
        return made

    def known() -> KnownFacts:
        return KnownFacts(kept=KeptFacts(file, least_elements=1))

    fresh = merged()
    assert merged(known()) == fresh
    assert merged(known()) == fresh
    warm = known()
    for index, tensor in enumerate(plan.tensors):
        if tensor.elements:
            warm.facts(plan, index, sources, refuse)
    damage(file)
    assert merged(known()) == fresh
    assert merged(known()) == fresh


def test_neither_small_tensors_nor_methods_of_users_are_looked_for(models: tuple[Path, ...], tmp_path: Path) -> None:
    recipe = recipe_of("ties", models)
    sources = open_checkpoints(recipe.opened)
    plan = make_plan(recipe, sources)
    largest = max(tensor.elements for tensor in plan.tensors if tensor.call)
    for kept, method in (
        (KeptFacts(tmp_path / "a" / "b", least_elements=largest + 1), plan.method),
        (KeptFacts(tmp_path / "a" / "b", least_elements=0), replace(plan.method, package="theirs 1.0")),
    ):
        known = KnownFacts(kept=kept)
        execute(replace(plan, method=method), sources, Nowhere(), work=Work(threads=1, known=known))
        known.keep()
        assert known.nbytes > 0
    assert not (tmp_path / "a").exists()
