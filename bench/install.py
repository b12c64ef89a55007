"""Puts packages into a virtual environment by uv, or by pip where uv fails: `python -m bench.install PYTHON ARGUMENTS`.

The pinned versions take pip 110 s and 82 CPU-s, most of them to compile 28,000 files of which few are ever imported;
they take uv 15 to 26 s and 15 CPU-s, and what two environments share lies on the disk once.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# uv reads no configuration of pip's, and there a machine may say where its packages come from. The names are the same.
HANDED_ON = ("find-links", "constraint", "trusted-host", "only-binary", "no-binary")
VARIABLES = {"index-url": "UV_INDEX_URL", "extra-index-url": "UV_EXTRA_INDEX_URL", "cert": "SSL_CERT_FILE"}
"""What is no argument: the URL of an index may hold a password, and arguments are seen by everybody on a machine."""
# As pip does it: the best version that any index has (uv's own way is to believe the first index that has a package),
# and whom the machine trusts is trusted.
AS_PIP = ("--index-strategy", "unsafe-best-match", "--system-certs")
YES = ("1", "on", "t", "true", "y", "yes")  # as pip reads it


def install(python: str | Path, *arguments: str | Path) -> None:
    """What `python -m pip install ARGUMENTS` does; CalledProcessError where it cannot be done."""
    options, variables = told_to_uv(pip_configuration())
    uv: list[str | Path] = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *AS_PIP]
    if subprocess.run([*uv, *options, *arguments], env={**os.environ, **variables}, check=False).returncode:
        print("uv could not do that: pip does it", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        subprocess.run([*pip, *arguments], check=True)


def told_to_uv(configured: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and variables that say to uv what pip's configuration says of where packages come from."""
    options = ["--no-index"] if configured.get("no-index", "").lower() in YES else []
    options += [f"--{name}={word}" for name in HANDED_ON for word in configured.get(name, "").replace(",", " ").split()]
    variables = {told: " ".join(configured[name].split()) for name, told in VARIABLES.items() if name in configured}
    return options, variables


def pip_configuration() -> dict[str, str]:
    """Option → value, from pip's files and variables."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    return parse_configuration(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def parse_configuration(listed: str) -> dict[str, str]:
    """What `pip config list` prints, lines such as global.find-links='/opt/wheels': variables win over files."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for options in found.values() for name, value in options.items()}


if __name__ == "__main__":
    install(*sys.argv[1:])
