"""`mergefleet doctor`: what this machine has, what would fail on it, and what was never run anywhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.output import human_bytes


@dataclass(frozen=True)
class Check:
    """One thing looked at; `advice` says what to do about a warning or a failure."""

    name: str
    status: Literal["ok", "warns", "fails", "untested"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at everything; imports nothing heavier than numba, starts nothing, writes only into the temporary folder."""
    return [
        Check("mergefleet", "ok", f"{_version('mergefleet')} on Python {platform.python_version()}, {sys.executable}"),
        Check("processors", "ok", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"),
        _memory(),
        _disk(),
        _shared_memory(),
        _kernel_cache(),
        _kept_facts(),
        _kernels(),
        _own_methods(),
        *(_library(name, why) for name, why in _LIBRARIES.items()),
        _ray_auth(),
        _hub(),
        *_UNTESTED,
    ]


_LIBRARIES = {
    "torch": "torch definitions, evaluation",
    "transformers": "evaluation models",
    "lm_eval": "tasks",
    "optuna": "search",
    "cmaes": "search",
    "ray": "--address",
    "huggingface_hub": "models from the Hub",
    "sqlalchemy": "campaign store",
    "plotly": "report",
}

_UNTESTED = [
    Check("GPU", "untested", "merges and a search ran on one NVIDIA H200; a search on Ray with one did not yet"),
    Check("vLLM", "untested", "its protocol runs against a stand-in in the tests; no real engine has"),
    Check("judge", "untested", "answers were graded by a stand-in of the tests only, by no real endpoint"),
    Check("Kubernetes", "untested", "manifests are validated against schemas; no live cluster has run them"),
    Check("the real Hub", "untested", "the Hub client runs against a local stand-in in the tests"),
    Check("gs:// and az://", "untested", "the same code as s3://, which runs against a real server in the tests"),
]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _memory() -> Check:
    from engine.planning.options import default_memory

    budget = default_memory()
    found = f"default budget {human_bytes(budget)} (a quarter of the machine or container)"
    if budget < 256 << 20:
        return Check("memory", "warns", found, "give --memory and --threads 1")
    return Check("memory", "ok", found)


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    status: Literal["ok", "warns"] = "ok" if free > 1 << 30 else "warns"
    return Check("disk", status, f"{human_bytes(free)} free here", "" if status == "ok" else "free some space")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("/dev/shm", "warns", "missing", "Ray's object store falls back to /tmp; mount a tmpfs there")
    free = shutil.disk_usage(path).free
    status: Literal["ok", "warns"] = "ok" if free > 300 << 20 else "warns"
    advice = "" if status == "ok" else "Ray wants 300 MiB; enlarge it (docker run --shm-size=1g)"
    return Check("/dev/shm", status, f"{human_bytes(free)} free", advice)


def _kernel_cache() -> Check:
    from engine.kernels.cache import cache_directory

    directory = cache_directory()
    if directory is None:
        advice = "set MERGEFLEET_CACHE_DIR to a directory of mode 0700 of your own; kernels are compiled anew each time"
        return Check("kernel cache", "warns", "no private writable directory", advice)
    return Check("kernel cache", "ok", str(directory))


def _kept_facts() -> Check:
    from engine.execution.kept_facts import facts_file

    file = facts_file()
    if file is None:
        return Check("facts", "ok", "no private writable directory; every evaluator measures for itself")
    there = file.is_file()
    return Check("facts", "ok", f"{file}, {human_bytes(file.stat().st_size)}" if there else f"{file}, none yet")


def _kernels() -> Check:
    import numpy as np

    from engine.kernels import combine

    out = np.empty(4, np.uint16)
    combine.convert(np.array([1.0, 0.5, -2.0, np.inf], np.float32), out)
    right = out.tolist() == [0x3F80, 0x3F00, 0xC000, 0x7F80]
    advice = "" if right else "this processor computes something else: please report it"
    return Check("kernels", "ok" if right else "fails", f"numba {_version('numba')}", advice)


def _own_methods() -> Check:
    from engine.methods import METHODS, own

    installed = own.names()
    found = ", ".join(f"{name} ({package})" for name, package in sorted(installed.items())) or "none installed"
    hidden = ", ".join(sorted(METHODS.keys() & installed))
    advice = f"{hidden}: mergefleet's own method of this name is used; rename yours" if hidden else ""
    return Check("your own methods", "warns" if hidden else "ok", found, advice)


def _library(name: str, why: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name, "warns", f"not installed; needed for {why}", "pip install mergefleet -c constraints.txt")
    return Check(name, "ok", _version(name))


def _ray_auth() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None:
        return Check("Ray auth", "ok", "RAY_AUTH_MODE is not set: a local Ray of ours sets its own")
    return Check("Ray auth", "ok", f"RAY_AUTH_MODE={mode}")


def _hub() -> Check:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    token = "a token is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN"
    offline = ", offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return Check("Hub", "ok", f"{endpoint}{offline}, {token}, temporary files in {tempfile.gettempdir()}")


def print_checks(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"ok": "green", "warns": "yellow", "fails": "red", "untested": "cyan"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        note = f"{check.found}" + (f" — {check.advice}" if check.advice else "")
        table.add_row(f"[{colours[check.status]}]{check.status}[/]", check.name, note)
    Console(highlight=False).print(table)
