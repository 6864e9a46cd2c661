"""What the page's Vega-Lite specifications share: colours, marks, filters, parameters, data.

The page's script sets the parameters `shown_<axis>` (what the filters choose; nothing: all), `decoding`, `variant`,
`point` and `names`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.style import MARKERS, colours, natural

Spec = dict[str, Any]
AXES = ("objective", "backbone", "domain")  # of the filters
VEGA_LITE = "6.1"


def css_colour(colour: str) -> str:
    """The page's variable for a figure's colour, which has another value on a dark page."""
    return f"var(--c{colour.lstrip('#')})"


def shapes(backbones: Sequence[str]) -> dict[str, str]:
    """Vega's mark per backbone; they repeat where there are more backbones than marks."""
    known = list(MARKERS.values())
    return {name: known[i % len(known)] for i, name in enumerate(sorted(backbones, key=natural))}


def filtered_by(*axes: str) -> list[Spec]:
    tests = [f"(length(shown_{axis}) == 0 || indexof(shown_{axis}, datum.{axis}) >= 0)" for axis in axes]
    return [{"filter": " && ".join(tests)}]


def page_params(**values: Any) -> list[Spec]:
    return [*({"name": f"shown_{axis}", "value": []} for axis in AXES), *signal_values(**values)]


def signal_values(**values: Any) -> list[Spec]:
    return [{"name": name, "value": value} for name, value in values.items()]


def tooltip(fields: Mapping[str, str]) -> list[Spec]:
    return [{"field": field, "type": "nominal", "title": title} for field, title in fields.items()]


def whole_chart(spec: Spec, params: list[Spec]) -> Spec:
    """A chart as wide as its place, in the page's colours."""
    config = {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": "var(--muted)",
            "titleColor": "var(--ink)",
            "gridColor": "var(--line)",
            "domainColor": "var(--muted)",
            "tickColor": "var(--muted)",
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
        },
    }
    head = {"$schema": f"https://vega.github.io/schema/vega-lite/v{VEGA_LITE}.json", "width": "container"}
    return head | {"autosize": {"type": "fit-x", "contains": "padding"}, "params": params, "config": config} | spec


def objective_colours(names: Sequence[str], objectives: Sequence[str]) -> Spec:
    palette = colours([*objectives, *names])
    scale = {"domain": list(names), "range": [css_colour(palette[name]) for name in names]}
    return {"field": "objective", "type": "nominal", "scale": scale, "legend": None}


def plain_rows(table: pd.DataFrame) -> list[Spec]:
    """Plain values; what is not a number is null."""
    return [
        {
            str(key): None if isinstance(value, float) and not math.isfinite(value) else _plain(value)
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value.item() if isinstance(value, np.generic) else value
