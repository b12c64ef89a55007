"""Who is hired where: places of cordoned evaluators are filled elsewhere, if there is an elsewhere. Without Ray."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import ray_session
from cluster.crew import Crew, Wanted, _Member
from cluster.evaluator_worker import SearchTask
from cluster.placement import Node, Post, Request, posts, without
from cluster.ray_session import Session
from search.blame import NOBODY, Cordon

TASK = SearchTask({}, "c.yml", ".", Path(), "", 30.0)


class Paper(Crew):
    """A crew on paper: `nodes` are there, nobody is started or ended."""

    def __init__(self, nodes: list[Node], wanted: Wanted) -> None:
        super().__init__(Session("", Path(), started=False), TASK, wanted)
        self.nodes = nodes
        self.look()

    def look(self) -> None:
        self._looked = -1e9
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_session, "alive_nodes", lambda: self.nodes)
            self.hire()

    def dismiss(self, names: list[str] | None = None) -> None:
        for name in list(self._members) if names is None else names:
            del self._members[name]

    def _start(self, post: Post) -> None:
        self._hired += 1
        self._members[f"{post.node.host}-{self._hired}"] = _Member(post, None, None, time.monotonic())

    @property
    def names(self) -> set[str]:
        return set(self._members)

    @property
    def on(self) -> Counter[str]:
        return Counter(member.post.node.host for member in self._members.values())


def node(name: str, cpus: float = 2.0, **more: Any) -> Node:
    return Node(f"id of {name}", name, cpus, **more)


def test_a_cordoned_node_is_left_and_its_places_filled_elsewhere_once_there_is_an_elsewhere() -> None:
    crew = Paper([node("a"), node("b")], Wanted(None, 1.0, 0))
    assert crew.names == {"a-1", "a-2", "b-3", "b-4"}
    assert set(crew.leave_out(Cordon({"a": "bad disk"}, {}))) == {"a-1", "a-2"}
    crew.look()
    assert crew.on == {"b": 2}
    crew.nodes.append(node("c"))
    crew.look()
    assert crew.on == {"b": 2, "c": 2}


def test_a_cordoned_evaluators_place_stays_empty_and_another_is_started_where_there_is_room() -> None:
    crew = Paper([node("a"), node("b")], Wanted(2, 1.0, 0))
    assert crew.on == {"a": 1, "b": 1}
    assert crew.leave_out(Cordon({}, {"a-1": "bad GPU"})) == ["a-1"]
    crew.look()
    assert sum(crew.on.values()) == 2
    assert crew.leave_out(Cordon({}, {"a-1": "bad GPU"})) == []
    full = Paper([node("a"), node("b")], Wanted(None, 1.0, 0))
    full.leave_out(Cordon({}, {"a-1": "bad GPU"}))
    full.look()
    assert full.on == {"a": 1, "b": 2}


def test_the_last_evaluators_stay_whatever_they_did() -> None:
    crew = Paper([node("a")], Wanted(None, 1.0, 0))
    assert crew.leave_out(NOBODY) == []
    assert crew.leave_out(Cordon({"a": "bad disk"}, {})) == []
    crew.dismiss()
    crew.look()
    assert crew.on == {"a": 2}


def test_evaluators_on_gpus_are_as_many_as_there_are_gpus() -> None:
    crew = Paper([node("a", 32.0, gpus=4.0)], Wanted(None, 1.0, 1))
    assert crew.on == {"a": 4}
    crew.leave_out(Cordon({}, {"a-2": "bad GPU"}))
    crew.look()
    assert crew.on == {"a": 3}


NODES = st.lists(st.integers(1, 8), min_size=2, max_size=5).map(
    lambda cpus: [node(f"n{place}", float(count)) for place, count in enumerate(cpus)]
)


@given(nodes=NODES, data=st.data())
def test_what_is_left_has_room_for_all_but_what_lies_idle(nodes: list[Node], data: st.DataObject) -> None:
    before = posts(nodes, Request(cpus=1.0))
    idle = data.draw(st.lists(st.sampled_from(before), max_size=len(before) - 1))
    idle = [post for place, post in enumerate(idle) if Counter(idle[: place + 1])[post] <= post.on_node]
    cordoned = data.draw(st.sets(st.sampled_from([each.host for each in nodes]), max_size=len(nodes) - 1))
    left = without(nodes, idle, cordoned)
    expected = Counter(before) - Counter(idle)
    expected = Counter({post: count for post, count in expected.items() if post.node.host not in cordoned})
    found = Counter(post.node.host for post in posts(left, Request(cpus=1.0)))
    by_host = Counter[str]()
    for post, count in expected.items():
        by_host[post.node.host] += count
    assert found == (by_host or Counter(post.node.host for post in before))


def test_who_is_lost_is_told_of_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    crew = Paper([node("a")], Wanted(None, 1.0, 0))
    lost = min(crew.names)
    crew._lose(lost, "The actor died unexpectedly.\nIts log: ...")
    assert f"evaluator {lost} was lost: The actor died unexpectedly. Another one takes its place" in caplog.text
    crew.look()
    assert crew.names
    assert lost not in crew.names
