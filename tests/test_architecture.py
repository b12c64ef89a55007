"""Imports point down, heavy packages load late, and nothing that runs code from data is ever imported.

The allow-list is the architecture: a third party that is not written here is not used. `EAGER` may be imported
anywhere in the folder, `LAZY` only under TYPE_CHECKING or inside functions (start-up time, DESIGN 6), and `PLACED`
only in the named files.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "search", "cluster")
TREE = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

ENGINE_EAGER = {"blake3", "numba", "numpy", "obstore", "pydantic", "safetensors", "yaml"}
ENGINE_LAZY = {"huggingface_hub", "jinja2", "torch", "transformers"}  # jinja2 parses chat templates, as transformers
SEARCH_EAGER = ENGINE_EAGER | {"sqlalchemy"}
SEARCH_LAZY = ENGINE_LAZY | {
    "cmaes",
    "datasets",
    "lm_eval",
    "mlflow",
    "optuna",
    "pyarrow",
    "scipy",
    "threadpoolctl",
    "vllm",
    "wandb",
}
CLUSTER_EAGER = SEARCH_EAGER | {"click", "rich", "typer"}
CLUSTER_LAZY = SEARCH_LAZY | {
    "fastapi",
    "httpx",
    "kubernetes",
    "prometheus_client",
    "psutil",
    "ray",
    "starlette",
    "uvicorn",
}

EAGER = {
    "engine": {"engine"} | ENGINE_EAGER,
    "search": {"engine", "search"} | SEARCH_EAGER,
    "cluster": {"engine", "search", "cluster"} | CLUSTER_EAGER,
}
LAZY = {"engine": ENGINE_LAZY, "search": SEARCH_LAZY, "cluster": CLUSTER_LAZY}

# package -> the only files that may import it, wherever the folders' lists stand.
PLACED = {
    "boto3": ("engine/*clean*.py", "cluster/*clean*.py"),
    "botocore": ("engine/*clean*.py", "cluster/*clean*.py"),
    "llvmlite": ("engine/kernels/*.py",),
    "lm_eval": ("search/evaluators/*.py",),
    "vllm": ("search/evaluators/vllm.py",),
    "mlflow": ("search/trackers/mlflow_runs.py",),
    "optuna": ("search/samplers/*.py", "search/space/axes.py"),  # 0.5 s, which other campaigns are spared
    "wandb": ("search/trackers/wandb_runs.py",),
    "datasets": ("search/evaluators/*.py",),  # lm-eval's way to its data
    # the user's own function or Optuna sampler, named in the campaign; the table of public names
    "<computed>": ("search/evaluators/python.py", "search/samplers/optuna_samplers.py", "engine/__init__.py"),
}

# Inside engine/ imports point down too: a package uses those before it, never those after it.
LAYERS = ("recipes", "models", "planning", "execution", "outputs")

# Reading any of these formats can run code that somebody put into a file.
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    late: bool  # inside a function, or under TYPE_CHECKING

    @property
    def package(self) -> str:
        return self.module.split(".")[0]


def imports(tree: ast.AST) -> Iterator[Import]:
    """Every import statement and every import by a call, relative ones as a module called '.'."""
    yield from _imports(tree, late=False)


def _imports(node: ast.AST, *, late: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, late)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield Import("." if node.level else f"{node.module}.{alias.name}", node.lineno, late)
    elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
        name = node.args[0] if node.args else None
        named = name.value if isinstance(name, ast.Constant) else None
        yield Import(named if isinstance(named, str) else "<computed>", node.lineno, late)
    inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    guarded = isinstance(node, ast.If) and _called_name(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        in_else = guarded and isinstance(node, ast.If) and child in node.orelse
        yield from _imports(child, late=inside or (guarded and not in_else))


def _called(node: ast.Call) -> str:
    return _called_name(node.func)


def _called_name(node: ast.AST) -> str:
    """`f` for both `f` and `module.f`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def misplaced_imports(source: str, path: str) -> list[str]:
    """What is wrong with the imports of the file `path` (relative to the repository), one sentence each."""
    folder = path.split("/")[0]
    complaints = []
    for found in imports(ast.parse(source)):
        complaint = _complaint(found, folder=folder, path=path)
        if complaint:
            complaints.append(f"{path}:{found.line} {complaint}")
    return complaints


def _complaint(found: Import, *, folder: str, path: str) -> str | None:
    package = found.package
    if found.module.startswith("."):
        return "imports relatively: write the absolute name"
    if package in UNSAFE_MODULES or found.module.endswith("cloudpickle"):
        return f"imports {found.module}, which runs code from data"
    if package in PLACED:
        places = PLACED[package]
        if not any(fnmatch(path, place) for place in places):
            return f"imports {package}, which belongs to {' '.join(places)}"
        if package in LAZY[folder] and not found.late:
            return f"imports {package} at start-up: move the import into the function that needs it"
        return None
    if package in sys.stdlib_module_names or package in EAGER[folder]:
        return None
    if package in LAZY[folder]:
        return None if found.late else f"imports {package} at start-up: move the import into the function that needs it"
    return f"imports {found.module}, which {folder}/ may not use"


