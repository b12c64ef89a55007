"""A campaign file is checked whole before anything starts, and errors name file, key and the nearest known name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import campaign_data

from engine.errors import CampaignError
from search.campaign_file import campaign_to_dict, load_campaign, parse_campaign

ROOT = Path(__file__).resolve().parents[2]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The simulated campaign with one value set at a dotted path."""
    data = copy.deepcopy(campaign_data())
    *steps, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = data
    for step in steps:
        place = place[step]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("budgett", {"items": 1}, ["budgett: unknown key", "did you mean 'budget'"]),
        ("space.stages.1.block", 3, ["space.stages[1].block: unknown key", "did you mean 'blocks'"]),
        ("tasks.0.metrics", "f1", ["tasks[0].metrics: unknown key", "did you mean 'metric'"]),
        ("tasks.0.name", "", ["tasks[0].name: got ''", "text that is not empty expected"]),
        ("publish", {"to": ""}, ["publish.to: got ''", "text that is not empty expected"]),
        ("evaluator", {"thread": 2}, ["evaluator.thread: unknown key", "did you mean 'threads'"]),
        ("evaluator", {"device": "gpu"}, ["evaluator.device: got 'gpu'; 'cpu', 'cuda' or 'cuda:N' expected."]),
        ("evaluator", {"device": ""}, ["evaluator.device: got ''; 'cpu'"]),
        ("evaluator", {"device": "meta"}, ["evaluator.device: got 'meta'; 'cpu'"]),
        ("evaluator", {"device": "cpu:1"}, ["evaluator.device: got 'cpu:1'; 'cpu'"]),
        ("space.stages.0.by", "globl", ["space.stages[0].by", "'globl'", "global"]),
        (
            "space.parameters",
            {"wieght": {"low": 0, "high": 1, "start": 0}},
            ["space.parameters.wieght", "'weight'"],
        ),
        (
            "space.parameters.weight",
            {"low": 0, "hihg": 1, "start": 0},
            ["weight.hihg: unknown key", "did you mean 'high'"],
        ),
        ("space.parameters.weight.start", 7, ["space.parameters.weight", "low <= start <= high"]),
        ("space.stages.1.blocks", 0, ["space.stages[1]", "module_layer needs `blocks`"]),
        ("budget", {}, ["budget", "items, candidates, hours or gpu_hours"]),
        ("budget.items", -4, ["budget.items", "-4"]),
        ("baselines", ["base", "tie"], ["baselines", "'tie'", "did you mean 'ties'"]),
        ("baselines", ["task_arithmetic:no"], ["a number above 0"]),
        ("items.window", {10: 15}, ["items.window", "0 items spent"]),
        ("sampler", "cmaes", ["sampler", "cmaes"]),
        ("name", "../x", ["name", "'../x'"]),
        ("name", "n" * 201, ["c.yml: name: got 'nnn", "200 letters or fewer expected."]),
        ("tasks.0.name", "n" * 201, ["c.yml: tasks[0].name: got 'nnn", "200 letters or fewer expected."]),
        ("seed", 2**70, ["c.yml: seed: got 1180591620717411303424, less than "]),
        ("sources", [], ["sources"]),
        ("sources", ["a/x", "a/x"], ["a/x", "listed twice"]),
        ("sources", ["x" * 300, "b"], None),  # no path can be that long: refused by the key when it is opened
        ("origin", "me", ["origin: unknown key"]),
        ("space.stages.1.name", "global", ["two entries are called 'global'"]),
        ("seed", True, ["seed: got true, a number expected."]),
        ("items.window", {0: True}, ["items.window: got true at 0, a number expected."]),
        ("items.window", {False: 15}, ["items.window: got false at False, a number expected."]),
        ("items.looks", [0.25, True], ["items.looks: got true at [1], a number expected."]),
        ("budget.items", True, ["budget.items: got true, a number expected."]),
        ("space.fixed", {"normalize": True}, None),
        ("seed", 1.5, ["seed: got 1.5, a whole number expected."]),
        ("budget", 600, ["budget: got 600, a mapping expected."]),
        ("sources", "models/letters", ["sources: got 'models/letters', a list expected."]),
        ("space.parameters.weight", {"choices": [1]}, ["weight.choices: got a list, 2 or more entries expected."]),
        ("tasks.0.metric", {"a": 1}, ["tasks[0].metric: got a mapping, text or a list expected."]),
        ("items", {"early_stopping": "maybe"}, ["items.early_stopping: got 'maybe', true or false expected."]),
        ("publish", {"license": "no such licence"}, ["publish.license: got 'no such licence', an identifier"]),
        ("store", "mysql://user:s3cr3t@host/db", ["store: got mysql://..., a path or a URL of sqlite or postgresql"]),
        ("store", "sqlite+pysqlite:///x.sqlite", None),
        ("store", " ", ["store: got ' ', a file expected; leave it out for one in the run's directory"]),
        ("store", "sqlite:///:memory:", ["store: got 'sqlite:///:memory:', a file expected"]),
        ("store", "sqlite://", ["store: got 'sqlite://', a file expected"]),
        ("include_path", "a\0b", ["c.yml: include_path: holds a NUL character"]),
        ("tasks.0.search", "a\0.jsonl", ["c.yml: tasks[0].search: holds a NUL character"]),
        ("tasks.0.metric", ["f1", "a\0b"], ["c.yml: tasks[0].metric: holds a NUL character"]),
        ("sources", ["a/x", "a/\0"], ["c.yml: sources[1].model: holds a NUL character"]),
        ("store", "postgresql://user:s3cr3t@host/\0", ["c.yml: store: holds a NUL character, which"]),
        ("sources.1", {"model": "b", "name": "a\nb"}, ["c.yml: sources[1].name: got 'a\\nb', which holds a char"]),
        ("sources.1", {"model": "b", "name": "a\u200bb"}, ["c.yml: sources[1].name: got 'a\\u200bb', which holds"]),
        ("tasks.0.name", "a\nb", ["c.yml: tasks[0].name: got 'a\\nb', which holds a character"]),
        ("space.stages.0.name", "a\tb", ["c.yml: space.stages[0].name: got 'a\\tb', which holds a character"]),
        ("space.modules", {"a": "mlp"}, None),
        ("space.stages", [{"name": "s"}], None),
    ],
)
def test_a_wrong_entry_is_named_with_its_key_and_the_nearest_known_name(
    path: str, value: Any, says: list[str] | None
) -> None:
    if says is None:  # what is next to a mistake is none
        parse_campaign(changed(path, value), origin="c.yml")
        return
    with pytest.raises(CampaignError) as caught:
        parse_campaign(changed(path, value), origin="c.yml")
    assert caught.value.exit_code == 2
    for part in ["c.yml", *says]:
        assert part in caught.value.message


