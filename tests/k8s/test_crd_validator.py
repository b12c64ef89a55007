"""The validator itself must be able to fail: each thing that a server refuses, refused here too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from crd import Definition, holds, strict

Document = dict[str, Any]


def by_name(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = (copy.deepcopy(each) for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def misspell_a_field(job: Document) -> None:
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")


def misspell_a_field_deep_inside(job: Document) -> None:
    container = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["readonlyRootFilesystem"] = True


def choose_an_unknown_auth_mode(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def write_a_number_where_ray_start_takes_text(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def leave_out_the_head(job: Document) -> None:
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]


def mount_a_path_twice(job: Document) -> None:
    container = job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})


def name_a_manager_that_is_none(job: Document) -> None:
    job["spec"]["managedBy"] = "somebody"


def mix_both_kinds_of_deletion_policy(job: Document) -> None:
    rule = {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}}
    policy = {"policy": "DeleteSelf"}
    job["spec"]["deletionStrategy"] = {"onSuccess": policy, "onFailure": policy, "deletionRules": [rule]}


def put_an_unknown_field_beside_the_name(job: Document) -> None:
    job["metadata"]["label"] = {}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (misspell_a_field, "'backofLimit' was unexpected"),
        (misspell_a_field_deep_inside, "'readonlyRootFilesystem' was unexpected"),
        (choose_an_unknown_auth_mode, "'tokens' is not one of ['disabled', 'token']"),
        (write_a_number_where_ray_start_takes_text, "0 is not of type 'string'"),
        (leave_out_the_head, "'headGroupSpec' is a required property"),
        (mount_a_path_twice, "duplicate {'mountPath': '/tmp'}"),
        (name_a_manager_that_is_none, "the managedBy field value must be either"),
        (mix_both_kinds_of_deletion_policy, "cannot be used together within the same deletionStrategy"),
        (put_an_unknown_field_beside_the_name, "'label' was unexpected"),
    ],
)
def test_a_spoilt_manifest_is_refused_with_the_reason(
    definitions: dict[tuple[str, str], Definition],
    documents: list[Document],
    spoil: Callable[[Document], None],
    reason: str,
) -> None:
    job = by_name(documents, "RayJob", "mergefleet-merge")
    definition = definitions["ray.io/v1", "RayJob"]
    assert definition.complaints(job) == []
    spoil(job)
    complaints = definition.complaints(job)
    assert len(complaints) == 1
    assert reason in complaints[0]


def test_fields_that_the_schema_keeps_open_stay_open() -> None:
    assert "additionalProperties" not in strict({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    assert strict({"type": "object", "properties": {}})["additionalProperties"] is False


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("has(self.a) || has(self.b)", {"b": 1}, True),
        ("!(has(self.a) && has(self.b))", {"a": 1, "b": 1}, False),
        ("self in ['x', 'y']", "z", False),
    ],
)
def test_rules_are_evaluated_as_cel(rule: str, value: Any, expected: bool) -> None:
    assert holds(rule, value) is expected
