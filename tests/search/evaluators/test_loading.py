"""What `from_pretrained` makes of a checkpoint, the skeleton and its views make, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from device import DEVICE
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.errors import EvaluationError
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.loading import check_fits, filled_views, make_skeleton
from search.evaluators.plans import Plans

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
# kept in a form of their own: one tensor on disk for several parameters, and values in another order
HRM = Architecture("HRM", "HrmTextConfig", {"H_cycles": 1, "L_cycles": 1, "head_dim": 8})
INKLING = Architecture("Inkling 2", "Inkling2TextConfig", {"moe_intermediate_size": 16})


def skeleton_of(directory: Path, dtype: str = "float32", device: str = "cpu") -> Any:
    config = json.loads((directory / "config.json").read_text())
    return make_skeleton(config, EvaluatorEntry(dtype=dtype, device=device), directory)


def filled(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model after its views were filled with a checkpoint's tensors."""
    views = filled_views(model, tensors)
    assert views.keys() == tensors.keys()
    for name, parts in views.items():
        rows = 0
        for part in parts:
            part.copy_(tensors[name] if len(parts) == 1 else tensors[name][rows : rows + len(part)])
            rows += len(part)
    return model.state_dict()


def assert_loaded(state: dict[str, Tensor], directory: Path) -> None:
    for name, value in AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("architecture", [BY_NAME["Mixtral"], BY_NAME["GPT-NeoX"], HRM], ids=lambda a: a.name)
def test_stacked_renamed_and_split_tensors_are_where_loading_puts_them(
    architecture: Architecture, tmp_path: Path
) -> None:
    directory = architecture.save(tmp_path / "model", seed=1, dtype=torch.float32)
    tensors = load_file(directory / "model.safetensors")
    skeleton = skeleton_of(directory)
    assert tensors.keys() - skeleton.state_dict().keys(), "nothing is kept in another form"
    assert_loaded(filled(skeleton, tensors), directory)


@pytest.mark.parametrize("name", ["Mixtral", "GPT-NeoX", "GPT-2"])
def test_what_loading_rearranges_or_ties_fits_without_memory(name: str, tmp_path: Path) -> None:
    directory = BY_NAME[name].save(tmp_path / "model", seed=1, dtype=torch.float32)
    recipe = {"merge_method": "passthrough", "models": [{"model": str(directory)}]}
    check_fits(Plans().plan_of(recipe, origin="r.yml"), EvaluatorEntry())


def test_names_without_the_prefix_old_buffers_and_fused_experts_are_known(tmp_path: Path) -> None:
    """GPT-2 as it lies on the Hub; the rotary buffers of old Llamas; experts as mergekit writes them."""
    gpt = BY_NAME["GPT-2"].save(tmp_path / "gpt", seed=1, dtype=torch.float32)
    tensors = load_file(gpt / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items() if name != "lm_head.weight"}
    save_file(bare, gpt / "model.safetensors", metadata={"format": "pt"})
    assert_loaded(filled(skeleton_of(gpt), bare), gpt)

    llama = skeleton_of(BY_NAME["Llama"].save(tmp_path / "llama", seed=1, dtype=torch.float32))
    names = ["model.norm.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.unheard.weight"]
    views = filled_views(llama, names)
    assert views == {names[0]: views[names[0]], names[1]: ()}

    mixtral = BY_NAME["Mixtral"].save(tmp_path / "mixtral", seed=1, dtype=torch.float32)
    fused = AutoModelForCausalLM.from_pretrained(mixtral).state_dict()
    assert_loaded(filled(skeleton_of(mixtral), fused), mixtral)


def test_a_tensor_whose_values_are_rearranged_on_loading_is_refused_by_name(tmp_path: Path) -> None:
    directory = INKLING.save(tmp_path / "model", seed=1, dtype=torch.float32)
    with pytest.raises(
        EvaluationError, match=r"w13_weight' cannot be merged into the live Inkling2ForCausalLM: .*Interleave"
    ):
        filled_views(skeleton_of(directory), load_file(directory / "model.safetensors"))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64}),
        ("DeepseekV3Config", BY_NAME["DeepSeek V3"].settings),
        ("BambaConfig", {"mamba_d_head": 16, "mamba_n_heads": 4, "mamba_d_state": 4, "attn_layer_indices": [1]}),
    ],
)
def test_a_skeleton_is_what_loading_makes_buffers_formats_and_config(
    config: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Sines in float32 (GPT-J), a router's bias kept in float32 (DeepSeek V3), infinity in config.json (Bamba)."""
    directory = Architecture(config, config, settings).save(tmp_path / "model", seed=1, dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    skeleton = skeleton_of(directory, "bfloat16", DEVICE)
    assert skeleton.config.to_diff_dict() == loaded.config.to_diff_dict()
    dtypes = [{name: value.dtype for name, value in model.state_dict().items()} for model in (skeleton, loaded)]
    assert dtypes[0] == dtypes[1]
    persistent = loaded.state_dict()
    buffers = {name: value for name, value in loaded.named_buffers() if name not in persistent}
    assert buffers
    for name, value in buffers.items():
        assert torch.equal(dict(skeleton.named_buffers())[name].cpu(), value), name


def test_an_architecture_that_transformers_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no model_type 'unheard_of'"):
        make_skeleton({"model_type": "unheard_of"}, EvaluatorEntry(), tmp_path)
