"""Reading ahead: whatever is read in whatever order, the bytes are the file's; what is held and asked is bounded."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SourceError
from engine.remote import ahead
from engine.remote.ahead import RangeFile, RangeStore
from engine.tensorfile.header import build_header

WINDOW = 4096


@dataclass
class Memory:
    """Files in memory as `Ranges`; what was asked of them."""

    contents: dict[str, bytes]
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def cached(self, file: RangeFile) -> None:
        pass

    def read(self, file: RangeFile, start: int, end: int) -> memoryview:
        self.asked.append((file.name, start, end))
        return memoryview(self.contents[file.name])[start:end]

    def stamp(self, name: str) -> tuple[int, str | None]:
        return len(self.contents[name]), "tag"

    def files(self) -> list[RangeFile]:
        return [RangeFile(name, len(data), "tag") for name, data in self.contents.items()]

    def __str__(self) -> str:
        return "s3://bucket/model"


def memory_of(sizes: list[int]) -> Memory:
    """A safetensors file with tensors t0, t1, ... of so many bytes, all bytes different from their neighbours."""
    raw, _ = build_header([(f"t{number}", "U8", (size,)) for number, size in enumerate(sizes)], {})
    return Memory({"model.safetensors": raw + np.random.default_rng(0).bytes(sum(sizes))})


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WINDOW_BYTES", WINDOW)
    monkeypatch.setattr(ahead, "_FIRST_BYTES", 64)


sizes = st.lists(st.sampled_from([0, 1, 7, 1000, WINDOW - 1, WINDOW, 3 * WINDOW + 5]), min_size=1, max_size=6)
reads = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 1)), max_size=30)


@given(sizes, reads)
def test_any_read_gives_the_bytes_of_the_file(sizes: list[int], reads: list[tuple[int, float, float]]) -> None:
    memory = memory_of(sizes)
    store = RangeStore(memory, memory.files())
    for number, where, share in reads:
        tensor = store.tensors[f"t{number % len(sizes)}"]
        start = int(where * tensor.nbytes)
        buffer = bytearray(int(share * (tensor.nbytes - start)))
        store.read_into(tensor.name, start, memoryview(buffer))
        assert buffer == memory.contents["model.safetensors"][tensor.start + start :][: len(buffer)]
    store.close()


@pytest.mark.parametrize("alternate", [1, 2, 5])
def test_tensors_read_in_turns_are_asked_for_once(alternate: int) -> None:
    memory = memory_of([10 * WINDOW] * alternate)
    store = RangeStore(memory, memory.files())
    memory.asked.clear()
    buffer = memoryview(bytearray(WINDOW // 8))
    for start in range(0, 10 * WINDOW, len(buffer)):
        for number in range(alternate):
            store.read_into(f"t{number}", start, buffer)
    assert sum(end - start for _, start, end in memory.asked) <= alternate * 11 * WINDOW  # a window may be cancelled
    assert len(memory.asked) <= 11 * alternate
    store.close()


def test_small_tensors_in_a_row_come_in_one_request_a_window() -> None:
    memory = memory_of([WINDOW // 8] * 64)
    store = RangeStore(memory, memory.files())
    memory.asked.clear()
    for tensor in store.tensors.values():
        store.read_into(tensor.name, 0, memoryview(bytearray(tensor.nbytes)))
    assert len(memory.asked) == 8
    store.close()


def test_a_thread_holds_no_more_than_scratch_bytes_says() -> None:
    memory = memory_of([5 * WINDOW, 5 * WINDOW, 10, 10, 5 * WINDOW])
    store = RangeStore(memory, memory.files())
    buffer = memoryview(bytearray(WINDOW // 4))
    for tensor in (*store.tensors.values(), *store.tensors.values()):
        for start in range(0, tensor.nbytes, len(buffer)):
            store.read_into(tensor.name, start, buffer[: tensor.nbytes - start])
            assert held(store) <= store.scratch_bytes(tensor.name)
    store.close()


def held(store: RangeStore) -> int:
    """Bytes of all windows that this thread keeps."""
    reader = store._reader()
    kept = {id(w): w for w in (*reader.windows.values(), reader.small) if w is not None}
    kept |= {id(w.following): w.following for w in list(kept.values()) if w.following is not None}
    return sum(window.end - window.start for window in kept.values())


def test_any_number_of_threads_read_the_same_bytes() -> None:
    memory = memory_of([7 * WINDOW, 100, 3 * WINDOW])
    store = RangeStore(memory, memory.files())
    wrong = Counter[str]()

    def read_all() -> None:
        for tensor in store.tensors.values():
            buffer = bytearray(tensor.nbytes)
            store.read_into(tensor.name, 0, memoryview(buffer))
            wrong[tensor.name] += buffer != memory.contents["model.safetensors"][tensor.start :][: tensor.nbytes]

    threads = [threading.Thread(target=read_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(wrong.values()) == {0}
    store.close()


def test_a_read_beyond_a_tensor_is_refused_by_name() -> None:
    memory = memory_of([100])
    store = RangeStore(memory, memory.files())
    with pytest.raises(SourceError, match="of tensor 't0' were asked for, it has 100"):
        store.read_into("t0", 50, memoryview(bytearray(51)))


def test_a_tensor_in_two_files_is_an_error() -> None:
    memory = memory_of([100])
    memory.contents["other.safetensors"] = memory.contents["model.safetensors"]
    with pytest.raises(SourceError, match=r"s3://bucket/model/other.safetensors: tensor 't0' is also in model"):
        RangeStore(memory, memory.files())


def test_a_file_of_another_version_is_noticed_before_anything_is_published() -> None:
    memory = memory_of([100])
    store = RangeStore(memory, memory.files())
    store.refuse_changed()
    memory.contents["model.safetensors"] += b"more"
    with pytest.raises(SourceError, match=r"s3://bucket/model/model.safetensors: was changed"):
        store.refuse_changed()
