"""The Dockerfile cannot be built where these tests run, so what can be known from its text is checked."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continuation lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def test_the_base_image_has_a_full_version_and_a_python_that_the_project_supports() -> None:
    (base,) = arguments("FROM")
    found = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert found is not None
    assert (int(found[1]), int(found[2])) >= (3, 11)


def test_the_image_ends_as_the_user_that_the_manifests_run() -> None:
    assert arguments("USER") == ["1000:1000"]
    assert [name for name, _ in instructions()].index("USER") > max(
        index for index, (name, _) in enumerate(instructions()) if name in {"RUN", "COPY"}
    )


def test_every_installation_is_constrained_and_torch_is_the_pinned_cpu_build() -> None:
    installs = [command for run in arguments("RUN") for command in run.split("&&") if "pip install" in command]
    assert len(installs) >= 2
    assert all("-c constraints.txt" in command for command in installs)
    torch = re.findall(r"torch==(\S+)", " ".join(installs))
    assert torch == [re.findall(r"^torch==(\S+)$", CONSTRAINTS, flags=re.MULTILINE)[0] + "+cpu"]


def test_installed_packages_cannot_be_shadowed_and_the_kernel_cache_is_private() -> None:
    (environment,) = arguments("ENV")
    values = dict(pair.split("=", 1) for pair in environment.split())
    assert values["PYTHONSAFEPATH"] == "1"
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"
    assert values["MERGEFLEET_CACHE_DIR"].startswith(values["HOME"] + "/")


def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    copied = [source for line in arguments("COPY") for source in line.split()[:-1]]
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for source in copied:
        assert (ROOT / source).exists()
        decisions = [rule.startswith("!") for rule in rules if fnmatch(source, rule.lstrip("!"))]
        assert decisions[-1] is True, source  # the last rule that matches decides


def test_constraints_pin_every_dependency_of_the_project_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    normal = [re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", CONSTRAINTS, re.MULTILINE)]
    assert len(normal) == len(set(normal))
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    missing = [each for each in wanted if re.sub(r"[-_.]+", "-", re.split(r"[<>=\[ ]", each)[0]).lower() not in normal]
    assert missing == []
