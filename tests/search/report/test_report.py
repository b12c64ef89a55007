"""The report says what the data says, in one page that needs nothing from outside."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from made_results import HOLDOUT, LAYERS, TASKS, make_campaign, make_results
from scipy.stats import binomtest

from search.matrix import Matrix
from search.ports import BoundKept, FrontMember
from search.report.candidates import recipe_text, top_rows
from search.report.report import headline, margin_text, render_html, render_text, report_data, write_html
from search.report.tables import comparison_table, interval_of_mean, mean_and_interval, skill_table, tables
from search.report.text import bars
from search.report.weights import heat_maps
from search.results import Results


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return render_html(results)


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)


def test_the_verdict_is_the_first_thing_on_the_page_and_in_the_terminal(results, page):
    sentence = f"Candidate {results.winner} (cma {results.winner}) beats all 11 comparators"
    assert render_text(results).startswith(sentence + "\n")
    body = without_scripts(page).split("<body", 1)[1]
    assert re.search(r"<h1>(.*?)</h1>", body)[1] == sentence
    assert body.index("<h1>") < body.index("<table")
    assert '<body class="won">' in page


def test_a_winner_that_is_not_shown_to_win_is_called_that(page):
    results = make_results(significant=False)
    assert headline(results).startswith("No significant winner: ")
    assert '<body class="unproven">' in render_html(results)
    assert '<td class="no">no</td>' in render_html(results)
    assert '<td class="no">no</td>' not in page


def test_scores_below_0_are_in_order_too_and_0_is_one(results):
    scores = {3: (-2.0, -9.0), 4: (0.0, -9.0), 5: (None, -1.5), 6: (None, 0.0), 7: (-0.5, -9.0)}
    rows = [replace(row, selection_score=None, estimate=None) for row in results.candidates]
    for number, (selection, estimate) in scores.items():
        rows[number] = replace(rows[number], selection_score=selection, estimate=estimate)
    assert [row.number for row in top_rows(replace(results, candidates=tuple(rows)))] == [4, 7, 3, 6, 5]


def test_the_page_fetches_nothing_and_carries_plotly_once(page):
    assert page.count("* plotly.js v") == 1
    assert not re.search(r"""<(script|img|iframe|source)\b[^>]*\bsrc=""", page)
    assert "<link" not in page
    assert "@import" not in page
    assert "http" not in without_scripts(page)


def test_every_table_and_figure_is_on_the_page(results, page):
    for table in tables(results):
        assert f"<h2>{table.title}</h2>" in page
    for title in ("Weight by layer and source", "Optimisation history", "Parallel coordinates, stage layers"):
        assert f"<h3>{title}</h3>" in page
    assert page.count('class="plotly-graph-div"') == 5


def test_names_from_outside_cannot_put_markup_into_the_page(results):
    evil = "<script>alert(1)</script>"
    rows = [replace(row, label=evil, recipe={**row.recipe, "name": evil}) for row in results.candidates]
    verdict = replace(results.verdict, label=evil, notes=(evil,))
    campaign = make_campaign(base_model=evil, sources=[{"model": f"family/{t}", "name": evil + t} for t in TASKS])
    made = render_html(replace(results, candidates=tuple(rows), verdict=verdict, campaign=campaign))
    assert "<script>alert" not in made
    assert "&lt;script&gt;alert(1)" in made


def test_comparisons_stand_in_order_of_their_lower_bound_with_the_numbers_of_the_verdict(results):
    table = comparison_table(results)
    by_label = {found.label: found for found in results.verdict.comparisons}
    bounds = [by_label[row[0]].lower for row in table.rows]
    assert bounds == sorted(bounds)
    assert len(table.rows) == len(by_label)
    for row in table.rows:
        found = by_label[row[0]]
        assert row[2:4] == (f"{found.score:.3f}", f"{found.difference:+.3f}")
        assert (row[1] == "yes") == found.beaten


def test_the_tile_says_what_the_margin_that_it_shows_is(results):
    least = min(results.verdict.comparisons, key=lambda found: found.lower)
    facts = {
        "the least sure of its margins": (0.02, 0.01),
        "not shown to be better": (0.02, -0.01),
        "which is ahead": (-0.02, -0.04),
        "which is as good": (0.0, -0.04),
    }
    for said, (difference, lower) in facts.items():
        found = replace(least, difference=difference, lower=lower)
        assert margin_text(found).endswith(said)
        assert least.label in margin_text(found)
    assert f"<span>{margin_text(least)}</span>" in render_html(results)


def test_a_comparator_without_scores_is_listed_as_not_beaten(results):
    table = comparison_table(replace(results, verdict=replace(results.verdict, unscored=("ties",))))
    assert table.rows[-1][0] == "ties"
    assert table.rows[-1][1] == "no"


def test_skills_are_means_over_holdout_items_with_wilsons_interval(results):
    table = skill_table(results)
    assert table.rows[0][0] == results.candidate(results.winner).label
    mine = [e.score for e in results.item_scores if e.candidate == results.winner and e.task == TASKS[1]]
    assert len(mine) == HOLDOUT
    assert table.rows[0][2] == with_wilsons(statistics.fmean(mine), mine)
    assert len(table.rows) == 12


def wilsons(scores: Sequence[float]) -> tuple[float, float]:
    found = binomtest(int(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def with_wilsons(mean: float, scores: Sequence[float]) -> str:
    low, high = wilsons(scores)
    return f"{mean:.3f} {low:.3f}–{high:.3f}".replace(" 0.", " .").replace("–0.", "–.")


def test_a_model_that_has_all_items_right_shows_an_interval_that_ends_at_1(results):
    """Half of the width of such an interval, to both sides of the mean, would leave what a share can be."""
    right = [replace(e, score=1.0) if e.candidate == results.winner else e for e in results.item_scores]
    table = skill_table(replace(results, item_scores=Matrix.of(right)))
    assert table.rows[0][1:-1] == (with_wilsons(1.0, [1.0] * HOLDOUT),) * len(TASKS)
    assert table.rows[0][1].endswith("–1.000")


def test_the_interval_of_a_mean_over_tasks_adds_up_below_and_above_it():
    one = {"a": (0.9, (0.7, 0.95))}
    assert interval_of_mean(one, {"a": 0.25}) == pytest.approx((0.7, 0.95))
    two = {**one, "b": (0.5, (0.4, 0.6))}
    below, above = math.hypot(3 * 0.2, 0.1) / 4, math.hypot(3 * 0.05, 0.1) / 4
    assert interval_of_mean(two, {"a": 3, "b": 1}) == pytest.approx((0.8 - below, 0.8 + above))


@pytest.mark.parametrize(("right", "items"), [(0, 1), (8, 8), (29, 30), (1, 400)])
def test_an_interval_of_right_and_wrong_is_scipys_and_leaves_neither_0_nor_1(right: int, items: int) -> None:
    mean, (low, high) = mean_and_interval([1.0] * right + [0.0] * (items - right))
    expected = binomtest(right, items).proportion_ci(method="wilson")
    assert mean == right / items
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low < high <= 1


def test_an_interval_of_graded_scores_is_the_normal_one() -> None:
    scores = [-2.5, -1.0, 0.25, -4.0]
    half = 1.959964 * statistics.stdev(scores) / 2
    assert mean_and_interval(scores) == (
        pytest.approx(-1.8125),
        (pytest.approx(-1.8125 - half), pytest.approx(-1.8125 + half)),
    )


def test_means_of_skills_are_no_scalar_of_the_objectives(results):
    """What a candidate is worth, of score and costs together, is no mean of its skills."""
    worth = [replace(row, holdout_score=row.holdout_score and row.holdout_score - 0.6) for row in results.candidates]
    objectives = [{"of": "score", "weight": 1}, {"of": "parameters", "weight": 1e-9}]
    weights = {"letters": 3.0, "numerals": 1.0, "plurals": 0.5}
    splits = {"search": "s", "selection": "v", "holdout": "h"}
    tasks = [{"name": t, "weight": weights[t], **{split: f"{t}_{end}" for split, end in splits.items()}} for t in TASKS]
    campaign = make_campaign(objectives=objectives, tasks=tasks)
    found = replace(results, candidates=tuple(worth), campaign=campaign)
    mine = [entry for entry in results.item_scores if entry.candidate == results.winner]
    mean = sum(weights[t] * statistics.fmean([e.score for e in mine if e.task == t]) for t in TASKS) / 4.5
    assert skill_table(found).rows[0][-1] == f"{mean:.3f}"
    assert table_of(found, "Top candidates").rows[0][1].startswith(f"{mean:.3f} .")


def test_the_heat_map_holds_the_recipes_values_at_every_layer(results):
    (heat,) = heat_maps(results)
    params = results.candidate(results.winner).params
    assert heat.columns == ("layer 0", "layer 1", "layer 2", "rest")
    assert heat.rows == tuple(f"{task} · {module}" for task in TASKS for module in ("attention", "mlp"))
    for row, values in zip(heat.rows, heat.values, strict=True):
        task, module = row.split(" · ")
        expected = [params[f"weight/{task}/{module}/{n}"] for n in range(LAYERS)] + [params[f"weight/{task}/rest"]]
        assert values == pytest.approx(expected)


def test_a_gradient_with_fewer_knots_than_layers_is_interpolated(results):
    recipe = {
        "merge_method": "ties",
        "base_model": "family/base",
        "models": [{"model": "family/letters", "parameters": {"weight": [0.0, 1.0], "density": 0.5}}],
    }
    rows = list(results.candidates)
    rows[results.winner] = replace(rows[results.winner], recipe=recipe)
    weight, density = heat_maps(replace(results, candidates=tuple(rows), layers=5))
    assert (weight.parameter, density.parameter) == ("weight", "density")
    assert weight.rows == ("letters",)
    assert weight.values == ((0.0, 0.25, 0.5, 0.75, 1.0, 1.0),)
    assert density.values == ((0.5,) * 6,)


def test_a_setting_of_the_whole_merge_has_a_row_of_its_own_and_a_layer_sequence_a_map_of_layers(results):
    t = [{"filter": r"re:\.(q|k)_proj", "value": [0.0, 1.0]}, {"value": 0.5}]
    models = [{"model": "family/letters"}, {"model": "family/plurals"}]
    recipe = {"merge_method": "slerp", "base_model": "family/letters", "models": models, "parameters": {"t": t}}
    rows = list(results.candidates)
    rows[results.winner] = replace(rows[results.winner], recipe=recipe)
    (heat,) = heat_maps(replace(results, candidates=tuple(rows), layers=3))
    assert (heat.parameter, heat.rows, heat.values) == ("t", ("all sources",), ((0.0, 0.5, 1.0, 0.5),))
    ranges = (("letters", [0, 2]), ("plurals", [1, 2]), ("letters", [2, 3]))
    slices = [{"sources": [{"model": f"family/{name}", "layer_range": layers}]} for name, layers in ranges]
    rows[results.winner] = replace(rows[results.winner], recipe={"merge_method": "passthrough", "slices": slices})
    (heat,) = heat_maps(stacked := replace(results, candidates=tuple(rows)))
    page = render_html(stacked)
    assert "Layer taken by layer and source" in page
    assert '"texttemplate": "%{z:.0f}"' in page or '"texttemplate":"%{z:.0f}"' in page
    assert (heat.rows, heat.columns) == (("letters", "plurals"), ("layer 0", "layer 1", "layer 2", "layer 3"))
    assert str(heat.values) == "((0.0, 1.0, nan, 2.0), (nan, nan, 1.0, nan))"


def test_a_value_that_the_recipe_does_not_give_is_a_gap_and_null(results):
    choices = [{"filter": "mlp", "value": 0.5}]
    recipe = {"merge_method": "linear", "models": [{"model": "family/letters", "parameters": {"weight": choices}}]}
    rows = list(results.candidates)
    rows[results.winner] = replace(rows[results.winner], recipe=recipe)
    partial = replace(results, candidates=tuple(rows))
    assert json.loads(json.dumps(report_data(partial), allow_nan=False))["weights"][0]["values"] == [
        [0.5, 0.5, 0.5, None]
    ]
    assert "NaN" not in without_scripts(render_html(partial))


def test_the_data_is_json_and_names_winner_cost_and_digests(results):
    data = json.loads(json.dumps(report_data(results), allow_nan=False))
    assert data["significant"] is True
    assert data["winner"]["weights_digest"] == "ab" * 32
    assert data["cost"]["items"] == {"search": 5012, "selection": 900, "holdout": 12 * 3 * HOLDOUT}
    assert data["cost"]["failed"] == 2
    assert data["verdict"]["comparisons"][0]["lower"] > 0
    assert set(data["skills"]) == {row[0] for row in skill_table(results).rows}
    assert data["evaluation_key"] == "cd" * 32


@pytest.mark.parametrize("done", [0, 1, 12, 40])
def test_a_campaign_under_way_has_a_report_without_verdict(results, done):
    early = replace(
        results,
        phase="search",
        winner=None,
        verdict=None,
        candidates=results.candidates[:done],
        item_scores=Matrix.of(),
        efforts=results.efforts[:done],
        ledger=(),
        items_spent={},
        seconds=0.0,
    )
    assert render_text(early).startswith("No verdict yet: the campaign is in its search phase\n")
    made = render_html(early)
    assert '<body class="open">' in made
    assert made.count("* plotly.js v") == (1 if done else 0)
    assert json.dumps(report_data(early), allow_nan=False)


def test_candidates_that_all_score_alike_have_a_report_without_importances(results):
    flat = tuple(replace(row, estimate=0.5 if row.estimate is not None else None) for row in results.candidates)
    made = render_html(replace(results, candidates=flat))
    assert "Importance of parameters" not in made
    assert "Parallel coordinates" in made


def test_a_page_that_cannot_be_made_leaves_the_old_one_alone(results, tmp_path):
    path = tmp_path / "report.html"
    write_html(results, path)
    before = path.read_bytes()
    broken = replace(results, winner=len(results.candidates) + 5)
    with pytest.raises(IndexError):
        write_html(broken, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_columns_of_the_text_stand_under_each_other(results):
    lines = render_text(results).splitlines()
    start = lines.index("Skills on the holdout") + 2
    block = lines[start : start + 13]
    assert len({len(line) for line in block}) == 1
    assert all(line.startswith(row[0]) for line, row in zip(block[1:], skill_table(results).rows, strict=True))


def test_the_comparison_fits_a_terminal_of_80_columns_and_history_is_a_line_of_bars(results):
    lines = render_text(results).splitlines()
    start = lines.index("Winner against every comparator")
    assert max(map(len, lines[start : start + 14])) <= 80
    assert "difference" in lines[start + 2]
    assert re.fullmatch(r"best estimate 0\.\d+ [▁▂▃▄▅▆▇█]{50} 0\.\d+", lines[1])


def test_bars_rise_with_the_values():
    assert bars([0.0, 0.5, 1.0]) == "▁▅█"
    assert bars([1.0, 1.0]) == "▁▁"
    assert bars(list(range(100)), width=8) == "▁▂▃▄▅▆▇█"


# ------------------------------------------------------------------------------------ who was lost, and what was saved


def table_of(results: Results, title: str):
    return next(table for table in tables(results) if table.title == title)


def test_quarantined_candidates_failures_repeats_and_early_stops_have_tables(results: Results) -> None:
    quarantined = ("too large", "it failed on node-1 (out of memory) and on node-2 (out of memory)")
    assert table_of(results, "Quarantined").rows == (quarantined,)
    failures = table_of(results, "Failures")
    assert failures.rows == (("broken", "1", "an Inf in tensor 'lm_head.weight'"),)
    assert failures.note == "Of all attempts at a block of items, 1 failed."
    saved = (("a recipe that an earlier candidate had", "1", "75"), ("stopped early", "1", "15"))
    assert table_of(results, "Saved").rows == saved
    assert table_of(results, "Stopped early").rows == (("layers", "42", "1", "80 %"),)
    data = json.loads(json.dumps(report_data(results), allow_nan=False))
    assert list(data["failures"]) == ["an Inf in tensor 'lm_head.weight'"]
    assert list(data["quarantined"]) == ["too large"]
    assert data["stopped_early"] == [results.candidate(40).label]
    assert [entry["items"] for entry in data["saved"]] == [75, 0, 15]


def test_many_causes_are_counted_and_the_rest_is_told(results: Results) -> None:
    lost = [replace(row, failure=f"cause {row.number % 20}" + "!" * 500) for row in results.candidates]
    table = table_of(replace(results, candidates=tuple(lost)), "Failures")
    assert len(table.rows) == 15
    assert table.note.startswith("And 5 more.")
    assert table.rows[0][1] == "4"
    assert max(len(cause) for *_, cause in table.rows) == 240


def test_the_top_candidates_show_recipe_score_with_interval_and_what_they_took(results: Results) -> None:
    row = table_of(results, "Top candidates").rows[0]
    winner = results.candidate(results.winner)
    mine = [entry for entry in results.item_scores if entry.candidate == winner.number]
    by_task = [[e.score for e in mine if e.task == task] for task in TASKS]
    low, high = (
        statistics.fmean(map(statistics.fmean, by_task))
        + sign * math.hypot(*(statistics.fmean(scores) - wilsons(scores)[end] for scores in by_task)) / len(TASKS)
        for end, sign in enumerate((-1, 1))
    )
    scored = f"{winner.holdout_score:.3f} {low:.3f}–{high:.3f}".replace(" 0.", " .").replace("–0.", "–.")
    assert row[:4] == (winner.label, scored, "holdout", f"{winner.estimate:.3f}")
    assert row[4:6] == ("75", "1.5 s")
    assert row[6].startswith("task_arithmetic: letters ")
    data = report_data(results)["top"][0]
    assert (data["label"], data["items"]) == (winner.label, 75)
    assert data["interval"] == pytest.approx((low, high))


def test_a_recipe_in_a_few_words() -> None:
    names = {"m/a": "a", "m/b": "b"}
    choices = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": -0.2}]
    models = [{"model": "m/a", "parameters": {"weight": choices}}, {"model": "m/b"}, {"model": "x/c@main"}]
    assert recipe_text({"merge_method": "ties", "models": models}, names) == "ties: a -0.20…0.90, b, main"
    t = {"merge_method": "slerp", "models": models[1:2], "parameters": {"t": 0.5, "normalize": True}}
    assert recipe_text(t, names) == "slerp: b; t 0.50"
    taken = (("m/a", [0, 2]), ("m/b", [1, 3]))
    slices = [{"sources": [{"model": model, "layer_range": layers}]} for model, layers in taken]
    assert recipe_text({"merge_method": "passthrough", "slices": slices}, names) == "passthrough: a [0, 2), b [1, 3)"
    assert recipe_text({}, names) == "–"


def test_in_a_terminal_prose_that_does_not_fit_stands_below_its_row(results: Results) -> None:
    lines = render_text(results).splitlines()
    assert max(map(len, lines)) <= 80
    place = next(n for n, line in enumerate(lines) if line.startswith("candidate") and "estimate" in line)
    assert "recipe" not in lines[place]
    assert lines[place + 2].startswith("    task_arithmetic: letters ")
    assert "too large  it failed on node-1 (out of memory) and on node-2 (out of memory)" in lines  # this fits


def test_front_and_constraints_are_on_the_page(results: Results) -> None:
    members = [FrontMember(n, f"member {n}", "ab", (0.5, 2.0), ((0.4, 0.6), (1.0, 3.0)), 0.9) for n in (0, 1)]
    bounds = (BoundKept("letters at least 0.5", 0.6, "base", 0.1, (0.0, 0.2)),)
    verdict = replace(results.verdict, front=tuple(members), objectives=("score", "tokens"), bounds=bounds)
    page = render_html(replace(results, verdict=verdict))
    for table in tables(replace(results, verdict=verdict)):
        assert f"<h2>{table.title}</h2>" in page
    assert "<td>member 1</td>" in page
