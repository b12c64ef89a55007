"""Workers spread over nodes: all fit, none is lost, and what cannot fit is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Node, Request, meets, posts
from engine.errors import ClusterError

NODES = st.lists(st.integers(1, 64), min_size=1, max_size=6).map(
    lambda cpus: [Node(f"n{place}", f"host{place}", float(count)) for place, count in enumerate(cpus)]
)


@given(nodes=NODES)
def test_by_default_every_node_gets_one_worker_with_all_its_processors(nodes: list[Node]) -> None:
    found = posts(nodes, Request())
    assert [post.node for post in found] == nodes
    assert [post.cpus for post in found] == [node.cpus for node in nodes]
    assert [post.threads for post in found] == [int(node.cpus) for node in nodes]


@given(nodes=NODES, workers=st.integers(1, 100))
def test_so_many_workers_as_asked_for_fit_onto_their_nodes(nodes: list[Node], workers: int) -> None:
    found = posts(nodes, Request(workers))
    assert len(found) == workers
    for node in nodes:
        there = [post for post in found if post.node == node]
        assert sum(post.cpus for post in there) <= node.cpus + 1e-9
        assert all(post.on_node == len(there) and post.threads >= 1 for post in there)


@given(nodes=NODES, workers=st.integers(1, 20))
def test_no_node_is_crowded_while_another_has_twice_the_room(nodes: list[Node], workers: int) -> None:
    found = posts(nodes, Request(workers))
    for post in found:
        for node in nodes:
            there = sum(other.node == node for other in found)
            assert node.cpus / (there + 1) <= post.node.cpus / post.on_node + 1e-9


@given(nodes=NODES, cpus=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]))
def test_a_fixed_size_fills_every_node_and_no_more(nodes: list[Node], cpus: float) -> None:
    if max(node.cpus for node in nodes) < cpus:
        with pytest.raises(ClusterError, match="fits on no node"):
            posts(nodes, Request(cpus=cpus))
        return
    found = posts(nodes, Request(cpus=cpus))
    for node in nodes:
        room = sum(post.node == node for post in found) * cpus
        assert node.cpus - cpus < room <= node.cpus


def test_a_fixed_size_and_a_number_give_at_most_that_number() -> None:
    nodes = [Node("a", "a", 4.0), Node("b", "b", 2.0)]
    assert len(posts(nodes, Request(3, 1.0))) == 3
    assert len(posts(nodes, Request(30, 1.0))) == 6


def test_threads_may_be_given() -> None:
    assert [post.threads for post in posts([Node("a", "a", 4.0)], Request(2, threads=3))] == [3, 3]


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(ClusterError, match="no node with processors"):
        posts([], Request())


def test_workers_with_gpus_are_as_many_as_there_are_gpus_and_share_the_processors() -> None:
    nodes = [Node("a", "a", 16.0, 2.0), Node("b", "b", 64.0), Node("c", "c", 8.0, 1.0)]
    found = posts(nodes, Request(gpus=1))
    assert [(post.node.id, post.cpus, post.gpus) for post in found] == [("a", 8.0, 1), ("a", 8.0, 1), ("c", 8.0, 1)]
    assert len(posts(nodes, Request(workers=2, gpus=0.5))) == 2
    assert len(posts(nodes, Request(gpus=0.5))) == 6


def test_a_request_that_fits_nowhere_is_said_with_what_the_cluster_has() -> None:
    nodes = [Node("a", "alpha", 4.0, labels={"zone": "eu"}), Node("b", "beta", 8.0)]
    with pytest.raises(ClusterError) as caught:
        posts(nodes, Request(cpus=16, gpus=2, labels={"zone": "us"}))
    assert caught.value.message == (
        "a worker with 16 processors, 2 GPUs and zone=us fits on no node of the cluster, which has "
        "alpha (4 processors, 0 GPUs, zone=eu), beta (8 processors, 0 GPUs, zone=nothing). Ask for less, or add nodes."
    )


def test_only_nodes_with_the_labels_get_workers() -> None:
    nodes = [
        Node("a", "a", 4.0, labels={"zone": "eu"}),
        Node("b", "b", 4.0, labels={"zone": "us"}),
        Node("c", "c", 4.0),
    ]
    chosen = {
        selector: [post.node.id for post in posts(nodes, Request(labels={"zone": selector}))]
        for selector in ("eu", "!eu", "in(eu,us)", "!in(us)")
    }
    assert chosen == {"eu": ["a"], "!eu": ["b", "c"], "in(eu,us)": ["a", "b"], "!in(us)": ["a", "c"]}
    assert not meets({"zone": "eu"}, {"zone": "eu", "disk": "nvme"})
