"""A tracker that fails, hangs or is too slow costs the campaign nothing but one warning."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import CampaignError
from search.campaign_file import parse_campaign
from search.masking import masked
from search.trackers import outlet
from search.trackers.contract import CandidateScored, Ended, News, Opening, Started, Told
from search.trackers.outlet import Line, make_outlet, refuse_missing
from search.trackers.process import Follower, Task, ended_once, read_state

STARTED = Started("demo", {"seed": "0"})
HANGS = (sys.executable, "-c", "import time; time.sleep(600)")
ENDS = (sys.executable, "-c", "pass")
ECHOES = (sys.executable, "-c", "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
COMPLAINS = (sys.executable, "-c", 'import sys; sys.stdin.read(); print(\'{"trouble": "no way"}\\nprinted too\' * 3)')


def scored(at: int) -> CandidateScored:
    return CandidateScored(at, at, f"candidate {at}", "global", "search", 0.5, 0.5, 15 * at, 0)


# ----------------------------------------------------------------------------------------------- the line to a process


def test_news_arrive_in_order_and_the_process_ends_with_the_campaign(tmp_path: Path) -> None:
    line = Line("mlflow", {"state": "s"}, command=(*ECHOES, str(tmp_path / "got")), warn=pytest.fail)
    line.tell([STARTED])
    line.tell([scored(1), scored(2)])
    line.tell([Ended("done")])
    line.close()
    lines = [json.loads(text) for text in (tmp_path / "got").read_text().splitlines()]
    assert lines[0] == {"tracker": "mlflow", "state": "s"}
    assert [[entry["kind"] for entry in batch] for batch in lines[1:]] == [
        ["Started"],
        ["CandidateScored", "CandidateScored"],
        ["Ended"],
    ]


def test_a_process_that_hangs_is_left_behind_with_one_warning_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "QUEUE", 4)
    said: list[str] = []
    line = Line("wandb", {}, command=HANGS, warn=said.append)
    large = [scored(at) for at in range(2000)]  # more than a pipe holds: the thread that writes hangs, too
    for _ in range(50):
        line.tell(large)
    assert said == [f"tracker wandb: does not keep up; {outlet.LATER}"]
    line.close()
    assert len(said) == 1
    assert line._process.poll() is not None


def test_a_process_that_does_not_finish_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    line = Line("wandb", {}, command=HANGS, warn=said.append)
    line.tell([STARTED])
    line.close(within_s=0.1)
    assert [text.split("; ")[0] for text in said] == ["tracker wandb: did not finish within 0.1 s"]


@pytest.mark.parametrize("command", [ENDS, COMPLAINS])
def test_a_process_that_ends_early_or_complains_is_told_of_once(command: tuple[str, ...]) -> None:
    said: list[str] = []
    line = Line("mlflow", {}, command=command, warn=said.append)
    deadline = time.monotonic() + 60
    while not said and time.monotonic() < deadline:
        line.tell([scored(1)] * 1000)
        time.sleep(0.02)
        if command is COMPLAINS:
            line.close()
    line.close()
    assert len(said) == 1


def test_no_tracker_no_outlet_and_no_process_before_the_first_news(tmp_path: Path, campaign: Any) -> None:
    assert make_outlet(campaign(), tmp_path) is None
    assert make_outlet(campaign(trackers=["mlflow", "wandb"]), tmp_path) is not None
    tell = make_outlet(campaign(trackers=["mlflow"]), tmp_path)
    assert tell is not None
    tell([Ended("paused")])  # of what never began
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------- the process itself


class Recorder:
    """An opener whose runs are lists; it fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.runs: dict[str, list[Told | Ended]] = {}
        self.openings: list[Opening] = []

    def __call__(self, opening: Opening) -> tuple[str, Any]:
        self.openings.append(opening)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("https://bob:hunter2@tracker.example/api?key=1 refused: token s3cret-token")
        run = opening.run or f"run-{len(self.runs)}"
        return run, self.runs.setdefault(run, []).extend


def follow(path: Path, opener: Any, news: Sequence[News], **more: Any) -> tuple[bool, list[str]]:
    said: list[str] = []
    follower = Follower(Task("fake", {}, path / "fake.json"), opener, say=said.append)
    return follower.take(news, now=0.0, **more), said


def test_what_is_said_again_while_it_waits_is_told_once(tmp_path: Path) -> None:
    opener = Recorder(failures=1)
    follower = Follower(Task("fake", {}, tmp_path / "fake.json"), opener, say=lambda said: None)
    assert not follower.take([STARTED, scored(1), scored(2)], now=0.0)
    assert follower.take([STARTED, scored(1), scored(2), scored(3)], now=100.0)
    assert opener.runs["run-0"] == [scored(1), scored(2), scored(3)]


def test_a_second_start_continues_the_same_run_and_repeats_nothing(tmp_path: Path) -> None:
    opener = Recorder()
    assert follow(tmp_path, opener, [STARTED, scored(1), scored(2), Ended("paused")]) == (True, [])
    assert read_state(tmp_path / "fake.json") == ("run-0", 2)
    assert follow(tmp_path, opener, [STARTED, scored(1), scored(2), scored(3), Ended("done")]) == (True, [])
    assert [opening.run for opening in opener.openings] == [None, "run-0"]
    assert opener.runs["run-0"] == [scored(1), scored(2), Ended("paused"), scored(3), Ended("done")]


