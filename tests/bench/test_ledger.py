"""The accounts of a benchmark hold every CPU-second once, and leave the product as it was."""

from __future__ import annotations

import time
from importlib import import_module

import pytest

from bench import search_metered
from bench.ledger import IMPORTS, Ledger
from bench.search_overhead import Accounts


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_each_second_is_entered_once_in_the_innermost_account() -> None:
    ledger = Ledger("start")
    with ledger.account("early"):
        burn(0.01)
    ledger.become("rest")
    with ledger.account("outer"):
        burn(0.01)
        with ledger.account("inner", whole=True), ledger.account("below"):
            burn(0.01)
    before = time.process_time()
    seconds = ledger.balance()
    assert before <= sum(seconds.values()) <= time.process_time()
    assert seconds.keys() == {"start", "rest", "outer", "inner"}
    assert min(seconds["outer"], seconds["inner"]) >= 0.01
    assert ledger.calls == {"outer": 1, "inner": 1, "below": 0, "early": 0}


def test_what_is_to_be_told_apart_within_an_account_has_another_name_there_alone() -> None:
    ledger = Ledger("start", within={("publishing", "scoring"): "again"})
    ledger.become("rest")
    with ledger.account("publishing"), ledger.account("scoring"):
        burn(0.01)
    with ledger.account("scoring"), ledger.account("below"):
        burn(0.01)
    assert ledger.calls == {"publishing": 1, "again": 1, "scoring": 1, "below": 1}
    assert ledger.balance()["again"] >= 0.01


def test_imports_are_their_own_account_wherever_they_happen_after_the_start() -> None:
    ledger = Ledger("start")
    with ledger.account(IMPORTS):
        burn(0.01)
    ledger.become("rest")
    with ledger.account("report", whole=True):
        burn(0.01)
        with ledger.account(IMPORTS), ledger.account("below"):
            burn(0.02)
    seconds = ledger.balance()
    assert seconds.keys() == {"start", "rest", "report", IMPORTS}
    assert seconds[IMPORTS] >= 0.02 > seconds["report"] - 0.01


def test_every_function_that_is_charged_exists_and_is_put_back() -> None:
    def function(place: str) -> object:
        module, _, path = place.partition(":")
        found: object = import_module(module)
        for name in path.split("."):
            found = vars(found)[name]
        return found

    before = {place: function(place) for place in search_metered.PLACES}
    with Ledger("start").charge(search_metered.PLACES):
        assert all(function(place) is not before[place] for place in before)
    assert all(function(place) is before[place] for place in before)
    charged = set(search_metered.PLACES.values())
    assert {name for pair in search_metered.WITHIN for name in pair} <= charged
    assert set(search_metered.EVALUATION) <= charged | set(search_metered.WITHIN.values())


def test_overhead_is_whatever_is_no_evaluation() -> None:
    seconds = {"a": 60.0, "b": 30.0, "start-up": 5.0, IMPORTS: 2.0, "report": 1.0, "store": 2.0}
    accounts = Accounts(seconds, {"a": 4}, 100.0, ("a", "b"), 4)
    assert accounts.evaluating == 90.0
    assert accounts.share() == pytest.approx(0.1)
    assert accounts.share("start-up", IMPORTS) == pytest.approx(3 / 93)
    assert "500.0 ms per work unit" in accounts.sentences()
    assert accounts.table().splitlines()[2].startswith("| **a** | 60.00 | 60.0% | 4 | 15000.00 |")
