"""Where a process's CPU-seconds go: each of them is entered in the innermost account that is open.

`Ledger.charge` wraps functions of the product for a while, so that it needs no hooks for being measured. One thread at
a time is believed to work: a pool's only thread counts as the caller that waits for it.
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

IMPORTS = "imports of libraries"
_IMPORTING = "importlib._bootstrap:_find_and_load"  # called for modules that are not loaded yet


class Ledger:
    """CPU-seconds of this process by account, all threads together, from its start on."""

    def __init__(self, first: str, *, within: Mapping[tuple[str, str], str] | None = None) -> None:
        """`first` gets everything until `become`. `within`: (outer, inner) -> what an account that is opened right
        within another one is called, where that is to be told apart."""
        self._within = within or {}
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._open = [first]
        self._since = 0.0
        self._kept = 1  # open accounts that keep what is below them
        self._begun = False
        self._lock = threading.Lock()

    def become(self, rest: str) -> None:
        """The first account is over: from now on functions have their own, and `rest` gets what no function has."""
        self._enter()
        self._open[0] = rest
        self._kept = 0
        self._begun = True

    def balance(self) -> dict[str, float]:
        """Seconds by account, up to now."""
        self._enter()
        return dict(self.seconds)

    @contextmanager
    def account(self, name: str, *, whole: bool = False) -> Iterator[None]:
        """Enter what runs meanwhile under `name`; `whole`: also what has an account of its own elsewhere.

        Imports are their own everywhere but in the first account.
        """
        self._begin(name, whole=whole)
        try:
            yield
        finally:
            self._end(whole=whole)

    def _begin(self, name: str, *, whole: bool) -> None:
        self._enter()
        above = self._open[-1]
        name = self._within.get((above, name), name)
        kept = self._kept and not (name == IMPORTS and self._begun)
        self.calls[name] += not kept
        self._open.append(above if kept else name)
        self._kept += whole

    def _end(self, *, whole: bool) -> None:
        self._enter()
        self._kept = max(0, self._kept - whole)
        self._open.pop()

    @contextmanager
    def charge(self, places: Mapping[str, str]) -> Iterator[None]:
        """Functions ("package.module:Class.method") by the account that they go to; "=" before it: as a whole."""
        undo = [self._wrap(place, account.lstrip("="), whole="=" in account) for place, account in places.items()]
        undo.append(self._wrap(_IMPORTING, IMPORTS, whole=False))
        try:
            yield
        finally:
            for put_back in reversed(undo):
                put_back()

    def _enter(self) -> None:
        with self._lock:
            now = time.process_time()
            self.seconds[self._open[-1]] += now - self._since
            self._since = now

    def _wrap(self, place: str, account: str, *, whole: bool) -> Callable[[], None]:
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
        before = owner.__dict__[name]

        @functools.wraps(before)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self._begin(account, whole=whole)  # without `account`: a generator takes as long as all the rest
            try:
                return before(*args, **kwargs)
            finally:
                self._end(whole=whole)

        setattr(owner, name, charged)
        return lambda: setattr(owner, name, before)
