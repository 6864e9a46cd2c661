"""The page's interactive charts, as Vega-Lite specifications with their data inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.continuum import apart, dodge, over_seeds
from analysis.figures.overlay import reported_at
from analysis.figures.style import in_order, prior_counts
from analysis.report.reasons import Reasons
from analysis.report.vega import (
    AXES,
    Spec,
    filtered_by,
    objective_colours,
    page_params,
    plain_rows,
    shapes,
    tooltip,
    whole_chart,
)
from analysis.sources.table import Results
from analysis.statistics.continuum import REFERENCE, Prior
from analysis.statistics.crossover import logit
from analysis.tables.results import number, with_interval
from bll_sweeps.store.metrics import CURVES, TRAINING, Metric
from bll_sweeps.store.regions import REGION_EDGES, REGIONS

MOST_STEPS = 60  # of a training curve; more are thinned out, the last step is kept
MOST_POINTS = 20_000  # of all curves; more runs have fewer steps each, at least _FEWEST_STEPS
_FEWEST_STEPS = 4
_HEIGHT = 330  # pixels
_ROOM = 0.015  # of the chart's width, for a slanted name
_MOST_NAMES = 24  # of points below the continuum; more would lie on one another
_TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999)


# --- the continuum --------------------------------------------------------------------------------------------------


def continuum_chart(
    gains: pd.DataFrame,
    formulas: dict[str, str],
    prior: Prior,
    objectives: Sequence[str] = (),
    backbones: Sequence[str] = (),
    reasons: Reasons | None = None,
    reported: pd.DataFrame | None = None,
) -> Spec | None:
    """Gain over NLL against prior strength, of rows of benchmarks.by_place; hover tells a mark's numbers.

    A comparison without data is a cross at the foot of its place, with its reason. None if no gain has a place.
    objectives, backbones: all of the page, whose colours and marks are shared; reported: the paper's gains
    (overlay.Reported), open marks at its own prior strengths.
    """
    rows = gains[gains["prior"].notna()] if len(gains) else gains
    known = rows[(rows["n"] > 0) & rows["gain"].notna()] if len(rows) else rows
    if known.empty:
        return None
    data = _continuum_data(known, formulas)
    lacking = _lacking(rows.drop(index=known.index), formulas, reasons)
    theirs = _theirs(known, reported, formulas)
    places = np.concatenate([logit(rows["prior"].to_numpy(float)), theirs["x"].to_numpy(float)])
    low, high = float(places.min()) - 0.6, float(places.max()) + 0.6
    decodings = list(dict.fromkeys(data.sort_values("primary", ascending=False, kind="stable")["decoding"]))
    chosen = [{"filter": "datum.decoding === decoding && datum.variant === variant"}]
    layers = [
        *_shades(),
        _zero(),
        *_marks(data, objectives, backbones),
        *([_open_marks(data, objectives, backbones)] if len(theirs) else []),
        _crosses(),
        *_strip(low, high, list(rows["point"])),
    ]
    for layer in layers:
        if layer["data"]["name"] in ("gains", "lacking", "reported"):
            layer["transform"] = chosen + filtered_by(*AXES)
    spec: Spec = {"height": _HEIGHT, "padding": {"bottom": 5, "left": 5, "right": 5, "top": 5}, "layer": layers}
    spec["datasets"] = {
        "gains": plain_rows(data),
        "lacking": plain_rows(lacking),
        **({"reported": plain_rows(theirs)} if len(theirs) else {}),
        "points": plain_rows(_points(rows, high - low)),
        "shades": _shade_rows(low, high),
        "zero": [{"y": 0}],
    }
    names = rows["point"].nunique() <= _MOST_NAMES
    ends = {"lowest": min(float(data["gain_low"].min()), -0.05), "highest": max(float(data["gain_high"].max()), 0.05)}
    return whole_chart(
        spec, page_params(decoding=decodings[0], variant=str(data["variant"].iloc[0]), names=names, **ends)
    )


_TIPS = {
    "objective": "objective",
    "formula": "loss",
    "point": "point",
    "variant": "variant",
    "gain_text": f"gain over {REFERENCE.upper()} [95 %]",
    "seeds_text": "95 % over seeds",
    "n_text": "n",
    "prior_text": "prior strength [95 %]",
    "region": "region",
    "exposure_text": "pretraining items",
}
_SEEDS = ("gain_seeds_low", "gain_seeds_high")
_OF_MARK = ["objective", "backbone", "domain", "point", "variant", "decoding", "primary"]


def _continuum_data(rows: pd.DataFrame, formulas: dict[str, str]) -> pd.DataFrame:
    place = logit(rows["prior"].to_numpy(float))
    rows = rows.assign(**{end: rows[end].where(over_seeds(rows)) for end in _SEEDS if end in rows})
    records = rows.reindex(columns=[*rows.columns, *(end for end in _SEEDS if end not in rows)]).to_dict("records")
    return rows[[*_OF_MARK, "gain", "gain_low", "gain_high", "region"]].assign(
        x=dodge(rows, 0.04 * (float(place.max() - place.min()) + 1.2)),
        formula=[formulas.get(r["objective"], "") for r in records],
        gain_text=[with_interval(r["gain"], r["gain_low"], r["gain_high"]) for r in records],
        **{end: [r[end] for r in records] for end in _SEEDS},
        seeds_text=[_interval_over_seeds(r) for r in records],
        prior_text=[_prior_text(r) for r in records],
        n_text=[n_text(r) for r in records],
        exposure_text=["not known" if math.isnan(r["exposure"]) else f"{r['exposure']:.0f}" for r in records],
    )


def _interval_over_seeds(row: Mapping[Any, Any]) -> str:
    low, high = (float(row[end]) for end in _SEEDS)
    return "not told by one seed" if math.isnan(low) else f"{number(low)} to {number(high)}"


def _theirs(known: pd.DataFrame, reported: pd.DataFrame | None, formulas: dict[str, str]) -> pd.DataFrame:
    """The reported gains of the comparisons that are known."""
    rows = reported_at(known, reported)
    rows = rows[rows["prior"].notna()] if len(rows) else rows
    if rows.empty:
        return pd.DataFrame(columns=[*_OF_MARK, "x"])
    place = logit(known["prior"].to_numpy(float))
    return rows[[*_OF_MARK, "gain", "place"]].assign(
        x=dodge(rows, 0.04 * (float(place.max() - place.min()) + 1.2)),
        formula=[formulas.get(name, "") for name in rows["objective"]],
        gain_text=[f"{number(gain)}, no interval" for gain in rows["gain"]],
        prior_text=[number(prior, 2) for prior in rows["prior"]],
    )


def _lacking(rows: pd.DataFrame, formulas: dict[str, str], reasons: Reasons | None) -> pd.DataFrame:
    """Comparisons without data at places whose prior strength is known."""
    if rows.empty:
        return pd.DataFrame(columns=[*_OF_MARK, "x"])
    why = [reasons.of_gain(row) if reasons else "" for row in rows.to_dict("records")]
    place = logit(rows["prior"].to_numpy(float))
    x = dodge(rows, 0.04 * (float(place.max() - place.min()) + 1.2))
    return rows[_OF_MARK].assign(x=x, formula=[formulas.get(o, "") for o in rows["objective"]], why=why)


def n_text(row: Mapping[Any, Any]) -> str:
    """What a mean or gain rests on: `60 questions x 8 samples, 1 seed`."""
    of = f" of {row['columns']} benchmarks" if row.get("columns", 1) > 1 else ""
    return f"{row['n']} questions{of} x {row['samples']} samples, {row['seeds']} seed{'s' * (row['seeds'] != 1)}"


def _prior_text(row: dict[Any, Any]) -> str:
    return f"{with_interval(row['prior'], row['prior_low'], row['prior_high'], 4)} ({prior_counts(row)})"


def _x(field: str = "x") -> Spec:
    """Layers share the scale and the axis, which the last layer has."""
    return {"field": field, "type": "quantitative"}


def _y(field: str = "gain") -> Spec:
    # The page's script sets both ends for the decoding and variant that it shows.
    scale = {"domain": [{"expr": "lowest"}, {"expr": "highest"}], "nice": False}
    title = f"score gain over {REFERENCE.upper()}"
    return {
        "field": field,
        "type": "quantitative",
        "scale": scale,
        "axis": {"grid": False, "tickCount": 6},
        "title": title,
    }


def _marks(data: pd.DataFrame, objectives: Sequence[str], backbones: Sequence[str]) -> list[Spec]:
    """The interval of each gain, and its point, whose shape is the backbone's."""
    colour = objective_colours(in_order(data["objective"]), objectives)
    by_backbone = shapes(list(dict.fromkeys([*backbones, *data["backbone"]])))
    shape_scale = {"domain": list(by_backbone), "range": list(by_backbone.values())}
    several = {"variant": data["variant"].nunique() > 1, "seeds_text": data[_SEEDS[0]].notna().any()}
    tips = {field: title for field, title in _TIPS.items() if several.get(field, True)}
    common = {"x": _x(), "color": colour, "tooltip": tooltip(tips)}
    bars = common | {"y": _y("gain_low"), "y2": {"field": "gain_high"}}
    dots = common | {"y": _y()}
    dots |= {"shape": {"field": "backbone", "type": "nominal", "scale": shape_scale, "legend": None}}
    mark = {"type": "point", "filled": True, "size": 80, "opacity": 1, "stroke": "var(--page)", "strokeWidth": 0.7}
    seeds = common | {"y": _y(_SEEDS[0]), "y2": {"field": _SEEDS[1]}}
    thin = {"type": "rule", "strokeWidth": 0.8, "opacity": 0.5, "clip": True}
    return [
        *([{"data": {"name": "gains"}, "mark": thin, "encoding": seeds}] if several["seeds_text"] else []),
        {"data": {"name": "gains"}, "mark": {"type": "rule", "strokeWidth": 1.6}, "encoding": bars},
        {"data": {"name": "gains"}, "mark": mark, "encoding": dots},
    ]


