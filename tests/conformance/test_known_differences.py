"""Where mergekit 0.1.5 is wrong or refuses, and what mergefleet does instead (defects D… of the reference)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from conformance import load
from conformance_families import Merges
from element_oracles import arcee_fusion
from spherical_oracles import karcher

CASES = {case["name"][:3]: case for case in yaml.safe_load((Path(__file__).parent / "differences.yaml").read_text())}


def test_the_head_comes_from_all_sources_of_the_last_slice_where_mergekit_takes_the_first(merges: Merges) -> None:
    case = CASES["D06"]
    a, b = (load(merges.families["f32"][name]).values["lm_head.weight"] for name in ("a", "b"))
    assert np.array_equal(load(merges.mergekit[case["name"]]).values["lm_head.weight"], a)
    ours = load(merges.mergefleet(case)).values["lm_head.weight"]
    np.testing.assert_allclose(ours, (a + b) / 2, rtol=1e-6)


def test_two_layers_of_one_model_are_averaged_where_mergekit_refuses(merges: Merges) -> None:
    case = CASES["D07"]
    assert "Duplicate" in merges.errors[case["name"]]
    source, ours = load(merges.families["f32"]["a"]).values, load(merges.mergefleet(case)).values
    name = "model.layers.{}.mlp.up_proj.weight"
    np.testing.assert_allclose(ours[name.format(0)], (source[name.format(0)] + source[name.format(2)]) / 2, rtol=1e-6)


def test_a_base_that_is_not_listed_is_averaged_in_by_mergekits_karcher_and_not_by_ours(merges: Merges) -> None:
    case = CASES["D09"]
    name = "model.layers.1.mlp.up_proj.weight"
    base, a, b = (load(merges.families["f32"][model]).values[name] for model in ("unrelated", "a", "b"))
    theirs, ours = (load(out).values[name] for out in (merges.mergekit[case["name"]], merges.mergefleet(case)))
    np.testing.assert_allclose(theirs, karcher([a, b, base]).value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours, karcher([a, b]).value, rtol=1e-4, atol=1e-6)


def test_multislerp_of_tensors_that_nobody_trained_gives_the_base_where_mergekit_fails(merges: Merges) -> None:
    case = CASES["D47"]
    assert "weighted sum of the input tensors is zero" in merges.errors[case["name"]]
    base, ours = load(merges.families["copies"]["base"]).values, load(merges.mergefleet(case)).values
    assert all(np.array_equal(ours[name], values) for name, values in base.items())


def test_short_tensors_keep_their_karcher_mean_where_mergekit_writes_zeros(merges: Merges) -> None:
    case = CASES["D48"]
    source, ours = load(merges.families["copies"]["a"]).values, load(merges.mergefleet(case)).values
    assert not any(values.any() for values in load(merges.mergekit[case["name"]]).values.values())
    assert all(np.array_equal(ours[name], values) for name, values in source.items())


def test_vocabularies_of_two_heights_are_merged_where_mergekit_refuses(merges: Merges) -> None:
    case = CASES["D49"]
    assert "Tensor size mismatch for lm_head.weight" in merges.errors[case["name"]]
    base, a = (load(merges.families["padded"][name]).values["lm_head.weight"] for name in ("base", "a"))
    ours = load(merges.mergefleet(case)).values["lm_head.weight"]
    np.testing.assert_allclose(ours, np.concatenate([(base[:120] + a) / 2, base[120:]]), rtol=1e-6)


def test_a_union_of_equal_vocabularies_keeps_padding_and_generation_settings_where_mergekit_drops_both(
    merges: Merges,
) -> None:
    case = CASES["D50"]
    directories = merges.mergekit[case["name"]], merges.mergefleet(case)
    theirs, ours = (load(out).values["lm_head.weight"] for out in directories)
    assert (theirs.shape, ours.shape) == ((64, 64), (128, 64))
    np.testing.assert_allclose(ours[:64], theirs, rtol=1e-6)
    assert [(out / "generation_config.json").exists() for out in directories] == [False, True]


def test_an_untied_output_says_so_where_mergekit_keeps_the_flag_of_the_base(merges: Merges) -> None:
    case = CASES["D24"]
    theirs, ours = merges.mergekit[case["name"]], merges.mergefleet(case)
    assert "lm_head.weight" in load(theirs).values
    assert _tied(theirs)
    assert "lm_head.weight" in load(ours).values
    assert not _tied(ours)


def test_arcee_fusion_writes_the_dtype_of_the_recipe_where_mergekit_writes_float32(merges: Merges) -> None:
    case = CASES["D16"]
    assert set(load(merges.mergekit[case["name"]]).dtypes.values()) == {"F32"}
    assert set(load(merges.mergefleet(case)).dtypes.values()) == {"BF16"}


def test_arcee_fusion_finds_the_important_changes_of_a_fine_tune_where_mergekits_divergence_is_noise(
    merges: Merges,
) -> None:
    case = CASES["D46"]
    base, tune = (load(merges.families["f32"][name]).values for name in ("base", "a"))
    theirs, ours = load(merges.mergekit[case["name"]]).values, load(merges.mergefleet(case)).values
    wrong = {"theirs": 0, "ours": 0}
    for name, expected in ((name, arcee_fusion(base[name], tune[name])) for name in base):
        for whose, made in (("theirs", theirs), ("ours", ours)):
            unlike = np.abs(made[name] - expected.value) > 1e-6 * np.abs(base[name])
            wrong[whose] += int((unlike & ~expected.contested).sum())
    assert wrong["ours"] == 0
    assert wrong["theirs"] > 10_000  # of 164 416 elements


def _tied(directory: Path) -> bool:
    return bool(json.loads((directory / "config.json").read_text())["tie_word_embeddings"])
