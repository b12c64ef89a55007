"""What lies beside a candidate's weights is published only as it was when the candidate was scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finished_run import FinishedRun, make_finished_run

from engine.errors import Refused
from search.evaluators.beside import files_of_models
from search.evaluators.plans import Plans
from search.publishing.publish import Order, publish
from search.whereabouts import remember

Harm = Callable[[Path], object]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HARMS: dict[str, Harm] = {
    "config.json was altered": lambda model: edit(model / "config.json", rms_norm_eps=0.5),
    "tokenizer_config.json was altered": lambda model: edit(model / "tokenizer_config.json", model_max_length=7),
    "chat_template.jinja was added": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
    "generation_config.json is gone": lambda model: (model / "generation_config.json").unlink(),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """Its winner takes what lies beside its weights from alpha, the base."""
    made = make_finished_run(tmp_path_factory.mktemp("finished"))
    campaign = made.results.campaign
    remember(campaign, made.directory, models=files_of_models(campaign, Plans.of(campaign)))
    yield made
    made.evaluator.close()


@pytest.fixture
def models(run: FinishedRun) -> Iterator[dict[str, Path]]:
    """As they were, afterwards."""
    held = {file: file.read_bytes() for model in run.models.values() for file in model.iterdir()}
    yield run.models
    for model in run.models.values():
        for file in set(model.iterdir()) - held.keys():
            file.unlink()
    for file, data in held.items():
        file.write_bytes(data)


@pytest.mark.parametrize("rescore", [True, False])
@pytest.mark.parametrize("said", HARMS)
def test_a_model_that_was_altered_since_is_named_with_the_file_and_nothing_is_published(
    run: FinishedRun, models: dict[str, Path], tmp_path: Path, said: str, rescore: bool
) -> None:
    HARMS[said](models["alpha"])
    order = Order(tmp_path / "out", rescore=rescore)
    with pytest.raises(Refused, match=rf"^{models['alpha']}: {said} since the campaign began: .* nobody scored"):
        publish(run.results, run.directory, order, rescorer=pytest.fail)
    assert not (tmp_path / "out").exists()


def test_what_a_candidate_takes_nothing_of_and_what_tells_nothing_may_have_changed(
    run: FinishedRun, models: dict[str, Path], tmp_path: Path
) -> None:
    HARMS["tokenizer_config.json was altered"](models["beta"])
    edit(models["alpha"] / "config.json", transformers_version="0")
    assert publish(run.results, run.directory, Order(tmp_path / "out", rescore=False), rescorer=pytest.fail).made


def test_a_run_that_noted_nothing_of_its_models_is_published_as_before(
    run: FinishedRun, models: dict[str, Path], tmp_path: Path
) -> None:
    note = run.directory.note
    kept = note.read_text()
    edit(note, models={})
    HARMS["config.json was altered"](models["alpha"])
    try:
        assert publish(run.results, run.directory, Order(tmp_path / "out", rescore=False), rescorer=pytest.fail).made
    finally:
        note.write_text(kept)
