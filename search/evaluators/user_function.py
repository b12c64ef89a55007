"""A call of a user's function: whatever it raises, or returns, is told with task, function, file and line."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import EvaluationError
from search.evaluators.contract import Subject, Unreachable
from search.masking import masked

ScoreFunction = Callable[[Any, Any, list[dict[str, Any]]], Sequence[Any]]
SHOWN_CHARS = 300


def call(function: ScoreFunction, subject: Subject, rows: list[dict[str, Any]], *, called: str) -> list[Any]:
    """What it returns for these rows, as many values as rows; `called` is what messages call it. What it set on the
    tokenizer, and the model's mode, are put back: neither another function nor the next block is to feel them.

    Raises Unreachable for a ConnectionError or TimeoutError of its own (what it needs does not answer), OSError for
    what another attempt may mend, EvaluationError for all else: exceptions of any class, sys.exit, wrong values.
    """
    try:
        with _as_it_was(subject):
            returned: Any = function(subject.model, subject.tokenizer, rows)
        found = None if isinstance(returned, str | Mapping) or not _iterable(returned) else list(returned)
    except (ConnectionError, TimeoutError) as error:
        raise Unreachable(_told(error, function, called)) from error
    except (OSError, MemoryError) as error:
        raise OSError(_told(error, function, called)) from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise EvaluationError(_told(error, function, called)) from error
    if found is None:
        what = "None" if returned is None else f"a {type(returned).__name__}"
        raise EvaluationError(f"{called} returned {what} ({place_of(function)}), want a list of {len(rows)} scores")
    if len(found) != len(rows):
        raise EvaluationError(f"{called} returned {len(found)} scores for {len(rows)} items ({place_of(function)})")
    return found


@contextmanager
def _as_it_was(subject: Subject) -> Iterator[None]:
    """The tokenizer's lengths, sides, special tokens and templates, which Python holds (what is added to the vocabulary
    stays), and the model's mode: with dropout the block's other tasks would be random."""
    own = getattr(subject.tokenizer, "__dict__", {})
    said = own.get("deprecation_warnings")  # what it need not warn of again
    held = {name: copy.copy(value) if isinstance(value, dict | list) else value for name, value in own.items()}
    held |= {} if said is None else {"deprecation_warnings": said}
    try:
        yield
    finally:
        own.clear()
        own.update(held)
        if hasattr(subject.model, "eval"):
            subject.model.eval()


def _iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0


def _told(error: BaseException, function: ScoreFunction, called: str) -> str:
    said = " ".join(masked(str(error)).split())
    shown = said if len(said) <= SHOWN_CHARS else f"{said[:SHOWN_CHARS]} …"
    what = f"called sys.exit({shown})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {shown}"
    return f"{called} {what.removesuffix(': ')} ({place_of(function, error)})"


def place_of(function: ScoreFunction, error: BaseException | None = None) -> str:
    """FILE:LINE of the last line of the user's own that `error` passed, or of the function itself."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return f"no Python function, a {type(function).__name__}"
    home = Path(code.co_filename).parent
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    lines = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename).is_relative_to(home)]
    name, line = lines[-1] if lines else (code.co_filename, code.co_firstlineno)
    return f"{Path(name).name}:{line}"
