"""The report's page, a Jinja template (rendered with autoescape on). A module, so that every install carries it."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: {{ headline }}</title>
<style>
:root { color-scheme: light dark;
  --ink: #1f2430; --muted: #6b7280; --line: #e5e7eb; --page: #f6f7f9; --card: #fff; --yes: #15803d; --no: #b45309; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --muted: #9ca3af; --line: #374151; --page: #0b0f17; --card: #161b26;
    --yes: #4ade80; --no: #fbbf24; }
  .plotly-graph-div { background: #f8fafc; border-radius: 8px; }  /* figures keep their ink */
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
header { border-left: 6px solid var(--accent); background: var(--card); padding: 22px 26px; border-radius: 10px; }
.won { --accent: #15803d; } .unproven { --accent: #b45309; } .open { --accent: #64748b; }
.kind { color: var(--muted); font-size: 13px; letter-spacing: .02em; }
h1 { font-size: 27px; line-height: 1.25; margin: 4px 0 0; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 15px; margin: 18px 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 16px 0; }
.tile, section { background: var(--card); border-radius: 10px; }
.tile { padding: 14px 18px; }
.tile b { display: block; font-size: 26px; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--muted); font-size: 13px; }
section { padding: 20px 26px; margin: 16px 0; }
p.note { color: var(--muted); font-size: 13px; margin: 10px 0 0; max-width: 90ch; }
.scroll { overflow-x: auto; }
.hint { display: none; color: var(--muted); font-size: 13px; text-align: right; }
.more > .scroll { mask-image: linear-gradient(to right, #000 calc(100% - 40px), transparent); }
.more > .hint { display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 110px; }
tr:last-child td { border-bottom: 0; }
th.prose, td.prose { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 230px; }
td.no { color: var(--no); font-weight: 600; } td.yes { color: var(--yes); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.two section { margin: 0; min-width: 0; }
.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.text th { text-align: left; }
.text td:first-child { white-space: nowrap; width: 1%; color: var(--muted); }
details { margin-top: 8px; } summary { cursor: pointer; color: var(--muted); font-size: 13px; }
pre { background: var(--page); border-radius: 8px; padding: 14px; overflow-x: auto; font-size: 13px; margin: 0; }
@media (max-width: 600px) {
  main { padding: 12px 8px 40px; } header, section { padding: 14px; } h1 { font-size: 21px; }
}
</style>
</head>
<body class="{{ mood }}">
{% macro grid(table, kind="") %}
<div class="wide"><div class="scroll" tabindex="0"><table class="{{ kind }}">
<thead><tr>
{% for column in table.columns %}
<th{% if column in table.prose %} class="prose"{% endif %}>{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}
{% set prose = table.columns[loop.index0] in table.prose %}
<td{% if prose %} class="prose"{% elif cell in ("yes", "no") %} class="{{ cell }}"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div><div class="hint">more to the right: scroll &rarr;</div></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endmacro %}
{% macro block(title, kind="") %}
{% if title in tables %}<section><h2>{{ title }}</h2>{{ grid(tables[title], kind) }}</section>{% endif %}
{% endmacro %}
{% macro draw(found) %}
{% for figure in found %}
{% if figure.title %}<h3>{{ figure.title }}</h3>{% endif %}
<div class="wide"><div class="scroll" tabindex="0"><div style="min-width: {{ figure.min_width_px }}px">
{{ plot(figure) | safe }}
</div></div><div class="hint">more to the right: scroll &rarr;</div></div>
{% if figure.caption %}<p class="note">{{ figure.caption }}</p>{% endif %}
{% endfor %}
{% endmacro %}
<main>
<header>
<div class="kind">campaign {{ name }}</div>
<h1>{{ headline }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
</header>
<div class="tiles">
{% for value, what, detail in tiles %}
<div class="tile"><b>{{ value }}</b><span>{{ what }}</span><span>{{ detail }}</span></div>
{% endfor %}
</div>
{% if figures.values() | sum(start=[]) %}<script>{{ plotly() | safe }}</script>{% endif %}
{% if "Winner against every comparator" in tables %}
<section><h2>Winner against every comparator</h2>
{{ draw(figures.margins) }}
{{ grid(tables["Winner against every comparator"]) }}
</section>
{% endif %}
{{ block("Front") }}
{{ block("Constraints") }}
{{ block("Skills on the holdout") }}
{% if figures.weights %}<section><h2>What the winner is made of</h2>{{ draw(figures.weights) }}</section>{% endif %}
{% if figures.search %}<section><h2>The search</h2>{{ draw(figures.search) }}</section>{% endif %}
{% if "Top candidates" in tables %}
<section><h2>Top candidates</h2>{{ grid(tables["Top candidates"]) }}
{% for label, recipe in recipes %}
<details><summary>recipe of {{ label }}</summary><pre>{{ recipe }}</pre></details>
{% endfor %}
</section>
{% endif %}
<div class="two">{{ block("Cost") }}{{ block("Saved") }}{{ block("Stopped early") }}</div>
{{ block("Quarantined") }}
{{ block("Failures") }}
{{ block("Holdout ledger") }}
{% if recipe %}<section><h2>The winner's recipe</h2><pre>{{ recipe }}</pre></section>{% endif %}
{{ block("Provenance", "text") }}
</main>
<script>
for (const wide of document.querySelectorAll(".wide")) {
  const box = wide.firstElementChild;
  const tell = () => wide.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", tell);
  const sizes = new ResizeObserver(tell);
  for (const part of [box, box.firstElementChild]) sizes.observe(part);
}
</script>
</body>
</html>
"""
