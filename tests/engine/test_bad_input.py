"""Bad input to a merge: one line that names file and key, says got and expected, and nothing was written."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.arrays import read_model, write_file
from bench.families import Shape, make_family
from engine import MergefleetError, merge
from engine.errors import InputsChanged
from engine.outputs.job import Job

SHAPE = Shape(hidden=16, layers=4, mlp=32, heads=2, kv_heads=1, vocab=32)
WIDER = Shape(hidden=16, layers=4, mlp=48, heads=2, kv_heads=1, vocab=32)
DEEPER = Shape(hidden=16, layers=6, mlp=32, heads=2, kv_heads=1, vocab=32)
TWO = "models:\n- {model: code, parameters: {weight: 0.5}}\n- {model: math, parameters: {weight: 0.5}}\n"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the models base, code and math of one family, a wider one and a deeper one."""
    monkeypatch.chdir(tmp_path)
    family = make_family(tmp_path / "family", SHAPE, seed=1, tunes=2)
    others = [
        make_family(tmp_path / f"other{n}", shape, seed=2, tunes=0).base for n, shape in enumerate((WIDER, DEEPER))
    ]
    for name, path in zip(("base", "code", "math", "wider", "deeper"), (*family.models, *others), strict=True):
        path.rename(tmp_path / name)
    return tmp_path


def refusal(text: str, *, exit_code: int = 2) -> str:
    """The one line that merging `recipe.yml` with this text ends in; nothing may be left behind."""
    Path("recipe.yml").write_text(text)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    with pytest.raises(MergefleetError) as caught:
        merge("recipe.yml", "out")
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    return str(caught.value)


