"""The report's interactive charts, as Vega-Lite specifications made with Altair. Data lie inside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.continuum import dodge
from analysis.figures.curves import CURVES
from analysis.figures.style import MARKERS, PRIOR_NAMES, REGION_SHADES, colours, in_order, prior_counts
from analysis.sources.table import Results
from analysis.statistics.continuum import REFERENCE, Prior, logit
from analysis.statistics.intervals import REGION_EDGES, REGIONS
from analysis.tables.results import with_interval

WIDTH = 900
MOST_STEPS = 60  # of a training curve; more are thinned out, the last step is kept
_TICKS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999]


def continuum_chart(gains: pd.DataFrame, formulas: dict[str, str], prior: str) -> dict[str, Any] | None:
    """Gain over NLL against prior strength, of rows of benchmarks.by_place; hover tells a mark's numbers, the legend
    filters, menus choose the rest.
    """
    import altair as alt

    rows = gains[(gains["n"] > 0) & gains["prior"].notna()] if len(gains) else gains
    if rows.empty:
        return None
    data = _continuum_data(rows, formulas)
    low, high = float(data["place"].min()) - 0.6, float(data["place"].max()) + 0.6
    x_axis = _logit_axis(low, high)
    scale = alt.Scale(domain=[low, high], nice=False)
    menus = [
        _menu(
            "decoding",
            list(dict.fromkeys(data.sort_values("primary", ascending=False, kind="stable")["decoding"])),
        )
    ]
    if data["variant"].nunique() > 1:
        menus.append(_menu("variant", list(dict.fromkeys(data["variant"]))))
    picked = alt.selection_point(fields=["objective"], bind="legend", name="picked")
    base = alt.Chart(data)
    for name, menu in menus:
        base = base.transform_filter(f"datum.{name} === {menu.name}")
    marks = base.transform_filter(picked)
    names = in_order(rows["objective"])
    palette = colours(names)
    colour = alt.Color(
        "objective:N",
        scale=alt.Scale(domain=names, range=[palette[n] for n in names]),
        title="objective (click)",
    )
    backbones = sorted(rows["backbone"].unique())
    shapes = [list(MARKERS.values())[i % len(MARKERS)] for i in range(len(backbones))]
    shape = alt.Shape("backbone:N", scale=alt.Scale(domain=backbones, range=shapes), title="backbone")
    x = alt.X("x:Q", scale=scale, axis=None)
    y_low, y_high = float(data["gain_low"].min()) - 0.04, float(data["gain_high"].max()) + 0.04
    y_scale = alt.Scale(domain=[min(y_low, -0.05), max(y_high, 0.05)], nice=False)
    tips = [
        alt.Tooltip(f"{field}:N", title=title) for field, title in _TIPS.items() if field != "variant" or len(menus) > 1
    ]
    bars = marks.mark_rule(strokeWidth=1.6).encode(
        x=x,
        y=alt.Y("gain_low:Q", scale=y_scale, title=f"score gain over {REFERENCE.upper()}"),
        y2="gain_high:Q",
        color=colour,
    )
    dots = marks.mark_point(filled=True, size=75, opacity=1, stroke="white", strokeWidth=0.6).encode(
        x=x, y=alt.Y("gain:Q", scale=y_scale), color=colour, shape=shape, tooltip=tips
    )
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color="#333").encode(y=alt.Y("y:Q", scale=y_scale))
    upper = alt.layer(*_shades(low, high, scale), zero, bars, dots.add_params(picked)).properties(
        width=WIDTH, height=330
    )
    strip = _strip(base, scale, x_axis, PRIOR_NAMES[prior])
    both = alt.vconcat(upper, strip, spacing=2).add_params(*(menu for _, menu in menus))
    return _specification(both)


_TIPS = {
    "objective": "objective",
    "formula": "loss",
    "point": "point",
    "variant": "variant",
    "gain_text": f"gain over {REFERENCE.upper()} [95 %]",
    "n_text": "n",
    "prior_text": "prior strength [95 %]",
    "region": "region",
    "exposure_text": "pretraining items",
}


def _continuum_data(rows: pd.DataFrame, formulas: dict[str, str]) -> pd.DataFrame:
    place = logit(rows["prior"].to_numpy(float))
    spread = 0.04 * (float(place.max() - place.min()) + 1.2)
    records = rows.to_dict("records")
    data = rows[
        [
            "objective",
            "backbone",
            "point",
            "variant",
            "decoding",
            "primary",
            "gain",
            "gain_low",
            "gain_high",
            "region",
        ]
    ]
    return data.assign(
        place=place,
        x=dodge(rows, spread),
        task=rows["point"].str.split(" · ").str[-1],
        formula=[formulas.get(r["objective"], "") for r in records],
        gain_text=[with_interval(r["gain"], r["gain_low"], r["gain_high"]) for r in records],
        prior_text=[_prior_text(r) for r in records],
        n_text=[_n_text(r) for r in records],
        exposure_text=["not known" if math.isnan(r["exposure"]) else f"{r['exposure']:.0f}" for r in records],
    )


def _n_text(row: dict[Any, Any]) -> str:
    of = f" of {row['columns']} benchmarks" if row.get("columns", 1) > 1 else ""
    return f"{row['n']} questions{of} x {row['samples']} samples, {row['seeds']} seed{'s' * (row['seeds'] != 1)}"


def _prior_text(row: dict[Any, Any]) -> str:
    return f"{with_interval(row['prior'], row['prior_low'], row['prior_high'], 4)} ({prior_counts(row)})"


def _menu(name: str, options: list[str]) -> tuple[str, Any]:
    import altair as alt

    labels = [option or "default" for option in options]
    bind = alt.binding_select(options=options, labels=labels, name=f"{name} ")
    return name, alt.param(name=f"chosen_{name}", bind=bind, value=options[0])


def _shades(low: float, high: float, scale: Any) -> list[Any]:
    import altair as alt

    edges = [low, *(float(logit(np.array(edge))) for edge in REGION_EDGES), high]
    rows = [
        {
            "left": max(left, low),
            "right": min(right, high),
            "shade": REGION_SHADES[short],
            "name": f"{name} ({short})",
        }
        for (short, name), left, right in zip(REGIONS.items(), edges, edges[1:], strict=False)
        if left < high and right > low
    ]
    chart = alt.Chart(pd.DataFrame(rows).assign(middle=lambda d: (d["left"] + d["right"]) / 2))
    x = alt.X("left:Q", scale=scale, axis=None)
    fill = chart.mark_rect().encode(x=x, x2="right:Q", color=alt.Color("shade:N", scale=None))
    text = chart.mark_text(baseline="top", dy=4, color="#555", fontSize=11).encode(
        x=alt.X("middle:Q", scale=scale, axis=None), y=alt.value(0), text="name:N"
    )
    return [fill, text]


def _logit_axis(low: float, high: float) -> Any:
    import altair as alt

    ticks = {round(float(logit(np.array(t))), 6): f"{t:g}".removeprefix("0") for t in _TICKS}
    shown = {place: text for place, text in ticks.items() if low < place < high}
    places, texts = list(shown), list(shown.values())
    label = f"{texts}[indexof({places}, round(datum.value * 1e6) / 1e6)]".replace("'", '"')
    return alt.Axis(values=places, labelExpr=label, grid=False)


def _strip(base: Any, scale: Any, axis: Any, which: str) -> Any:
    import altair as alt

    title = f"prior strength: mean p of the target tokens under the base model, {which} (logit scale)"
    x = alt.X("place:Q", scale=scale, axis=axis, title=title)
    points = base.transform_aggregate(place="mean(place)", groupby=["point", "task", "backbone", "prior_text"])
    tips = [alt.Tooltip("point:N", title="point"), alt.Tooltip("prior_text:N", title="prior strength [95 %]")]
    ticks = points.mark_tick(color="#333", thickness=1.5, height=8).encode(x=x, y=alt.value(6), tooltip=tips)
    text = points.mark_text(angle=320, align="right", baseline="top", fontSize=10, color="#333", dx=-2, dy=8).encode(
        x=x, y=alt.value(6), text="point:N", tooltip=tips
    )
    return alt.layer(ticks, text).properties(width=WIDTH, height=78)


def curves_chart(results: Results, prior: Prior = "clean") -> dict[str, Any] | None:
    """NLL, mean p and tokens kept against the step for the point that a menu chooses, a colour per objective.

    A training that two objectives' names share is drawn under both.
    """
    import altair as alt

    runs = results.cells[results.cells["train"] != ""].drop_duplicates(["train", "objective"])
    if results.curves.empty or runs.empty:
        return None
    runs = runs.sort_values([f"prior_{prior}", "variant"], ascending=[False, True], kind="stable")
    runs = runs.assign(where=runs["point"] + runs["variant"].map(lambda v: f", {v}" if v else ""))
    wanted = _thinned(results.curves)[["train", "step", *CURVES]]
    data = runs[["train", "where", "objective", "seed"]].merge(wanted, on="train", how="inner", sort=False)
    data = data.drop(columns="train").round(5)
    names = in_order(data["objective"])
    palette = colours(names)
    picked = alt.selection_point(fields=["objective"], bind="legend", name="picked_curve")
    _, menu = _menu("point", list(dict.fromkeys(data["where"])))
    base = alt.Chart(data).transform_filter(f"datum.where === {menu.name}").transform_filter(picked)
    colour = alt.Color(
        "objective:N",
        scale=alt.Scale(domain=names, range=[palette[n] for n in names]),
        title="objective (click)",
    )
    alone = int(data.groupby(["where", "objective", "seed"]).size().max()) == 1  # a line of one step is no line
    panels = []
    for i, (key, title) in enumerate(CURVES.items()):
        y = alt.Y(
            f"{key}:Q",
            title=title,
            scale=alt.Scale(zero=True) if key == "nll" else alt.Scale(domain=[0, 1.02], nice=False),
        )
        tips = [
            alt.Tooltip("objective:N"),
            alt.Tooltip("seed:Q"),
            alt.Tooltip("step:Q"),
            alt.Tooltip(f"{key}:Q", title=title),
        ]
        panel = base.mark_line(strokeWidth=1.6, point=alone).encode(
            x=alt.X("step:Q", title="optimiser step"), y=y, color=colour, detail="seed:N", tooltip=tips
        )
        panels.append((panel.add_params(picked) if i == 0 else panel).properties(width=WIDTH // 3 - 55, height=210))
    return _specification(alt.hconcat(*panels).add_params(menu))


def _specification(chart: Any) -> dict[str, Any]:
    """The whole specification. Altair would refuse more than 5,000 rows of data, which a notebook would store."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None):
        return dict(chart.configure_view(stroke=None).to_dict(validate=False))


def _thinned(curves: pd.DataFrame) -> pd.DataFrame:
    longest = int(curves.groupby("train")["step"].size().max())
    every = max(1, math.ceil(longest / MOST_STEPS))
    if every == 1:
        return curves
    order = curves.groupby("train").cumcount()
    last = order == curves.groupby("train")["step"].transform("size") - 1
    return curves[(order % every == 0) | last]
