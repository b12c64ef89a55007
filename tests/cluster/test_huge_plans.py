"""Merges of models of 70 to 671 billion parameters, planned and shared out from real headers in sparse files."""

from __future__ import annotations

import gc
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.measure import measure
from bench.sparse import SIZES, DeepSeek, sparse_family
from cluster.forecast import Fleet, simulate
from cluster.queues import Queues
from cluster.sharding import BALANCED, assign, foreseen, giants, imbalance
from engine import Plan, make_plan, open_checkpoints, parse_recipe
from engine.models.checkpoint import Checkpoint

GIB = 1 << 30
PARAMETERS = {"70B": 70.55e9, "405B": 405.85e9, "671B": 671.03e9}
"""As the models' cards and `reference`s count them; DeepSeek-V3's without its prediction layer."""
Opened = tuple[str, list[str], dict[Any, Checkpoint]]


def recipe_of(method: str, models: list[str]) -> dict[str, Any]:
    base, *tunes = models
    if method == "linear":
        return {"merge_method": method, "models": [{"model": m, "parameters": {"weight": 1}} for m in models]}
    listed = [{"model": m, "parameters": {"weight": 0.5, "density": 0.5}} for m in tunes]
    return {"merge_method": method, "base_model": base, "models": listed, "dtype": "bfloat16"}


@pytest.fixture(scope="module", params=SIZES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A size, its three models and their opened headers."""
    family = sparse_family(tmp_path_factory.mktemp(request.param), request.param)
    models = [str(model) for model in family.models]
    checkpoints = open_checkpoints(parse_recipe(recipe_of("linear", models)).models)
    yield request.param, models, checkpoints
    for checkpoint in checkpoints.values():
        checkpoint.close()


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_sixteen_nodes_are_in_balance_and_none_needs_more_than_its_memory(opened: Opened, method: str) -> None:
    size, models, checkpoints = opened
    plan = make_plan(parse_recipe(recipe_of(method, models)), checkpoints)
    assert sum(tensor.elements for tensor in plan.tensors) == pytest.approx(PARAMETERS[size], rel=1e-3)
    for cpus, memory in ((1, GIB // 2), (8, 4 * GIB)) if size != "671B" else ((8, 4 * GIB),):
        fleet = Fleet(nodes=16, cpus=cpus, memory_bytes=memory)
        cut, loads = simulate(plan, fleet)
        weights = [load.weight for load in loads]
        assert max(weights) * 16 / sum(weights) <= BALANCED
        assert max(load.in_flight_bytes for load in loads) <= memory
        assert sum(load.written_bytes for load in loads) == plan.total_size
        if size != "70B" or cpus == 1:  # of 70B the units are large beside the share of one of 128 threads
            done = worked(plan, [cpus] * 16)
            assert max(done) * 16 / sum(done) <= BALANCED
        if method == "linear":  # tiles are cut anyway
            assert not cut
            moved = [load.read_bytes + load.written_bytes for load in loads]
            assert sum(load.read_bytes for load in loads) == plan.bytes_read
            assert max(moved) * 16 / sum(moved) <= BALANCED


def worked(plan: Plan, lanes: list[int]) -> list[int]:
    """What every worker has done when all lanes, equally fast, have taken from the queues until nothing was left."""
    queues = Queues(foreseen(plan, giants(plan, lanes)), lanes)
    free = [(0, worker, lane) for worker, count in enumerate(lanes) for lane in range(count)]
    done = [0] * len(lanes)
    while free:
        now, worker, lane = heappop(free)
        chunk = queues.take(worker)
        if chunk is not None:
            done[worker] += chunk.weight
            heappush(free, (now + chunk.weight, worker, lane))
    return done


def test_of_70b_on_128_threads_embedding_and_head_are_cut_and_of_671b_nothing(tmp_path: Path) -> None:
    for size, expected in (("70B", {"model.embed_tokens.weight", "lm_head.weight"}), (DeepSeek(layers=5), set())):
        models = [str(model) for model in sparse_family(tmp_path / str(size)[:3], size).models]
        recipe = parse_recipe(recipe_of("ties", models))
        plan = make_plan(recipe, open_checkpoints(recipe.models))
        lanes = [8] * 16 if size == "70B" else [1]
        assert {plan.tensors[index].name for index in giants(plan, lanes)} == expected


def test_the_command_plans_671b_with_45_thousand_expert_tensors_in_little_time_and_memory(tmp_path: Path) -> None:
    models = [str(model) for model in sparse_family(tmp_path, "671B").models]
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe_of("ties", models)))
    command = ["plan", str(tmp_path / "r.yml"), "--nodes", "16", "--cpus-per-node", "16", "--memory", "8GiB"]
    command += ["--disk-gbps", "56", "--net-gbps", "100", "--json"]
    planning = shlex.join([sys.executable, "-c", "from cluster.entry import run; run()", *command])
    cost = measure(
        ["sh", "-c", f"exec {planning} > {tmp_path}/said.json"],
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
        log=tmp_path / "log",
    )
    facts = json.loads((tmp_path / "said.json").read_text())
    experts = [group["count"] for group in facts["groups"] if ".experts." in group["tensors"]]
    assert sum(experts) == 58 * 256 * 3
    assert facts["fleet"]["imbalance"] <= BALANCED
    # measured: 10 CPU-s, 210 MiB
    assert cost.cpu_s < 30
    assert cost.peak_anonymous < 1 << 30


def test_planning_and_sharing_out_grow_as_the_number_of_tensors_does(tmp_path: Path) -> None:
    spent = {}
    for layers in (6, 24):
        model = DeepSeek(layers=layers, experts=64, dense=0)
        recipe = parse_recipe(recipe_of("ties", [str(m) for m in sparse_family(tmp_path / str(layers), model).models]))
        checkpoints = open_checkpoints(recipe.models)
        plan = make_plan(recipe, checkpoints)
        spent[layers] = [
            least(lambda recipe=recipe, checkpoints=checkpoints: make_plan(recipe, checkpoints)),  # type: ignore[misc]
            least(lambda plan=plan: shared_out(plan)),  # type: ignore[misc]
        ]
    for few, many in zip(spent[6], spent[24], strict=True):
        assert many < 9 * few  # four times the tensors; sixteen times the work, were it quadratic


def shared_out(plan: Plan) -> float:
    lanes = [8] * 16
    return imbalance(assign(foreseen(plan, giants(plan, lanes)), lanes), lanes)


def least(work: Callable[[], object]) -> float:
    """CPU-seconds of the cheaper of two runs; what is rubbish is collected before."""
    found = []
    for _ in range(2):
        gc.collect()
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)
