"""To the Hub by one commit, to an object store by its manifest: seen whole or not at all, and found done when done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_run import FinishedRun, make_finished_run
from hub_standin import Hub, Repository, running_hub

from engine.errors import InputError, MergefleetError, OutputDamaged, OutputExists
from engine.outputs import hub_upload
from engine.outputs.hub_upload import HubRepo
from engine.recipes.model_ref import ModelRef
from engine.remote.bucket import Bucket
from engine.remote.url import parse_url
from engine.reproducing import reproduce
from search.publishing.destination import parse_destination
from search.publishing.licences import Licence
from search.publishing.parents import read_parent
from search.publishing.publish import OUTBOX, Order, Publication, publish

TOKEN = "hf_" + "a" * 34
FILES = {"README.md", "config.json", "mergekit_config.yml", "model.safetensors", "provenance.json", "recipe.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    made = make_finished_run(tmp_path_factory.mktemp("finished"))
    yield made
    made.evaluator.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub that TOKEN may write to as `org`; huggingface_hub read its environment when it was imported."""
    from huggingface_hub import constants

    with running_hub({}) as made:
        made.writers = {TOKEN: frozenset({"org"})}
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield made


def publish_to(run: FinishedRun, place: str, **order: object) -> Publication:
    return publish(run.results, run.directory, Order(parse_destination(place), **order), rescorer=lambda: run.evaluator)


def nothing_waits(run: FinishedRun) -> bool:
    return list((run.directory.root / OUTBOX).iterdir()) == []


def test_on_the_hub_a_model_is_private_and_comes_by_one_commit(run: FinishedRun, hub: Hub) -> None:
    done = publish_to(run, "hub:org/winner")
    repository = hub.repositories["org/winner"]
    assert repository.visibility == "private"
    _, made = repository.commits
    assert (made, repository.refs["main"]) == (done.commit, done.commit)
    files = repository.commits[made]
    assert files.keys() > FILES
    assert b"mergefleet reproduce hub:org/winner --sources beta=PATH" in files["README.md"]
    assert b"# winner\n" in files["README.md"]
    assert [line for line in hub.requests if "/commit/" in line] == ["POST /api/models/org/winner/commit/main"]
    assert nothing_waits(run)
    assert not publish_to(run, "hub:org/winner").made
    assert reproduce("hub:org/winner", {name: str(path) for name, path in run.models.items()}).equal


def test_an_interrupted_publication_shows_nothing_and_goes_on_without_sending_again(run: FinishedRun, hub: Hub) -> None:
    hub.broken_commits = 1
    with pytest.raises(MergefleetError, match=r"answers 503\. Nothing is visible there") as caught:
        publish_to(run, "hub:org/winner")
    assert TOKEN not in caught.value.message
    assert len(hub.repositories["org/winner"].commits) == 1
    assert len(list((run.directory.root / OUTBOX).iterdir())) == 1
    sent = [line for line in hub.requests if line.startswith("PUT /lfs/")]
    publish_to(run, "hub:org/winner")
    assert [line for line in hub.requests if line.startswith("PUT /lfs/")] == sent
    assert len(hub.repositories["org/winner"].commits) == 2
    assert nothing_waits(run)


def test_a_public_repository_a_branch_and_a_message_are_the_users_choice(run: FinishedRun, hub: Hub) -> None:
    publish_to(run, "hub:org/winner", public=True)
    publish_to(run, "hub:org/winner@second", candidate=0, message="The other one")
    repository = hub.repositories["org/winner"]
    assert repository.visibility == "public"
    main, second = (repository.commits[repository.refs[name]] for name in ("main", "second"))
    assert main["model.safetensors"] != second["model.safetensors"]
    assert main.keys() == second.keys()


def test_what_is_there_already_is_not_written_over(run: FinishedRun, hub: Hub) -> None:
    publish_to(run, "hub:org/winner")
    with pytest.raises(OutputExists, match="hub:org/winner: is there already and holds another model"):
        publish_to(run, "hub:org/winner", candidate=0)
    repository = hub.repositories["org/winner"]
    commit = repository.refs["main"]
    repository.commits = {commit: {"README.md": b"mine", "weights.bin": b"x"}}
    with pytest.raises(OutputExists, match="is no model of mergefleet's"):
        publish_to(run, "hub:org/winner")


def test_on_the_hub_the_files_beside_the_weights_are_compared_too(run: FinishedRun, hub: Hub) -> None:
    publish_to(run, "hub:org/winner")
    repository, sources = hub.repositories["org/winner"], {name: str(path) for name, path in run.models.items()}
    whole = repository.commits[repository.refs["main"]]

    def push(commit: str, **changed: bytes) -> None:
        repository.commits[commit] = whole | {"eval/results.json": b"{}"} | changed
        repository.refs["main"] = commit

    push("b" * 40)
    assert publish_to(run, "hub:org/winner").notes == ("not written by mergefleet, and no part of the model: eval/",)
    push("c" * 40, **{"README.md": b"# mine"})
    with pytest.raises(OutputDamaged, match=r"^hub:org/winner: was published, and altered since: README.md is not"):
        publish_to(run, "hub:org/winner")
    assert reproduce("hub:org/winner", sources).equal
    push("e" * 40, **{"model.safetensors": whole["model.safetensors"][:-1] + b"x"})
    with pytest.raises(
        OutputDamaged, match=r"^hub:org/winner: was published, and altered since: model\.safetensors not"
    ):
        publish_to(run, "hub:org/winner")
    older = json.loads(whole["provenance.json"])
    assert older.pop("weight_files") == {"model.safetensors": hashlib.sha256(whole["model.safetensors"]).hexdigest()}
    push("f" * 40, **{"provenance.json": json.dumps(older).encode()})
    assert "`mergefleet reproduce hub:org/winner` reads them" in publish_to(run, "hub:org/winner").notes[-1]
    push("d" * 40, **{"config.json": whole["config.json"] + b" "})
    with pytest.raises(OutputDamaged, match=r"config.json is not what was written"):
        publish_to(run, "hub:org/winner")
    assert reproduce("hub:org/winner", sources).files.wrong == ("config.json",)


