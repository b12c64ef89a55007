"""Who is hired and who is sent home, when nodes come, go and are drained."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import ray_session
from cluster.actors import Present
from cluster.placement import Node, Post, Request
from cluster.roster import LOOK_AROUND_S, PENDING_S, Member, Roster
from engine.errors import ClusterError

A, B, C = (Node(name, name, 4.0) for name in "abc")


class Handle:
    """Of a worker that is told nothing."""

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self) -> None:
        pass


class Office(Roster):
    """Hires without a Ray, and sees the nodes that a test shows it."""

    def __init__(self, request: Request, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(None, request, lambda post: None)  # type: ignore[arg-type, return-value]
        self.alive: list[Node] = []
        self.draining: set[str] = set()
        self.now = 0.0
        monkeypatch.setattr(ray_session, "alive_nodes", lambda: self.alive)
        monkeypatch.setattr(ray_session, "draining_nodes", lambda: self.draining)

    def look(self, *alive: Node, after_s: float = LOOK_AROUND_S) -> list[str]:
        """The nodes of all workers who stay, after another look."""
        self.alive, self.now = list(alive), self.now + after_s
        self.look_around(now=self.now)
        return [member.name for member in self.members if not member.leaving]

    def ready(self) -> None:
        for member in self.members:
            member.present = Present(member.name, member.number)

    def dismiss(self, member: Member) -> None:
        self.members.remove(member)

    def _hire(self, post: Post, now: float) -> None:
        self._hired += 1
        self.members.append(Member(self._hired, post, Handle(), now))


def test_every_node_gets_a_worker_also_one_that_joins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Request(), monkeypatch)
    assert office.look(A, B) == ["a", "b"]
    office.ready()
    assert office.look(A, B, C) == ["a", "b", "c"]
    assert office.look(A, B, C, after_s=LOOK_AROUND_S / 2) == ["a", "b", "c"]


def test_with_a_number_of_workers_nobody_is_hired_beyond_it_and_the_lost_are_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(Request(workers=2), monkeypatch)
    assert office.look(A, B) == ["a", "b"]
    office.ready()
    assert office.look(A, B, C) == ["a", "b"]
    office.dismiss(office.members[0])
    assert office.look(B, C) == ["b", "c"]


def test_how_many_workers_fit_is_said_once_and_again_when_that_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(Request(workers=9, cpus=2.0), monkeypatch)
    assert office.look(A) == ["a", "a"]
    office.look(A)
    office.look(A, B)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 9 workers fit; the others start when nodes join.",
        "4 of 9 workers fit; the others start when nodes join.",
    ]


def test_workers_of_a_drained_node_leave_and_nobody_is_hired_there(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Request(), monkeypatch)
    office.look(A, B)
    office.ready()
    office.draining = {"b"}
    assert office.look(A, B) == ["a"]
    assert office.nodes == {"a"}
    assert len(office.members) == 2  # the other finishes what it is at


def test_who_waits_in_vain_is_looked_for_elsewhere_while_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Request(workers=2), monkeypatch)
    office.look(A)
    office.members[0].present = Present("a", 1)  # it has all of its node, so that the other one finds no room there
    assert office.look(A, B) == ["a", "a"]
    assert office.look(A, B, after_s=PENDING_S) == ["a", "b"]


def test_who_waits_for_a_node_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Request(), monkeypatch)
    office.look(A, B)
    assert office.look(A) == ["a"]


def test_no_node_at_the_start_is_an_error_and_later_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Request(cpus=2), monkeypatch)
    with pytest.raises(ClusterError, match="no node with processors"):
        office.look()
    office.look(A)
    office.ready()
    office.members.clear()
    assert office.look() == []
    assert office.look(B) == ["b", "b"]
