"""The law of bits, read off the source (docs/bits.md): what may sum or multiply in no order of its own, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.methods import METHODS

ENGINE = Path(__file__).parents[2] / "engine"
SUMMING = ("sum", "nansum", "mean", "var", "std", "norm", "cumsum", "trace", "average")
MULTIPLYING = ("dot", "vdot", "matmul", "mm", "bmm", "addmm", "einsum", "lerp", "addcmul", "addcdiv", "svd")
CURVED = ("softmax", "logsumexp", "exp", "log", "sin", "cos", "acos", "sqrt", "pow", "sigmoid", "tanh", "topk")
COUNTS = {
    "execution/binding.py": ["sum"],  # elements without an owner
    "execution/checksum.py": ["sum", "sum"],  # int64, which wraps around
    "methods/guess.py": ["cumsum", "sum", "sum"],
    "methods/sce.py": ["sum"],
    "numerics.py": ["cumsum"],
}
"""Sums of whole numbers, which come to the same in any order."""
HELPERS = {"methods/spectral.py"}  # of methods that are not exact, and of no other


def found_in(source: str) -> Iterator[str]:
    """Names of calls that leave bits to a library; Python's `math` is scalar, and a list's `sum` has an order."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield "@"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            scalar = isinstance(node.func.value, ast.Name) and node.func.value.id == "math"
            if node.func.attr in (*SUMMING, *MULTIPLYING, *CURVED) and not scalar:
                yield node.func.attr


def test_only_methods_that_are_not_exact_leave_bits_to_a_library() -> None:
    loose = {f"methods/{name}.py" for name, method in METHODS.items() if not method.exact} | HELPERS
    files = {path.relative_to(ENGINE).as_posix(): path for path in ENGINE.rglob("*.py")}
    found = {name: sorted(found_in(path.read_text(encoding="utf-8"))) for name, path in files.items()}
    assert {name: calls for name, calls in found.items() if calls and name not in loose} == COUNTS
    users = {name for name, path in files.items() if "spectral" in path.read_text(encoding="utf-8")}
    assert {name for name in users if name.startswith("methods/")} <= loose


@pytest.mark.parametrize("source", ["x.sum()", "torch.dot(a, b)", "a @ b", "np.sqrt(x)", "x.mul_(s.mean())"])
def test_what_is_not_allowed_is_seen(source: str) -> None:
    assert len(list(found_in(source))) == 1


@pytest.mark.parametrize("source", ["math.sqrt(x)", "sum(sizes)", "a * b + c", "lane_sum(x)", "tensors.sort()"])
def test_what_is_allowed_is_let_pass(source: str) -> None:
    assert list(found_in(source)) == []
