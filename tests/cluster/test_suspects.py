"""What may have killed a worker: tried elsewhere, then alone, and to blame only on a second node."""

from __future__ import annotations

from cluster.sharding import Unit
from cluster.suspects import Place, Suspects

A, B, C = (Unit(number, (number,), 1) for number in range(3))
HERE, THERE, AGAIN = Place("one", 1), Place("two", 2), Place("one", 3)
NODES = {"one", "two"}


def test_what_was_in_hand_is_tried_on_another_node_while_there_is_one() -> None:
    suspects = Suspects()
    assert suspects.accuse([A, B], HERE, certain=False, nodes=NODES) is None
    assert suspects.take(AGAIN, NODES, idle=True) is None
    assert suspects.take(THERE, NODES, idle=False) == (A, False)
    assert suspects.take(AGAIN, {"one"}, idle=False) == (B, False)
    assert not suspects


def test_a_unit_that_fails_for_certain_on_two_nodes_is_poisoned() -> None:
    suspects = Suspects()
    assert suspects.accuse([A], HERE, certain=True, nodes=NODES) is None
    suspects.take(THERE, NODES, idle=True)
    assert suspects.accuse([A], THERE, certain=True, nodes=NODES) == A


def test_a_failure_among_others_proves_nothing_and_the_third_try_is_alone() -> None:
    suspects = Suspects()
    suspects.accuse([A, B], HERE, certain=False, nodes=NODES)
    suspects.take(THERE, NODES, idle=True)
    suspects.take(THERE, NODES, idle=False)
    assert suspects.accuse([A, B], THERE, certain=False, nodes=NODES) is None
    assert suspects.take(AGAIN, NODES, idle=False) is None
    assert suspects.take(AGAIN, NODES, idle=True) == (A, True)
    assert suspects.accuse([A], AGAIN, certain=True, nodes=NODES) is None
    assert suspects.take(AGAIN, NODES, idle=True) == (B, True)
    assert suspects.take(AGAIN, NODES, idle=True) is None  # A has failed here for certain
    assert suspects.take(THERE, NODES, idle=True) == (A, True)
    assert suspects.accuse([A], THERE, certain=True, nodes=NODES) == A


def test_however_many_machines_die_in_a_wave_nothing_is_proven() -> None:
    suspects = Suspects()
    for worker in range(20):
        place = Place(f"node{worker}", worker)
        assert suspects.accuse([A, B, C], place, certain=False, nodes={"node0", "node1"}) is None
        for _ in range(3):
            suspects.take(Place("node0", 99), {"node0"}, idle=True)


def test_failing_twice_on_one_node_of_several_may_be_the_nodes_fault() -> None:
    suspects = Suspects()
    suspects.accuse([A], HERE, certain=True, nodes=NODES)
    assert suspects.accuse([A], AGAIN, certain=True, nodes=NODES) is None
    assert suspects.take(AGAIN, NODES, idle=True) is None
    assert suspects.take(THERE, NODES, idle=True) == (A, True)


def test_where_there_is_one_node_two_workers_are_enough() -> None:
    suspects = Suspects()
    suspects.accuse([A], HERE, certain=True, nodes={"one"})
    assert suspects.take(AGAIN, {"one"}, idle=True) == (A, False)
    assert suspects.accuse([A], AGAIN, certain=True, nodes={"one"}) == A


def test_only_a_suspect_is_taken_back() -> None:
    suspects = Suspects()
    suspects.accuse([A], HERE, certain=False, nodes=NODES)
    suspects.take(THERE, NODES, idle=True)
    assert not suspects.put_back(C)
    assert suspects.put_back(A)
    assert suspects.take(THERE, NODES, idle=True) == (A, False)
