"""Python's garbage collector, kept from walking over millions of live objects in search of a few dead ones.

It looks at every object that holds others, again and again while new ones are made: at a campaign's end that is half of
the time that reading back its item scores takes, and a sixth of what importing torch, transformers and lm-eval takes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_settled: list[bool] = []  # of this process, as the collector is: `gc.get_freeze_count` counts them all, 0.1 s


@contextmanager
def settled() -> Iterator[None]:
    """Within it what lives now, all that the libraries loaded, is not looked at."""
    gc.freeze()
    _settled.append(True)
    try:
        yield
    finally:
        _settled.pop()
        gc.unfreeze()


@contextmanager
def paused() -> Iterator[None]:
    """Within it nothing is looked at: for code that makes many objects, and no cycles of them."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Within it nothing is looked at; nor, where the collector is `settled`, is what was imported ever after.

    For imports and nothing else: what is found to be dead later would never be freed.
    """
    before = len(sys.modules)
    with paused():
        yield
        if _settled and len(sys.modules) > before:
            gc.freeze()
