"""Every error that mergefleet raises on purpose.

    MergefleetError                      exit 1   something failed
    ├── InputError                       exit 2   what the user gave cannot work; nothing was written
    │   ├── RecipeError                           a recipe says something impossible or unknown
    │   ├── SourceError                           a model cannot be read: missing, truncated, corrupt, malformed
    │   ├── PlanError                             recipe and models do not fit together, or do not fit this machine
    │   ├── CampaignError                         a campaign says something impossible or unknown
    │   │   └── StoreAway                         its database does not answer
    │   └── ClusterError                          the cluster asked for cannot be used
    ├── Refused                          exit 3   it would work, but would overwrite or mix up something
    │   ├── OutputExists                          OUT is there already
    │   ├── InputsChanged                         recipe or sources differ from those of the run to resume
    │   └── Busy                                  another process is writing the same output
    ├── NotFinite                        exit 1   NaN or Inf in a source, or made by rounding
    ├── OutputDamaged                    exit 1   bytes on disk are not the bytes that were written
    ├── NotWritten                       exit 1   a file cannot be written: a full disk, rights; what it tells is kept
    ├── EvaluationError                  exit 1   an evaluator could not score a candidate
    ├── Outage                           exit 1   what an evaluator needs did not answer: paused, --resume goes on
    ├── MethodError                      exit 1   a user's own merge method failed
    ├── StaleEpoch                       exit 1   a newer coordinator owns the campaign
    ├── TileFailed                       exit 1   a tile failed on every worker that tried it
    └── WorkerLost                       exit 1   workers died more often than the job may bear

Messages say what happened, where, what was expected and what to do. The message is the only positional
argument and facts are keyword attributes, so that every class survives pickling (across Ray, say).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any


class MergefleetError(Exception):
    """Base of all errors raised on purpose: `message` for people, keyword `facts` for programs.

    `flagless` is the message for people who cannot give `merge`'s flags: without the advice to give one.
    """

    exit_code = 1

    def __init__(self, message: str, /, *, flagless: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts
        self.flagless = flagless or message

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; its facts are {sorted(facts)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {**self.facts, "flagless": self.flagless})


def _rebuild(cls: type[MergefleetError], message: str, facts: dict[str, Any]) -> MergefleetError:
    return cls(message, **facts)


class InputError(MergefleetError):
    exit_code = 2


class RecipeError(InputError):
    pass


class SourceError(InputError):
    pass


class PlanError(InputError):
    pass


class CampaignError(InputError):
    pass


class StoreAway(CampaignError):
    pass


class ClusterError(InputError):
    pass


class Refused(MergefleetError):
    exit_code = 3


class OutputExists(Refused):
    pass


class InputsChanged(Refused):
    pass


class Busy(Refused):
    pass


class NotFinite(MergefleetError):
    pass


class OutputDamaged(MergefleetError):
    pass


class NotWritten(MergefleetError):
    pass


class EvaluationError(MergefleetError):
    pass


class Outage(MergefleetError):
    pass


class MethodError(MergefleetError):
    pass


class StaleEpoch(MergefleetError):
    pass


class TileFailed(MergefleetError):
    pass


class WorkerLost(MergefleetError):
    pass


def after_disk_failure(error: OSError) -> str:
    """What to do about a write that failed: what is finished is kept in every case."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space and run the same command again: it resumes."
    return "Run the same command again when that is mended: it resumes."


MOST_NAMES = 60
"""Names in one message: lm-eval alone has 14 000 tasks."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix for an error message: the nearest of `known`, or all of them where none is near and they can be read.

    Among thousands of names something is always a little alike, so there it has to be more alike.
    """
    names = sorted(known)
    many = len(names) > MOST_NAMES
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75 if many else 0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"none of the {len(names)} known ones is like it." if many else f"known: {', '.join(names)}."
