"""Models that cannot be merged, or asked as the campaign says, are refused by their headers, with file and key."""

from __future__ import annotations

import json
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from simulated import campaign_data, make_inventory
from tiny_models import LAYER, write_model

from cluster import campaign_command
from engine.errors import CampaignError, InputError, OutputExists, SourceError
from engine.models.checkpoint import Checkpoint
from engine.recipes.model_ref import ModelRef
from search.campaign_file import Campaign, PublishEntry, campaign_to_dict, load_campaign, parse_campaign
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.plans import Plans
from search.run import RunDirectory
from search.session import open_session
from search.space import make_space
from search.starting import check_models, check_start, warn_of_threads

SPACE = {"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": [{"name": "g"}]}


@pytest.fixture(autouse=True)
def _few_tensors_are_a_model_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No class of transformers has just these: what it makes of models is tried in test_unmade.py."""
    monkeypatch.setattr("search.starting.refuse_unmade", lambda *_: None)


def a_model(
    folder: Path, *, rows: int = 4, layers: int = 3, tensors: int = 3, bad: tuple[float, ...] = (), **config: Any
) -> str:
    """Of a llama's layers, with a file of a tokenizer that nobody reads here."""
    names = [LAYER.format(layer) for layer in range(layers)][:tensors]
    arrays = {name: np.ones((rows, 4), np.float32) for name in [*names, "model.norm.weight"]}
    arrays[names[0]].flat[: len(bad)] = bad
    write_model(folder, arrays, **{"num_hidden_layers": layers, "model_type": "llama", **config})
    (folder / "tokenizer.model").touch()
    return str(folder)


def text(**keys: int) -> dict[str, Any]:
    return {"name": "t", "text": "t.txt", "split": {"search": 0.5, "selection": 0.2, "holdout": 0.3}, **keys}


