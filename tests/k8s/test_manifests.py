"""The manifests are what an API server accepts, what KubeRay's operator accepts, and what DESIGN 4 promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from crd import Definition
from kustomization import render

Document = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = render(ROOT / "k8s" / "base")
CUSTOM = [each for each in DOCUMENTS if "ray.io/" in each["apiVersion"]]
CORE = [each for each in DOCUMENTS if "ray.io/" not in each["apiVersion"]]
CLUSTER_SPECS = [each["spec"].get("rayClusterSpec", each["spec"]) for each in CUSTOM]


def label(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def pods_of(document: Document) -> Iterator[Document]:
    """The pod specifications in a RayCluster or RayJob: head, workers, submitter."""
    cluster = document["spec"].get("rayClusterSpec", document["spec"])
    yield cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"]
    if "submitterPodTemplate" in document["spec"]:
        yield document["spec"]["submitterPodTemplate"]["spec"]


PODS = [pod for document in CUSTOM for pod in pods_of(document)]
CONTAINERS = [container for pod in PODS for container in pod["containers"]]


def pinned(package: str) -> str:
    (found,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return str(found)


def test_the_base_holds_a_cluster_two_jobs_and_what_they_share() -> None:
    assert sorted(label(each) for each in DOCUMENTS) == [
        "ConfigMap/mergefleet-config",
        "Namespace/mergefleet",
        "PersistentVolumeClaim/mergefleet-data",
        "RayCluster/mergefleet",
        "RayJob/mergefleet-merge",
        "RayJob/mergefleet-search",
        "ServiceAccount/mergefleet",
    ]


@pytest.mark.parametrize("document", CUSTOM, ids=label)
def test_kuberays_definitions_accept_it(document: Document, definitions: dict[tuple[str, str], Definition]) -> None:
    assert definitions[document["apiVersion"], document["kind"]].complaints(document) == []


def complaint(document: Document, release: str) -> str | None:
    """What that release of Kubernetes has against a document of its own kinds."""
    try:
        kubernetes_validate.validate(document, release, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("release", ["1.34", "1.37"])
@pytest.mark.parametrize("document", CORE, ids=label)
def test_kubernetes_accepts_it(document: Document, release: str) -> None:
    assert complaint(document, release) is None


def test_a_misspelt_field_of_a_core_kind_is_refused() -> None:
    (claim,) = (each for each in CORE if each["kind"] == "PersistentVolumeClaim")
    spoilt = claim | {"spec": claim["spec"] | {"accessMode": ["ReadWriteMany"]}}
    assert "accessMode" in str(complaint(spoilt, "1.34"))


# What Kubernetes' "restricted" pod security standard asks, and a little more.
@pytest.mark.parametrize("pod", PODS)
def test_no_pod_runs_as_root_or_gets_a_token(pod: Document) -> None:
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, 1000, 1000)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all({"persistentVolumeClaim", "configMap", "emptyDir"} & set(volume) for volume in pod["volumes"])


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_container_can_gain_rights_or_write_to_its_image(container: Document) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"/tmp", "/home/mergefleet"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_states_its_resources_and_memory_is_reserved_whole(container: Document) -> None:
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert set(requests) == set(limits) == {"cpu", "memory"}
    assert requests["memory"] == limits["memory"]


@pytest.mark.parametrize("pod", PODS)
def test_every_mount_has_a_volume_and_every_volume_a_mount_and_a_source(pod: Document) -> None:
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    there = {label(each) for each in CORE}
    assert f"ServiceAccount/{pod['serviceAccountName']}" in there
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in there
        if "configMap" in volume:
            assert f"ConfigMap/{volume['configMap']['name']}" in there
        if "emptyDir" in volume:
            assert "sizeLimit" in volume["emptyDir"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_secrets_are_optional_references_and_telemetry_is_off(container: Document) -> None:
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert len(values) == len(container["env"])
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"
    for each in container["env"]:
        if re.search("TOKEN|PASSWORD|SECRET|KEY", each["name"]):
            assert each["valueFrom"]["secretKeyRef"]["optional"] is True


@pytest.mark.parametrize("spec", CLUSTER_SPECS)
def test_ray_asks_for_a_token_and_keeps_work_off_the_head(spec: Document) -> None:
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("spec", CLUSTER_SPECS)
def test_a_lost_node_is_noticed_within_ten_seconds(spec: Document) -> None:
    for pod in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = pod["template"]["spec"]["containers"]
        values = {each["name"]: each.get("value") for each in container["env"]}
        knobs = {key: int(value) for key, value in values.items() if value and key.startswith("RAY_health_check_")}
        per_failure_ms = knobs["RAY_health_check_period_ms"] + knobs["RAY_health_check_timeout_ms"]
        assert per_failure_ms * knobs["RAY_health_check_failure_threshold"] <= 10_000


@pytest.mark.parametrize("spec", CLUSTER_SPECS)
def test_the_ray_version_is_the_pinned_one_everywhere(spec: Document) -> None:
    # The image installs with constraints.txt (test_image.py), so that pin is the image's Ray.
    assert spec["rayVersion"] == pinned("ray") == version("ray")


@pytest.mark.parametrize("spec", CLUSTER_SPECS)
def test_what_a_job_writes_beside_its_output_lies_on_the_shared_volume_too(spec: Document) -> None:
    # A driver's working directory is that of `ray start`, and a campaign's run is runs/NAME there.
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        volumes = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert volumes[container["workingDir"]] == "data"


def test_all_pods_run_one_image_under_a_fixed_name() -> None:
    images = {container["image"] for container in CONTAINERS}
    assert images == {f"mergefleet:{version('mergefleet')}"}


# Rules that KubeRay's operator (v1.7) applies beyond its definitions.
@pytest.mark.parametrize("document", CUSTOM, ids=label)
def test_the_operators_own_rules_hold(document: Document) -> None:
    longest = 47 if document["kind"] == "RayJob" else 53
    assert re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{longest - 2}}}[a-z0-9])?", document["metadata"]["name"])
    cluster = document["spec"].get("rayClusterSpec", document["spec"])
    assert cluster["enableInTreeAutoscaling"] is False
    for group in cluster["workerGroupSpecs"]:
        # Without autoscaling the operator refuses a group that leaves either bound out.
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for start in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert not {"labels", "resources"} & set(start["rayStartParams"])


@pytest.mark.parametrize("job", [each for each in CUSTOM if each["kind"] == "RayJob"], ids=label)
def test_a_job_retries_and_cleans_up_after_itself(job: Document) -> None:
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1
    assert "clusterSelector" not in spec  # the operator refuses retries together with a standing cluster
    assert spec["shutdownAfterJobFinishes"] is True  # without it the operator refuses the time limit below
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


def test_each_part_can_be_applied_by_its_label() -> None:
    parts = {label(each): each["metadata"]["labels"]["app.kubernetes.io/component"] for each in DOCUMENTS}
    assert {part for name, part in parts.items() if not name.startswith("Ray")} == {"shared"}
    assert [parts[label(each)] for each in CUSTOM] == ["cluster", "merge", "search"]


def test_the_namespace_enforces_the_restricted_standard() -> None:
    (namespace,) = (each for each in CORE if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