RECIPES = [
    ("unknown structural key",
     "merge_method: linear\n" + TWO.replace("parameters", "paramters", 1),
     "recipe.yml: models[0].paramters: unknown key; did you mean 'parameters'?"),
    ("unknown key at the top",
     "merge_metod: linear\n" + TWO,
     "recipe.yml: merge_metod: unknown key; did you mean 'merge_method'?"),
    ("unknown method",
     "merge_method: dare_tise\nbase_model: base\n" + TWO,
     "recipe.yml: merge_method: unknown method 'dare_tise'; did you mean 'dare_ties'?"),
    ("unknown parameter",
     "merge_method: linear\n" + TWO.replace("weight", "wieght", 1),
     "recipe.yml: models[0].parameters.wieght: unknown parameter; did you mean 'weight'? "
     "(--allow-unknown ignores unknown parameters.)"),
    ("missing weight",
     "merge_method: ties\nbase_model: base\nmodels:\n- {model: base}\n- {model: code}\n",
     "recipe.yml: models[1]: code has no 'weight', which ties needs, as in parameters: {weight: 0.5}."),
    ("weight for a model not listed",
     "merge_method: linear\nmodels: [{model: code}, {model: math}]\nparameters: {weight: {code: 0.5, maths: 0.5}}\n",
     "recipe.yml: parameters.weight.maths: is no model of this recipe; did you mean 'math'?"),
    ("weights of models in one place",
     "merge_method: linear\nmodels: [{model: code}, {model: math}]\nparameters: {weight: {code: 0.5, math: 0.5}}\n",
     "recipe.yml: parameters.weight: got a mapping; write each value at its model, under models[...].parameters."),
    ("missing base_model",
     "merge_method: task_arithmetic\n" + TWO,
     "recipe.yml: has no 'base_model', which task_arithmetic needs; models: code, math."),
    ("F3: slerp whose base is no source",
     "merge_method: slerp\nbase_model: base\nparameters: {t: 0.5}\nslices:\n- sources:\n"
     "  - {model: code, layer_range: [0, 4]}\n  - {model: math, layer_range: [0, 4]}\n",
     "recipe.yml: slices[0]: slerp's base_model must be one of its two sources; got base, sources code and math."),
    ("F8: typographic dashes",
     "merge_method: slerp\nbase_model: code\nslices:\n  - sources:\n      - model: code\n        layer_range: [0, 4]\n"
     "      - model: math\n        layer_range: [0, 4]\nparameters:\n  t:\n    — filter: self_attn\n"
     "      value: [0, 0.5, 0.3, 0.7, 1]\n    — value: 0.5\n",
     "recipe.yml: line 11, column 5: found '—' (U+2014, em dash), '-' expected."),
    ("F9: a key glued to the line before",
     "slices:\n  - sources:\n      - model: code\n        layer_range: [0, 4]\n      - model: math\n"
     "        layer_range: [0, 4]merge_method: slerp\nbase_model: code\nparameters: {t: 0.5}\n",
     "recipe.yml: line 6, column 28: did not find expected key, found 'merge_method: slerp': "
     "is a line break or a comma missing before it?"),
    ("key given twice",
     "merge_method: linear\nmerge_method: ties\n" + TWO,
     "recipe.yml: line 2, column 1: key 'merge_method' is given twice (first on line 1)."),
    ("number with a comma",
     "merge_method: linear\n" + TWO.replace("weight: 0.5", "weight: '0,5'", 1),
     "recipe.yml: models[0].parameters.weight: got '0,5', a number expected: write 0.5"),
    ("filter that is no regular expression",
     "merge_method: linear\nparameters: {weight: [{filter: 're:layers.(1', value: 1}, {value: 0.5}]}\n" + TWO,
     "recipe.yml: parameters.weight[0].filter: 'layers.(1' is no regular expression: "
     "missing ), unterminated subpattern at character 8."),
    ("NaN as a weight",
     "merge_method: linear\n" + TWO.replace("0.5", ".nan", 1),
     "recipe.yml: models[0].parameters.weight: got nan, a finite number expected."),
    ("density that is no share",
     "merge_method: ties\nbase_model: base\nparameters: {density: 50}\n" + TWO,
     "recipe.yml: parameters.density: got 50, a number from 0 to 1 expected."),
    ("filter that leaves tensors without a value",
     "merge_method: linear\nmodels: [{model: code}]\nparameters: {weight: [{filter: mlp, value: 1}]}\n",
     "recipe.yml: linear needs 'weight' for tensor 'model.embed_tokens.weight' of code, and no filter matches it. "
     "Add an entry without a filter."),
    ("layer_range outside of the model",
     "merge_method: passthrough\nslices:\n- sources: [{model: code, layer_range: [0, 4]}]\n"
     "- sources: [{model: math, layer_range: [2, 6]}]\n",
     "recipe.yml: slices[1]: layer_range [2, 6] of math reaches beyond the model, which has 4 layers (0 to 3)."),
    ("layer_range backwards",
     "merge_method: passthrough\nslices:\n- sources: [{model: code, layer_range: [4, 0]}]\n",
     "recipe.yml: slices[0].sources[0].layer_range: got [4, 0], start < end expected (end is not included)."),
    ("models of different depth",
     "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code}, {model: deeper}]\n",
     "recipe.yml: models of different depth cannot be merged layer by layer: code has 4 layers, deeper has 6 layers. "
     "Choose layers with slices and layer_range."),
    ("models of different shape",
     "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code}, {model: wider}]\n",
     "recipe.yml: tensor 'model.layers.0.mlp.gate_proj.weight' is [32, 16] in code and [48, 16] in wider: "
     "models of different shape cannot be merged."),
    ("two LoRA adapters",
     "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code+one+two}]\n",
     "recipe.yml: models[0].model: got 'code+one+two', 'model+lora' with one adapter expected; "
     "for a directory of this very name write {model: {path: '...'}}."),
    ("an adapter that is a model",
     "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code+base}]\n",
     "base/adapter_config.json: not found. After '+' stands a LoRA adapter, which has adapter_config.json and "
     "adapter_model.safetensors."),
    ("chat template that Jinja cannot parse",
     'merge_method: linear\nchat_template: "{% for m in messages %}\\n{{ m[0 }}"\n' + TWO,
     "recipe.yml: chat_template: is no Jinja template: line 2: unexpected '}', expected ']'"),
    ("tokenizer of a model that is not merged",
     "merge_method: linear\ntokenizer_source: bsae\nbase_model: base\n" + TWO,
     "recipe.yml: tokenizer_source: got 'bsae', which is no model of this recipe; did you mean 'base'?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in RECIPES], ids=[case[0] for case in RECIPES])
def test_a_bad_recipe_ends_in_one_line_with_file_and_key(workplace: Path, text: str, message: str) -> None:
    assert refusal(text) == message


def test_a_recipe_that_is_not_there_is_named(workplace: Path) -> None:
    with pytest.raises(MergefleetError, match=r"^missing\.yml: there is no such file\.$") as caught:
        merge("missing.yml", "out")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (TWO.replace("model: code", "model: ./cdoe"), "models[0].model: ./cdoe: there is no such directory: did"),
        (TWO.replace("model: math", "model: math+./no"), "models[1].model: ./no: there is no such directory"),
        ("base_model: m/llama/zz\n" + TWO, "base_model: m/llama/zz: there is no such directory, nor m/llama."),
        ("tensors: [{filter: norm, copy: ./zz}]\n" + TWO, "tensors[0].copy: ./zz: there is no such directory"),
        (TWO.replace("math", "math/modle.safetensors"),
         "models[1].model: math/modle.safetensors: there is no such file: did you mean math/model.safetensors?"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_named_with_the_recipes_key(workplace: Path, recipe: str, message: str) -> None:
    assert refusal("merge_method: linear\n" + recipe).startswith(f"recipe.yml: {message}")


def _cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


def _without_a_header(file: Path) -> None:
    file.write_bytes(b"\xff" * file.stat().st_size)


def _with_a_tensor_beyond_the_end(file: Path) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"][1])
    header[name]["shape"][0] *= 2
    header[name]["data_offsets"][1] += header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("damage", [_cut_short, _without_a_header, _with_a_tensor_beyond_the_end])
def test_a_truncated_or_corrupt_source_is_named_before_anything_is_written(
    workplace: Path, damage: Callable[[Path], None]
) -> None:
    damage(workplace / "math" / "model.safetensors")
    assert "math/model.safetensors" in refusal("merge_method: linear\n" + TWO)


def test_an_existing_output_is_refused_with_exit_code_3(workplace: Path) -> None:
    Path("out").mkdir()
    Path("out/file").touch()
    assert refusal("merge_method: linear\n" + TWO, exit_code=3).startswith(f"{workplace / 'out'}")


def test_a_full_disk_is_found_out_before_anything_is_written(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def full(path: str | Path) -> os.statvfs_result:
        fields = list(real(path))
        fields[4] = 0  # f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", full)
    message = refusal("merge_method: linear\n" + TWO)
    assert message.startswith(f"{workplace / 'out'}: needs ")
    assert message.endswith(f" bytes, {workplace} has 0 free. Free some or name another disk.")


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80], ids=["NaN", "Inf", "-Inf"])
def test_nan_or_inf_in_a_source_is_counted_by_tensor_and_nothing_is_published(workplace: Path, bits: int) -> None:
    tensors = {name: (code, np.array(stored)) for name, (code, stored) in read_model(workplace / "math").items()}
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name][1].flat[[3, 70, 200]] = bits
    write_file(workplace / "math" / "model.safetensors", tensors)
    Path("recipe.yml").write_text("merge_method: linear\n" + TWO)
    with pytest.raises(MergefleetError) as caught:
        merge("recipe.yml", "out")
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"math: tensor {name!r} holds 3 NaN or Inf; nothing is published. "
        "Repair the source, leave it out, or give --allow-nan to publish them. What is finished stays in out.partial: "
        "--allow-nan goes on from there, other sources or another recipe need "
        f"`mergefleet clean {workplace}/out` first."
    )
    assert not Path("out").exists()