def unsafe_calls(source: str, path: str) -> list[str]:
    """Calls that evaluate text or unpickle: eval, exec, torch.load without weights_only=True, numpy's allow_pickle."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            reason = _unsafe(node)
            if reason:
                complaints.append(f"{path}:{node.lineno} {reason}")
    return complaints


def _unsafe(call: ast.Call) -> str | None:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if isinstance(call.func, ast.Name) and call.func.id in {"eval", "exec", "compile"}:
        return f"calls {call.func.id}"
    if ast.unparse(call.func) == "torch.load" and not _is_true(keywords.get("weights_only")):
        return "calls torch.load without weights_only=True"
    if "allow_pickle" in keywords and not _is_false(keywords["allow_pickle"]):
        return "lets numpy unpickle"
    if ast.unparse(call.func) in {"yaml.load", "yaml.load_all"} and "Safe" not in ast.unparse(call):
        return "calls yaml.load without a safe loader"
    if "trust_remote_code" in keywords and not _is_false(keywords["trust_remote_code"]):
        return "trusts remote code"
    return None


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_the_three_folders_are_found() -> None:
    assert {path.split("/")[0] for path in TREE} == set(FOLDERS)


@pytest.mark.parametrize("path", TREE)
def test_every_import_is_allowed_where_it_stands(path: str) -> None:
    assert misplaced_imports((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize("path", [path for path in TREE if path.split("/")[1] in LAYERS])
def test_the_layers_of_the_engine_do_not_look_up(path: str) -> None:
    above = LAYERS[LAYERS.index(path.split("/")[1]) + 1 :]
    found = [found.module for found in imports(ast.parse((ROOT / path).read_text())) if not found.late]
    assert [module for module in found if module.startswith(tuple(f"engine.{layer}." for layer in above))] == []


@pytest.mark.parametrize("path", TREE)
def test_no_file_evaluates_text_or_unpickles(path: str) -> None:
    assert unsafe_calls((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("engine/audit.py", "from search.space import Space", "imports search.space.Space, which engine/ may not use"),
        ("engine/audit.py", "def f():\n    import cluster.main", "imports cluster.main, which engine/ may not use"),
        ("search/store/store.py", "def f():\n    import ray", "imports ray, which search/ may not use"),
        ("search/store/store.py", "import fastapi", "imports fastapi, which search/ may not use"),
        ("engine/audit.py", "import cmaes", "imports cmaes, which engine/ may not use"),
        ("engine/audit.py", "import torch", "imports torch at start-up"),
        ("engine/audit.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "imports torch at start-up"),
        ("engine/audit.py", "class A:\n    import torch", "imports torch at start-up"),
        (
            "engine/audit.py",
            "try:\n    import transformers\nexcept ImportError:\n    pass",
            "imports transformers at start",
        ),
        ("engine/audit.py", "from . import recipe", "imports relatively"),
        ("engine/audit.py", "import llvmlite.ir", "imports llvmlite, which belongs to engine/kernels/*.py"),
        ("engine/audit.py", "import boto3", "imports boto3, which belongs to engine/*clean*.py"),
        (
            "search/report/report.py",
            "def f():\n    import lm_eval",
            "imports lm_eval, which belongs to search/evaluators/*.py",
        ),
        ("search/evaluators/lm_eval.py", "import lm_eval", "imports lm_eval at start-up"),
        ("cluster/main.py", "import importlib\nimportlib.import_module(name)", "imports <computed>"),
        ("engine/audit.py", "__import__('ray')", "imports ray, which engine/ may not use"),
        ("engine/audit.py", "import pickle", "imports pickle, which runs code from data"),
        ("cluster/actors.py", "def f():\n    from ray import cloudpickle", "imports ray.cloudpickle, which runs"),
        (
            "cluster/actors.py",
            "def f():\n    import ray.cloudpickle",
            "imports ray.cloudpickle, which runs code from data",
        ),
    ],
)
def test_the_import_rules_catch_their_violations(path: str, source: str, complaint: str) -> None:
    found = misplaced_imports(source, path)
    assert [complaint in text for text in found] == [True]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "engine/audit.py",
            "from __future__ import annotations\nimport os, numpy as np\nfrom engine.planning.plan import Plan",
        ),
        ("engine/audit.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("engine/audit.py", "import typing\nif typing.TYPE_CHECKING:\n    import torch"),
        ("engine/audit.py", "def f():\n    import torch.nn.functional"),
        ("engine/kernels/casts.py", "from llvmlite import ir"),
        ("search/evaluators/lm_eval.py", "def f():\n    from lm_eval import tasks"),
        ("cluster/actors.py", "from search.store.store import Store\ndef f():\n    import ray"),
    ],
)
def test_the_import_rules_let_the_allowed_ones_pass(path: str, source: str) -> None:
    assert misplaced_imports(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_unsafe_calls_are_caught(source: str) -> None:
    assert len(unsafe_calls(source, "engine/a.py")) == 1


def test_safe_calls_of_the_same_names_pass() -> None:
    source = "model.eval()\ntorch.load(p, weights_only=True)\nyaml.load(t, Loader=yaml.CSafeLoader)\nre.compile(p)"
    assert unsafe_calls(source, "engine/a.py") == []
