"""Recipes: mergekit's YAML in, a frozen Recipe out, and back."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.recipes.reader import load_recipe, parse_recipe
from engine.recipes.recipe import ModelRef, Module, Recipe, Rule, Slice, SliceSource
from engine.recipes.settings import ByName, Gradient
from engine.recipes.writer import recipe_to_dict

A, B, C = ModelRef("org/a"), ModelRef("org/b"), ModelRef("org/c")


def linear(**changes: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": "org/a"}, {"model": "org/b"}]} | changes


def refusal(data: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, origin="r.yml")
    return str(caught.value)


# round trip

paths = st.one_of(
    st.sampled_from(["org/a", "./a", "/m/b@home", "/m/a+b", "base", "x@y", "x"]),
    st.text(min_size=1, max_size=6).filter(str.isprintable),
)
refs = st.builds(ModelRef, paths, st.one_of(st.none(), st.sampled_from(["main", "v1.0", "refs/pr/1"])))
numbers = st.floats(-2, 2)
choices = st.one_of(numbers, st.booleans(), st.lists(numbers, min_size=1, max_size=3).map(lambda v: Gradient(tuple(v))))
filters = st.lists(st.tuples(st.one_of(st.none(), st.sampled_from(["mlp", "*"])), choices), min_size=1, max_size=2)
parameters = st.dictionaries(
    st.sampled_from(["weight", "density", "t"]), st.one_of(choices, filters.map(lambda f: ByName(tuple(f)))), max_size=2
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    models = draw(st.lists(refs, min_size=1, max_size=4, unique_by=str))
    modules: tuple[Module, ...] = ()
    slices: tuple[Slice, ...] = ()
    if draw(st.booleans()):
        slices = draw(parts_of(models))
    else:
        keys = draw(st.lists(st.sampled_from(["text_decoder", "vision_tower", "a.b"]), min_size=1, unique=True))
        modules = tuple(Module(name, draw(parts_of(models)), draw(parameters)) for name in keys)
    every = [part for module in (*modules, Module("", slices)) for part in module.slices]
    named = list(dict.fromkeys(source.model for part in every for source in part.sources))
    base = draw(st.one_of(st.none(), st.sampled_from(named), refs.filter(lambda ref: str(ref) not in map(str, named))))
    everyone = [*named, *([base] if base else [])]
    rules = st.one_of(
        st.builds(Rule, st.sampled_from(["mlp", "re:q_.*$"]), st.just("copy"), st.sampled_from([*everyone, C])),
        st.builds(Rule, st.just("*"), st.sampled_from(["keep"] if base else ["exclude", "exclude_anyway"])),
    )
    return Recipe(
        method=draw(st.sampled_from(["linear", "ties", "no_such_method"])),
        slices=slices,
        modules=modules,
        rules=tuple(draw(st.lists(rules, max_size=2))),
        base_model=base,
        parameters=draw(parameters),
        dtype=draw(st.sampled_from([None, "bfloat16", "float64"])),
        out_dtype=draw(st.sampled_from([None, "float16"])),
        tokenizer_source=draw(st.sampled_from([None, "base", *(str(r) for r in everyone if str(r) != "union")])),
        chat_template=draw(st.sampled_from([None, "auto", "{{ messages[0].content }}"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        source_ids=dict(zip(everyone, draw(st.permutations(range(7))), strict=False)) if draw(st.booleans()) else {},
    )


@st.composite
def parts_of(draw: st.DrawFn, models: list[ModelRef]) -> tuple[Slice, ...]:
    if draw(st.booleans()):
        return (Slice(tuple(SliceSource(ref, None, draw(parameters)) for ref in models)),)
    return tuple(draw(slice_of(models)) for _ in range(draw(st.integers(1, 3))))


@st.composite
def slice_of(draw: st.DrawFn, models: list[ModelRef]) -> Slice:
    length = draw(st.integers(1, 4))
    members = draw(st.lists(st.tuples(st.sampled_from(models), st.integers(0, 3)), min_size=1, max_size=3, unique=True))
    sources = tuple(SliceSource(ref, (start, start + length), draw(parameters)) for ref, start in members)
    base = draw(st.sampled_from([None, *(ref for ref, _ in members)]))
    return Slice(sources, draw(parameters), base)


@given(recipes())
def test_a_recipe_reads_back_from_its_own_yaml(recipe: Recipe) -> None:
    text = yaml.safe_dump(recipe_to_dict(recipe))
    again = parse_recipe(yaml.safe_load(text))
    assert again == recipe
    assert again.tokenizer_model == recipe.tokenizer_model
    assert again.models == recipe.models


@given(recipes())
def test_a_recipe_survives_pickling_as_it_must_to_reach_a_worker(recipe: Recipe) -> None:
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # noqa: S301


@given(recipes())
def test_source_ids_are_distinct_and_cover_exactly_the_models_named(recipe: Recipe) -> None:
    named = {source.model for part in recipe.all_slices for source in part.sources} | {recipe.base_model}
    copied = {rule.model for rule in recipe.rules}
    assert set(recipe.source_ids) == (named | copied) - {None}
    assert len(set(recipe.source_ids.values())) == len(recipe.source_ids)


# what is read


def test_models_become_one_slice_of_whole_models() -> None:
    recipe = parse_recipe(
        {
            "merge_method": "ties",
            "base_model": "org/a@v1",
            "models": [
                {"model": "org/a@v1", "parameters": None},
                {"model": "org/b", "parameters": {"weight": 0.5, "density": [0, 1]}},
            ],
            "parameters": {"normalize": True, "lambda": [{"filter": "mlp", "value": 2}, {"value": 1}]},
            "dtype": "torch.bfloat16",
            "out_dtype": "float16",
        }
    )
    base = ModelRef("org/a", "v1")
    assert recipe == Recipe(
        method="ties",
        base_model=base,
        slices=(Slice((SliceSource(base), SliceSource(B, None, {"weight": 0.5, "density": Gradient((0.0, 1.0))}))),),
        parameters={"normalize": True, "lambda": ByName((("mlp", 2.0), (None, 1.0)))},
        dtype="bfloat16",
        out_dtype="float16",
    )
    assert recipe.parts[0].whole_models
    assert recipe.source_ids == {base: 0, B: 1}


def test_slices_keep_ranges_parameters_and_a_base_of_their_own() -> None:
    recipe = parse_recipe(
        {
            "merge_method": "slerp",
            "slices": [
                {
                    "sources": [
                        {"model": "org/a", "layer_range": [0, 8]},
                        {"model": "org/b", "layer_range": [8, 16], "parameters": {"weight": 1}},
                    ],
                    "base_model": "org/b",
                    "parameters": {"t": 0.3},
                },
            ],
        }
    )
    source = SliceSource(B, (8, 16), {"weight": 1.0})
    assert recipe.slices == (Slice((SliceSource(A, (0, 8)), source), {"t": 0.3}, B),)
    assert not recipe.parts[0].whole_models


def test_a_base_that_is_not_listed_is_no_source_and_is_numbered_last() -> None:
    recipe = parse_recipe(linear(base_model="org/c"))
    assert [source.model for source in recipe.slices[0].sources] == [A, B]
    assert recipe.source_ids == {A: 0, B: 1, C: 2}


def test_source_ids_that_are_given_stay_and_the_others_get_the_smallest_free_ones() -> None:
    models = [{"model": "org/a"}, {"model": "org/b", "source_id": 0}]
    assert parse_recipe(linear(models=models, base_model="org/c")).source_ids == {A: 1, B: 0, C: 2}
    numbered = parse_recipe(linear(models=models, base_model="org/c", base_source_id=9))
    assert numbered.source_ids == {A: 1, B: 0, C: 9}
    assert numbered.models == (B, A, C)


def test_a_source_keeps_its_id_when_another_is_dropped_from_the_recipe() -> None:
    whole = parse_recipe(linear(models=[{"model": "org/a"}, {"model": "org/b"}, {"model": "org/c"}]))
    without_b = Recipe(
        method="linear",
        slices=(Slice((SliceSource(A), SliceSource(C))),),
        source_ids=whole.source_ids,
    )
    assert without_b.source_ids == {A: 0, C: 2}
    assert parse_recipe(recipe_to_dict(without_b)) == without_b


@pytest.mark.parametrize(
    ("raw", "ref"),
    [
        ("org/name", ModelRef("org/name")),
        ("org/name@v1.0", ModelRef("org/name", "v1.0")),
        ("./merged@home", ModelRef("./merged@home")),
        ("/data/merged@home", ModelRef("/data/merged@home")),
        ({"model": {"path": "/data/a+b"}}, ModelRef("/data/a+b")),
        ({"model": {"path": "org/name", "revision": "v1"}, "lora": None}, ModelRef("org/name", "v1")),
        ("org/name@v1+org/lora@main", ModelRef("org/name", "v1", ModelRef("org/lora", "main"))),
        ("./a@home+/data/lora@2", ModelRef("./a@home", None, ModelRef("/data/lora@2"))),
        (
            {"model": {"path": "org/name"}, "lora": "org/lora@v2"},
            ModelRef("org/name", None, ModelRef("org/lora", "v2")),
        ),
        ({"model": {"path": "a+b"}, "lora": {"path": "./l+m"}}, ModelRef("a+b", None, ModelRef("./l+m"))),
        (
            {"model": {"path": "org/name"}, "lora": {"path": "org/lora", "revision": "v2"}},
            ModelRef("org/name", None, ModelRef("org/lora", "v2")),
        ),
    ],
)
def test_models_are_named_by_text_or_by_mergekits_mapping(raw: object, ref: ModelRef) -> None:
    recipe = parse_recipe(linear(models=[{"model": raw}]))
    assert recipe.models == (ref,)
    assert parse_recipe(recipe_to_dict(recipe)) == recipe


def test_config_and_tokenizer_come_from_the_base_or_the_first_source_unless_named() -> None:
    assert parse_recipe(linear()).donor == A
    assert parse_recipe(linear(base_model="org/c")).donor == C
    assert parse_recipe(linear(base_model="org/c")).tokenizer_model == C
    assert parse_recipe(linear(base_model="org/c", tokenizer_source="base")).tokenizer_model == C
    assert parse_recipe(linear(tokenizer_source="org/b")).tokenizer_model == B
    assert parse_recipe(linear(tokenizer={"source": "org/b"})).tokenizer_model == B
    for union in ({"tokenizer_source": "union"}, {"tokenizer": {}}, {"tokenizer": {"source": "union"}}):
        recipe = parse_recipe(linear(base_model="org/c", **union))
        assert (recipe.tokenizer_source, recipe.tokenizer_model) == ("union", C)
        assert parse_recipe(recipe_to_dict(recipe)) == recipe
    called_base = parse_recipe(linear(models=[{"model": "base"}], base_model="org/c", tokenizer_source="base"))
    assert called_base.tokenizer_model == C


@pytest.mark.parametrize(
    "key", ["base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "chat_template", "seed", "slices"]
)
def test_a_key_without_a_value_means_what_its_absence_means(key: str) -> None:
    assert parse_recipe(linear(**{key: None})) == parse_recipe(linear())


def test_modules_have_no_order_and_the_text_module_gives_config_and_tokenizer() -> None:
    parts = {
        "vision_tower": {"models": [{"model": "org/b"}]},
        "text_decoder": {
            "slices": [{"sources": [{"model": "org/a", "layer_range": [0, 2]}]}],
            "parameters": {"scale": 2},
        },
    }
    recipe = parse_recipe({"merge_method": "passthrough", "modules": parts})
    turned = parse_recipe({"merge_method": "passthrough", "modules": dict(reversed(parts.items()))})
    assert recipe == turned
    assert recipe.source_ids == turned.source_ids
    assert recipe.modules[0] == Module("text_decoder", (Slice((SliceSource(A, (0, 2)),)),), {"scale": 2.0})
    assert recipe.donor == recipe.tokenizer_model == A
    alone = parse_recipe(
        {"merge_method": "linear", "modules": {"b": parts["vision_tower"], "c": {"models": [{"model": "org/a"}]}}}
    )
    assert alone.donor == B


def test_rules_for_tensors_are_read_in_order_and_a_model_they_copy_from_is_numbered_last() -> None:
    rules = [
        {"filter": "lm_head", "keep": "base"},
        {"filter": "re:layers\\.0\\.", "copy": "org/c"},
        {"filter": "*", "exclude": True},
        {"filter": "mlp", "exclude": "anyway"},
    ]
    recipe = parse_recipe(linear(base_model="org/base", tensors=rules))
    assert recipe.rules == (
        Rule("lm_head", "keep"),
        Rule("re:layers\\.0\\.", "copy", C),
        Rule("*", "exclude"),
        Rule("mlp", "exclude_anyway"),
    )
    assert recipe.source_ids == {A: 0, B: 1, ModelRef("org/base"): 2, C: 3}
    assert recipe_to_dict(recipe)["tensors"] == rules


def test_keys_that_mergekit_accepts_and_never_uses_are_noted() -> None:
    data = {
        "merge_method": "passthrough",
        "name": "stage-1",
        "slices": [
            {
                "sources": [
                    {
                        "model": {"model": {"path": "org/a"}, "override_architecture": "LlamaForCausalLM"},
                        "layer_range": [0, 1],
                    }
                ],
                "residual_weight": 0.5,
            }
        ],
    }
    assert parse_recipe(data, origin="r.yml").ignored == (
        "r.yml: slices[0].sources[0].model.override_architecture",
        "r.yml: slices[0].residual_weight",
        "r.yml: name",
    )


# what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paramters": {}}, "paramters: unknown key; did you mean 'parameters'?"),
        ({"dtpye": "bfloat16"}, "dtpye: unknown key; did you mean 'dtype'?"),
        ({"models": [{"model": "a"}, {"model": "b", "paramters": {}}]},
         "models[1].paramters: unknown key; did you mean 'parameters'?"),
        ({"models": [{"model": "a", "layer_range": [0, 1]}]},
         "models[0].layer_range: unknown key; known: importance, model, parameters, source_id."),
        ({"models": []}, "models: got an empty list, a list of models expected."),
        ({"models": "org/a"}, "models: got 'org/a', a list of models expected."),
        ({"models": ["org/a"]},
         "models[0]: got 'org/a', a mapping with the keys importance, model, parameters, source_id expected."),
        ({"models": [{"parameters": {"weight": 1}}]}, "models[0]: has no 'model'."),
        ({"models": [{"model": "a\u200bb"}]},
         "models[0].model: got 'a\\u200bb', which holds a character that cannot be printed."),
        ({"para\nmeters": {}}, "'para\\nmeters': unknown key; did you mean 'parameters'?"),
        ({"models": [{"model": 7}]}, "models[0].model: got 7, text expected: write it in quotes."),
        ({"models": [{"model": "a"}, {"model": "b"}, {"model": "a"}]}, "models[2]: a is listed already, as item 0."),
        ({"models": [{"model": "a+b+c"}]},
         "models[0].model: got 'a+b+c', 'model+lora' with one adapter expected; "
         "for a directory of this very name write {model: {path: '...'}}."),
        ({"models": [{"model": "a+"}]},
         "models[0].model: got 'a+', 'model+lora' with one adapter expected; "
         "for a directory of this very name write {model: {path: '...'}}."),
        ({"models": [{"model": {"model": {"path": "a"}, "lora": {"place": "l"}}}]},
         "models[0].model.lora.place: unknown key; known: path, revision."),
        ({"models": [{"model": "a@b@c"}]},
         "models[0].model: got 'a@b@c', 'model' or 'model@revision' expected; "
         "for a directory of this very name write {model: {path: '...'}}."),
        ({"models": [{"model": "a", "source_id": 1}, {"model": "b", "source_id": 1}]},
         "models[1].source_id: got 1 for b, which a has already; source ids must differ."),
        ({"models": [{"model": "a", "source_id": -1}]},
         "models[0].source_id: got -1, a whole number from 0 to 2147483647 expected."),
        ({"models": [{"model": "a", "source_id": True}]},
         "models[0].source_id: got True, a whole number from 0 to 2147483647 expected."),
        ({"models": [{"model": "a"}], "base_model": "a", "base_source_id": 2},
         "base_source_id: is for a base_model that is not listed; give source_id there."),
        ({"models": None, "modules": {}},
         "modules: got nothing, a mapping of names (text_decoder, vision_tower, ...) expected."),
        ({"models": None, "modules": ["default"]},
         "modules: got a list, a mapping of names (text_decoder, vision_tower, ...) expected."),
        ({"models": None, "modules": {"default": {}}},
         "modules.default: got none; exactly one of 'models' and 'slices' expected."),
        ({"models": None, "modules": {"default": {"models": [{"model": "a"}], "base_model": "a"}}},
         "modules.default.base_model: unknown key; did you mean 'models'?"),
        ({"tensors": {"filter": "mlp"}}, "tensors: got a mapping, a list of rules expected."),
        ({"tensors": [{"keep": "base"}]}, "tensors[0]: got keep; a filter and one of keep, copy, exclude expected."),
        ({"tensors": [{"filter": "mlp"}]}, "tensors[0]: got filter; a filter and one of keep, copy, exclude expected."),
        ({"tensors": [{"filter": "mlp", "keep": "base", "exclude": True}]},
         "tensors[0]: got filter, keep, exclude; a filter and one of keep, copy, exclude expected."),
        ({"tensors": [{"filter": "mlp", "keep": "base"}]},
         "tensors[0].keep: the recipe has no base_model to keep tensors of."),
        ({"tensors": [{"filter": "mlp", "keep": "org/a"}]},
         "tensors[0].keep: got 'org/a', 'base' expected; for another model's tensor write copy."),
        ({"tensors": [{"filter": "mlp", "exclude": 1}]}, "tensors[0].exclude: got 1, true or 'anyway' expected."),
        ({"tensors": [{"filter": "re:(", "exclude": True}]},
         "tensors[0].filter: '(' is no regular expression: missing ), unterminated subpattern at character 1."),
        ({"dtype": "bf16"}, "dtype: unknown dtype 'bf16'; did you mean 'bfloat16'?"),
        ({"dtype": "bfloat"}, "dtype: unknown dtype 'bfloat'; did you mean 'bfloat16'?"),
        ({"out_dtype": "int64"},
         "out_dtype: got 'int64', which holds no weights; bfloat16, float16, float32, float64 expected."),
        ({"seed": 0.5}, f"seed: got 0.5, a whole number from 0 to {2**63 - 1} expected."),
        ({"merge_method": ["linear"]}, "merge_method: got a list, text expected."),
        ({"tokenizer_source": "org/aa"},
         "tokenizer_source: got 'org/aa', which is no model of this recipe; did you mean 'org/a'?"),
        ({"tokenizer": {"source": "base", "tokens": {"x": {}}}},
         "tokenizer.tokens: choosing the rows of single tokens is not supported yet; leave it out."),
        ({"tokenizer": {"pad_to_multiple_of": 64}},
         "tokenizer.pad_to_multiple_of: padding is not supported yet; leave it out."),
        ({"chat_template": "chatlm"},
         "chat_template: got 'chatlm', a Jinja template or a name expected; did you mean 'chatml'?"),
        ({"parameters": [0.5]}, "parameters: got a list, a mapping of names to values expected."),
        ({"parameters": {"weight": "0,5"}}, "parameters.weight: got '0,5', a number expected: write 0.5"),
        ({"parameters": {"weight": {"org/a": 1, "org/bb": 0.5}}},
         "parameters.weight.org/bb: is no model of this recipe; did you mean 'org/b'?"),
        ({"parameters": {"weight": {"org/a": 1, "org/b": 0.5}}},
         "parameters.weight: got a mapping; write each value at its model, under models[...].parameters."),
        ({"parameters": {7: 1}}, "parameters.7: got 7, text expected: write it in quotes."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_file_and_key(changes: dict[str, Any], message: str) -> None:
    assert refusal(linear(**changes)) == f"r.yml: {message}"


def sliced(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"merge_method": "slerp", "slices": [{"sources": list(sources)} | more]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sliced({"model": "a"}),
         "sources[0].layer_range: is missing; every source of a slice needs layer_range: [start, end]."),
        (sliced({"model": "a", "layer_range": [3, 3]}),
         "sources[0].layer_range: got [3, 3], start < end expected (end is not included)."),
        (sliced({"model": "a", "layer_range": [0.5, 3]}),
         "sources[0].layer_range[0]: got 0.5, a whole number from 0 to 2147483647 expected."),
        (sliced({"model": "a", "layer_range": 8}),
         "sources[0].layer_range: got 8, [start, end] expected (end is not included)."),
        (sliced({"model": "a", "layer_range": [0, 4]}, {"model": "b", "layer_range": [0, 5]}),
         "sources[1].layer_range: got 5 layers, 4 expected as in sources[0]: lengths must be equal."),
        (sliced({"model": "a", "layer_range": [0, 4]}, {"model": "a", "layer_range": [0, 4]}),
         "sources[1]: a is listed already, as item 0."),
        (sliced({"model": "a", "layer_range": [0, 4]}, base_model="b"),
         "base_model: got b, which is not among the sources of this slice."),
        (sliced({"model": "a", "layer_range": [0, 4]}, sorces=[]), "sorces: unknown key; did you mean 'sources'?"),
        (sliced(), "sources: got an empty list, a list of sources expected."),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_are_refused(data: dict[str, Any], message: str) -> None:
    assert refusal(data) == f"r.yml: slices[0].{message}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "got an empty list, a mapping with the keys base_model, "),
        ({"merge_method": "linear"}, "got none; exactly one of 'models', 'slices' and 'modules' expected."),
        ({"merge_method": "linear", "models": [{"model": "a"}], "slices": [1]},
         "got models and slices; exactly one of 'models', 'slices' and 'modules' expected."),
        ({"models": [{"model": "a"}]}, "has no 'merge_method'."),
        (linear(tokenizer_source="base", tokenizer={"source": "base"}),
         "has both 'tokenizer_source' and 'tokenizer': leave one out."),
    ],
)  # fmt: skip
def test_recipes_without_their_main_parts_are_refused(data: object, message: str) -> None:
    assert refusal(data).startswith(f"r.yml: {message}")


def test_two_models_cannot_share_a_source_id_in_python_either() -> None:
    with pytest.raises(RecipeError, match="source_id 3 is given to both org/a and org/b"):
        Recipe("linear", (Slice((SliceSource(A), SliceSource(B))),), source_ids={A: 3, B: 3})


def test_errors_of_a_file_begin_with_its_path_and_carry_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text("merge_method: linear\nmodels:\n- model: org/a\n- model: org/b\n  paramters: {weight: 1}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"{path}: models[1].paramters: unknown key; did you mean 'parameters'?"
    assert caught.value.facts == {"file": str(path), "key": "models[1].paramters"}


# every example we ship

SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "recipes").glob("*.yml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(recipe_to_dict(recipe)) == recipe


def test_each_kind_of_recipe_has_a_shipped_example() -> None:
    assert {load_recipe(path).method for path in SHIPPED} >= {
        "linear", "slerp", "ties", "dare_ties", "task_arithmetic", "passthrough",
    }  # fmt: skip
