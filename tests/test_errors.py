"""Errors speak, and survive the trip: every class keeps its message, facts and exit code across processes."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from ray.exceptions import RayTaskError

from engine import errors
from engine.errors import MergefleetError, did_you_mean


def tree_of(cls: type[MergefleetError]) -> Iterator[type[MergefleetError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree_of(child)


CLASSES = [cls for cls in tree_of(MergefleetError) if cls.__module__ == errors.__name__]
FACTS = {"file": "model-00003.safetensors", "got": 40_000_000, "expected": [41_943_040]}


def raised(cls: type[MergefleetError]) -> MergefleetError:
    return cls("model-00003.safetensors is truncated: download it again.", **FACTS)


@pytest.mark.parametrize("carry", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_arrives_as_it_was_sent(cls: type[MergefleetError], carry: Any) -> None:
    sent = raised(cls)
    arrived = carry.loads(carry.dumps(sent))
    assert type(arrived) is cls
    assert str(arrived) == arrived.message == sent.message
    assert arrived.facts == FACTS
    assert arrived.got == FACTS["got"]
    assert arrived.exit_code == sent.exit_code


def test_what_is_said_to_those_without_flags_arrives_too_and_is_no_fact() -> None:
    sent = errors.NotFinite("1 NaN. Give --allow-nan.", flagless="1 NaN.", count=1)
    arrived = copy.copy(sent)  # by __reduce__, as pickle
    handed_on = RayTaskError("merge", "Traceback ...", sent).as_instanceof_cause()
    assert arrived.flagless == handed_on.flagless == "1 NaN."
    assert arrived.facts == handed_on.facts == {"count": 1}
    assert errors.NotFinite("1 NaN.").flagless == "1 NaN."


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_that_ray_hands_on_is_still_caught_by_its_class_and_says_the_same(cls: type[MergefleetError]) -> None:
    # What `ray.get` raises for a failed task: an error that is both a RayTaskError and the original's class.
    handed_on = RayTaskError("score", "Traceback ...", raised(cls)).as_instanceof_cause()
    assert isinstance(handed_on, cls)
    assert handed_on.exit_code == cls.exit_code
    assert handed_on.facts == FACTS
    assert "model-00003.safetensors is truncated" in handed_on.message


def test_the_picture_in_the_docstring_shows_exactly_the_classes_and_their_exit_codes() -> None:
    rows = re.findall(r"^[ │├└─]*([A-Z]\w+) +(?:exit (\d))?", str(errors.__doc__), flags=re.MULTILINE)
    drawn = {name: int(code) if code else None for name, code in rows if hasattr(errors, name)}
    assert set(drawn) == {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        # A leaf without a figure of its own has its parent's.
        assert cls.exit_code == (drawn[cls.__name__] or cls.__bases__[0].exit_code)


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.MergefleetError, 1),
        (errors.RecipeError, 2),
        (errors.SourceError, 2),
        (errors.PlanError, 2),
        (errors.CampaignError, 2),
        (errors.ClusterError, 2),
        (errors.OutputExists, 3),
        (errors.InputsChanged, 3),
        (errors.Busy, 3),
        (errors.NotFinite, 1),
        (errors.OutputDamaged, 1),
        (errors.EvaluationError, 1),
        (errors.StaleEpoch, 1),
        (errors.WorkerLost, 1),
    ],
)
def test_exit_codes_are_1_failed_2_bad_input_3_refused(cls: type[MergefleetError], code: int) -> None:
    assert cls.exit_code == code


def test_a_missing_fact_is_an_attribute_error_that_lists_the_facts_there_are() -> None:
    with pytest.raises(AttributeError, match=r"SourceError has no attribute 'tensor'.*'expected', 'file', 'got'"):
        _ = raised(errors.SourceError).tensor


def test_facts_are_keyword_only_so_that_every_class_can_be_rebuilt_from_its_message() -> None:
    with pytest.raises(TypeError):
        errors.SourceError("truncated", "model.safetensors")  # type: ignore[call-arg]


def test_the_nearest_known_name_is_suggested() -> None:
    assert did_you_mean("tias", ["linear", "ties", "slerp"]) == "did you mean 'ties'?"


def test_where_no_name_is_near_all_are_listed_in_order() -> None:
    assert did_you_mean("qqq", ["ties", "linear"]) == "known: linear, ties."


@given(st.text(), st.sets(st.text(min_size=1), min_size=1))
def test_a_suggestion_always_comes_from_the_known_names(name: str, known: set[str]) -> None:
    suggestion = did_you_mean(name, known)
    listed = "known: " + ", ".join(sorted(known)) + "."
    assert suggestion == listed or suggestion in {f"did you mean {each!r}?" for each in known}


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("wieght", 0, "did you mean 'weight'?"),
        ("zzz", 0, "known: noor_stem_tasks, weight."),
        ("no_such_task", 0, "did you mean 'noor_stem_tasks'?"),
        ("no_such_task", 500, "none of the 502 known ones is like it."),
        ("noor_stem_task", 500, "did you mean 'noor_stem_tasks'?"),
    ],
)
def test_the_nearest_name_is_told_or_all_of_them_if_they_can_be_read(name: str, more: int, says: str) -> None:
    assert did_you_mean(name, ["weight", "noor_stem_tasks", *map(str, range(more))]) == says
