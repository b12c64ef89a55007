"""Published is what was scored: the same bits, the same answers from the files, all at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import FinishedRun, make_finished_run
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from engine import merging
from engine.errors import (
    CampaignError,
    EvaluationError,
    InputError,
    Outage,
    OutputDamaged,
    OutputExists,
    Refused,
    SourceError,
)
from engine.execution.execute import Executed, Work, execute
from engine.models.checkpoint import open_checkpoint
from engine.planning.beside import digest_of
from engine.planning.made import PROVENANCE
from engine.planning.plan import Plan
from engine.recipes.model_ref import ModelRef
from engine.reproducing import held_digests, reproduce
from search.campaign_file import campaign_to_dict, parse_campaign
from search.evaluating import evaluate
from search.evaluators.contract import Unreachable
from search.matrix import ItemScore, Matrix
from search.publishing.model_card import Published, card_extras
from search.publishing.publish import Order, Publication, publish
from search.publishing.sentinels import choose


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    made = make_finished_run(tmp_path_factory.mktemp("finished"))
    yield made
    made.evaluator.close()


@pytest.fixture(scope="module")
def published(run: FinishedRun) -> Path:
    out = run.directory.root / "published"
    publish_to(run, out)
    return out


def publish_to(run: FinishedRun, out: Path, **order: object) -> Publication:
    return publish(run.results, run.directory, Order(out, **order), rescorer=lambda: run.evaluator)


def provenance(out: Path) -> dict:
    return json.loads((out / "provenance.json").read_text())


# ---------------------------------------------------------------------------------------------------- the same bits


def test_the_published_weights_are_those_that_were_scored_and_answer_alike(run: FinishedRun, published: Path) -> None:
    winner = run.results.candidate(1)
    assert provenance(published)["weights"] == winner.weights_digest
    sentinels = choose(run.results, 1)
    assert sentinels is not None
    assert sentinels.split == "selection"
    assert run.evaluator.rescore(published, sentinels.blocks) == sentinels.scores
    assert len(set(sentinels.scores.values())) == len(sentinels.scores)  # scores that would show another bit


def test_publishing_again_finds_it_done_and_another_candidate_there_is_refused(
    run: FinishedRun, published: Path
) -> None:
    before = published.stat().st_mtime_ns
    again = publish_to(run, published)
    assert not again.made
    assert published.stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match="holds another model"):
        publish_to(run, published, candidate=0)


@pytest.mark.parametrize("harm", ["a bit flipped", "cut off"])
def test_what_was_altered_since_it_was_published_is_neither_taken_for_it_nor_written_over(
    harm: str, run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(published, tmp_path / "out")
    data = (out / "model.safetensors").read_bytes()
    harmed = data[:-1] + bytes([data[-1] ^ 1]) if harm == "a bit flipped" else data[:1000]
    (out / "model.safetensors").write_bytes(harmed)
    with pytest.raises(OutputDamaged, match=rf"^{out}: was published, and altered since: .*Remove it, or name another"):
        publish_to(run, out)
    with pytest.raises(OutputExists, match="is there already"):
        reproduce(str(published), {name: str(path) for name, path in run.models.items()}, to=out)
    assert (out / "model.safetensors").read_bytes() == harmed


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HARMS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "config edited": ("config.json is not what was written", lambda out: edit(out / "config.json", rms_norm_eps=0.5)),
    "config cut off": ("config.json is not what was written", lambda out: (out / "config.json").write_text("{")),
    "config removed": ("config.json is missing", lambda out: (out / "config.json").unlink()),
    "tokenizer edited": ("tokenizer.json is not what was written", lambda out: edit(out / "tokenizer.json", added=[])),
    "tokenizer removed": ("tokenizer.json is missing", lambda out: (out / "tokenizer.json").unlink()),
    "recipe edited": (
        "mergekit_config.yml is not what was written",
        lambda out: (out / "mergekit_config.yml").write_text("merge_method: linear\n"),
    ),
    "template added": (
        "chat_template.jinja was added, and is read by those who load the model",
        lambda out: (out / "chat_template.jinja").write_text("{{ messages }}"),
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_beside_the_weights_that_was_altered_is_named_by_publishing_and_by_making_it_again(
    harm: str, run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(published, tmp_path / "out")
    said, do = HARMS[harm]
    do(out)
    with pytest.raises(
        OutputDamaged, match=rf"^{out}: was published, and altered since: .*{said}.*Remove or rename it"
    ):
        publish_to(run, out)
    found = reproduce(str(out), {name: str(path) for name, path in run.models.items()})
    assert not found.equal
    assert found.weights == found.published
    assert "but 1 files beside its weights are not that" in found.sentence
    assert said in found.details


def test_a_card_is_its_owners_to_edit_but_publishing_again_does_not_call_it_done(
    run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(published, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    assert publish_to(run, out).notes == ("not written by mergefleet, and no part of the model: notes.txt",)
    (out / "README.md").write_text((out / "README.md").read_text().replace("0.", "9."))
    with pytest.raises(OutputDamaged, match=r"README.md is not what was written\. Remove or rename it"):
        publish_to(run, out)
    found = reproduce(str(out), {name: str(path) for name, path in run.models.items()})
    assert found.equal
    assert found.details[0] == "README.md was edited or removed since, as its owner may: the model is the same"


def test_what_was_published_without_digests_is_compared_with_what_is_made_again(
    run: FinishedRun, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(published, tmp_path / "out")
    facts = provenance(out)
    del facts["small_files"]
    (out / PROVENANCE).write_text(json.dumps(facts))
    sources = {name: str(path) for name, path in run.models.items()}
    unknown = "not compared, for an older mergefleet noted no digests of files: README.md, mergekit_config.yml"
    assert publish_to(run, out).notes == (unknown,)
    found = reproduce(str(out), sources)
    assert (found.equal, found.details) == (True, [unknown])
    edit(out / "config.json", rms_norm_eps=0.5)
    with pytest.raises(OutputDamaged, match=r"config.json is not what was written"):
        publish_to(run, out)
    assert not reproduce(str(out), sources).equal

    def gone(*_: object) -> dict[str, str]:
        raise SourceError("alpha: there is no such directory")

    monkeypatch.setattr("search.publishing.present.remade", gone)
    (note,) = publish_to(run, out).notes
    assert note.startswith("not compared, for an older mergefleet noted no digests of files: README.md, config.json, ")


def test_digests_altered_with_their_file_do_not_pass_for_what_the_recipe_makes(
    run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(published, tmp_path / "out")
    edit(out / "config.json", rms_norm_eps=0.5)
    digests = provenance(out)["small_files"] | {"config.json": digest_of((out / "config.json").read_bytes())}
    edit(out / PROVENANCE, small_files=digests)
    for name in (out, out / PROVENANCE):
        found = reproduce(str(name), {name: str(path) for name, path in run.models.items()}, to=tmp_path / "again")
        assert (found.equal, found.out) == (False, None)
        (line,) = found.details
        assert line.startswith("config.json is not what the recipe makes here: altered with its digest, or")
    assert not (tmp_path / "again").exists()


def test_the_same_model_has_the_same_digests_of_files(run: FinishedRun, published: Path, tmp_path: Path) -> None:
    other = tmp_path / published.name  # which stands in the card
    publish_to(run, other)
    assert (other / PROVENANCE).read_bytes() == (published / PROVENANCE).read_bytes()
    assert {"config.json", "tokenizer.json", "README.md"} <= provenance(other)["small_files"].keys()


def test_with_a_source_that_changed_nothing_is_published_and_nothing_is_left(run: FinishedRun, tmp_path: Path) -> None:
    source = run.models["beta"] / "model.safetensors"
    kept, moment = source.read_bytes(), source.stat()
    source.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(OutputDamaged, match="those that were scored"):
            publish_to(run, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
    finally:
        source.write_bytes(kept)
        os.utime(source, ns=(moment.st_atime_ns, moment.st_mtime_ns))


def test_files_that_answer_otherwise_are_not_published(run: FinishedRun, tmp_path: Path) -> None:
    class Forgetful:
        inventory = run.evaluator.inventory

        def rescore(self, directory: Path, blocks: object) -> dict[str, float]:
            assert (directory / "README.md").is_file()  # all of it is there, and not yet visible
            return dict.fromkeys(choose(run.results, 1).scores, 0.5)

    with pytest.raises(EvaluationError, match="8 of 8 sentinel items score otherwise"):
        publish(run.results, run.directory, Order(tmp_path / "out"), rescorer=Forgetful)
    assert list(tmp_path.iterdir()) == []


def test_an_outage_while_files_are_scored_again_is_no_failure_and_the_next_try_publishes_what_is_there(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down:
        inventory = run.evaluator.inventory

        def rescore(self, directory: Path, blocks: object) -> dict[str, float]:
            raise Unreachable("judge at http://h/v1: HTTP 500, 5 attempts.")

    with pytest.raises(
        Outage, match=r"^outage: judge at http://h/v1: HTTP 500, 5 attempts\. .* with --resume"
    ) as caught:
        publish(run.results, run.directory, Order(tmp_path / "out"), rescorer=Down)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()
    left: list[int] = []

    def watched(plan: Plan, *rest: Any, work: Work, **more: Any) -> Executed:
        left.append(len(plan.tiles) - len(work.done))
        return execute(plan, *rest, work=work, **more)

    monkeypatch.setattr(merging, "execute", watched)
    later = replace(run.results, seconds=run.results.seconds + 60)
    assert publish(later, run.directory, Order(tmp_path / "out"), rescorer=lambda: run.evaluator).made
    assert left == [0]  # no tile is merged once more
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_the_campaigns_scores_cannot_be_repeated_it_takes_a_word_to_publish(
    run: FinishedRun, tmp_path: Path
) -> None:
    elsewhere = replace(run.results, eval_key="0" * 64)
    with pytest.raises(Refused, match=r"or template differ.* --no-rescore publishes") as caught:
        publish(elsewhere, run.directory, Order(tmp_path / "out"), rescorer=lambda: run.evaluator)
    assert caught.value.exit_code == 3
    publish(elsewhere, run.directory, Order(tmp_path / "out", rescore=False), rescorer=pytest.fail)
    assert "*not* scored again" in (tmp_path / "out" / "README.md").read_text()


# ------------------------------------------------------------------------------------------------------ who may go


def test_a_winner_that_is_not_shown_to_win_is_published_only_when_asked_and_its_card_says_so(
    run: FinishedRun, tmp_path: Path
) -> None:
    verdict = run.results.verdict
    doubtful = replace(run.results, verdict=replace(verdict, unscored=("ties",)))
    order = Order(tmp_path / "out")
    with pytest.raises(Refused, match="--anyway") as caught:
        publish(doubtful, run.directory, order, rescorer=lambda: run.evaluator)
    assert caught.value.exit_code == 3
    publish(doubtful, run.directory, replace(order, anyway=True), rescorer=lambda: run.evaluator)
    assert "**No significant winner.**" in (tmp_path / "out" / "README.md").read_text()
    assert provenance(tmp_path / "out")["campaign"]["published_as"] == "anyway"


@pytest.mark.parametrize(("items", "said"), [(0, "did not meet the holdout"), (5, "was scored on a part of")])
def test_the_card_of_a_choice_that_could_not_be_scored_on_the_holdout_says_so_and_compares_it_with_nobody(
    run: FinishedRun, tmp_path: Path, items: int, said: str
) -> None:
    number = run.results.verdict.winner
    scored = [e for e in run.results.item_scores if e.candidate != number or e.split != "holdout"]
    met = [e for e in run.results.item_scores if e.candidate == number and e.split == "holdout"]
    rows = [replace(row, holdout_score=None) if row.number == number else row for row in run.results.candidates]
    verdict = replace(run.results.verdict, score=None, interval=None, comparisons=())
    lost = replace(run.results, verdict=verdict, candidates=tuple(rows), item_scores=Matrix.of([*scored, *met[:items]]))
    order = Order(tmp_path / "out", anyway=True, rescore=False)
    publish(lost, run.directory, order, rescorer=pytest.fail)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"This candidate {said}" in card
    assert "could not be scored on the holdout" in card
    assert "| against |" not in card
    assert ModelCard.load(tmp_path / "out" / "README.md").data.eval_results is None


def test_the_verdicts_notes_are_published_without_secrets_and_paths_of_this_machine(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "search used items of the public test set GSM8K"
    known = "3 of 20 search items are in the\nlist of known texts"
    notes = (
        said,
        known,
        "ties: /home/me/models/a.json is gone",
        "https://me:pw@h/x?key=1 answers 401 to hunter2hunter2",
    )
    monkeypatch.setenv("JUDGE_API_KEY", "hunter2hunter2")
    noted = replace(run.results, verdict=replace(run.results.verdict, notes=notes))
    publish(noted, run.directory, Order(tmp_path / "out"), rescorer=lambda: run.evaluator)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- Note: {said}.\n" in card
    assert "- Note: 3 of 20 search items are in the list of known texts.\n" in card
    assert "- Note: ties: …/a.json is gone." in card
    assert "- Note: https://h/x answers 401 to ***." in card
    for file in (tmp_path / "out").iterdir():
        for secret in (b"hunter2", b"me:pw", b"key=1", b"/home/me"):
            assert secret not in file.read_bytes(), file.name
    told = provenance(tmp_path / "out")["campaign"]["verdict"]["notes"]
    assert told == [said, known, "ties: …/a.json is gone", "https://h/x answers 401 to ***"]


def test_the_run_itself_is_not_published_over(run: FinishedRun) -> None:
    with pytest.raises(InputError, match=r"campaign\.sqlite: is the run's own: .* Name another place, such as .*/publ"):
        publish_to(run, run.directory.database)


def test_a_candidate_chosen_by_hand_is_called_that(run: FinishedRun, tmp_path: Path) -> None:
    publish_to(run, tmp_path / "out", candidate=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Candidate 0 (parent beta), chosen by hand.** It is not the campaign's winner" in card
    assert provenance(tmp_path / "out")["weights"] == run.results.candidate(0).weights_digest


def test_a_run_without_verdict_and_candidates_that_are_not_there_are_bad_input(
    run: FinishedRun, tmp_path: Path
) -> None:
    early = replace(run.results, verdict=None, winner=None)
    with pytest.raises(CampaignError, match="no verdict yet"):
        publish(early, run.directory, Order(tmp_path / "out"), rescorer=pytest.fail)
    with pytest.raises(CampaignError, match="got 7, campaign 'tiny' has candidates 0 to 1"):
        publish_to(run, tmp_path / "out", candidate=7)
    lost = replace(run.results.candidate(0), weights_digest=None, failure="NaN in lm_head")
    broken = replace(run.results, candidates=(lost, run.results.candidate(1)))
    with pytest.raises(CampaignError, match="no weights to compare with: NaN in lm_head"):
        publish(broken, run.directory, Order(tmp_path / "out", candidate=0), rescorer=pytest.fail)


# ------------------------------------------------------------------------------------------------------- the card


def test_the_card_is_one_the_hub_reads_with_results_and_their_intervals(run: FinishedRun, published: Path) -> None:
    card = ModelCard.load(published / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en"]
    assert {"merge", "mergefleet"} <= set(card.data.tags)
    assert card.data.pipeline_tag == "text-generation"
    by_name = {result.dataset_name: result for result in card.data.eval_results}
    letters = by_name["letters"]
    assert (letters.metric_value, letters.dataset_split) == (1.0, "holdout")
    assert letters.metric_args == {"confidence_level": 0.95, "interval": [0.675592, 1.0], "items": 8}  # Wilson's
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert "beats all 1 comparators** on 8 sealed holdout items" in card.text
    assert "mergefleet reproduce published --sources beta=PATH --sources alpha=PATH" in card.text


JUDGE = {"base_url": "http://localhost/v1", "model": "some", "prompt": "{answer}"}
CUT = {"search": 1, "selection": 1, "holdout": 2}
STATED: dict[str, tuple[dict[str, Any], float, str, float]] = {
    "text": ({"text": "a.txt"}, -2.5, "nats_per_token", 2.5),
    "bytes": ({"text": "a.txt", "metric": "bits_per_byte"}, -1.5, "bits_per_byte", 1.5),
    "judge": ({"task": "advice", "judge": JUDGE}, 0.5, "judge_grade", 0.5),
    "less is better": ({"task": "exam", "metric": "brier_score"}, -0.25, "score_by_brier_score", -0.25),
    "more is better": ({"task": "exam", "metric": "acc"}, 0.5, "acc", 0.5),
    "function": ({"task": "rows.jsonl", "metric": "my.module:loss"}, -3.0, "my.module:loss", -3.0),
}


@pytest.mark.parametrize("name", STATED)
def test_a_result_that_others_read_has_the_name_of_what_its_number_is(run: FinishedRun, name: str) -> None:
    entry, score, kind, value = STATED[name]
    data = campaign_to_dict(run.results.campaign) | {"tasks": [{"name": "skill", "split": CUT, **entry}]}
    scores = Matrix.of(ItemScore(1, "holdout", "skill", f"{n}", score + d) for n, d in enumerate((-0.125, 0.125)))
    results = replace(run.results, campaign=parse_campaign(data, origin="c.yml"), item_scores=scores)
    row = results.candidate(1)
    found = card_extras(Published(results, row, "winner", {}, [], None, None, "out")).metadata["model-index"]
    (metric,) = found[0]["results"][0]["metrics"]
    low, high = metric["args"]["interval"]
    assert (metric["type"], metric["value"]) == (kind, value)
    assert low < value < high
    assert metric["name"].startswith(kind)


def test_nothing_that_is_published_names_a_path_of_this_machine_or_the_stores_password(
    run: FinishedRun, published: Path
) -> None:
    root = str(run.models["alpha"].parents[1])
    for path in published.iterdir():
        if path.suffix in (".md", ".json", ".yml"):
            text = path.read_text()
            assert root not in text, path.name
            assert "secret" not in text, path.name


def test_provenance_says_how_it_was_found_judged_and_by_what(run: FinishedRun, published: Path) -> None:
    facts = provenance(published)
    campaign = facts["campaign"]
    assert campaign["items_digest"] == "ef" * 32
    assert campaign["evaluation_key"] == run.results.eval_key
    assert campaign["recipe_hash"] == facts["recipe_hash"]
    assert campaign["verdict"]["comparisons"][0]["label"] == "parent beta"
    assert {"python", "torch", "transformers"} <= campaign["versions"].keys()
    assert [source["model"] for source in facts["sources"]] == ["beta", "alpha"]
    assert all(len(source["content"]) == 64 for source in facts["sources"])


# -------------------------------------------------------------------------------------------------- made once more


def test_a_published_model_is_reproduced_from_its_directory_and_from_its_card_alone(
    run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    sources = {name: str(path) for name, path in run.models.items()}
    shutil.copy(published / "README.md", tmp_path / "card.md")
    kept = reproduce(str(published), sources, to=tmp_path / "again")
    assert kept.equal
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
    for name in (published / "README.md", tmp_path / "card.md"):
        found = reproduce(str(name), sources)
        assert found.equal
        assert "weight files were not read" in found.sentence


@pytest.mark.parametrize("harm", ["a bit flipped", "and its digest", "a tensor left out", "cut off", "removed"])
def test_weight_files_that_are_not_what_was_published_are_no_reproduction(
    harm: str, run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    sources = {name: str(path) for name, path in run.models.items()}
    held = shutil.copytree(published, tmp_path / "held")
    tensors = load_file(held / "model.safetensors")
    name = "model.norm.weight"
    if harm in ("a bit flipped", "and its digest"):
        tensors[name].view(np.uint8).flat[0] ^= 1
    if harm == "a tensor left out":
        del tensors[name]
    (held / "model.safetensors").unlink()
    if harm != "removed":
        save_file(tensors, held / "model.safetensors", metadata={"format": "pt"})
    if harm == "cut off":
        os.truncate(held / "model.safetensors", 1000)
    if harm in ("cut off", "removed"):
        with pytest.raises(SourceError):
            reproduce(str(held), sources)
        return
    if harm == "and its digest":
        facts = json.loads((held / PROVENANCE).read_text())
        facts["tensors"][name] = held_digests(ModelRef(str(held)))[name]
        (held / PROVENANCE).write_text(json.dumps(facts))
    found = reproduce(str(held), sources)
    assert (found.equal, found.altered) == (False, (name,))
    assert f"{held}: altered: what it says it is can be made again, but 1 tensors" in found.sentence


def test_with_another_source_it_says_which_tensors_differ_and_which_source_it_is(
    run: FinishedRun, published: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run.models["beta"], tmp_path / "other") / "model.safetensors"
    data = bytearray(other.read_bytes())
    data[-2] ^= 64  # in the last value of the last tensor, in its exponent
    other.write_bytes(data)
    last = max(open_checkpoint(ModelRef(str(other.parent))).tensors.values(), key=lambda tensor: tensor.offset)
    sources = {"alpha": str(run.models["alpha"]), "beta": str(other.parent)}
    found = reproduce(str(published), sources, to=tmp_path / "again")
    assert not found.equal
    assert (found.different, found.sources) == ((last.name,), ("beta",))
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "again.partial").exists()
    card = shutil.copy(published / "README.md", tmp_path / "card.md")  # it knows the digests of sources, too
    found = reproduce(str(card), sources)
    assert (found.equal, found.different, found.sources) == (False, (), ("beta",))


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": None},
        {"tensors": [1]},
        {"sources": "abc"},
        {"sources": [1]},
        {"sources": [{}]},
        {"sources": [{"model": 3}]},
        {"sources": [{"model": "beta", "identity": []}]},
        {"sources": [{"model": "beta", "identity": {"adapter": 3}}]},
        {"sources": [{"model": "beta", "path": 3}]},
        {"small_files": ["config.json"]},
    ],
)
def test_a_damaged_provenance_is_bad_input(published: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps(provenance(published) | changes))
    with pytest.raises(InputError, match=r"provenance.json has no recipe, sources and digests that can be read"):
        reproduce(str(tmp_path), {})


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"", b"# a model\n", b"## Recipe\n\n```yaml\na: 1\n```\n"])
def test_a_card_of_somebody_else_is_bad_input(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "README.md").write_bytes(data)
    with pytest.raises(InputError, match="is no card of mergefleet's"):
        reproduce(str(tmp_path / "README.md"), {})
    (tmp_path / "provenance.json").write_bytes(data)
    with pytest.raises(InputError, match=r"has no recipe, sources and digests that can be read"):
        reproduce(str(tmp_path), {})


def test_sources_that_are_missing_are_all_named(published: Path) -> None:
    with pytest.raises(InputError, match="--sources beta=PATH --sources alpha=PATH"):
        reproduce(str(published), {})
    with pytest.raises(InputError, match="names no model 'bete'; did you mean 'beta'"):
        reproduce(str(published), {"bete": "x"})


def test_a_model_that_is_gone_is_named_and_not_a_key_that_goes_over_it(run: FinishedRun, tmp_path: Path) -> None:
    first, *others = run.results.campaign.sources
    gone = first.model_copy(update={"model": str(tmp_path / "gone")})
    campaign = run.results.campaign.model_copy(update={"sources": (gone, *others)})
    order = Order(tmp_path / "out", candidate=1)
    with pytest.raises(InputError, match="gone: there is no such"):
        publish(replace(run.results, campaign=campaign), run.directory, order, rescorer=lambda: run.evaluator)
    assert not (tmp_path / "out").exists()


def test_sources_of_the_campaign_that_the_recipe_leaves_out_may_be_given(run: FinishedRun, published: Path) -> None:
    given = {name: str(path) for name, path in run.models.items()}
    assert reproduce(str(published), {**given, "gamma": "x"}) == reproduce(str(published), given)


def test_a_model_on_the_items_of_a_campaign_scores_what_the_campaign_gave_it(run: FinishedRun, published: Path) -> None:
    found = evaluate(str(published), run.results.campaign, split="selection", rescorer=run.evaluator)
    mine = [e.score for e in run.results.item_scores if e.candidate == 1 and e.split == "selection"]
    mean, (low, high), items = found.tasks["letters"]
    assert (mean, items) == (pytest.approx(statistics.fmean(mine)), len(mine))
    half = 1.959964 * statistics.stdev(mine) / len(mine) ** 0.5  # graded scores
    assert (low, high) == pytest.approx((mean - half, mean + half))
    assert (found.mean, *found.interval) == pytest.approx((mean, low, high))