def test_a_campaign_that_was_over_already_leaves_its_run_alone(tmp_path: Path) -> None:
    opener = Recorder()
    for _ in range(2):
        follow(tmp_path, opener, [STARTED, scored(1), Ended("done")])
    assert len(opener.openings) == 1


def test_what_failed_is_told_later_in_one_piece_and_said_once_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-token")
    opener, said = Recorder(failures=2), []
    follower = Follower(Task("fake", {}, tmp_path / "fake.json"), opener, say=said.append)
    assert not follower.take([STARTED, scored(1)], now=0.0)
    assert not follower.take([scored(2)], now=1.0)  # too early to try again
    assert len(opener.openings) == 1
    assert json.loads((tmp_path / "fake.json").read_text())["trouble"] == said[0]
    assert read_state(tmp_path / "fake.json") == (None, 0)
    assert not follower.take([], now=10.0)
    assert follower.take([scored(3)], now=100.0)
    assert opener.runs["run-0"] == [scored(1), scored(2), scored(3)]
    assert said == ["https://tracker.example/api refused: token ***"]
    assert json.loads((tmp_path / "fake.json").read_text())["trouble"] == ""


def test_at_the_end_a_failed_tracker_is_tried_once_more(tmp_path: Path) -> None:
    opener = Recorder(failures=1)
    follower = Follower(Task("fake", {}, tmp_path / "fake.json"), opener, say=lambda text: None)
    assert not follower.take([STARTED, scored(1)], now=0.0)
    assert follower.take([Ended("done")], now=0.1, last=True)
    assert opener.runs["run-0"] == [scored(1), Ended("done")]


def test_only_a_coordinator_that_never_said_so_was_interrupted() -> None:
    done, interrupted = Ended("done"), Ended("interrupted")
    assert list(ended_once([([scored(1), done], False), ([], True)])) == [([scored(1), done], False), ([], True)]
    assert list(ended_once([([done], True)])) == [([done], True)]
    assert list(ended_once([([scored(1)], False), ([], True)])) == [([scored(1)], False), ([interrupted], True)]


@pytest.mark.parametrize("text", ["", "{}", '{"run": 1}', "[1]", '{"run": "a", "told": null}'])
def test_a_state_file_that_cannot_be_read_begins_a_new_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "fake.json").write_text(text)
    assert read_state(tmp_path / "fake.json") == (None, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:p@host:5432/db failed", "postgresql://host:5432/db failed"),
        ("GET https://host/a?token=x&b=1 401", "GET https://host/a 401"),
        ("key hunter22 is wrong", "key *** is wrong"),
        ("no secret: http://host:5000/api", "no secret: http://host:5000/api"),
    ],
)
def test_masking_leaves_what_helps(text: str, expected: str) -> None:
    assert masked(text, {"MLFLOW_TRACKING_PASSWORD": "hunter22", "KEYBOARD": "no secret", "API_KEY": "is"}) == expected


# --------------------------------------------------------------------------------------------------- the campaign file


@pytest.fixture
def campaign() -> Any:
    from simulated import campaign_data

    return lambda **changes: parse_campaign(campaign_data(**changes), origin="c.yml")


def test_trackers_are_read_short_and_long(campaign: Any) -> None:
    made = campaign(trackers=["mlflow", {"wandb": {"project": "p", "entity": "e", "mode": "offline"}}])
    assert [entry.kind for entry in made.trackers] == ["mlflow", "wandb"]
    assert made.trackers[0].settings == {"uri": None, "experiment": "mergefleet"}
    local = campaign(trackers=[{"mlflow": {"uri": "http://127.0.0.1:5000"}}, {"wandb": None}])
    assert local.trackers[0].settings["uri"] == "http://127.0.0.1:5000"


def test_the_example_of_the_page_is_one(campaign: Any) -> None:
    page = (Path(__file__).parents[3] / "docs" / "trackers.md").read_text(encoding="utf-8")
    made = campaign(**yaml.safe_load(page.split("```yaml")[1].split("```")[0]))
    assert [entry.kind for entry in made.trackers] == ["mlflow", "wandb"]
    for entry in made.trackers:
        assert all(f".{key}`" in page for key in entry.settings)


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        (["mlflov"], r"c.yml: trackers\[0\].mlflov: unknown key; did you mean 'mlflow'"),
        ([{"mlflow": {"url": "x"}}], r"trackers\[0\].mlflow.url: unknown key; did you mean 'uri'"),
        ([{"mlflow": {"uri": "https://bob:hunter2@host"}}], r"may hold a secret.*MLFLOW_TRACKING_USERNAME"),
        ([{"mlflow": {"uri": "runs/ml"}}], r"got 'runs/ml', a URL expected: sqlite:///runs/ml.db"),
        ([{"wandb": {"mode": "dry"}}], r"trackers\[0\].wandb.mode: got 'dry'"),
        (["wandb", {"wandb": {}}], "the same tracker is there twice"),
        ([{"wandb": {}, "mlflow": {}}], "a tracker is one of"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_key_and_never_repeats_a_password(
    campaign: Any, trackers: Any, said: str
) -> None:
    with pytest.raises(CampaignError, match=said) as caught:
        campaign(trackers=trackers)
    assert "hunter2" not in str(caught.value)


def test_a_tracker_that_is_not_installed_is_said_at_the_start(campaign: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = campaign(trackers=["mlflow", "wandb"])
    monkeypatch.setattr(outlet, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(CampaignError, match=r"c.yml: trackers\[1\]: wandb is not installed: pip install 'mergefleet"):
        refuse_missing(made)
