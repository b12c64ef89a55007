"""Recipes against the table of methods: what runs, what warns, what is refused by file and key."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.methods import METHODS
from engine.recipes.check import check_parameters
from engine.recipes.reader import parse_recipe

WEIGHTED = [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b", "parameters": {"weight": 0.3}}]


def recipe(method: str = "linear", **changes: Any) -> dict[str, Any]:
    return {"merge_method": method, "models": WEIGHTED} | changes


def sliced(method: str, *slices: list[tuple[str, int, int]], **more: Any) -> dict[str, Any]:
    parts = [
        {"sources": [{"model": model, "layer_range": [start, end]} for model, start, end in sources]}
        for sources in slices
    ]
    return {"merge_method": method, "slices": parts} | more


def check(data: dict[str, Any], *, allow_unknown: bool = False) -> list[str]:
    return check_parameters(parse_recipe(data, origin="r.yml"), METHODS, allow_unknown=allow_unknown)


def refusal(data: dict[str, Any], *, allow_unknown: bool = False) -> str:
    with pytest.raises(RecipeError) as caught:
        check(data, allow_unknown=allow_unknown)
    assert caught.value.facts["file"] == "r.yml"
    return str(caught.value)


# method → its parameters and mergekit 0.1.5's defaults; REQUIRED stands for none. Left out is what has no effect there:
# density and rescale of task_arithmetic, which trims nothing.
REQUIRED = None
GTA = {"normalize": False, "rescale": False, "lambda": 1.0, "int8_mask": False, "weight": REQUIRED, "density": 1.0}
MERGEKIT: dict[str, dict[str, float | None]] = {
    "arcee_fusion": {},
    "breadcrumbs": GTA | {"gamma": 0.01},
    "breadcrumbs_ties": GTA | {"gamma": 0.01},
    "dare_linear": GTA | {"rescale": True},
    "dare_ties": GTA | {"rescale": True},
    "della": GTA | {"normalize": True, "rescale": True, "epsilon": 0.15},
    "della_linear": GTA | {"rescale": True, "epsilon": 0.15},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "linear": {"weight": REQUIRED, "normalize": True},
    "model_stock": {"filter_wise": False},
    "multislerp": {"weight": REQUIRED, "normalize_weights": True, "eps": 1e-8},
    "nearswap": {"t": REQUIRED},
    "nuslerp": {"weight": REQUIRED, "nuslerp_row_wise": False, "nuslerp_flatten": True},
    "passthrough": {"scale": 1.0},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
    "sce": {"int8_mask": False, "select_topk": 1.0},
    "slerp": {"t": REQUIRED},
    "task_arithmetic": {name: GTA[name] for name in ("normalize", "lambda", "int8_mask", "weight")},
    "ties": GTA | {"normalize": True},
}
OUR_PARAMETERS = {"elect_by_count"}


@pytest.mark.parametrize("name", MERGEKIT)
def test_a_method_of_mergekit_has_its_parameters_and_defaults(name: str) -> None:
    ours = {p.name: p.default for p in METHODS[name].parameters.values() if p.name not in OUR_PARAMETERS}
    assert ours == MERGEKIT[name]
    required = {p.name for p in METHODS[name].parameters.values() if p.required}
    assert required == {parameter for parameter, default in MERGEKIT[name].items() if default is REQUIRED}


# methods and models


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    assert refusal(recipe("tise")) == "r.yml: merge_method: unknown method 'tise'; did you mean 'ties'?"


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.base == "required"))
def test_a_method_that_compares_with_a_base_needs_one(name: str) -> None:
    assert refusal(recipe(name)) == f"r.yml: has no 'base_model', which {name} needs; models: a, b."


def test_slerp_names_all_three_models_when_its_base_is_no_source() -> None:
    data = sliced("slerp", [("a", 0, 32), ("b", 0, 32)], base_model="c", parameters={"t": 0.5})
    assert refusal(data) == (
        "r.yml: slices[0]: slerp's base_model must be one of its two sources; got c, sources a and b."
    )
    assert refusal(recipe("slerp", base_model="c", parameters={"t": 0.5})) == (
        "r.yml: slerp's base_model must be one of its two sources; got c, sources a and b."
    )


@pytest.mark.parametrize("models", [["a", "b"], ["b", "a"], ["b"]])
def test_slerp_takes_two_models_one_of_them_the_base_listed_or_not(models: list[str]) -> None:
    data = recipe("slerp", models=[{"model": name} for name in models], base_model="a", parameters={"t": 0.5})
    assert check(data) == []


def test_slerp_refuses_one_model_and_three() -> None:
    alone = recipe("slerp", models=[{"model": "a"}], base_model="a", parameters={"t": 0.5})
    assert refusal(alone) == "r.yml: models: slerp takes exactly 2 models, base_model included; got 1: a."
    three = sliced("slerp", [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)], base_model="a", parameters={"t": 0.5})
    assert refusal(three) == (
        "r.yml: slices[0].sources: slerp takes exactly 2 models, base_model included; got 3: a, b, c."
    )


def test_nuslerp_takes_two_models_besides_its_base() -> None:
    assert check(recipe("nuslerp")) == check(recipe("nuslerp", base_model="c")) == []
    assert refusal(recipe("nuslerp", base_model="a")) == (
        "r.yml: models: nuslerp takes exactly 3 models, base_model included; got 2: a, b."
    )
    three = [*WEIGHTED, {"model": "c", "parameters": {"weight": 1}}]
    assert refusal(recipe("nuslerp", models=three)) == (
        "r.yml: models: nuslerp takes exactly 2 models; got 3: a, b, c."
    )


def test_model_stock_takes_two_models_besides_its_base() -> None:
    assert refusal(recipe("model_stock", models=[{"model": "a"}], base_model="c")) == (
        "r.yml: models: model_stock takes at least 3 models, base_model included; got 2: c, a."
    )


def test_passthrough_takes_exactly_one_source_per_slice() -> None:
    assert check(sliced("passthrough", [("a", 0, 4)], [("b", 2, 4)])) == []
    assert refusal(sliced("passthrough", [("a", 0, 4)], [("a", 2, 4), ("b", 2, 4)])) == (
        "r.yml: slices[1].sources: passthrough takes exactly 1 model; got 2: a, b."
    )
    assert refusal({"merge_method": "passthrough", "models": [{"model": "a"}, {"model": "b"}]}) == (
        "r.yml: models: passthrough takes exactly 1 model; got 2: a, b. To stack layers, use 'slices'."
    )


def test_a_slice_must_say_which_layers_of_the_base_it_compares_with() -> None:
    data = sliced("ties", [("a", 0, 4), ("b", 0, 4)], base_model="c", parameters={"weight": 1})
    assert refusal(data) == (
        "r.yml: slices[0].sources: base_model c is not among them; add it, with the layer_range to compare with. "
        "Sources: a and b."
    )
    twice = sliced("ties", [("c", 0, 4), ("c", 4, 8), ("b", 0, 4)], base_model="c", parameters={"weight": 1})
    assert refusal(twice) == (
        "r.yml: slices[0].sources: base_model c stands there more than once: which layers are the base?"
    )


def test_a_base_alone_is_nothing_to_merge() -> None:
    data = recipe("ties", models=[{"model": "a"}], base_model="a")
    assert refusal(data) == "r.yml: models: ties takes at least 2 models, base_model included; got 1: a."


def test_passthrough_and_linear_may_have_a_base_that_only_lends_its_config() -> None:
    assert check(sliced("passthrough", [("a", 0, 4)], base_model="c")) == []
    assert check(recipe("linear", base_model="c")) == []


# parameters that are required


def test_a_missing_weight_names_model_and_key() -> None:
    models = [*WEIGHTED, {"model": "c"}]
    assert refusal(recipe("ties", models=models, base_model="a")) == (
        "r.yml: models[2]: c has no 'weight', which ties needs, as in parameters: {weight: 0.5}."
    )
    assert refusal(sliced("linear", [("a", 0, 1), ("b", 0, 1)])) == (
        "r.yml: slices[0].sources[0]: a has no 'weight', which linear needs, as in parameters: {weight: 0.5}."
    )


def test_the_base_of_a_delta_method_needs_no_weight_and_in_linear_it_is_a_model_like_any_other() -> None:
    models = [{"model": "c"}, *WEIGHTED]
    assert check(recipe("ties", models=models, base_model="c")) == []
    assert refusal(recipe("linear", models=models, base_model="c")).startswith("r.yml: models[0]: c has no 'weight'")


def test_a_weight_of_slice_or_recipe_holds_for_every_source() -> None:
    data = sliced("linear", [("a", 0, 1), ("b", 0, 1)], parameters={"weight": 1})
    assert check(data) == []
    data = sliced("linear", [("a", 0, 1), ("b", 0, 1)])
    data["slices"][0]["parameters"] = {"weight": [0, 1]}
    assert check(data) == []


def test_slerp_needs_t_in_every_slice() -> None:
    data = sliced("slerp", [("a", 0, 1), ("b", 0, 1)], [("a", 1, 2), ("b", 1, 2)], base_model="a")
    data["slices"][0]["parameters"] = {"t": 0.5}
    assert refusal(data) == "r.yml: slices[1]: has no 't', which slerp needs, as in parameters: {t: 0.5}."


# parameters without effect


def test_a_parameter_of_another_method_gets_one_warning_however_often_it_stands() -> None:
    models = [{"model": name, "parameters": {"weight": 1, "gamma": 0.1}} for name in "abc"]
    assert check(recipe("linear", models=models)) == [
        "r.yml: models[0].parameters.gamma: linear has no parameter 'gamma': ignored. "
        "It belongs to breadcrumbs, breadcrumbs_ties. (So in 2 more places.)"
    ]


def test_int8_mask_is_silent_where_mergekit_has_it() -> None:
    assert check(recipe("ties", base_model="c", parameters={"int8_mask": True})) == []


def test_an_unknown_parameter_is_refused_unless_that_is_allowed() -> None:
    data = recipe("linear", parameters={"wieght": 1})
    assert refusal(data) == (
        "r.yml: parameters.wieght: unknown parameter; did you mean 'weight'? "
        "(--allow-unknown ignores unknown parameters.)"
    )
    assert check(data, allow_unknown=True) == ["r.yml: parameters.wieght: linear has no parameter 'wieght': ignored."]


def test_a_setting_of_the_whole_merge_at_a_model_is_a_warning_because_mergekit_never_looks_there() -> None:
    models = [{"model": "a", "parameters": {"weight": 1, "normalize": False}}, WEIGHTED[1]]
    assert check(recipe("linear", models=models)) == [
        "r.yml: models[0].parameters.normalize: 'normalize' holds for the whole merge, so it is ignored at a model: "
        "move it to the recipe's 'parameters'."
    ]


def test_a_weight_of_the_base_is_a_warning() -> None:
    assert check(recipe("ties", base_model="a")) == [
        "r.yml: models[0].parameters.weight: the base model has no 'weight' of its own: ignored."
    ]


def test_keys_that_mean_nothing_are_warned_about() -> None:
    assert check(recipe("linear", name="stage-1")) == ["r.yml: name: has no meaning here and is ignored."]


# anything at all

junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 10**40), st.floats(), st.text(max_size=4), st.just("base")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["model", "value", "filter", "weight", "path"]), st.integers()), inner
        ),
    ),
    max_leaves=6,
)
HEALTHY: list[dict[str, Any]] = [
    recipe("dare_ties", base_model="c", tokenizer_source="base", dtype="bfloat16", seed=3, chat_template="auto"),
    sliced("slerp", [("a", 0, 2), ("b", 0, 2)], base_model="a", parameters={"t": [{"filter": "mlp", "value": [0, 1]}]}),
    recipe("linear", models=[{"model": {"model": {"path": "a", "revision": "v"}}, "source_id": 2}], tokenizer={}),
]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside `data`."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in inner for place in ((*path, key), *places(value, (*path, key)))]


@given(st.sampled_from(HEALTHY), st.data())
def test_whatever_stands_in_a_recipe_it_is_read_or_refused_by_file_in_one_line(
    healthy: dict[str, Any], data: st.DataObject
) -> None:
    damaged = copy.deepcopy(healthy)
    *way, last = data.draw(st.sampled_from(places(damaged)))
    spot: Any = damaged
    for key in way:
        spot = spot[key]
    spot[last] = data.draw(junk)
    message = "r.yml: fine"
    try:
        check(damaged)
    except RecipeError as error:
        message = str(error)
    assert message.startswith("r.yml: ")
    assert message.isprintable()


# values


@pytest.mark.parametrize("value", [-0.1, 1.5, [0.5, 2], {"filter": "mlp", "value": [0, -1]}])
def test_a_density_outside_0_to_1_is_refused(value: Any) -> None:
    message = refusal(recipe("ties", base_model="c", parameters={"density": value}))
    assert message.startswith("r.yml: parameters.density: got ")
    assert message.endswith(", a number from 0 to 1 expected.")


@given(st.floats(0, 1))
def test_every_density_from_0_to_1_is_fine(value: float) -> None:
    assert check(recipe("ties", base_model="c", parameters={"density": value})) == []


@pytest.mark.parametrize(
    ("method", "name", "value", "allowed"),
    [
        ("karcher", "max_iter", 2.5, "a whole number of at least 0"),
        ("karcher", "tol", -1e-5, "a number of at least 0"),
        ("multislerp", "eps", [0, -1], "a number of at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(method: str, name: str, value: Any, allowed: str) -> None:
    message = refusal({"merge_method": method, "models": WEIGHTED, "parameters": {name: value}})
    assert message.startswith(f"r.yml: parameters.{name}: got ")
    assert message.endswith(f", {allowed} expected.")


def test_a_t_outside_0_to_1_extrapolates_with_a_warning() -> None:
    data = sliced("slerp", [("a", 0, 1), ("b", 0, 1)], base_model="a", parameters={"t": [0, 1.2]})
    assert check(data) == ["r.yml: parameters.t: 1.2 lies outside 0 to 1, so it extrapolates beyond one of the models."]


@pytest.mark.parametrize("value", [0.5, 2, [0, 1], {"value": 0.3}])
def test_a_switch_takes_only_true_and_false(value: Any) -> None:
    message = refusal(recipe("linear", parameters={"normalize": value}))
    assert message.startswith("r.yml: parameters.normalize: got ")
    assert message.endswith(", true or false expected.")


@pytest.mark.parametrize("value", [True, False, 1, 0, [{"filter": "mlp", "value": True}, {"value": False}]])
def test_a_switch_may_be_written_as_a_number_and_chosen_by_name(value: Any) -> None:
    assert check(recipe("linear", parameters={"normalize": value})) == []


def test_true_is_1_as_a_weight_as_it_is_in_mergekit() -> None:
    assert check(recipe("linear", parameters={"weight": True})) == []


@pytest.mark.parametrize("value", [1e300, -1e19, [0.5, 1e30]])
def test_a_value_beyond_what_float32_arithmetic_can_bear_is_refused(value: Any) -> None:
    assert "a number from -1e+18 to 1e+18 expected" in refusal(recipe(parameters={"weight": value}))
