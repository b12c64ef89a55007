"""Constraints between settings: comparisons of arithmetic, read with `ast` and evaluated by hand; no text is ever run.

    weight/a + weight/b <= 1.5        0.5 <= sum(weight) <= 2        lambda * max(weight) <= 1

A name is `parameter/source`, or the parameter alone where it belongs to the whole merge; sum, min and max take one
parameter and go over its sources. A constraint holds for every tensor, so names stand for arrays over groups of tensors
and layers, and its violation is the largest over them: by how much the left side exceeds the right one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import did_you_mean

Values = Mapping[str, Any]
_OVER_SOURCES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "sum": lambda values: reduce(lambda a, b: a + b, values),
    "min": lambda values: reduce(_least, values),
    "max": lambda values: reduce(_most, values),
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: _quotient(a, b),
}
DRAWS, ROUNDS = 1000, 12
"""Of `unreached`: the last round looks within 1/4096 of the bounds, finer than the grid."""
MAX_LENGTH = 500
MAX_NUMBER = 1e18
_ALLOWED = "numbers, + - * /, parentheses, <=, >=, sum, min and max"


@dataclass(frozen=True)
class Interval:
    """All values from `low` to `high`: what a constraint can come to at all."""

    low: float
    high: float

    def __add__(self, other: Any) -> Interval:
        other = interval(other)
        return Interval(self.low + other.low, self.high + other.high)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Any) -> Interval:
        return self + -interval(other)

    def __mul__(self, other: Any) -> Interval:
        other = interval(other)
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def __truediv__(self, other: Any) -> Interval:
        other = interval(other)
        if other.low <= 0 <= other.high:
            return Interval(-np.inf, np.inf)
        return self * Interval(1 / other.high, 1 / other.low)

    def __radd__(self, other: Any) -> Interval:
        return self.__add__(other)

    def __rsub__(self, other: Any) -> Interval:
        return (-self).__add__(other)

    def __rmul__(self, other: Any) -> Interval:
        return self.__mul__(other)

    def __rtruediv__(self, other: Any) -> Interval:
        return Interval(1.0, 1.0).__truediv__(self).__mul__(other)


def interval(value: Any) -> Interval:
    return value if isinstance(value, Interval) else Interval(float(value), float(value))


@dataclass(frozen=True)
class Constraint:
    """A parsed constraint; `names` are those it needs (`parameter/source`)."""

    text: str
    tree: ast.Compare
    known: Mapping[str, str]  # placeholder in the tree → name
    groups: Mapping[str, tuple[str, ...]]  # parameter → its names, one for every source
    names: tuple[str, ...]

    def excess(self, values: Values) -> list[Any]:
        """left − right of every comparison, turned so that ≤ 0 is what is asked for."""
        sides = [self._value(node, values) for node in (self.tree.left, *self.tree.comparators)]
        pairs = zip(sides, sides[1:], self.tree.ops, strict=False)
        return [a - b if isinstance(op, ast.LtE) else b - a for a, b, op in pairs]

    def violation(self, values: Values) -> float:
        """By how much it is broken where it is broken most; 0 where it holds everywhere, inf for a division by 0."""
        with np.errstate(all="ignore"):
            found = [np.asarray(excess, np.float64) for excess in self.excess(values)]
        worst = max(float(np.max(np.nan_to_num(excess, nan=np.inf))) for excess in found)
        return worst if worst > 1e-9 else 0.0

    def satisfiable(self, bounds: Mapping[str, Interval]) -> bool:
        """False only where no values within the bounds satisfy it."""
        return all(interval(excess).low <= 1e-9 for excess in self.excess(bounds))

    @property
    def divides_by_0(self) -> bool:
        """Whether a divisor without names comes to 0."""
        divisors = [n.right for n in ast.walk(self.tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)]
        plain = [node for node in divisors if not any(isinstance(part, ast.Name) for part in ast.walk(node))]
        return any(self._value(node, {}) == 0 for node in plain)

    def _value(self, node: ast.expr, values: Values) -> Any:
        if isinstance(node, ast.Name):
            return values[self.known[node.id]]
        if isinstance(node, ast.Constant):
            return float(node.value)  # type: ignore[arg-type]  # _checked let only numbers through
        if isinstance(node, ast.UnaryOp):
            inner = self._value(node.operand, values)
            return -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, values), self._value(node.right, values)
            return _ARITHMETIC[type(node.op)](left, right)
        assert isinstance(node, ast.Call)  # _checked let nothing else through
        assert isinstance(node.func, ast.Name)
        assert isinstance(node.args[0], ast.Name)
        return _OVER_SOURCES[node.func.id]([values[name] for name in self.groups[self.known[node.args[0].id]]])


def contradiction(constraints: Sequence[Constraint], bounds: Mapping[str, Interval]) -> tuple[Constraint, ...]:
    """Constraints that no values within the bounds satisfy together: two where two are enough, else all; empty where
    nobody knows. Only those are looked at that are linear there, exactly (by linear programming).
    """
    linear = [(entry, rows) for entry in constraints if (rows := _rows(entry, bounds)) is not None]
    for some in [*combinations(linear, 2), tuple(linear)]:
        if some and not _have_a_point([row for _, rows in some for row in rows], bounds):
            return tuple(entry for entry, _ in some)
    return ()


def unreached(constraints: Sequence[Constraint], bounds: Mapping[str, Interval]) -> tuple[Constraint, ...]:
    """Constraints that no drawn point within the bounds satisfies: one or two where these are enough, else all; empty
    where one does. For those that are not linear: what it says is likely, and no proof."""
    for some in [*combinations(constraints, 1), *combinations(constraints, 2), tuple(constraints)]:
        if some and not _reached(some, bounds):
            return tuple(some)
    return ()


def _reached(constraints: Sequence[Constraint], bounds: Mapping[str, Interval]) -> bool:
    """Whether a drawn point satisfies all of them: drawn everywhere, then ever closer around the best one."""
    names = sorted({name for entry in constraints for name in entry.names})
    low, high = (np.array([getattr(bounds[name], end) for name in names]) for end in ("low", "high"))
    random = np.random.default_rng(0)
    points_DN = low + (high - low) * random.random((DRAWS, len(names)))
    for halvings in range(1, ROUNDS + 1):
        values = dict(zip(names, points_DN.T, strict=True))
        with np.errstate(all="ignore"):
            excess = [np.broadcast_to(each, DRAWS) for entry in constraints for each in entry.excess(values)]
        broken_D = np.nan_to_num(np.maximum(excess, 0.0), nan=np.inf).max(axis=0)
        if broken_D.min() <= 1e-9:
            return True
        around = points_DN[broken_D.argmin()]
        step = (high - low) * 0.5**halvings
        points_DN = np.clip(around + step * random.uniform(-1.0, 1.0, points_DN.shape), low, high)
    return False


def _rows(constraint: Constraint, bounds: Mapping[str, Interval]) -> list[tuple[dict[str, float], float]] | None:
    """(a, b) with Σ a · x <= b for every comparison; None where it is not linear within the bounds."""
    names, random = constraint.names, np.random.default_rng(0)
    low, high = (np.array([getattr(bounds[name], end) for name in names]) for end in ("low", "high"))

    def at(x: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.array([float(value) for value in constraint.excess(dict(zip(names, x.tolist(), strict=True)))])

    origin = at(low)
    steps = [at(low + (high - low) * unit) - origin for unit in np.eye(len(names))]
    for part in random.random((4, len(names))):  # a function that is no plane leaves it at a random point
        expected = origin + sum((step * share for step, share in zip(steps, part, strict=True)), np.zeros(len(origin)))
        if not np.allclose(at(low + (high - low) * part), expected, atol=1e-9):
            return None
    width = np.where(high > low, high - low, 1.0)
    slopes = np.array(steps).T / width
    ends = slopes @ low - origin
    return [(dict(zip(names, row.tolist(), strict=True)), float(end)) for row, end in zip(slopes, ends, strict=True)]


def _have_a_point(rows: Sequence[tuple[Mapping[str, float], float]], bounds: Mapping[str, Interval]) -> bool:
    from scipy.optimize import linprog

    names = sorted({name for row, _ in rows for name in row})
    found = linprog(
        np.zeros(len(names)),
        A_ub=[[row.get(name, 0.0) for name in names] for row, _ in rows],
        b_ub=[end + 1e-9 for _, end in rows],
        bounds=[(bounds[name].low, bounds[name].high) for name in names],
    )
    return bool(found.status != 2)  # 2: infeasible


def parse_constraint(text: str, names: Sequence[str], groups: Mapping[str, tuple[str, ...]]) -> Constraint:
    """Read a constraint over these names and groups of names. ValueError says what is wrong, and what there is."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{len(text)} characters, at most {MAX_LENGTH} are allowed")
    every = sorted({*names, *groups}, key=lambda name: (-len(name), name))
    known = {f"v{number}_": name for number, name in enumerate(every)}
    holders = {name: holder for holder, name in known.items()}
    pattern = "|".join(map(re.escape, every))
    # names hold slashes, dashes and dots, and may be Python's own words (lambda): each becomes a plain identifier
    plain = re.sub(rf"(?<![\w/.])(?:{pattern})(?![\w/.])", lambda found: holders[found[0]], text) if every else text
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"cannot be read: {_ALLOWED} are allowed{_unknown(text, every)}") from None
    if not isinstance(tree, ast.Compare) or not all(isinstance(op, ast.LtE | ast.GtE) for op in tree.ops):
        raise ValueError("a comparison with <= or >= expected")
    used: list[str] = []
    for node in (tree.left, *tree.comparators):
        used += _checked(node, known, groups, text)
    found = Constraint(text, tree, known, groups, tuple(dict.fromkeys(used)))
    if found.divides_by_0:
        raise ValueError("divides by 0")
    if not used:
        raise ValueError(f"names no parameter; there are {', '.join(sorted(every))}")
    return found