def _open_marks(data: pd.DataFrame, objectives: Sequence[str], backbones: Sequence[str]) -> Spec:
    """The paper's numbers in the colours and shapes of ours."""
    _, ours = _marks(data, objectives, backbones)
    names = {"place": "the paper", "objective": "objective", "formula": "loss", "point": "point"}
    names |= {"gain_text": f"its gain over {REFERENCE.upper()}", "prior_text": "its prior strength"}
    encoding = {**ours["encoding"], "stroke": ours["encoding"]["color"], "tooltip": tooltip(names)}
    del encoding["color"]
    mark = {"type": "point", "filled": False, "size": 80, "opacity": 1, "strokeWidth": 1.5}
    return {"data": {"name": "reported"}, "mark": mark, "encoding": encoding}


def _crosses() -> Spec:
    tips = tooltip({"objective": "objective", "formula": "loss", "point": "point", "why": "missing"})
    encoding = {"x": _x(), "y": {"value": _HEIGHT - 9}, "tooltip": tips}
    mark = {"type": "text", "text": "×", "fontSize": 16, "color": "var(--bad)"}
    return {"data": {"name": "lacking"}, "mark": mark, "encoding": encoding}


def _zero() -> Spec:
    mark = {"type": "rule", "color": "var(--ink)"}
    return {"data": {"name": "zero"}, "mark": mark, "encoding": {"y": _y("y")}}