def campaign(
    folder: Path, *, template: bool = False, templates: tuple[str, ...] = (), second: dict[str, Any] | None = None
) -> Campaign:
    """Of three models, of which the second source may be another; those of `templates` have a chat template."""
    models = [a_model(folder / name) for name in ("base", "a")] + [a_model(folder / "b", **(second or {}))]
    for name in templates:
        (folder / name / "chat_template.jinja").write_text("{{ messages }}")
    data = campaign_data() | {"base_model": models[0], "sources": models[1:]}
    data["space"] = SPACE
    data["tasks"][0]["chat_template"] = template
    return parse_campaign(data, origin="c.yml")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            {"second": {"model_type": "mistral"}},
            r"c\.yml: sources\[1\]: .*/base is model_type llama, .*/b is model_type mistral: models of different "
            r"architectures are not merged\.$",
        ),
        ({"second": {"rows": 5}}, r"c\.yml: sources\[1\]: tensor .* is \[4, 4\] in .*/base and \[5, 4\] in .*/b"),
        (
            {"second": {"tensors": 2}},
            r"c\.yml: sources\[1\]: .*/b: config.json says num_hidden_layers = 3, but its tensors have 2 ",
        ),
        (
            {"template": True},
            r"c\.yml: tasks\[0\]\.chat_template: baseline 'base' takes the tokenizer of .*/base, which has no",
        ),
        (
            {"template": True, "templates": ("a", "b")},
            r"c\.yml: tasks\[0\]\.chat_template: baseline 'base' takes the tokenizer of .*/base, which has no",
        ),
        (
            {"template": True, "templates": ("base", "a")},
            r"c\.yml: tasks\[0\]\.chat_template: baseline 'parent b' takes the tokenizer of .*/b, which has no",
        ),
    ],
)
def test_what_headers_show_is_refused_at_the_start(facts: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=says) as caught:
        check_start(campaign(tmp_path, **facts), RunDirectory(tmp_path / "run"), Plans())
    assert "--allow" not in caught.value.message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluator": {"threads": 9999}}, r"evaluator\.threads: got 9999, .*1024"),
        ({"comparators": []}, r"comparators: got none, .* Name some of base, parents, baselines; to have .* --anyway"),
        ({"comparators": ["best_global"]}, r"comparators: got best_global, of which this campaign has nobody"),
        ({"comparators": ["baselines"], "baselines": []}, r"comparators: got baselines, of which"),
        (
            {"objectives": [{"of": "tokens"}, {"of": "parameters"}]},
            r"objectives: got costs alone \(tokens, parameters\)",
        ),
        ({"sources": ["a", "base/"]}, r"sources\[1\]: .*base/ is the base_model: task_arithmetic would merge its diff"),
        ({"trackers": [{"mlflow": {"uri": "file:runs"}}]}, r"trackers\[0\]\.mlflow\.uri: got 'file:runs', a folder: "),
        ({"publish": {"to": "a/config.json/out"}}, r"publish\.to: .*/out: cannot be made: .*config\.json: Not a dir"),
        (
            {"space": {**SPACE, "stages": [{"name": "g"}, {"name": "m", "by": "module"}]}},
            r"space\.stages\[0\]: stage 'g' has no `candidates`, so it never ends and stage 'm' never begins",
        ),
        ({"items": {"looks": [0.5, 0.25]}}, r"items\.looks: got \[0\.5, 0\.25\], shares in ascending order expected"),
        ({"items": {"looks": [0.5, 0.5]}}, r"items\.looks: got"),
        ({"tasks": [text(context=64, stride=64)]}, r"tasks\[0\]\.stride: got 64, less than the context expected: wind"),
        ({"tasks": [text(stride=2048)]}, r"tasks\[0\]\.stride: got 2048, less than .*: windows of 2048 tokens"),
        (
            {"space": {**SPACE, "stages": [{"name": "g", "candidates": 9}, {"name": "m", "by": "module", "sobol": 4}]}},
            r"space\.stages\[1\]\.sobol: such points open the first stage alone",
        ),
        (
            {"space": {**SPACE, "stages": [{"name": "g", "blocks_at_a_time": 1}]}, "sampler": "niches"},
            r"space\.stages\[0\]\.blocks_at_a_time: cma and quadratic draw in blocks, sampler niches does not",
        ),
        ({"publish": {"to": "hub:org"}}, r"publish\.to: hub:org: is no place on the Hub"),
    ],
)
def test_what_would_come_to_nothing_is_refused_at_the_start(
    changes: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = campaign_to_dict(campaign(tmp_path)) | changes
    with pytest.raises(InputError, match=rf"^c\.yml: {says}"):
        check_start(parse_campaign(data, origin="c.yml"), RunDirectory(tmp_path / "run"), Plans())
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "base"}


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {"method": ["task_arithmetic", "linear"], **SPACE}, "sources": ["a", "base"]},  # the average with it
        {"objectives": [{"of": "measure:loss", "direction": "minimize"}]},
        {"trackers": ["mlflow"]},
        {"space": {**SPACE, "stages": [{"name": "g", "sobol": 2, "blocks_at_a_time": 1}]}},
        {"publish": {"to": "new/folder/out"}},
        {"items": {"looks": []}},
        {"tasks": [text(context=3, stride=2)]},
    ],
)
def test_what_makes_sense_is_let_through(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = campaign_to_dict(campaign(tmp_path)) | changes
    check_start(parse_campaign(data, origin="c.yml"), RunDirectory(tmp_path / "run"), Plans())
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "base"}