def test_modules_that_no_stage_uses_are_refused() -> None:
    data = changed("space.modules", {"a": "zzz"})
    data["space"]["stages"] = data["space"]["stages"][:1]
    with pytest.raises(CampaignError, match=r"^c\.yml: space\.modules: means nothing where no stage is by module"):
        parse_campaign(data, origin="c.yml")


@pytest.mark.parametrize("key", ["name", "base_model", "sources", "space", "tasks", "budget"])
def test_a_missing_key_is_named(key: str) -> None:
    data = campaign_data()
    del data[key]
    with pytest.raises(CampaignError, match=rf"c.yml: {key}: is missing"):
        parse_campaign(data, origin="c.yml")


def test_a_campaign_survives_the_trip_through_plain_data() -> None:
    campaign = parse_campaign(campaign_data(), origin="c.yml")
    assert parse_campaign(campaign_to_dict(campaign), origin="c.yml") == campaign


def test_a_source_is_a_path_or_a_mapping_and_gets_a_short_name() -> None:
    sources = ["a/merge", "b/merge", {"model": "org/expert@main", "name": "expert"}]
    campaign = parse_campaign(campaign_data(sources=sources), origin="c.yml")
    assert campaign.source_names == ("merge", "merge-2", "expert")


def test_the_window_grows_with_the_items_spent() -> None:
    items = parse_campaign(campaign_data(items={"window": {0: 15, 100: 30, 900: 75}}), origin="c.yml").items
    assert [items.window_size(spent) for spent in (0, 99, 100, 899, 900, 10**6)] == [15, 15, 30, 30, 75, 75]


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("- 1\n")
    with pytest.raises(CampaignError, match="a mapping expected"):
        load_campaign(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "campaigns").glob("*.yml")), ids=lambda path: path.name)
def test_every_campaign_that_we_ship_loads(path: Path) -> None:
    campaign = load_campaign(path)
    assert campaign.name == path.stem
    assert yaml.safe_load(path.read_text())["name"] == campaign.name