def test_a_resume_with_a_changed_recipe_names_the_keys_that_changed(workplace: Path) -> None:
    Path("recipe.yml").write_text("merge_method: linear\n" + TWO)
    make = Job.prepare("recipe.yml", Path("out"))
    with make:
        pass
    Path("recipe.yml").write_text("merge_method: linear\ndtype: float32\n" + TWO.replace("0.5", "0.25", 1))
    with pytest.raises(InputsChanged) as caught:
        merge("recipe.yml", "out")
    assert 'recipe: dtype: nothing → "float32"; recipe: models[0].parameters.weight: 0.5 → 0.25)' in str(caught.value)


def test_a_count_of_layers_in_words_is_refused(workplace: Path) -> None:
    config = workplace / "code" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": "four"}))
    said = refusal("merge_method: linear\n" + TWO)
    assert said == "code: config.json: num_hidden_layers: got 'four', a whole number expected."


def test_a_tokenizer_source_without_a_tokenizer_is_refused_and_a_donor_without_one_is_warned_of(
    workplace: Path,
) -> None:
    for name in ("base", "code", "math"):
        for file in Path(name).glob("*token*"):
            file.unlink()
    said = refusal("merge_method: linear\ntokenizer_source: code\n" + TWO)
    assert said.startswith("recipe.yml: tokenizer_source: code has no tokenizer file")
    (workplace / "math" / "tokenizer.json").write_text("{}")
    Path("recipe.yml").write_text("merge_method: linear\n" + TWO)
    (warning,) = merge("recipe.yml", "out").warnings
    assert "code has no tokenizer, so none is written; math has one" in warning


def test_a_config_that_counts_other_rows_than_the_embedding_has_is_warned_of(workplace: Path) -> None:
    config = workplace / "code" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 31}))
    Path("recipe.yml").write_text("merge_method: linear\n" + TWO)
    (warning,) = merge("recipe.yml", "out").warnings
    assert warning.startswith("code: config.json says vocab_size = 31, and lm_head.weight has 32 rows")
