"""The coordinator's actor: what it needs to start again lies in a file, and calls may be repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from simulated import SimulatedEvaluator, make_campaign, make_inventory, open_simulated

from cluster import coordinator as module
from cluster.coordinator import CoordinatorActor, Hired, keep_inventory, kept_inventory, report_of
from cluster.evaluator_worker import SearchTask
from engine.errors import ClusterError
from search.ports import Inventory, Work
from search.store import schema
from search.store.store import Store


@pytest.mark.parametrize(
    "inventory", [make_inventory(), replace(make_inventory(), notes=("near copies: é",), measures=("tokens",))]
)
def test_an_inventory_comes_back_from_its_file_as_it_was(inventory: Inventory, tmp_path: Path) -> None:
    keep_inventory(tmp_path / "inventory.json", inventory)
    assert kept_inventory(tmp_path / "inventory.json") == inventory


def test_a_repeated_exchange_hands_in_and_gives_out_once(tmp_path: Path) -> None:
    actor = CoordinatorActor(SearchTask({}, "c.yml", str(tmp_path), tmp_path, "", 30.0), tmp_path, False)
    coordinator, evaluator = open_simulated(tmp_path, make_campaign()), SimulatedEvaluator()
    actor._coordinator = coordinator  # type: ignore[assignment]
    first = actor.next_work("w")
    assert isinstance(first, Work)
    result = evaluator.evaluate(first)
    second = actor.exchange("w", result)
    assert isinstance(second, Work)
    assert second.lease != first.lease
    assert actor.exchange("w", result) == actor.next_work("w") == second
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["done", "running"]
    coordinator.close()


def test_who_gets_ready_is_not_silent_and_who_works_is_once_it_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    actor = CoordinatorActor(SearchTask({}, "c.yml", str(tmp_path), tmp_path, "", 30.0), tmp_path, False)
    actor._coordinator = coordinator = open_simulated(tmp_path, make_campaign())  # type: ignore[assignment]
    for _ in range(2):  # `stopped` was sent to work before this coordinator was restarted, and never asks
        silent = actor.report(Hired(("loading",), ("stopped",))).silent
        now[0] += 50.0
    assert silent == {"loading": 0.0, "stopped": 50.0}
    actor.lost("stopped")
    assert set(actor.report(Hired(("loading",), ())).silent) == {"loading"}
    coordinator.close()


def test_an_exchange_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = CoordinatorActor(SearchTask({}, "c.yml", str(tmp_path), tmp_path, "", 30.0), tmp_path, False)
    actor._coordinator = coordinator = open_simulated(tmp_path, make_campaign())  # type: ignore[assignment]
    work, made, real = actor.next_work("w"), list[int](), Store.transaction
    monkeypatch.setattr(Store, "transaction", lambda store: made.append(1) or real(store))
    for count in (1, 2, 3):
        assert isinstance(work, Work)
        work = actor.exchange("w", SimulatedEvaluator().evaluate(work))
        assert len(made) == count
    coordinator.close()


def test_a_coordinator_that_is_gone_with_its_node_is_told_of_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    def raises(failure: Exception) -> None:
        def ask(call: object) -> None:
            raise failure

        monkeypatch.setattr(module, "answer_of", ask)

    raises(ActorUnavailableError("away", b"1" * 16))
    assert report_of(None) is None
    raises(ActorDiedError())
    with pytest.raises(ClusterError, match=r"coordinator is gone: .*go on with --resume") as caught:
        report_of(None)
    assert "\n" not in str(caught.value)