def _shade_rows(low: float, high: float) -> list[Spec]:
    edges = [low, *(float(logit(np.array(edge))) for edge in REGION_EDGES), high]
    rows = []
    for (short, name), left, right in zip(REGIONS.items(), edges, edges[1:], strict=False):
        if left < high and right > low:
            ends = (max(left, low), min(right, high))
            share = (ends[1] - ends[0]) / (high - low)  # a narrow region has no room for its name
            row = {"left": ends[0], "right": ends[1], "middle": sum(ends) / 2, "short": short if share > 0.1 else ""}
            row["name"] = f"{name} ({short})" if share > 0.18 else short if share > 0.03 else ""
            rows.append(row | {"shade": f"var(--{short.lower()})"})
    return rows


def _shades() -> list[Spec]:
    data = {"name": "shades"}
    ends = {"x": _x("left"), "x2": {"field": "right"}}
    fill = ends | {"y": {"value": 0}, "y2": {"value": _HEIGHT}}
    fill |= {"color": {"field": "shade", "type": "nominal", "scale": None}}
    text = {"x": _x("middle"), "y": {"value": 5}}
    word = {"type": "text", "baseline": "top", "color": "var(--muted)", "fontSize": 11}
    return [
        {"data": data, "mark": {"type": "rect"}, "encoding": fill},
        {
            "data": data,
            "mark": word,
            "encoding": text
            | {"text": {"condition": {"test": "names", "field": "name"}, "field": "short", "type": "nominal"}},
        },
    ]


