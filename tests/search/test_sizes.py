"""Size and depth as objectives, on real headers: of layer sequences of the tiny family, deeper ones cost more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open
from simulated import LAYERS, Clock, make_campaign, make_inventory, uniform

from search.evaluators.plans import Plans
from search.inline import run_inline
from search.opening import Start, open_coordinator
from search.ports import BlockResult, Inventory, Work
from search.run import RunDirectory, Services
from search.store import schema

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo" / "models"
SPACE = {
    "method": "passthrough",
    "layers": {"places": 5, "fewest": 2},
    "stages": [{"name": "sequence", "population": 6, "sobol": 6}],
}


class Chance:
    """Deeper models are right more often; nothing is loaded."""

    def inventory(self) -> Inventory:
        return make_inventory()

    def evaluate(self, work: Work) -> BlockResult:
        depth = sum(end - start for part in work.recipe.get("slices", ()) for start, end in [_span(part)]) or LAYERS
        scores = {item: float(uniform(f"{item} {work.recipe_hash}") < depth / 6) for item in work.items}
        return BlockResult(work.lease, work.recipe_hash, work.recipe_hash, scores)

    def close(self) -> None:
        pass


def _span(part: dict[str, Any]) -> tuple[int, int]:
    start, end = part["sources"][0]["layer_range"]
    return int(start), int(end)


def numbers_in(model: Path, *, of: str) -> int:
    """How many numbers of the file belong to tensors with this in their name."""
    with safe_open(str(model / "model.safetensors"), framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return sum(math.prod(shape) for name, shape in shapes.items() if of in name)


def test_every_candidates_size_is_that_of_its_layers_and_the_front_holds_several(tmp_path: Path) -> None:
    """Of one-pass answers `forwards` are the layers themselves."""
    campaign = make_campaign(
        base_model=str(DEMO / "base"),
        sources=[str(DEMO / "letters"), str(DEMO / "plurals")],
        space=SPACE,
        objectives=[{"of": "score"}, {"of": "parameters"}, {"of": "forwards"}],
        baselines=["uniform"],
        budget={"items": 900},
        items={"window": {0: 15, 400: 30}, "selection": 20, "holdout": 20},
        sampler_options={"population": 6},
    )
    plans = Plans()
    services = Services(plans.hash_of, Clock(), parameters_of=plans.parameters_of, layers_of=plans.layers_of)
    start = Start(RunDirectory(tmp_path), LAYERS)
    coordinator = open_coordinator(campaign, make_inventory(), start=start, services=services)
    verdict = run_inline(coordinator, Chance())
    store = coordinator.run.store
    layer = numbers_in(DEMO / "letters", of="model.layers.1.")
    rest = numbers_in(DEMO / "letters", of="") - LAYERS * layer
    found = {row["number"]: row["objectives"] for row in store.rows(schema.ASSESSMENTS, split="search")}
    sizes, forwards = ({number: values[place] for number, values in found.items()} for place in (1, 2))
    sequences = [row for row in store.rows(schema.CANDIDATES) if row["stage"] == 0]
    for row in sequences:
        assert sizes[row["number"]] == rest + layer * row["params"]["layers/depth"]
        assert forwards[row["number"]] == row["params"]["layers/depth"]
    assert {row["params"]["layers/depth"] for row in sequences} == {2, 3, 4, 5}
    assert (sizes[0], forwards[0]) == (rest + layer * LAYERS, LAYERS)  # the base
    assert verdict is not None
    assert len({member.values[1] for member in verdict.front}) > 1
    assert all(member.intervals[1] == (member.values[1],) * 2 for member in verdict.front)
    plans.close()
