"""The page in a real browser: every figure is drawn, nothing is cut and nothing complains, on a desk and on a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from made_results import make_results

from search.report.report import write_html
from search.results import Results

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
NEEDED = bool(os.environ.get("MERGEFLEET_NEEDS_BROWSER"))  # .ci/run installs one: there the test is never skipped
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
)
LOOK = """<script>addEventListener("load", () => setTimeout(() => {
  const cut = [], outside = [];
  for (const figure of document.querySelectorAll(".plotly-graph-div")) {
    const frame = figure.getBoundingClientRect();
    for (const text of figure.querySelectorAll("svg text")) {
      const box = text.getBoundingClientRect();
      if (box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1))
        cut.push(text.textContent);
    }
    const room = figure._fullLayout._size;
    for (const point of figure.querySelectorAll(".scatterlayer path.point, .scatterlayer .errorbars path")) {
      const box = point.getBoundingClientRect();
      const [x, y] = [box.left + box.width / 2 - frame.left - room.l, box.top + box.height / 2 - frame.top - room.t];
      if (x < 0 || x > room.w || y < 0 || y > room.h) outside.push(figure.id);
    }
  }
  const wide = [...document.querySelectorAll(".wide")].map(part => {
    const [box, hint] = part.children;
    return {more: box.scrollWidth > box.clientWidth + 1, told: hint.getBoundingClientRect().height > 0};
  });
  const beaten = [...document.querySelectorAll("th")].find(head => head.textContent === "beaten");
  const hidden = beaten.getBoundingClientRect().right - innerWidth;
  const width = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.seen = JSON.stringify({cut, outside, width, wide, hidden});
}, 3000));</script>"""
"""Texts that reach out of their figure, points that lie outside its axes, by how much the page is wider than the
screen, which boxes are wider than they show and say so, and how far the column `beaten` is off the screen."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_html(with_long_names(), page)
    assert page.stat().st_size < 5_000_000
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", LOOK + "</body>"), encoding="utf-8")
    return page


def with_long_names() -> Results:
    """Comparators as long as names of real models are, as many as there may be."""
    results = make_results()
    assert results.verdict is not None
    found = results.verdict.comparisons
    long = tuple(replace(entry, label=f"parent Family-1.5B-Instruct {entry.label}") for entry in found)
    return replace(results, verdict=replace(results.verdict, comparisons=found + long))


@pytest.mark.skipif(
    BROWSER is None and not NEEDED, reason="no Chromium on this machine (Debian: apt install chromium-headless-shell)"
)
@pytest.mark.parametrize(
    "look", [("--window-size=1200,900",), ("--window-size=390,844", "--blink-settings=preferredColorScheme=0")]
)
def test_every_figure_is_drawn_and_whole_and_the_console_stays_empty(
    page: Path, tmp_path: Path, look: tuple[str, ...]
) -> None:
    command = [str(BROWSER), *FLAGS, *look, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    figures = done.stdout.count('class="plotly-graph-div')
    assert figures == 5
    assert done.stdout.count('class="main-svg"') >= figures
    assert "CONSOLE" not in done.stderr
    found = seen(done.stdout)
    assert found["cut"] == []
    assert found["outside"] == []
    assert found["width"] <= 0  # less by a scroll bar
    assert found["hidden"] < 0
    assert [box["told"] for box in found["wide"]] == [box["more"] for box in found["wide"]]
    assert any(box["more"] for box in found["wide"]) == ("--window-size=390,844" in look)


def seen(dom: str) -> Any:
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found is not None
    return json.loads(unescape(found[1]))
