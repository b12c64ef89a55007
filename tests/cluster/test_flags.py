"""The flags of `mergefleet merge`: every one of mergekit-yaml's is understood, and reaches the engine as its option."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cluster import merge_command
from cluster.flags import How, Look, Moot, Run, Talk
from cluster.main import app
from cluster.placement import Request
from engine import Options, ShardSize
from engine.errors import InputError
from search.campaign_file import load_campaign

DEMO = Path(__file__).parents[2] / "configs" / "campaigns" / "demo.yml"

MERGEKIT = [
    "--allow-crimes",
    "--no-allow-crimes",
    "--unsafe-truncate-embeddings",
    "--no-unsafe-truncate-embeddings",
    "--trust-remote-code",
    "--no-trust-remote-code",
    "--transformers-cache=DIR",
    "--lora-merge-cache=DIR",
    "--lora-merge-dtype=float16",
    "--random-seed=1",
    "-v",
    "-vv",
    "--quiet",
    "--no-quiet",
    "--cuda",
    "--no-cuda",
    "--device=cpu",
    "--low-cpu-memory",
    "--no-low-cpu-memory",
    "--lazy-unpickle",
    "--no-lazy-unpickle",
    "--read-to-gpu",
    "--no-read-to-gpu",
    "--multi-gpu",
    "--no-multi-gpu",
    "-j2",
    "--num-threads=2",
    "--gpu-rich",
    "--async-write",
    "--no-async-write",
    "--write-threads=4",
    "--out-shard-size=1B",
    "--copy-tokenizer",
    "--no-copy-tokenizer",
    "--clone-tensors",
    "--no-clone-tensors",
    "--write-model-card",
    "--no-write-model-card",
    "--safe-serialization",
    "--no-safe-serialization",
]
"""`mergekit-yaml --help` of mergekit 0.1.5."""


class Given:
    """What a command line came to."""

    def __init__(self) -> None:
        self.how, self.run, self.talk = How(), Run(), Talk()

    def merge(self, recipe: Path, out: Path, *, how: How, run: Run, talk: Talk) -> None:
        self.how, self.run, self.talk = how, run, talk


def given(*arguments: str) -> Given:
    caught = Given()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_command, "merge", caught.merge)
        result = CliRunner().invoke(app, ["merge", "r.yml", "out", *arguments])
    assert result.exit_code == 0, result.output
    return caught


def options(*arguments: str) -> Options:
    return merge_command.options_of(given(*arguments).how)


@pytest.mark.parametrize("flag", MERGEKIT)
def test_every_flag_of_mergekit_yaml_is_understood_with_dashes_and_with_underscores(flag: str) -> None:
    name, equals, value = flag.partition("=")
    underscored = name[:2] + name[2:].replace("-", "_") + equals + value
    assert given(flag).__dict__ == given(underscored).__dict__


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (["--allow_crimes"], "allow_mixed", True),
        (["--stream"], "stream", True),
        (["--no-copy-tokenizer"], "copy_tokenizer", False),
        (["--no-write-model-card"], "model_card", False),
        (["--trust_remote_code"], "carry_code", True),
        (["-j", "3"], "threads", 3),
        (["--num-threads", "3"], "threads", 3),
        (["--out-shard-size", "1B"], "shard_size", ShardSize(10**9, "parameters")),
        (["--out-shard-size", "2.5m"], "shard_size", ShardSize(2_500_000, "parameters")),
        (["--out-shard-size", "100k"], "shard_size", ShardSize(100_000, "parameters")),
        (["--out-shard-size", "7GB"], "shard_size", ShardSize(7 * 10**9)),
        (["--out-shard-size", "500MiB"], "shard_size", ShardSize(500 << 20)),
        (["--out-shard-size", "1000000"], "shard_size", ShardSize(10**6)),
        (["--cuda"], "device", "cuda"),
        (["--gpu-rich"], "device", "cuda"),
        (["--device", "auto"], "device", "auto"),
        (["--memory", "1GiB"], "memory_bytes", 1 << 30),
    ],
)
def test_a_flag_becomes_the_option_of_the_engine(arguments: list[str], option: str, value: Any) -> None:
    assert getattr(options(*arguments), option) == value
    assert getattr(options(), option) != value


def test_a_merges_line_is_a_plans_line_too() -> None:
    flags = {
        name: {option for field in command.params for option in field.opts}
        for name, command in get_command(app).commands.items()
    }  # type: ignore[attr-defined]
    assert {"--address", "--workers", "--definition", "--memory"} <= flags["merge"] <= flags["plan"]


def test_a_plan_refuses_a_flag_of_ray_that_the_merge_would_refuse() -> None:
    with pytest.raises(InputError, match="--workers: is for a run on Ray"):
        merge_command.plan(Path("r.yml"), None, how=How(), look=Look(workers=2), talk=Talk())


def test_without_flags_the_options_are_those_of_the_engine() -> None:
    assert options() == Options()


@pytest.mark.parametrize("arguments", [["--cuda", "--no-cuda"], ["--cuda", "--device", "cpu"]])
def test_the_processor_can_be_chosen_over_a_gpu(arguments: list[str]) -> None:
    assert options(*arguments).device == "cpu"


def test_help_shows_the_flags_with_a_meaning_in_groups() -> None:
    shown = CliRunner().invoke(app, ["merge", "--help"], env={"COLUMNS": "120"}).output
    assert "mergekit-yaml's flags" in shown
    assert "--write-model-card" in shown.split("mergekit-yaml's flags")[1]
    assert "--lazy-unpickle" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cdua"], ("--device", "did you mean 'cuda'?")),
        (["--out-shard-size", "much"], ("--out-shard-size", "'much'")),
        (["--out-shard-size", "0B"], ("--out-shard-size", "'0B'")),
    ],
)
def test_a_value_without_sense_is_refused_by_its_flag(arguments: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        options(*arguments)
    assert all(word in caught.value.message for word in words)


def test_the_hubs_cache_is_where_the_flag_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"r.yml: there is no such file"):
        merge_command.plan(Path("r.yml"), None, how=How(transformers_cache=Path("hub")), look=Look(), talk=Talk())
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "hub")


def test_flags_without_a_meaning_here_are_explained_one_line_each() -> None:
    how = given("--lazy-unpickle", "--no_clone_tensors", "--write-threads", "4", "--multi-gpu").how
    lines = list(how.explanations())
    assert [line.split()[0] for line in lines] == [
        "--lazy-unpickle",
        "--multi-gpu",
        "--clone-tensors",
        "--write-threads",
    ]
    assert all("has no effect" in line and "\n" not in line for line in lines)
    assert list(given("--allow-crimes", "--memory", "1GiB").how.explanations()) == []


def test_every_flag_without_a_meaning_has_an_explanation() -> None:
    everything = How(**{field.name: True for field in fields(Moot) if not field.name.startswith("unsafe")})
    assert len(list(everything.explanations())) == len(fields(Moot)) - 1


@pytest.mark.parametrize("flag", ["--no-safe-serialization", "--unsafe-truncate-embeddings"])
def test_what_would_harm_is_refused(flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        list(given(flag).how.explanations())


def test_what_is_asked_of_a_cluster_becomes_a_request() -> None:
    run = Run(
        address="auto", workers=3, cpus_per_worker=2.5, gpus_per_worker=0.5, worker_label=["zone=in(a, b)", "x=!y"]
    )
    assert run.request() == Request(3, 2.5, 0.5, {"zone": "in(a, b)", "x": "!y"})
    assert Run().request() == Request()


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(workers=2), "--workers: is for a run on Ray"),
        (Run(worker_label=["a=b"]), "--worker-label: is for a run on Ray"),
        (Run(metrics_port=9400), "--metrics-port: is for a run on Ray"),
        (Run(address="auto", cpus_per_worker=0.0), "--cpus-per-worker: got 0, a number above 0"),
        (Run(address="auto", cpus_per_worker=float("nan")), "--cpus-per-worker: got nan, a number above 0"),
        (Run(address="auto", worker_label=["zone"]), "--worker-label: got 'zone', want KEY=VALUE"),
        (Run(address="auto", worker_label=["zone=a,b"]), "--worker-label: got 'zone=a,b', want KEY=VALUE"),
    ],
)
def test_a_request_that_means_nothing_is_refused(run: Run, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        run.request()


@pytest.mark.parametrize(("flags", "allowed"), [([], False), (["--allow-public-test-sets"], True)])
def test_public_test_sets_are_allowed_by_the_flag_alone(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], allowed: bool
) -> None:
    asked: list[bool] = []

    def load(path: Path, *, allow_public_test_sets: bool = False) -> None:
        asked.append(load_campaign(path, allow_public_test_sets=allow_public_test_sets).allow_public_test_sets)
        raise InputError("enough")

    monkeypatch.setattr("search.session.load_campaign", load)
    result = CliRunner().invoke(app, ["search", str(DEMO), *flags])
    assert str(result.exception) == "enough"
    assert asked == [allowed]
