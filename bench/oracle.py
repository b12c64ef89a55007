"""mergekit 0.1.5 as the oracle, in an environment of its own: `python -m bench.oracle` makes .venv-mergekit.

mergekit is LGPL: it is run as a separate program and none of it is copied or imported here. bench/mergekit_batch.py
is the one file that runs inside that environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.install import install as install_packages

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-mergekit"
REQUIREMENTS = ("mergekit==0.1.5", "torch==2.13.0")
VARIABLES = {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def available() -> bool:
    """Whether the environment is there, complete."""
    return (ENVIRONMENT / "complete").exists()


def command() -> Path:
    """The mergekit-yaml program."""
    return ENVIRONMENT / "bin" / "mergekit-yaml"


def install() -> None:
    """Make the environment, unless it is complete already."""
    if available():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", ENVIRONMENT], check=True)
    constraints = ROOT / "bench" / "mergekit-constraints.txt"
    install_packages(ENVIRONMENT / "bin" / "python", "-c", constraints, *REQUIREMENTS)
    (ENVIRONMENT / "complete").write_text("\n".join(REQUIREMENTS))


def merge_all(recipes: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str | None]:
    """Merge every {output directory: recipe} in one mergekit process; what each failed with, None where it worked."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs, results = Path(scratch, "jobs.json"), Path(scratch, "results.json")
        jobs.write_text(json.dumps([[str(out), yaml.safe_dump(dict(recipe))] for out, recipe in recipes.items()]))
        subprocess.run(
            [ENVIRONMENT / "bin" / "python", ROOT / "bench" / "mergekit_batch.py", jobs, results],
            check=True,
            env={**os.environ, **VARIABLES},
            capture_output=True,
        )
        return {Path(out): error for out, error in json.loads(results.read_text()).items()}


if __name__ == "__main__":
    install()
    print(ENVIRONMENT)