def _points(rows: pd.DataFrame, wide: float) -> pd.DataFrame:
    """One row per point and prior strength, for the strip below the chart, `wide` in logits; `at`: where there is room
    for its name.
    """
    first = rows.drop_duplicates(["point", "variant"])
    place = logit(first["prior"].to_numpy(float))
    at = np.array(place)
    for _, mine in first.assign(_row=np.arange(len(first))).groupby("variant", sort=False):
        order = mine["_row"].to_numpy()[np.argsort(place[mine["_row"]], kind="stable")]
        at[order] = apart(place[order], _ROOM * wide)
    text = [_prior_text(row) for row in first.to_dict("records")]
    return first[["point", "backbone", "domain", "variant"]].assign(x=place, at=at, prior_text=text)


def _strip(low: float, high: float, names: Sequence[str]) -> list[Spec]:
    """A tick per point below the chart, its name where there is room, and the axis."""
    ticks = {round(float(logit(np.array(t))), 6): f"{t:g}".removeprefix("0") for t in _TICKS}
    shown = {place: text for place, text in ticks.items() if low < place < high}
    room = 34 + round(3.9 * max(map(len, names)))  # pixels below the chart, for slanted names
    labels = "[" + ", ".join(f"'{text}'" for text in shown.values()) + "]"
    axis = {
        "values": list(shown),
        "labelExpr": f"{labels}[indexof({list(shown)}, round(datum.value * 1e6) / 1e6)]",
        "grid": False,
        "offset": {"expr": f"names ? {room} : 16"},
        "labelOverlap": "greedy",
    }
    x = _x() | {"axis": axis, "title": "prior strength (logit scale)", "scale": {"domain": [low, high], "nice": False}}
    tips = tooltip({"point": "point", "prior_text": "prior strength [95 %]"})
    transform = [{"filter": "datum.variant === variant"}, *filtered_by("backbone", "domain")]
    tick = {"x": x, "y": {"value": _HEIGHT + 6}, "tooltip": tips}
    word = tick | {"x": _x("at"), "y": {"value": _HEIGHT + 16}, "text": {"field": "point", "type": "nominal"}}
    link = {"x": _x("x"), "x2": {"field": "at"}, "y": {"value": _HEIGHT + 11}, "y2": {"value": _HEIGHT + 20}}
    style = {"angle": 320, "align": "right", "baseline": "top", "fontSize": 10, "color": "var(--ink)"}
    common = {"data": {"name": "points"}}
    return [
        common
        | {"transform": transform, "mark": {"type": "tick", "color": "var(--ink)", "height": 8}, "encoding": tick},
        common
        | {
            "transform": [*transform, {"filter": "names"}],
            "mark": {"type": "rule", "color": "var(--muted)", "strokeWidth": 0.7},
            "encoding": link,
        },
        common
        | {
            "transform": [*transform, {"filter": "names"}],
            "mark": {"type": "text", "dx": -2, "dy": 8, **style},
            "encoding": word,
        },
    ]


