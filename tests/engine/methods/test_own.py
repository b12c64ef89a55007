"""Users' own methods: found by entry point, read from their signature, checked, named in every error."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_packages import Installer
from safetensors.numpy import load_file, save_file

from engine import Options, make_plan, merge, open_checkpoints, parse_recipe
from engine.errors import InputsChanged, MergefleetError, MethodError, NotFinite, RecipeError
from engine.methods import METHODS, methods_for, own
from engine.outputs.job import Job

SHAPES = {
    "model.embed_tokens.weight": (12, 6),
    "model.layers.0.mlp.up_proj.weight": (700, 801),
    "model.norm.weight": (6,),
}


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """base, a and b: float32, with one tensor of more than two blocks."""
    paths = []
    for seed, name in enumerate(("base", "a", "b")):
        generator = np.random.default_rng(seed)
        (tmp_path / name).mkdir()
        tensors = {key: generator.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
        paths.append(str(tmp_path / name))
    return paths


def recipe(method: str, models: list[str], *, base: str | None = None, **parameters: Any) -> Any:
    entries = [{"model": path} for path in models]
    data = {"merge_method": method, "models": entries, "parameters": parameters}
    return parse_recipe(data | ({"base_model": base} if base else {}), origin="r.yml")


def refusal(action: Callable[[], object], kind: type[MergefleetError] = RecipeError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def test_every_kind_of_argument_gets_its_value_in_its_type(
    install: Installer, models: list[str], tmp_path: Path
) -> None:
    install(
        """
        def mine(models, base, weight: list[float], lambda_: float = 2.0, times: int = 1, plus: bool = False):
            assert [type(v) for v in (*weight, lambda_, times, plus)] == [float, float, float, int, bool]
            assert models[0].dtype == torch.float32 and base.ndim == 1
            total = sum(w * (m - base) for w, m in zip(weight, models))
            return base + lambda_ * times * total + (1 if plus else 0)
        """,
        mine="mine_code:mine",
    )
    given = {"weight": [0.25, 0.5], "lambda": 3, "times": 2, "plus": True}
    out = merge(recipe("mine", models[1:], base=models[0], **given), tmp_path / "out").out
    base, a, b = (load_file(Path(model) / "model.safetensors") for model in models)
    for name, values in load_file(out / "model.safetensors").items():
        # a gradient of weights: the first knot outside of the layers, the last one in a slice of one layer
        w = 0.5 if ".layers." in name else 0.25
        wanted = base[name] + 6 * (w * (a[name] - base[name]) + w * (b[name] - base[name])) + 1
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scope", ["element", "row", "tensor"])
def test_tensors_come_in_the_shape_of_the_scope_and_any_threads_give_one_result(
    scope: str, install: Installer, models: list[str], tmp_path: Path
) -> None:
    module = install(
        f"""
        SEEN = set()

        @merge_method(scope={scope!r}, models=(2, 2))
        def mine(models):
            SEEN.add(tuple(models[0].shape))
            return models[0] * 0.5 + models[1] * 0.5
        """,
        mine="mine_code:mine",
    )
    results = {
        (merge(recipe("mine", models[1:]), tmp_path / str(n), options=options).out / "model.safetensors").read_bytes()
        for n, options in enumerate((Options(threads=1), Options(threads=2, tile_bytes=1)))
    }
    assert len(results) == 1
    seen = sys.modules[module.stem].SEEN
    assert (
        seen
        == {
            "element": {(72,), (1 << 18,), (560_700 - 2 * (1 << 18),), (6,)},
            "row": {(12, 6), (327, 801), (700 - 2 * 327, 801), (1, 6)},
            "tensor": set(SHAPES.values()),
        }[scope]
    )


def test_a_base_with_a_default_is_optional(install: Installer, models: list[str], tmp_path: Path) -> None:
    install("def mine(models, base=None): return models[0] if base is None else base", mine="mine_code:mine")
    for base, wanted in ((None, models[1]), (models[0], models[0])):
        out = merge(recipe("mine", models[1:], base=base), tmp_path / f"out-{bool(base)}").out
        name = "model.norm.weight"
        expected = load_file(Path(wanted) / "model.safetensors")[name]
        assert np.array_equal(load_file(out / "model.safetensors")[name], expected)


def test_an_entry_point_may_be_a_method_of_the_engine(install: Installer, models: list[str], tmp_path: Path) -> None:
    install("from engine.methods.linear import METHOD", other="mine_code:METHOD")
    method = methods_for("other", "r.yml")["other"]
    assert (method.name, method.kernel is None) == ("other", False)
    outs = [merge(recipe(name, models, weight=0.5), tmp_path / name).out for name in ("other", "linear")]
    assert len({(out / "model.safetensors").read_bytes() for out in outs}) == 1


def test_a_package_is_imported_only_for_a_recipe_that_names_its_method_and_replaces_none(
    install: Installer, models: list[str]
) -> None:
    module = install("raise RuntimeError('imported')", mine="mine_code:mine", linear="mine_code:linear")
    assert methods_for("linear", "r.yml") is METHODS
    assert own.names()["mine"] == "mine 1.0"
    assert module.stem not in sys.modules
    assert refusal(lambda: methods_for("mine", "r.yml")) == (
        "r.yml: merge_method: 'mine' (mine_code:mine, of mine 1.0): cannot be imported: RuntimeError: imported "
        "(mine_code.py, line 4)."
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "@merge_method(scope='rows')\ndef mine(models): ...",
            ": cannot be imported: ValueError: scope 'rows'; did you mean 'row'? (mine_code.py, line 4).",
        ),
        ("mine = 3", "is a int, a function or an engine.methods.Method expected."),
        ("mine = max", ": its arguments cannot be read: no signature found for builtin <built-in function max>."),
        ("def mine(tensors): ...", ": has no argument 'models', which takes the list of the models' tensors."),
        ("def mine(models, *more): ...", ": argument *more: only arguments that can be given by name are supported."),
        ("def mine(models, t): ...", ": argument t: float, int, bool or list[float] expected."),
        ("def mine(models, t: str = ''): ...", ": argument t: 'str' = '': float, int, bool or list[float] expected."),
        ("def mine(models, w: list[float] = [1, 2]): ...", ": a number expected as its default (of a list: [number])."),
    ],
)
def test_what_is_no_merge_function_is_refused(code: str, message: str, install: Installer) -> None:
    install(code, mine="mine_code:mine")
    said = refusal(lambda: methods_for("mine", "r.yml"))
    assert said.startswith("r.yml: merge_method: 'mine' (mine_code:mine, of mine 1.0)")
    assert said.endswith(message)


def test_two_packages_with_one_method_are_named(install: Installer) -> None:
    install("", mine="mine_code:mine")
    install("", package="yours", version="2.0", mine="yours_code:mine")
    assert refusal(lambda: methods_for("mine", "r.yml")) == (
        "r.yml: merge_method: 'mine' is in mine 1.0 and yours 2.0: uninstall one of them."
    )


def test_recipes_are_held_to_the_signature(install: Installer, models: list[str]) -> None:
    install("def mine(models, base, t: float, weight: list[float] = [1.0]): return base", mine="mine_code:mine")

    def plan(data: Any) -> Any:
        return make_plan(data, open_checkpoints(data.models))

    assert plan(recipe("mine", models[1:], base=models[0], t=1)).tensors[0].call.sources == {"weight": (1.0, 1.0)}
    assert "has no 't', which mine needs" in refusal(lambda: plan(recipe("mine", models[1:], base=models[0])))
    assert "has no 'base_model', which mine needs" in refusal(lambda: plan(recipe("mine", models[1:], t=1)))
    assert "unknown parameter; did you mean" in refusal(
        lambda: plan(recipe("mine", models[1:], base=models[0], t=1, wieght=2))
    )
    assert "did you mean 'mine'?" in refusal(lambda: plan(recipe("mime", models)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero (mine_code.py, line 5)."),
        ("return [1]", "returned a list, a tensor expected."),
        ("return models[0][:5]", "returned shape [5], [N] expected, as its inputs."),
        ("return models[0] > 0", "returned torch.bool, floating point expected."),
        ("return models[0].to('meta')", "returned a tensor on meta, cpu expected, as its inputs."),
        ("raise SystemExit('bye')", "SystemExit: bye (mine_code.py, line 5)."),
    ],
)
def test_an_error_in_the_function_names_method_and_tensor_and_publishes_nothing(
    body: str, message: str, install: Installer, models: list[str], tmp_path: Path
) -> None:
    install(f"def mine(models):\n    {body}", mine="mine_code:mine")
    said = refusal(
        lambda: merge(recipe("mine", models), tmp_path / "out", options=Options(threads=1)), kind=MethodError
    )
    place, found = said.split("': ", 1)
    assert place.startswith("r.yml: merge_method: 'mine' (mine_code:mine, of mine 1.0): tensor 'model.")
    assert re.sub(r"\[\d+\] expected", "[N] expected", found) == message
    assert not (tmp_path / "out").exists()


def test_nan_made_by_a_users_method_is_put_down_to_the_method(
    install: Installer, models: list[str], tmp_path: Path
) -> None:
    install("def mine(models):\n    return models[0] * float('nan')", mine="mine_code:mine")
    said = refusal(lambda: merge(recipe("mine", models), tmp_path / "out"), kind=NotFinite)
    assert "your method 'mine' made" in said
    assert "too large" not in said


def test_a_changed_function_is_another_plan(install: Installer, models: list[str], tmp_path: Path) -> None:
    install("def mine(models): return models[0]", mine="mine_code:mine")
    Job.prepare(recipe("mine", models), tmp_path / "out", Options()).close()
    install("def mine(models): return models[1]", mine="mine_code:mine")
    assert "method" in refusal(lambda: Job.prepare(recipe("mine", models), tmp_path / "out", Options()), InputsChanged)


def test_a_function_is_exact_only_if_it_says_so(install: Installer) -> None:
    install(
        """
        def plain(models): ...

        @merge_method(exact=True)
        def sure(models): ...
        """,
        plain="mine_code:plain",
        sure="mine_code:sure",
    )
    assert [methods_for(name, "r.yml")[name].exact for name in ("plain", "sure")] == [False, True]
