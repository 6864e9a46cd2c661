"""The continuum as a scheme: what is expected to win where, and below it what does at each measured point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.leaders import Key, Leader
from analysis.figures.overlay import at_place, reported_at
from analysis.figures.panels import (
    GREY,
    WIDTH,
    finish,
    mark_reported,
    missing,
    objective_handles,
    places,
    reported_handle,
)
from analysis.figures.style import (
    OVER_BACKBONES,
    PRIOR_NAMES,
    REGION_SHADES,
    averaged,
    colours,
    counts,
    decoding_name,
    in_order,
    left_out,
    plain,
)  # fmt: skip
from analysis.statistics.continuum import Prior
from analysis.tables.results import number
from bll_sweeps.store.regions import REGION_EDGES, REGIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LANES = 20  # most points of a page
_LANE = 0.29  # inches
# What the paper expects (Sections 3 and 4): prior-leaning objectives weigh tokens that the model finds probable most.
_EXPECTED = {
    "MW": "NLL, which is\nprior-averse",
    "MI": "none by much",
    "MS": "prior-leaning ones:\n−p, thresholds",
}


def scheme(
    rows: pd.DataFrame,
    formulas: dict[str, str],
    best: dict[Key, Leader],
    prior: Prior = "clean",
    reported: pd.DataFrame | None = None,
) -> Figure:
    """A lane per point of the rows of one decoding (benchmarks.by_place over means), on the prior strength's axis.

    A point has its best objective's colour where every difference to the others says so, else grey; to the right stand
    the objectives that may be the best. reported: the paper's means; of them only the prior strengths are drawn.
    """
    from matplotlib.figure import Figure

    found = places(rows)
    names = in_order(name for name in rows["objective"] if name != "base")
    palette = colours(names)
    figure = Figure(figsize=(WIDTH, 4.0))
    body = 0.95 + _LANE * len(found) + 0.5
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[0.95, _LANE * len(found) + 0.25])
    _expectation(upper)
    _shade(lower)
    theirs = reported_at(rows, reported)
    for i, (place, mine) in enumerate(found):
        leader = best.get((place["backbone"], place["domain"], place["variant"], str(mine["decoding"].iloc[0])))
        _lane(lower, i, place, leader, palette)
        for row in at_place(theirs, place)[:1]:
            mark_reported(lower, [row["prior"]], [i + 0.3])
    _axes(lower, [place for place, _ in found], prior)
    handles = [*objective_handles(names, palette, formulas), _grey_handle()]
    handles += [reported_handle("prior strength that the paper reports")] if len(theirs) else []
    finish(figure, body, handles, _caption(rows, prior))
    return figure


def _shade(ax: Axes) -> None:
    edges = [0.0, *REGION_EDGES, 1.0]
    for short, left, right in zip(REGIONS, edges, edges[1:], strict=False):
        ax.axvspan(left, right, color=REGION_SHADES[short], linewidth=0, zorder=0)


def _expectation(ax: Axes) -> None:
    """The regions' names, what is expected to win there, and a line of the expected gain over NLL (no measurement)."""
    _shade(ax)
    edges = [0.0, *REGION_EDGES, 1.0]
    for (short, name), left, right in zip(REGIONS.items(), edges, edges[1:], strict=False):
        middle = (left + right) / 2
        ax.text(
            middle,
            0.95,
            f"{name.removeprefix('model-')} ({short})",
            ha="center",
            va="top",
            fontsize=7,
            weight="bold",
            color="#333333",
        )
        ax.text(middle, 0.72, _EXPECTED[short], ha="center", va="top", fontsize=6.8, color="#333333", linespacing=1.1)
    x = np.linspace(0.01, 0.99, 99)
    ax.plot(x, 0.2 + 0.13 * np.tanh(4 * (x - 0.5)), color="#555555", linestyle=(0, (4, 2)), linewidth=1.2, zorder=3)
    ax.plot([0.01, 0.99], [0.2, 0.2], color="#555555", linewidth=0.6, zorder=2)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.text(-0.02, 0.95, "The model is", ha="right", va="top", fontsize=7)
    ax.text(-0.02, 0.6, "Expected to win\n(paper, Section 3)", ha="right", va="center", fontsize=7)
    ax.text(-0.02, 0.2, "expected gain of −p\nover NLL, a sketch", ha="right", va="center", fontsize=7, color="#555555")


def _lane(ax: Axes, i: int, place: dict[str, Any], leader: Leader | None, palette: dict[str, str]) -> None:
    colour = palette[leader.top] if leader is not None and leader.decided else GREY
    value, low, high = (float(place[key]) for key in ("prior", "prior_low", "prior_high"))
    ax.axhline(i, color="white", linewidth=0.8, zorder=1)
    if math.isnan(value):
        ax.text(0.5, i, "prior strength is missing", ha="center", va="center", fontsize=6.5, style="italic")
    else:
        ax.plot([low, high], [i, i], color="#333333", linewidth=1.4, solid_capstyle="butt", zorder=3)
        face = "white" if leader is None else colour
        ax.plot([value], [i], marker="o", markersize=6.5, markerfacecolor=face, markeredgecolor="#333333",
                markeredgewidth=0.5, zorder=4, clip_on=False)  # fmt: skip
    ax.text(1.02, i - 0.2, _verdict(leader), va="center", fontsize=6.5, clip_on=False)
    for k, name in enumerate(leader.level if leader is not None else ()):
        ax.plot([1.03 + 0.025 * k], [i + 0.24], marker="s", markersize=4, color=palette[name], clip_on=False)


def _verdict(leader: Leader | None) -> str:
    if leader is None:
        return "no scores"
    lacking = f", {len(leader.lacking)} missing" if leader.lacking else ""
    if leader.compared == 1:
        return plain(f"{leader.top} alone has scores{lacking}")
    if leader.decided:
        return plain(f"{leader.top} is best of {leader.compared}{lacking}")
    return f"undecided: {len(leader.level)} of {leader.compared} may be best{lacking}"


def _axes(ax: Axes, found: list[dict[str, Any]], prior: Prior) -> None:
    labels = []
    for place in found:
        value, ends = float(place["prior"]), [float(place["prior_low"]), float(place["prior_high"])]
        interval = "" if math.isnan(value) else f"\n{number(value)} [{number(ends[0])}, {number(ends[1])}]"
        labels.append(plain(place["name"]) + interval)
    ax.set_yticks(range(len(found)), labels, fontsize=6.5, linespacing=1.05)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.spines[["left", "right"]].set_visible(False)
    ax.set_xlabel(
        f"prior strength: mean p of the target tokens under the base model, {PRIOR_NAMES[prior]}", fontsize=7.5
    )


def _grey_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=GREY, markersize=5.5, label="undecided")


def _caption(rows: pd.DataFrame, prior: Prior) -> str:
    unit = "questions" if (rows["prior_questions"] > 0).all() else "sequences"
    low, high = int(rows[f"prior_{unit}"].min()), int(rows[f"prior_{unit}"].max())
    trained = f"{low}{f' to {high}' if high > low else ''} training {unit}{OVER_BACKBONES}"
    return (
        f"{decoding_name(rows)}; {counts(rows)}. Above: the expectation, not a measurement. Below: each point at its "
        f"prior strength (line and brackets: 95 % interval over {trained}). In colour: the trained objective "
        f"with the highest mean score{averaged(rows)}, where the 95 % interval of its difference to every other one, "
        "paired by question and over seeds where there are several, is above zero (not corrected for several "
        "comparisons); grey: not so, and to the right the "
        f"objectives whose difference to the highest includes zero.{missing(rows)}{left_out(rows)}"
    )
