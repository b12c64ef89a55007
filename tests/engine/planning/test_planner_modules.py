"""Models of several modules: which tensors each takes from where, its own layers, the config, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vlm import PROJECTOR, TEXT, VISION, make_vlm

from bench.arrays import read_model, write_file
from engine import Plan, make_plan, merge, open_checkpoints, parse_recipe
from engine.errors import PlanError
from engine.planning.plan import OutputTensor


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """a and b of one shape, and one with deeper stacks."""
    folder = tmp_path_factory.mktemp("family")
    models = {name: make_vlm(folder / name, tune=tune) for tune, name in enumerate(("base", "a", "b"))}
    return models | {"deep": make_vlm(folder / "deep", tune=3, text=5, vision=4)}


def planned(data: Mapping[str, Any]) -> Plan:
    recipe = parse_recipe(dict(data), origin="r.yml")
    return make_plan(recipe, open_checkpoints(recipe.models))


def tensor(plan: Plan, name: str) -> OutputTensor:
    return next(t for t in plan.tensors if t.name == name)


def setting(plan: Plan, name: str, parameter: str = "weight") -> tuple[float, ...]:
    call = tensor(plan, name).call
    assert call is not None
    return call.sources[parameter]


def linear(a: str, b: str, weight: Any) -> dict[str, Any]:
    return {"models": [{"model": a, "parameters": {"weight": weight}}, {"model": b, "parameters": {"weight": 1}}]}


def whole(model: str) -> dict[str, Any]:
    return {"models": [{"model": model}]}


def sliced(*parts: tuple[str, int, int]) -> dict[str, Any]:
    return {"slices": [{"sources": [{"model": model, "layer_range": [start, end]}]} for model, start, end in parts]}


def sources(plan: Plan) -> dict[str, str]:
    """Output tensor → `model:tensor` that it is copied from."""
    return {t.name: f"{plan.sources[t.inputs[0].source]}:{t.inputs[0].tensor}" for t in plan.tensors}


@pytest.mark.parametrize("form", ["models", "modules"])
def test_a_gradient_runs_over_the_layers_of_each_module(family: dict[str, str], form: str) -> None:
    body = linear(family["a"], family["b"], [0, 1])
    names = ("text_decoder", "vision_tower", "multi_modal_projector")
    plan = planned(
        {"merge_method": "linear", **({"modules": dict.fromkeys(names, body)} if form == "modules" else body)}
    )
    up = [setting(plan, f"{TEXT}model.layers.{layer}.mlp.up_proj.weight") for layer in range(3)]
    assert up == [(1.0,), (0.5, 1.0), (1.0, 1.0)]  # a source of weight 0 is dropped
    fc1 = [setting(plan, f"{VISION}encoder.layers.{layer}.mlp.fc1.weight") for layer in range(2)]
    assert fc1 == [(1.0,), (1.0, 1.0)]
    for name in (f"{VISION}post_layernorm.weight", f"{PROJECTOR}mm_soft_emb_norm.weight", f"{TEXT}model.norm.weight"):
        assert setting(plan, name) == (1.0,)
    assert {t.layer for t in plan.tensors if t.name.startswith(VISION)} == {None}
    assert {t.layer for t in plan.tensors if "model.layers.2." in t.name} == {2}


def test_parameters_of_a_module_stand_between_those_of_slices_and_of_the_recipe(family: dict[str, str]) -> None:
    a, b = family["a"], family["b"]
    ranges = {"layer_range": [0, 3]}
    sources = [
        {"model": a, **ranges, "parameters": {"weight": [{"filter": "q_proj", "value": 5}]}},
        {"model": b, **ranges},
    ]
    text = {
        "slices": [{"sources": sources, "parameters": {"weight": [{"filter": "k_proj", "value": 4}]}}],
        "parameters": {
            "weight": [{"filter": "self_attn", "value": 3}],
            "normalize": [{"filter": "mlp", "value": False}],
        },
    }
    vision = {"models": [{"model": a}, {"model": b}], "parameters": {"weight": 2}}
    projector = {"models": [{"model": a}, {"model": b}]}
    modules = {"text_decoder": text, "vision_tower": vision, "multi_modal_projector": projector}
    plan = planned({"merge_method": "linear", "parameters": {"weight": 1}, "modules": modules})
    layer = f"{TEXT}model.layers.1."
    got = {
        name: setting(plan, f"{layer}{name}.weight") for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    }
    assert got == {"self_attn.q_proj": (5.0, 3.0), "self_attn.k_proj": (4.0, 4.0), "mlp.up_proj": (1.0, 1.0)}
    assert setting(plan, f"{layer}self_attn.v_proj.weight") == (3.0, 3.0)
    assert setting(plan, f"{VISION}encoder.layers.0.mlp.fc1.weight") == (2.0, 2.0)
    assert setting(plan, f"{PROJECTOR}mm_soft_emb_norm.weight") == (1.0, 1.0)
    calls = [tensor(plan, f"{layer}{name}.weight").call for name in ("mlp.up_proj", "self_attn.v_proj")]
    assert [call.options["normalize"] for call in calls if call] == [0.0, 1.0]


def test_each_module_may_come_from_another_model_and_choose_layers_of_its_own(family: dict[str, str]) -> None:
    a, b = family["a"], family["b"]
    modules = {
        "text_decoder": sliced((a, 0, 2), (b, 1, 3)),
        "vision_tower": sliced((b, 1, 2)),
        "multi_modal_projector": whole(b),
    }
    plan = planned({"merge_method": "passthrough", "modules": modules})
    got = sources(plan)
    assert got[f"{TEXT}model.embed_tokens.weight"].startswith(f"{a}:")
    assert got[f"{TEXT}model.norm.weight"].startswith(f"{b}:")
    assert got[f"{TEXT}model.layers.2.mlp.up_proj.weight"] == f"{b}:{TEXT}model.layers.1.mlp.up_proj.weight"
    assert got[f"{VISION}encoder.layers.0.mlp.fc1.bias"] == f"{b}:{VISION}encoder.layers.1.mlp.fc1.bias"
    assert got[f"{PROJECTOR}mm_soft_emb_norm.weight"].startswith(f"{b}:")
    assert not any("encoder.layers.1." in name for name in got)
    assert plan.config["text_config"]["num_hidden_layers"] == 4
    assert plan.config["text_config"]["layer_types"] == [
        "sliding_attention", "full_attention", "full_attention", "sliding_attention",
    ]  # fmt: skip
    assert plan.config["vision_config"]["num_hidden_layers"] == 1
    assert plan.warnings == ()
    assert str(plan.tokenizer) == a


def test_slices_of_a_model_with_several_modules_choose_text_layers_and_the_first_gives_the_rest(
    family: dict[str, str],
) -> None:
    plan = planned({"merge_method": "passthrough", **sliced((family["a"], 0, 1), (family["b"], 1, 3))})
    got = sources(plan)
    assert {got[name].split(":")[0] for name in got if not name.startswith(TEXT)} == {family["a"]}
    assert got[f"{TEXT}model.layers.1.mlp.up_proj.weight"].startswith(f"{family['b']}:")
    assert plan.config["vision_config"]["num_hidden_layers"] == 2


def test_a_model_without_a_module_of_the_base_is_refused_by_a_tensor_of_it(
    family: dict[str, str], tmp_path: Path
) -> None:
    base = Path(family["base"])
    text = {name: (code, np.array(v)) for name, (code, v) in read_model(base).items() if name.startswith(TEXT)}
    (tmp_path / "text").mkdir()
    write_file(tmp_path / "text" / "model.safetensors", text)
    (tmp_path / "text" / "config.json").write_text((base / "config.json").read_text())
    models = [{"model": str(tmp_path / "text"), "parameters": {"weight": 1}}]
    with pytest.raises(PlanError, match=r"r.yml: tensor 'vision_tower.*' is missing in .*text, though .*base has it"):
        planned({"merge_method": "task_arithmetic", "base_model": family["base"], "models": models})


def test_a_module_that_is_left_out_is_not_written_and_said(family: dict[str, str]) -> None:
    plan = planned({"merge_method": "passthrough", "modules": {"text_decoder": whole(family["a"])}})
    assert all(t.name.startswith(TEXT) for t in plan.tensors)
    left = [name for name in plan.left_out[family["a"]] if not name.startswith(TEXT)]
    assert len(left) == len(plan.left_out[family["a"]])
    assert plan.warnings == (
        f"r.yml: modules: {len(left)} tensors of {family['a']} belong to none of them and are not written: "
        f"{left[0]!r}, ... (vision_tower, multi_modal_projector).",
    )


def test_default_is_what_no_other_module_takes(family: dict[str, str]) -> None:
    plan = planned(
        {"merge_method": "passthrough", "modules": {"vision_tower": whole(family["b"]), "default": whole(family["a"])}}
    )
    got = sources(plan)
    assert {name for name in got if got[name].startswith(family["b"])} == {
        name for name in got if name.startswith(VISION)
    }
    assert plan.left_out.keys() == {family["a"], family["b"]}
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"vison_tower": ("models", "a")},
         r"r.yml: modules.vison_tower: names no tensor of .*a; did you mean 'vision_tower'\?"),
        ({"x": ("models", "a")}, r"names no tensor of .*a; known: default, language_model, multi_modal_proj"),
        ({"text_decoder": ("slices", ("a", 0, 2), ("deep", 4, 6))},
         r"modules.text_decoder.slices\[1\]: layer_range \[4, 6\] of .*deep reaches beyond the model, which has 5 "),
        ({"vision_tower": ("both", "a", "deep")},
         "modules.vision_tower: models of different depth cannot be merged layer by layer: .*a has 2 layers, .*deep"),
        ({"vision_tower": ("models", "a"), "vision_model": ("models", "b")},
         "modules.vision_model: names no tensor of"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_are_refused_by_name(
    family: dict[str, str], modules: dict[str, Any], message: str
) -> None:
    def body(kind: str, *parts: Any) -> dict[str, Any]:
        if kind == "slices":
            return sliced(*((family[name], start, end) for name, start, end in parts))
        return whole(family[parts[0]]) if kind == "models" else {"models": [{"model": family[name]} for name in parts]}

    method = "linear" if any("both" in part for part in modules.values()) else "passthrough"
    data = {"merge_method": method, "modules": {name: body(*part) for name, part in modules.items()}}
    with pytest.raises(PlanError, match=message):
        planned({**data, **({"parameters": {"weight": 1}} if method == "linear" else {})})


def test_a_merge_of_modules_loads_in_transformers_and_is_what_it_says(family: dict[str, str], tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    a, b, base = (family[name] for name in ("a", "b", "base"))
    weights = {"parameters": {"weight": 0.5}}
    text = {"slices": [
        {"sources": [{"model": base, "layer_range": [0, 2]}, {"model": a, "layer_range": [0, 2]}]},
        {"sources": [{"model": base, "layer_range": [1, 3]}, {"model": b, "layer_range": [1, 3]}]},
    ]}  # fmt: skip
    modules = {"text_decoder": text, "vision_tower": whole(a), "multi_modal_projector": whole(b)}
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "modules": modules, **weights, "dtype": "float32"}
    merge(parse_recipe(recipe), tmp_path / "out")
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.text_config.num_hidden_layers == 4
    made, one, two = (read_model(Path(path)) for path in (tmp_path / "out", base, b))

    def values(tensors: Mapping[str, Any], name: str) -> Any:
        code, stored = tensors[name]
        return (stored.astype(np.uint32) << 16).view(np.float32) if code == "BF16" else stored

    inner = f"{TEXT}model.layers.1.mlp.up_proj.weight"
    expected = (values(one, inner) + values(two, inner)) / 2
    np.testing.assert_allclose(values(made, f"{TEXT}model.layers.2.mlp.up_proj.weight"), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_encoder_and_decoder_are_stacked_apart_and_transformers_loads_both_depths(kind: str, tmp_path: Path) -> None:
    import transformers

    wide = {"vocab_size": 16, "d_model": 8}
    if kind == "t5":
        config = transformers.T5Config(**wide, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=3, num_heads=2)
        model = transformers.T5ForConditionalGeneration(config)
    else:
        sides = {
            f"{side}_{what}": n
            for side in ("encoder", "decoder")
            for what, n in (("attention_heads", 2), ("ffn_dim", 8))
        }
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        more = {"num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 8, **ends}
        config = transformers.WhisperConfig(**wide, **sides, **more, encoder_layers=2, decoder_layers=3)
        model = transformers.WhisperForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "a")
    a = str(tmp_path / "a")
    modules = {"encoder": sliced((a, 0, 2), (a, 1, 2)), "decoder": sliced((a, 0, 1), (a, 2, 3))}
    modules |= {"shared": whole(a)} if kind == "t5" else {}
    merge(parse_recipe({"merge_method": "passthrough", "modules": modules}), tmp_path / "out")
    again, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    encoder, decoder = again.get_encoder(), again.get_decoder()
    depths = [len(side.block if kind == "t5" else side.layers) for side in (encoder, decoder)]
    assert depths == [3, 2]
