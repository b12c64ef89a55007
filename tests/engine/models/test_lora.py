"""`model+lora`: the values of the merged model, bit for bit for any cut; what an adapter may say, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, write_adapter
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_models import write_model

from bench.arrays import from_bf16, to_bf16
from engine import make_plan, merge, open_checkpoint, open_checkpoints, parse_recipe, recipe_hash
from engine.errors import SourceError
from engine.kernels.lowrank import add_low_rank
from engine.models.checkpoint import Checkpoint
from engine.recipes.model_ref import ModelRef

Q = "model.layers.0.self_attn.q_proj"
EMBED, HEAD = "model.embed_tokens", "lm_head"


def definition(weights: Any, left: Any, right: Any, scale: float) -> Any:
    """W + scale · Σ_k left[:, k] · right[k], written once more, in numpy."""
    total = left[:, :1] * right[:1]
    for k in range(1, left.shape[1]):
        total = total + left[:, k : k + 1] * right[k : k + 1]
    return weights + left.dtype.type(scale) * total


def small(directory: Path, *, tied: bool = False, dtype: type = np.float32) -> Path:
    random = np.random.default_rng(1)
    shapes = {f"{EMBED}.weight": (10, 6), f"{Q}.weight": (8, 6), f"{Q}.bias": (8,), f"{HEAD}.weight": (10, 6)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    if tied:
        del arrays[f"{HEAD}.weight"]
    return write_model(directory, arrays, vocab_size=10, tie_word_embeddings=tied)


def opened(model: Path, adapter: Path) -> Checkpoint:
    return open_checkpoint(ModelRef(str(model), lora=ModelRef(str(adapter))))


def values(source: Checkpoint, name: str, *, piece: int = 1 << 20) -> Any:
    """The tensor, read in pieces of so many bytes."""
    tensor = source.tensors[name]
    buffer = bytearray(tensor.nbytes)
    for start in range(0, tensor.nbytes, piece):
        source.read_into(name, start, memoryview(buffer)[start : start + piece])
    numpy_of = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
    return np.frombuffer(buffer, numpy_of[tensor.dtype]).reshape(tensor.shape)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(1, 13),
    cut=st.tuples(st.integers(0, 1599), st.integers(1, 1600)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_kernel_is_the_definition_bit_for_bit_for_any_shape_rank_and_cut(
    shape: tuple[int, int], rank: int, cut: tuple[int, int], seed: int
) -> None:
    rows, columns = shape
    random = np.random.default_rng(seed)
    weights = to_bf16(random.normal(size=shape).astype(np.float32)).reshape(-1)
    left = random.normal(size=(rows, rank)).astype(np.float32)
    right = random.normal(size=(rank, columns)).astype(np.float32)
    whole = to_bf16(definition(from_bf16(weights).reshape(shape), left, right, 0.3)).reshape(-1)
    start, stop = min(cut[0], weights.size - 1), min(cut[0] + cut[1], weights.size)
    part = weights[start:stop].copy()
    add_low_rank(part, start % columns, left[start // columns : -(-stop // columns)], right, np.float32(0.3))
    assert part.tobytes() == whole[start:stop].tobytes()


def test_rows_wider_than_a_tile_of_the_kernel_are_the_definition_too() -> None:
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, 6)).astype(np.float32), random.normal(size=(6, 2500)).astype(np.float32)
    weights = random.normal(size=(2, 2500)).astype(np.float32)
    expected = definition(weights, left, right, 2.0)
    add_low_rank(weights.reshape(-1), 0, left, right, np.float32(2.0))
    assert weights.tobytes() == expected.tobytes()


@pytest.mark.parametrize("piece", [8, 40, 104])
def test_a_source_reads_the_same_in_pieces_of_any_size(piece: int, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", factors(Q, 8, 6))
    source = opened(small(tmp_path / "model"), adapter)
    stored, parts = load_file(tmp_path / "model" / "model.safetensors"), factors(Q, 8, 6)
    left, right = parts[f"{Q}.lora_B.weight"], parts[f"{Q}.lora_A.weight"]
    expected = definition(stored[f"{Q}.weight"], left, right, 2.0)
    assert values(source, f"{Q}.weight", piece=piece).tobytes() == expected.tobytes()
    assert values(source, f"{HEAD}.weight", piece=piece).tobytes() == stored[f"{HEAD}.weight"].tobytes()


def test_an_embedding_is_updated_by_rows_of_a_transposed_factor_and_float64_stays_wide(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 10)).astype(np.float32), random.normal(size=(6, 2)).astype(np.float32)
    parts = {f"{EMBED}.lora_embedding_A": a, f"{EMBED}.lora_embedding_B": b}
    source = opened(small(tmp_path / "model", dtype=np.float64), write_adapter(tmp_path / "lora", parts))
    stored = load_file(tmp_path / "model" / "model.safetensors")[f"{EMBED}.weight"]
    expected = definition(stored, a.T.astype(np.float64), b.T.astype(np.float64), 2.0)
    assert values(source, f"{EMBED}.weight", piece=56).tobytes() == expected.tobytes()


@pytest.mark.parametrize("names", [("lora_A.weight", "lora_B.weight"), ("lora_A.me.weight", "lora_B.me.weight")])
def test_scale_follows_rank_alpha_patterns_and_rslora(names: tuple[str, str], tmp_path: Path) -> None:
    parts = dict(zip((f"{Q}.{name}" for name in names), factors(Q, 8, 6, rank=3).values(), strict=True))
    said: dict[str, Any] = {"r": 8, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {r".*attn\.q_proj": 5}}
    model = small(tmp_path / "model")
    before = values(open_checkpoint(ModelRef(str(model))), f"{Q}.weight")
    a, b = (parts[f"{Q}.{name}"].astype(np.float64) for name in names)
    for rslora, scale in ((False, 5 / 3), (True, 5 / 3**0.5)):
        adapter = write_adapter(tmp_path / f"lora-{rslora}", parts, use_rslora=rslora, **said)
        np.testing.assert_allclose(values(opened(model, adapter), f"{Q}.weight"), before + scale * (b @ a), rtol=1e-5)


def test_a_square_weight_is_transposed_where_the_config_says_so(tmp_path: Path) -> None:
    name = "transformer.h.0.attn.c_proj"
    weight = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    model = write_model(tmp_path / "model", {f"{name}.weight": weight}, n_layer=1)
    parts = factors(name, 6, 6)
    product = 2 * parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]
    for turned, delta in ((False, product), (True, product.T)):
        source = opened(model, write_adapter(tmp_path / f"lora-{turned}", parts, fan_in_fan_out=turned))
        np.testing.assert_allclose(values(source, f"{name}.weight"), weight + delta, rtol=1e-5, atol=1e-6)


def test_tensors_trained_as_a_whole_replace_the_models_in_its_dtype(tmp_path: Path) -> None:
    bias, head = np.arange(8, dtype=np.float32), np.full((10, 6), 1 / 3, np.float32)
    parts = {f"{Q}.base_layer.bias": bias, f"{HEAD}.modules_to_save.default.weight": head}
    model = small(tmp_path / "model", dtype=np.float16)
    source = opened(model, write_adapter(tmp_path / "lora", parts, bias="all", modules_to_save=["lm_head"]))
    assert values(source, f"{Q}.bias", piece=6).tobytes() == bias.astype(np.float16).tobytes()
    assert values(source, f"{HEAD}.weight", piece=34).tobytes() == head.astype(np.float16).tobytes()


def test_a_trained_bias_of_b_is_added_with_the_scale(tmp_path: Path) -> None:
    parts = {**factors(Q, 8, 6), f"{Q}.lora_B.bias": np.arange(8, dtype=np.float32)}
    model = small(tmp_path / "model")
    before = values(open_checkpoint(ModelRef(str(model))), f"{Q}.bias")
    source = opened(model, write_adapter(tmp_path / "lora", parts, lora_bias=True))
    assert values(source, f"{Q}.bias", piece=12).tolist() == (before + 2 * np.arange(8, dtype=np.float32)).tolist()


def test_a_trained_head_of_a_tied_model_is_its_own_and_a_resized_vocabulary_is_said(tmp_path: Path) -> None:
    grown = np.ones((12, 6), np.float32)
    parts = {f"{EMBED}.weight": grown, f"{HEAD}.weight": 2 * grown}
    adapter = write_adapter(tmp_path / "lora", parts, modules_to_save=["embed_tokens", "lm_head"])
    source = opened(small(tmp_path / "model", tied=True), adapter)
    assert source.config["vocab_size"] == 12
    assert source.config["tie_word_embeddings"] is False
    assert source.tensors[f"{HEAD}.weight"].shape == (12, 6)
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": str(source.ref)}]})
    out = merge(recipe, tmp_path / "out").out
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 12
    assert (load_file(out / "model.safetensors")[f"{HEAD}.weight"] == 2).all()


def test_model_plus_adapter_and_the_merged_model_on_disk_are_one_source(tmp_path: Path) -> None:
    model, adapter = small(tmp_path / "model"), write_adapter(tmp_path / "lora", factors(Q, 8, 6))
    other = small(tmp_path / "other", dtype=np.float16)
    both = f"{model}+{adapter}"
    baked = merge(parse_recipe({"merge_method": "passthrough", "models": [{"model": both}]}), tmp_path / "baked").out
    hashes, digests = set(), set()
    for number, source in enumerate((both, str(baked))):
        models = [{"model": name, "parameters": {"weight": 1, "density": 0.5}} for name in (source, str(other))]
        recipe = parse_recipe({"merge_method": "dare_ties", "base_model": str(model), "models": models, "seed": 3})
        checkpoints = open_checkpoints(recipe.models)
        hashes.add(recipe_hash(make_plan(recipe, checkpoints), checkpoints))
        digests.add(merge(recipe, tmp_path / f"out-{number}").weights_digest)
    assert (len(hashes), len(digests)) == (1, 1)


def test_an_adapter_that_torch_saved_is_the_same_adapter(tmp_path: Path) -> None:
    import torch

    model, adapter = small(tmp_path / "model"), write_adapter(tmp_path / "lora", factors(Q, 8, 6))
    expected = values(opened(model, adapter), f"{Q}.weight")
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, adapter / "adapter_model.bin")
    assert values(opened(model, adapter), f"{Q}.weight").tobytes() == expected.tobytes()


def test_the_adapter_is_part_of_the_plans_identity_and_stands_in_provenance_and_card(tmp_path: Path) -> None:
    model = small(tmp_path / "model")
    digests = set()
    for seed in (1, 2):
        adapter = write_adapter(tmp_path / f"lora-{seed}", factors(Q, 8, 6, seed=seed))
        (tmp_path / "lora").unlink(missing_ok=True)
        (tmp_path / "lora").symlink_to(adapter)
        data = {"merge_method": "passthrough", "models": [{"model": f"{model}+{tmp_path / 'lora'}"}]}
        result = merge(parse_recipe(data), tmp_path / f"out-{seed}")
        digests.add(result.plan_digest)
    assert len(digests) == 2
    (source,) = json.loads((result.out / "provenance.json").read_text())["sources"]
    assert source["identity"]["adapter"]["files"].keys() == {"adapter_model.safetensors"}
    assert "| `lora` |" in (result.out / "README.md").read_text()


def test_memory_for_the_factors_is_counted_and_grows_with_the_rank(tmp_path: Path) -> None:
    model, peaks = small(tmp_path / "model"), []
    for rank in (2, 64):
        adapter = write_adapter(tmp_path / f"lora-{rank}", factors(Q, 8, 6, rank=rank), r=rank)
        recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": f"{model}+{adapter}"}]})
        peaks.append(make_plan(recipe, open_checkpoints(recipe.models)).peak_bytes(1))
    assert peaks[1] - peaks[0] > 62 * (1 << 18) // 6 * 4


def test_an_adapter_that_changes_while_it_is_merged_is_noticed(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", factors(Q, 8, 6))
    source = opened(small(tmp_path / "model"), adapter)
    save_file({"other": np.ones(3)}, adapter / "adapter_model.safetensors")
    with pytest.raises(SourceError, match="was changed while it was merged"):
        source.refuse_changed()


A, B = (f"{Q}.lora_{side}.weight" for side in "AB")
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"use_dora": True}, "adapter_config.json: DoRA is not supported: merge the adapter with PEFT"),
    ({}, {"peft_type": "LOHA"}, "peft_type is 'LOHA', only 'LORA' can be added to a model's weights."),
    ({}, {"target_parameters": ["w"]}, "LoRA with 'target_parameters' is not supported"),
    ({}, {"new_idea": 7}, "LoRA with 'new_idea' is not supported"),
    ({}, {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the model's own weights"),
    ({}, {"r": 4}, f"the rank of '{Q}' is 4, its tensors have 2."),
    ({}, {"lora_alpha": None}, f"lora_alpha of '{Q}' is None, a number expected."),
    ({}, {"rank_pattern": {"(a+)+": 3}}, "rank_pattern: '(a+)+' repeats (+) a group that holds a repeat"),
    ({}, {"alpha_pattern": 3}, "alpha_pattern: got 3, a mapping of modules' names to numbers expected."),
    ({B: None}, {}, f"has '{A}', but no lora_B to go with it."),
    ({A: np.ones((2, 5), np.float32)}, {}, f"B·A of '{Q}' is [8, 5], tensor '{Q}.weight' of MODEL is [8, 6]:"),
    ({A: np.ones((3, 6), np.float32)}, {}, f"'{A}' is [3, 6] and '{B}' is [8, 2]: [r, in] and [out, r] expected"),
    ({A: np.ones((2, 6), np.int8)}, {}, f"tensor '{A}' is I8: a LoRA needs BF16, F16, F32, F64."),
    ({f"{Q}.lora_A.two.weight": np.ones((2, 6), np.float32)}, {}, "are of one module: keep one adapter a file."),
    ({f"{Q}.lora_C.weight": np.ones(2)}, {}, f"tensor '{Q}.lora_C.weight' belongs to '{Q}.lora_C.weight', which MODEL"),
    ({f"{Q}.lora_A.weight_format": np.ones(2)}, {}, "is none that a LoRA has"),
    ({f"{Q}.lora_magnitude_vector": np.ones(8)}, {}, "which MODEL does not have; the nearest there is"),
    ({f"{HEAD}.weight": np.ones((10, 7), np.float32)}, {}, f"'{HEAD}.weight' is [10, 7], tensor '{HEAD}.weight' of"),
    ({f"{HEAD}.weight": np.ones((12, 6), np.float32)}, {},
     f"'{HEAD}.weight' has 12 rows, '{EMBED}.weight' has 10 rows: one vocabulary needs as many in all of them."),
    (factors("model.layers.0.self_attn.qkv_proj", 8, 6), {},
     f"to 'model.layers.0.self_attn.qkv_proj.weight', which MODEL does not have; the nearest there is '{Q}.weight'."),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "config", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_added_is_refused_by_name(
    tensors: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parts = {name: array for name, array in {**factors(Q, 8, 6), **tensors}.items() if array is not None}
    said = {name.removeprefix("base_model.model."): array for name, array in parts.items()}
    model = small(tmp_path / "model")
    with pytest.raises(SourceError) as caught:
        opened(model, write_adapter(tmp_path / "lora", said, **config))
    text = str(caught.value).replace("base_model.model.", "").replace(str(model), "MODEL")
    assert message in text
    assert "\n" not in text


def test_a_lora_on_the_head_of_a_tied_model_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", factors(HEAD, 10, 6))
    with pytest.raises(
        SourceError, match=r"changes 'lm_head.weight' alone, which .* ties to 'model.embed_tokens.weight'"
    ):
        opened(small(tmp_path / "model", tied=True), adapter)


def test_model_and_adapter_in_the_wrong_places_are_told_apart(tmp_path: Path) -> None:
    model, adapter = small(tmp_path / "model"), write_adapter(tmp_path / "lora", factors(Q, 8, 6))
    with pytest.raises(SourceError, match=r"is a LoRA adapter, not a model\. Write MODEL\+ADAPTER"):
        open_checkpoint(ModelRef(str(adapter)))
    with pytest.raises(SourceError, match=r"adapter_config\.json: not found\. After '\+' stands a LoRA adapter"):
        opened(model, model)
    with pytest.raises(SourceError, match="there is no such directory: did you mean"):
        opened(model, tmp_path / "lorra")