def _checked(node: ast.expr, known: Mapping[str, str], groups: Mapping[str, tuple[str, ...]], text: str) -> list[str]:
    """The names below a node; ValueError for anything but arithmetic on them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        if abs(node.value) > MAX_NUMBER:
            raise ValueError(f"a number beyond {MAX_NUMBER:g}")
        return []
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _checked(node.operand, known, groups, text)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return [*_checked(node.left, known, groups, text), *_checked(node.right, known, groups, text)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OVER_SOURCES:
        inner = node.args[0] if len(node.args) == 1 and not node.keywords else None
        parameter = known.get(inner.id, "") if isinstance(inner, ast.Name) else ""
        if parameter not in groups:
            raise ValueError(f"{node.func.id} takes one parameter that sources have: {', '.join(groups) or 'none'}")
        return list(groups[parameter])
    if isinstance(node, ast.Name):
        name = known.get(node.id, "")
        if name in groups:
            raise ValueError(f"{name!r} has a value for every source: write {groups[name][0]} or sum({name})")
        if name:
            return [name]
        raise ValueError(_unknown(text, list(known.values())).removeprefix("; "))
    raise ValueError(f"only {_ALLOWED} are allowed{_unknown(text, list(known.values()))}")


def _unknown(text: str, every: Sequence[str]) -> str:
    """The first word that is no name of the space."""
    words = [word for word in re.findall(r"[A-Za-z_][\w./-]*", text) if word not in {*every, *_OVER_SOURCES}]
    return f"; unknown name {words[0]!r}, {did_you_mean(words[0], every)}" if words else ""


def _quotient(a: Any, b: Any) -> Any:
    """a / b, and NaN, which satisfies nothing, where b is 0."""
    if isinstance(a, Interval) or isinstance(b, Interval):
        return interval(a) / interval(b)
    return np.asarray(a, np.float64) / np.where(np.asarray(b) == 0, np.nan, b)


def _least(a: Any, b: Any) -> Any:
    if isinstance(a, Interval) or isinstance(b, Interval):
        a, b = interval(a), interval(b)
        return Interval(min(a.low, b.low), min(a.high, b.high))
    return np.minimum(a, b)


def _most(a: Any, b: Any) -> Any:
    if isinstance(a, Interval) or isinstance(b, Interval):
        a, b = interval(a), interval(b)
        return Interval(max(a.low, b.low), max(a.high, b.high))
    return np.maximum(a, b)