# --- training curves ------------------------------------------------------------------------------------------------


def curves_chart(results: Results, prior: Prior = "clean", objectives: Sequence[str] = ()) -> Spec | None:
    """NLL, mean p and tokens kept against the step for the point that a menu chooses, a colour per objective:
    `panels`, a specification each, over the `curves` of `datasets`. None if no run has logged a step.

    A training that two objectives' names share is drawn under both.
    """
    runs = results.cells[results.cells["train"] != ""].drop_duplicates(["train", "objective"])
    if results.curves.empty or runs.empty:
        return None
    runs = runs.sort_values([f"prior_{prior}", "variant"], ascending=[False, True], kind="stable")
    runs = runs.assign(where=runs["point"] + runs["variant"].map(lambda v: f", {v}" if v else ""))
    wanted = _thinned(results.curves, max(_FEWEST_STEPS, min(MOST_STEPS, MOST_POINTS // len(runs))))
    wanted = wanted[["train", "step", *CURVES]]
    of_run = ["train", "where", "backbone", "domain", "objective", "seed"]
    data = runs[of_run].merge(wanted, on="train", how="inner", sort=False).drop(columns="train").round(5)
    if data.empty:
        return None
    colour = objective_colours(in_order(data["objective"]), objectives)
    alone = int(data.groupby(["where", "objective", "seed"]).size().max()) <= 3  # a line of one step is no line
    return {
        "datasets": {"curves": plain_rows(data)},
        "panels": [_curve_panel(TRAINING[key], colour, alone) for key in CURVES],
    }


def _curve_panel(metric: Metric, colour: Spec, dots: bool) -> Spec:
    """The page's script sets the ends of the scales for the point that it shows: last_step, most_<key>."""
    most = f"most_{metric.key}"
    top: Any = {"expr": most} if metric.ceiling is None else 1.02 * metric.ceiling
    scale = {"domain": [0, top], "nice": False}
    ends = {"last_step": 1} | ({most: 1} if metric.ceiling is None else {})
    steps = {"domain": [0, {"expr": "last_step"}], "nice": False}
    tips = tooltip({"objective": "objective", "seed": "seed", "step": "step", metric.key: metric.title})
    encoding = {
        "x": {
            "field": "step",
            "type": "quantitative",
            "title": "optimiser step",
            "scale": steps,
            "axis": {"tickCount": 5},
        },
        "y": {
            "field": metric.key,
            "type": "quantitative",
            "title": metric.title,
            "scale": scale,
            "axis": {"tickCount": 5},
        },
        "color": colour,
        "detail": {"field": "seed"},
        "tooltip": tips,
    }
    spec = {"data": {"name": "curves"}, "transform": [{"filter": "datum.where === point"}, *filtered_by("objective")]}
    mark = {"type": "line", "strokeWidth": 1.6, "point": {"size": 40} if dots else {"size": 30, "opacity": 0}}
    return whole_chart(spec | {"height": 200, "mark": mark, "encoding": encoding}, page_params(point="", **ends))


def _thinned(curves: pd.DataFrame, most: int) -> pd.DataFrame:
    longest = int(curves.groupby("train")["step"].size().max())
    every = max(1, math.ceil(longest / most))
    if every == 1:
        return curves
    order = curves.groupby("train").cumcount()
    last = order == curves.groupby("train")["step"].transform("size") - 1
    return curves[(order % every == 0) | last]