@pytest.mark.parametrize("base", ["models/base", "./models/base", "models/base@main", "nowhere/base", "../out/base"])
def test_a_model_that_is_not_there_is_told_with_where_it_was_looked_for_and_where_it_is(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine" / "c.yml"
    a_model(tmp_path / "mine" / "models" / "base")
    file.write_text(yaml.safe_dump(campaign_data() | {"base_model": base}))
    monkeypatch.chdir(tmp_path)
    place = (tmp_path / base.partition("@")[0]).resolve()
    said = f"It was looked for at {place}: paths in a campaign file start at the working directory."
    there = " There is mine/models/base, beside the file: write so, or start in mine."
    with pytest.raises(CampaignError) as caught:
        check_models(load_campaign("mine/c.yml"), Plans())
    assert caught.value.message.startswith(f"mine/c.yml: base_model: {base}: ")
    assert caught.value.message.endswith(said + (there if "models" in base else ""))


@pytest.mark.parametrize(("status", "told"), [(404, True), (403, False)])
def test_a_model_that_the_hub_has_was_looked_for_nowhere_else(
    status: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Plans, ref: ModelRef) -> Checkpoint:
        raise SourceError(f"{ref}: the Hub's answer.", missing=ref.path, status=status)

    monkeypatch.setattr(Plans, "open", refused)
    with pytest.raises(CampaignError) as caught:
        check_models(parse_campaign(campaign_data() | {"base_model": "org/name"}, origin="c.yml"), Plans())
    assert ("It was looked for at" in caught.value.message) == told


@pytest.mark.parametrize(
    ("publish", "told"),
    [
        ({"public": True}, "publish.public: is for repositories on the Hub; the winner goes to the run's directory."),
        ({"public": True, "to": "out"}, "the winner goes to out."),
        ({"to": "out"}, None),
    ],
)
def test_a_public_directory_is_told_of(
    publish: dict[str, Any], told: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = campaign_to_dict(campaign(tmp_path)) | {"publish": publish}
    with caplog.at_level("WARNING"):
        check_start(parse_campaign(data, origin="c.yml"), RunDirectory(tmp_path / "run"), Plans())
    assert (told in caplog.text) if told else not caplog.text


def test_a_place_with_another_runs_model_is_refused_until_this_run_has_a_verdict(tmp_path: Path) -> None:
    found, directory = campaign(tmp_path), RunDirectory(tmp_path / "run")
    open_session(found, make_inventory(), directory=directory, resume=False).close()
    (directory.root / "published").mkdir()
    provenance = directory.root / "published" / "provenance.json"
    for name, says in ((found.name, rf"is a model of another run of campaign '{found.name}'"), ("x", "is no model of")):
        provenance.write_text(json.dumps({"campaign": {"name": name}}))
        with pytest.raises(OutputExists, match=rf"published: is there already and {says}"):
            check_start(found, directory, Plans())
    provenance.write_text(json.dumps({"campaign": {"name": found.name}}))
    with sqlite3.connect(directory.database) as connection:
        connection.execute("UPDATE campaigns SET verdict = '{}'")
    check_start(found, directory, Plans())


@pytest.mark.parametrize(
    "to", ["run", ".", "run/report.html", "run/campaign.sqlite-wal", "run/outbox/x", "run/x/../run.json"]
)
def test_the_run_itself_is_no_place_for_its_winner(to: str, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")  # not there yet, as at a first start
    found = campaign(tmp_path)

    def publishing(place: str) -> Campaign:
        return found.model_copy(update={"publish": PublishEntry(to=str(tmp_path / place))})

    with pytest.raises(InputError, match=r"^c\.yml: publish\.to: .* is the run's own: .*/run/published\.$"):
        check_start(publishing(to), directory, Plans())
    for allowed in ("run/published", "run/reports", "run2", "models/run"):
        check_start(publishing(allowed), directory, Plans())


def test_a_run_that_has_scores_goes_on_whatever_is_refused_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = campaign(tmp_path).model_copy(update={"comparators": ()})
    monkeypatch.setattr("search.starting.has_scores", lambda *_: True)
    check_start(found, RunDirectory(tmp_path / "run"), Plans())


def test_more_threads_than_processors_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = campaign(tmp_path)
    for threads, lines in ((1, 0), (1000, 1)):
        warn_of_threads(found.model_copy(update={"evaluator": EvaluatorEntry(threads=threads)}))
        assert len(caplog.messages) == lines
    assert caplog.messages[0].startswith("c.yml: evaluator.threads: got 1000, and this process may use ")


def test_models_that_fit_pass_and_a_template_is_found_wherever_it_is_kept(tmp_path: Path) -> None:
    found = campaign(tmp_path, template=True, templates=("a", "b"))
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    check_start(found, RunDirectory(tmp_path / "run"), Plans())


def test_windows_of_text_that_no_model_can_read_are_refused(tmp_path: Path) -> None:
    models = [a_model(tmp_path / name, max_position_embeddings=64) for name in ("base", "a")]
    data = campaign_data() | {"base_model": models[0], "sources": models[1:]}
    data["space"] = SPACE
    text = {"name": "prose", "text": "x.txt", "split": {"search": 0.6, "selection": 0.2, "holdout": 0.2}}
    for context, says in ((64, None), (65, r"c\.yml: tasks\[0\]\.context: got 65, the models read 64 tokens at most")):
        found = parse_campaign(data | {"tasks": [text | {"context": context}]}, origin="c.yml")
        with pytest.raises(CampaignError, match=says) if says else nullcontext():
            check_models(found, Plans())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]},
            r"config\.json says Qwen2_5_VLForConditionalGeneration \(model_type qwen2_5_vl\), for which transformers' "
            r"AutoModelForCausalLM has no class: no campaign can score .* merged to files",
        ),
        ({"model_type": "t5"}, r"config\.json says no architecture \(model_type t5\), for which"),
        (
            {"model_type": "homemade", "auto_map": {}},
            r"config\.json: transformers has no model_type 'homemade': no camp",
        ),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            r"config\.json says LlamaForSeq.*, and there is no head",
        ),
        (
            {"architectures": ["LlamaForSequenceClassification"], "tie_word_embeddings": True},
            r"config\.json says LlamaForSequenceClassification \(model_type llama\), and there is no head among its",
        ),
        ({"architectures": ["LlamaModel"]}, r"config\.json says LlamaModel \(model_type llama\), and there is no head"),
    ],
)
def test_models_that_predict_no_tokens_are_refused_at_the_start(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    models = [a_model(tmp_path / name, **config) for name in ("base", "a")]
    data = campaign_data() | {"base_model": models[0], "sources": models[1:], "space": SPACE}
    with pytest.raises(CampaignError, match=rf"^c\.yml: base_model: .*/base: {says}"):
        check_models(parse_campaign(data, origin="c.yml"), Plans())
    vllm = parse_campaign(data | {"evaluator": {"engine": "vllm"}}, origin="c.yml")
    check_models(vllm, Plans())  # has a list of its own


@pytest.mark.parametrize(
    ("silent", "says"),
    [
        (
            ("base",),
            r"base_model: .*/base has no tokenizer \(tokenizer\.json, .* copy that of sources\[0\] \(.*/a\) in",
        ),
        (("b",), r"sources\[1\]: .*/b has no tokenizer .* copy that of base_model \(.*/base\) into its directory"),
        (("base", "a", "b"), r"base_model: .* copy that of a model of the same vocabulary into its directory"),
    ],
)
def test_a_model_without_tokenizer_is_refused_at_the_start(
    silent: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, run = campaign(tmp_path), RunDirectory(tmp_path / "run")
    for name in silent:
        (tmp_path / name / "tokenizer.model").unlink()
    with pytest.raises(CampaignError, match=rf"^c\.yml: {says}"):
        check_start(found, run, Plans())
    function = {"name": "skill", "metric": "operator:add", "search": "s", "selection": "v", "holdout": "h"}
    monkeypatch.setattr("search.starting.refuse_missing_functions", lambda _: None)
    check_start(parse_campaign(campaign_to_dict(found) | {"tasks": [function]}, origin="c.yml"), run, Plans())
    monkeypatch.setattr("search.starting.has_scores", lambda *_: True)  # begun by an earlier version
    check_start(found, run, Plans())


def test_a_plan_says_it_too(tmp_path: Path) -> None:
    found = campaign(tmp_path, second={"rows": 5})
    (tmp_path / "c.yml").write_text(yaml.safe_dump(campaign_to_dict(found)))
    with pytest.raises(CampaignError, match=r"c\.yml: sources\[1\]: tensor "):
        campaign_command.plan(tmp_path / "c.yml", run_dir=None, as_json=True)


@pytest.mark.parametrize("bad", [(), (np.nan,), (1.0, np.inf, -np.inf)])
def test_nan_and_inf_in_a_model_are_found_before_there_is_a_run(
    bad: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, directory, plans = campaign(tmp_path, second={"bad": bad}), RunDirectory(tmp_path / "run"), Plans()
    space = make_space(loaded, layers=3)
    start = space.recipe(0, dict.fromkeys(space.stages[0].start(), 0.25))
    if not bad:
        open_session(loaded, make_inventory(), directory=directory, resume=False, plans=plans).close()
        monkeypatch.setattr(Checkpoint, "read_into", lambda *_: pytest.fail("the sources are read once more"))
        assert plans.hash_of(start)
        return
    count = len([value for value in bad if not np.isfinite(value)])
    with pytest.raises(
        CampaignError, match=rf"^c\.yml: sources\[1\]: .*/b: tensor .* holds {count} NaN or Inf\. Repair"
    ):
        open_session(loaded, make_inventory(), directory=directory, resume=False, plans=plans)
    assert not directory.root.exists()
