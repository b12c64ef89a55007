"""What a figure is: data and layout for plotly.js, as plain data. Plotly's own classes check every value, and importing
them and making five figures takes a second; the script takes the same JSON from anybody.

The house's font, colours and axes are here; titles stand in the page and not in the figure.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
WON, LOST, BLUE = "#15803d", "#b45309", "#2563eb"
COLOURS = (BLUE, "#d97706", "#7c3aed", "#0d9488", "#be185d", "#64748b")
CLEAR = "rgba(0,0,0,0)"
LETTERS = 30  # what a title of an axis may be long on a phone
OPTIONS = {"displayModeBar": False, "responsive": True}


@dataclass(frozen=True)
class Figure:
    """A figure with its title and caption. `min_width_px`: on a narrower screen it is scrolled."""

    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    caption: str = ""
    min_width_px: int = 0

    def html(self, number: int) -> str:
        """Its place on the page, and the call that draws it there."""
        parts = (json.dumps(part, allow_nan=False) for part in (self.data, self.layout, OPTIONS))
        call = f'Plotly.newPlot("figure-{number}", {", ".join(parts)})'
        for sign in "<>&":  # names from outside must not end the script
            call = call.replace(sign, f"\\u{ord(sign):04x}")
        place = f'<div id="figure-{number}" class="plotly-graph-div" style="height:{self.layout["height"]}px"></div>'
        return f"{place}<script>{call}</script>"


def script() -> str:
    """plotly.js, which goes with the page so that it needs no network."""
    found = find_spec("plotly")  # the package is not imported
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def layout(
    *, height: int, left: int = 60, x: Mapping[str, Any] | None = None, y: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The page's font, colours and margins, with these axes."""
    return {
        "height": height,
        "margin": {"l": left, "r": 20, "t": 20, "b": 50 if x and x.get("title") else 30},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "autotypenumbers": "strict",
        "xaxis": _axis(x or {}),
        "yaxis": _axis(y or {}),
        **more,
    }


def _axis(own: Mapping[str, Any]) -> dict[str, Any]:
    usual = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "zerolinewidth": 2}
    usual |= {"ticks": "", "automargin": True}
    title = {"text": wrapped(own.get("title", "")), "font": {"size": 12, "color": MUTED}, "standoff": 15}
    return {**usual, **own, "title": title}


def wrapped(text: str, letters: int = LETTERS) -> str:
    """In lines that a phone shows whole."""
    return "<br>".join(textwrap.wrap(text, letters))


def shortened(text: str, letters: int) -> str:
    """Without its middle, where it is longer than that: names of a family differ at their ends."""
    return text if len(text) <= letters else f"{text[: letters // 2]}…{text[-(letters // 2 - 1) :]}"


def interval(middle: Sequence[float], ends: Sequence[tuple[float, float]], **style: Any) -> dict[str, Any]:
    """Error bars from the one end to the other."""
    pairs = list(zip(middle, ends, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in pairs],
        "arrayminus": [value - low for value, (low, _) in pairs],
        **style,
    }
