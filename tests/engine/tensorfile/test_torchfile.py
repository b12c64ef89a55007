"""Files of torch.save: every tensor is found where it lies, nothing is executed, and what is no tensor is named."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SourceError
from engine.tensorfile.store import TensorStore
from engine.tensorfile.torchfile import read_torch_header

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def saved(path: Path, content: Any, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **how)
    return path


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read(store: TensorStore, name: str) -> bytes:
    buffer = bytearray(store.tensors[name].nbytes)
    store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=6, max_size=6),
)
def test_every_tensor_is_read_from_its_place(
    shapes: list[list[int]], dtypes: list[torch.dtype], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors = {f"t{n}": torch.randn(shape).to(dtypes[n]) for n, shape in enumerate(shapes)}
    store = TensorStore([saved(tmp_path_factory.mktemp("file") / "x.pt", tensors)])
    assert {name: tensor.shape for name, tensor in store.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    for name, tensor in tensors.items():
        assert read(store, name) == bytes_of(tensor)


def test_tensors_that_share_a_storage_are_read_from_it(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    store = TensorStore(
        [saved(tmp_path / "x.bin", {"whole": whole, "again": whole, "row": whole[2], "rest": whole[1:]})]
    )
    assert read(store, "whole") == read(store, "again") == bytes_of(whole)
    assert read(store, "row") == bytes_of(whole[2])
    assert read(store, "rest") == bytes_of(whole[1:])


def test_parameters_ordered_mappings_and_a_state_dict_inside_a_checkpoint_are_understood(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    wrapped = {"state_dict": OrderedDict(layer.state_dict()), "epoch": 3, "optimizer": {"lr": [0.1]}}
    for name, content in (("a.pth", layer.state_dict()), ("b.ckpt", wrapped), ("c.pt", dict(layer.named_parameters()))):
        store = TensorStore([saved(tmp_path / name, content)])
        assert {key: read(store, key) for key in store.tensors} == {
            key: bytes_of(value) for key, value in layer.state_dict().items()
        }


class Harmful:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", {"a": torch.ones(2), "b": Harmful(tmp_path / "ran")})
    with pytest.raises(SourceError, match=r"x\.bin: holds something else than tensors") as caught:
        read_torch_header(path)
    assert "\n" not in str(caught.value)
    assert "(it asks for " in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def compressed(path: Path) -> None:
    with zipfile.ZipFile(saved(path.with_name("y"), {"a": torch.ones(99)})) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)


def big_endian(path: Path) -> None:
    with zipfile.ZipFile(saved(path.with_name("y"), {"a": torch.ones(9)})) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))


def cut(path: Path) -> None:
    path.write_bytes(saved(path.with_name("y"), {"a": torch.ones(999)}).read_bytes()[:2000])


REFUSED: list[tuple[str, Any, str]] = [
    ("old format", lambda p: saved(p, {"a": torch.ones(2)}, _use_new_zipfile_serialization=False), "since version 1.6"),
    ("text", lambda p: p.write_text("hello"), "is no archive that torch.save writes"),
    ("cut", cut, "is no archive that torch.save writes"),
    ("other archive", lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"), "holds something else than tensors"),
    ("compressed", compressed, "is a compressed archive"),
    ("big-endian", big_endian, "was written on a big-endian machine"),
    ("list", lambda p: saved(p, [torch.ones(2)]), "must hold a mapping of names to tensors, got list"),
    ("nothing", lambda p: saved(p, {}), "must hold a mapping of names to tensors, got dict"),
    ("number", lambda p: saved(p, {"a": torch.ones(2), "epoch": 3}), "'epoch' is no tensor but int"),
    ("numbered", lambda p: saved(p, {1: torch.ones(2)}), "1 is no tensor but Tensor"),
    ("transposed", lambda p: saved(p, {"a": torch.ones(2, 3).t()}), "'a' is a view that is not stored row by row"),
    ("sparse", lambda p: saved(p, {"a": torch.eye(3).to_sparse()}), "torch.sparse_coo: not supported"),
    ("complex", lambda p: saved(p, {"a": torch.ones(2, dtype=torch.complex128)}), "torch.complex128"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_plain_mapping_of_tensors_is_refused(write: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.bin")
    with pytest.raises(SourceError) as caught:
        read_torch_header(tmp_path / "x.bin")
    assert message in str(caught.value)
    assert str(tmp_path / "x.bin") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_identity_changes_with_the_tensors_names_and_shapes(tmp_path: Path) -> None:
    contents = [{"a": torch.ones(2)}, {"b": torch.ones(2)}, {"a": torch.ones(2, 1)}, {"a": torch.ones(2).int()}]
    headers = {
        TensorStore([saved(tmp_path / str(n) / "x.bin", content)]).files["x.bin"]["header"]
        for n, content in enumerate(contents)
    }
    assert len(headers) == 4
