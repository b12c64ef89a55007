"""Leases: one worker a unit, back when it runs out, for the last time after two retries."""

from __future__ import annotations

from search.queue import MAX_ATTEMPTS, RETRIES, Unit, WorkQueue


def unit(recipe: str, block: int = 0) -> Unit:
    return Unit(0, recipe, "search", block, (f"{recipe}/{block}",))


def filled(*units: Unit, lease_s: float | None = 60.0) -> WorkQueue:
    queue = WorkQueue(lease_s=lease_s)
    queue.add(units)
    return queue


def taken(queue: WorkQueue, worker: str, now: float = 0.0) -> str:
    lease = queue.take(worker, key=f"{worker}-{now}-{len(queue.leases)}", now=now)
    assert lease is not None
    return f"{lease.unit.recipe_hash}{lease.unit.block}"


def test_units_are_handed_out_in_order_and_once() -> None:
    queue = filled(unit("a"), unit("b"))
    assert [taken(queue, "w1"), taken(queue, "w2")] == ["a0", "b0"]
    assert queue.take("w3", key="k", now=0.0) is None


def test_a_worker_goes_on_with_the_recipe_it_has_loaded() -> None:
    queue = filled(unit("a", 0), unit("b", 0), unit("b", 1), unit("a", 1))
    assert [taken(queue, "w1"), taken(queue, "w2"), taken(queue, "w2"), taken(queue, "w1")] == ["a0", "b0", "b1", "a1"]


def test_a_worker_without_a_recipe_leaves_others_theirs_while_there_is_something_else() -> None:
    queue = filled(unit("a", 0), unit("a", 1), unit("b", 0))
    assert [taken(queue, "w1"), taken(queue, "w2")] == ["a0", "b0"]
    assert taken(queue, "w3") == "a1"


def test_a_lease_runs_out_only_after_its_time_without_a_heartbeat() -> None:
    queue = filled(unit("a"), unit("b"))
    taken(queue, "quiet"), taken(queue, "alive")
    queue.extend("alive", now=50.0)
    assert queue.run_out(now=60.0) == []
    assert [lease.worker for lease in queue.run_out(now=61.0)] == ["quiet"]
    assert queue.run_out(now=1000.0)[0].worker == "alive"


def test_leases_in_process_never_run_out() -> None:
    queue = filled(unit("a"), lease_s=None)
    taken(queue, "w")
    assert queue.run_out(now=1e12) == []


def test_a_unit_is_retried_twice_and_goes_first() -> None:
    queue = filled(unit("a"), unit("b"))
    for failure in range(RETRIES + 1):
        lease = queue.take("w", key=str(failure), now=0.0)
        assert lease is not None
        assert lease.unit.recipe_hash == "a"
        assert lease.unit.attempts == failure + 1
        released = queue.release(lease.key)
        assert released is not None
        assert queue.retry(released) == (failure < RETRIES)


def test_a_unit_that_takes_its_process_down_every_time_ends_too() -> None:
    poison = unit("a")
    poison.attempts = MAX_ATTEMPTS
    assert poison.spent


def test_an_answer_to_a_lease_that_is_gone_releases_nothing() -> None:
    queue = filled(unit("a"))
    lease = queue.take("w", key="k", now=0.0)
    assert lease is not None
    assert queue.release("k") is lease.unit
    assert queue.release("k") is None


def test_items_out_are_those_pending_and_running() -> None:
    queue = filled(unit("a", 0), unit("a", 1), unit("b", 0))
    taken(queue, "w")
    assert queue.items_out("a") == {"a/0", "a/1"}
    queue.drop("a")
    assert queue.items_out("a") == {"a/0"}


def test_units_whose_items_were_scored_meanwhile_are_forgotten() -> None:
    queue = filled(unit("a", 0), unit("a", 1), unit("b", 0))
    queue.drop_scored("a", {"a/1", "b/0"})
    assert [(u.recipe_hash, u.block) for u in queue.pending] == [("a", 0), ("b", 0)]
