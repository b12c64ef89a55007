"""Packages with merge methods of users, as the fixture `install` puts them on the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

HEAD = "from __future__ import annotations\nimport torch\nfrom engine import merge_method\n"
"""What the code of every such package begins with."""
Installer = Callable[..., Path]
"""(code, package=…, version=…, method="module:name" …) → the module's file."""
