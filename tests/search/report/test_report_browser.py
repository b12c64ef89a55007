"""The page in a real browser: every figure is drawn, nothing complains, on a desk and on a phone, light and dark."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from made_results import make_results

from search.report.report import write_html

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=8000")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium-headless-shell)")
@pytest.mark.parametrize(
    "look", [("--window-size=1200,900",), ("--window-size=390,844", "--blink-settings=preferredColorScheme=0")]
)
def test_every_figure_is_drawn_and_the_console_stays_empty(tmp_path: Path, look: tuple[str, ...]) -> None:
    page = tmp_path / "report.html"
    write_html(make_results(), page)
    assert page.stat().st_size < 5_000_000
    command = [str(BROWSER), *FLAGS, *look, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    figures = done.stdout.count('class="plotly-graph-div')
    assert figures == 5
    assert done.stdout.count('class="main-svg"') >= figures
    assert "CONSOLE" not in done.stderr
