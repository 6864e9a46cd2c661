"""Average performance: a panel per point, a bar per objective, the best one marked where the intervals say so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.leaders import Key, Leader
from analysis.figures.overlay import as_reported, at_place, of_the_paper, reported_at, told
from analysis.figures.panels import (
    MISSING,
    finish,
    grid,
    mark_reported,
    missing,
    objective_handles,
    places,
    reported_handle,
    spread,
    strength,
    title,
)  # fmt: skip
from analysis.figures.style import averaged, colours, counts, decoding_name, in_order, interval_name, left_out
from analysis.tables.results import number
from bll_sweeps.store.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUND = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # of numbers on lines of the grid


def bars(
    rows: pd.DataFrame,
    formulas: dict[str, str],
    best: dict[Key, Leader],
    reported: pd.DataFrame | None = None,
) -> Figure:
    """Mean score per objective of the rows of one decoding, those of benchmarks.by_place over means.

    reported: the paper's means (overlay.Reported), drawn as open marks at the points that `rows` have. Where all of
    `rows` are of the paper there are no intervals.
    """
    found = places(rows)
    names, palette = in_order(rows["objective"]), colours(rows["objective"])
    figure, axes = grid(len(found))
    theirs = reported_at(rows, reported)
    for ax, (place, mine) in zip(axes, found, strict=True):
        _panel(ax, mine, names, palette)
        leader = best.get((place["backbone"], place["domain"], place["variant"], str(mine["decoding"].iloc[0])))
        if leader is not None and leader.decided:
            top = mine[mine["objective"] == leader.top].iloc[0]
            _star(ax, names.index(leader.top), float(top["high"]), palette[leader.top])
        for row in at_place(theirs, place):
            mark_reported(ax, [names.index(row["objective"]) + 0.3 * spread(len(names))], [row["mean"]])
        ax.set_ylim(0, max(ax.get_ylim()[1], 0.02))
        title(ax, f"{place['name']} ({strength(place)})")
    for ax in axes[:: min(3, len(axes))]:
        ax.set_ylabel(SCORES["mean"].title, fontsize=7.5)
    handles = objective_handles(names, palette, formulas) + ([reported_handle()] if len(theirs) else [])
    finish(figure, 1.25 * math.ceil(len(axes) / 3) + 0.1, handles, _caption(rows) + told(rows, theirs))
    return figure


def _panel(ax: Axes, mine: pd.DataFrame, names: list[str], palette: dict[str, str]) -> None:
    by = {row["objective"]: row for row in mine.to_dict("records")}
    scored = [name for name in names if name in by and by[name]["n"]]
    for i, name in enumerate(names):
        if name not in scored:
            what = "missing" if name in by else "not in the grid"
            ax.text(i, 0.03, what, transform=ax.get_xaxis_transform(), rotation=90, ha="center", va="bottom",
                    fontsize=5.8 if len(names) <= 12 else 4.6, color=MISSING, style="italic")  # fmt: skip
    if scored:
        x = [names.index(name) for name in scored]
        mean, low, high = (np.array([by[name][key] for name in scored], float) for key in ("mean", "low", "high"))
        ends = np.maximum(np.stack([mean - low, high - mean]), 0)
        ax.bar(x, mean, width=spread(len(names)), color=[palette[name] for name in scored], linewidth=0, zorder=2)
        if np.isfinite(ends).any():
            ax.errorbar(x, mean, yerr=ends, linestyle="", color="#e8e8e8", elinewidth=2.2, zorder=3)
            ax.errorbar(x, mean, yerr=ends, linestyle="", color="#333333", elinewidth=0.9, capsize=1.5, capthick=0.8,
                        zorder=4)  # fmt: skip
        elif of_the_paper(mine):  # without intervals there is room for numbers, which tell a bar of zero from none
            for i, value in zip(x, mean, strict=True):
                ax.annotate(number(float(value)), (i, value), xytext=(0, 1.5), textcoords="offset points", ha="center",
                            va="bottom", fontsize=6, bbox=_GROUND)  # fmt: skip
            ax.margins(y=0.14)
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.set_xticks([])
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.locator_params(axis="y", nbins=4)


def _star(ax: Axes, x: float, y: float, colour: str) -> None:
    look: dict[str, Any] = {"markersize": 6, "markeredgecolor": "#333333", "markeredgewidth": 0.4}
    reach = max(ax.get_ylim()[1], 0.02)
    ax.plot([x], [y + 0.07 * reach], marker="*", color=colour, zorder=5, clip_on=False, **look)
    ax.set_ylim(0, max(reach, y + 0.14 * reach))


def _caption(rows: pd.DataFrame) -> str:
    if of_the_paper(rows):
        whole = averaged(rows)
        return (
            f"{as_reported(rows)} Bars: mean score{whole}{': our means of its columns' if whole else ''}. "
            f"{decoding_name(rows)}; {counts(rows)}. In brackets: prior strength and region.{missing(rows)}"
        )
    return (
        f"{decoding_name(rows)}; {counts(rows)}. Bars: mean score{averaged(rows)}, with its {interval_name(rows)}. "
        "Star: the best of the trained objectives, where the 95 % interval of its difference to every other one, "
        "paired by question and over seeds where there are several, is above zero (not corrected for several "
        "comparisons). In brackets: prior "
        "strength and region."
        f"{missing(rows)}{left_out(rows)}"
    )