def test_without_the_right_to_write_nothing_is_merged(
    run: FinishedRun, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"hub:other/winner: .* answers 403: this token may not write there"):
        publish_to(run, "hub:other/winner")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="may not write there") as caught:
        publish_to(run, "hub:org/winner")
    assert "hf_wrong" not in caught.value.message
    hub.writers = {"hf_reads": frozenset()}
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    with pytest.raises(InputError, match="hub:org/winner: this token may only read"):
        publish_to(run, "hub:org/winner")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="set HF_TOKEN"):
        publish_to(run, "hub:org/winner")
    assert hub.repositories == {}


@pytest.mark.parametrize("place", ["hub:winner", "hub:org/a/b", "hub:org/na--me", "hub:", "https://x.y/z", "s3://b"])
def test_a_place_that_is_none_is_bad_input(place: str) -> None:
    with pytest.raises(InputError):
        parse_destination(place)


def test_a_place_reads_as_it_is_written() -> None:
    assert parse_destination("hub:org/name@v2") == HubRepo("org/name", "v2")
    assert str(parse_destination("hub:org/name@v2")) == "hub:org/name@v2"
    assert parse_destination("out") == Path("out")


def on_hub(folder: Path, **more: bytes) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} | more


def test_from_a_card_alone_a_model_on_the_hub_is_taken_at_the_commit_that_was_merged(
    run: FinishedRun, hub: Hub, tmp_path: Path
) -> None:
    """Today's `main` has other weights."""
    then, now = "a" * 40, "b" * 40
    files = {then: on_hub(run.models["alpha"]), now: on_hub(run.models["beta"])}
    hub.repositories["org/alpha"] = Repository(files, {"main": now})
    publish_to(run, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| `alpha` |"))
    card = card.replace(row, f"| `org/alpha` | `{then}` |").replace("base_model: alpha", "base_model: org/alpha")
    (tmp_path / "card.md").write_text(card)
    assert reproduce(str(tmp_path / "card.md"), {"beta": str(run.models["beta"])}).equal
    (tmp_path / "card.md").write_text(card.replace(then, now))
    assert not reproduce(str(tmp_path / "card.md"), {"beta": str(run.models["beta"])}).equal


def test_a_parents_licence_is_that_of_the_commit_that_is_merged(run: FinishedRun, hub: Hub) -> None:
    then, now = "a" * 40, "b" * 40
    cards = {then: b"---\nlicense: mit\n---\n", now: b"---\nlicense: other\n---\n"}
    files = {commit: on_hub(run.models["alpha"], **{"README.md": card}) for commit, card in cards.items()}
    hub.repositories["org/alpha"] = Repository(files, {"main": now, "v1": then})
    for revision, licence in ((then, "mit"), ("v1", "mit"), (None, "other")):
        assert read_parent("alpha", ModelRef("org/alpha", revision=revision)).licence == Licence(licence)


def test_in_an_object_store_the_same_bits_arrive_and_are_found_done(run: FinishedRun, bucket: str) -> None:
    place = f"{bucket}/models/winner"
    done = publish_to(run, place)
    assert done.made
    assert nothing_waits(run)
    assert not publish_to(run, place).made
    assert reproduce(place, {name: str(path) for name, path in run.models.items()}).equal
    with pytest.raises(OutputExists, match="holds another model"):
        publish_to(run, place, candidate=0)
    objects = Bucket(parse_url(place))
    weights = objects.get("model.safetensors")
    assert weights is not None
    objects.put("model.safetensors", weights)  # written anew, the same bytes
    assert not publish_to(run, place).made
    objects.put("model.safetensors", weights[:-1] + b"x")
    with pytest.raises(OutputDamaged, match="its weight files hold"):
        publish_to(run, place)
    objects.put("model.safetensors", weights)
    objects.delete("tokenizer.json")
    objects.put("chat_template.jinja", b"{}")
    with pytest.raises(OutputDamaged, match=r"tokenizer.json is missing, chat_template.jinja was added"):
        publish_to(run, place)
    found = reproduce(place, {name: str(path) for name, path in run.models.items()})
    assert found.files.wrong == ("chat_template.jinja", "tokenizer.json")


def test_what_waits_for_the_hub_is_sent_only_as_it_was_checked(run: FinishedRun, hub: Hub) -> None:
    hub.broken_commits = 1
    with pytest.raises(MergefleetError):
        publish_to(run, "hub:org/winner")
    waiting = run.directory.root / OUTBOX / "winner"
    kept = (waiting / "config.json").read_bytes()
    (waiting / "config.json").write_bytes(b"{}")
    done = publish_to(run, "hub:org/winner")
    assert hub.repositories["org/winner"].commits[str(done.commit)]["config.json"] == kept


@pytest.mark.parametrize(("disabled", "hint"), [(False, True), (True, False)])
def test_a_hub_that_is_out_of_reach_through_xet_is_told_how_to_send_plainly(
    disabled: bool, hint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", disabled)
    told = hub_upload._explained(HubRepo("org/winner"), OSError("error decoding response body")).message
    assert "cannot be reached (error decoding response body)" in told
    assert ("HF_HUB_DISABLE_XET=1" in told) == hint
