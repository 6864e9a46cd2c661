"""The alpha sweep: score against alpha of f(p) = (1 - p^alpha) / alpha (paper, Section 5.2)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import as_reported, of_the_paper, reported_at, told
from analysis.figures.panels import crosses, domains, finish, grid, look, mark_reported, missing, reported_handle, title
from analysis.figures.style import alpha_of, averaged, counts, decoding_name, interval_name, plain
from analysis.sources.table import PLACE
from bll_sweeps.store.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 4  # alphas above 0 at one point that make a sweep
_TICKS = (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


def alphas(cells: pd.DataFrame) -> dict[str, float]:
    """Objective -> alpha, for those of the family on all tokens; NLL is 0. From the specs, or else the names."""
    out: dict[str, float] = {}
    for name, identity in cells[["objective", "identity"]].drop_duplicates().itertuples(index=False, name=None):
        found = json.loads(identity) if identity else None
        if found is None:
            family, told = alpha_of(name) or ("", math.nan)
            value = told if family == "power" else 0.0 if name == "nll" else math.nan
        elif "keep" in found or found["family"] not in ("nll", "power"):
            continue
        else:
            value = float(found.get("alpha", 0.0))
        if not math.isnan(value):
            out.setdefault(name, value)
    return out


def alpha_rows(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows (benchmarks.by_place over means, one decoding) of the points with at least LEAST alphas, by `alpha`."""
    known = alphas(cells)
    mine = rows[rows["objective"].isin(known)]
    mine = mine.assign(alpha=mine["objective"].map(known).astype(float))
    # The same objective may be there under two names: it is the same job.
    mine = mine.sort_values("alpha", kind="stable").drop_duplicates([*PLACE, "decoding", "alpha"])
    several = mine[mine["alpha"] > 0].groupby(PLACE)["alpha"].nunique()
    keep = pd.MultiIndex.from_frame(mine[PLACE]).isin(several[several >= LEAST].index)
    return mine[keep].reset_index(drop=True)


def alpha_sweep(rows: pd.DataFrame, reported: pd.DataFrame | None = None, note: str = "") -> Figure:
    """Score against alpha (log axis) of `alpha_rows`: a panel per domain, a line per backbone; NLL is its limit.

    reported: the paper's means (overlay.Reported), drawn as open marks; note: what of them is not drawn.
    """
    found = domains(rows.sort_values("prior", ascending=False, kind="stable"))
    styles = look(list(rows["backbone"]))
    least = float(rows.loc[rows["alpha"] > 0, "alpha"].min())
    zero = least / 2.2
    figure, axes = grid(len(found), columns=2)
    theirs = _reported(rows, reported)
    for ax, (name, mine) in zip(axes, found, strict=True):
        for backbone, line in mine.groupby("backbone", sort=False):
            _line(ax, line, styles[str(backbone)], zero)
            if len(theirs):
                some = theirs[(theirs["backbone"] == backbone) & (theirs["domain"] == line["domain"].iloc[0])]
                mark_reported(ax, list(_x(some, zero)), list(some["mean"]), styles[str(backbone)]["color"])
        _axis(ax, least, float(rows["alpha"].max()), zero)
        title(ax, name, 50)
        ax.set_ylabel(SCORES["mean"].title, fontsize=7.5)
    handles = _handles(styles, found) + ([reported_handle()] if len(theirs) else [])
    lines = math.ceil(len(axes) / min(2, len(axes)))
    finish(figure, 2.2 * lines + 0.1, handles, _caption(rows) + told(rows, theirs, note=note))
    return figure


def _reported(rows: pd.DataFrame, reported: pd.DataFrame | None) -> pd.DataFrame:
    theirs = reported_at(rows, reported)
    if theirs.empty:
        return theirs
    return theirs.assign(alpha=theirs["objective"].map(dict(zip(rows["objective"], rows["alpha"], strict=True))))


def _x(rows: pd.DataFrame, zero: float) -> np.ndarray:
    return np.where(rows["alpha"] > 0, rows["alpha"], zero)


def _line(ax: Axes, line: pd.DataFrame, look: dict[str, Any], zero: float) -> None:
    done = line[line["n"] > 0]
    curve = done[done["alpha"] > 0]
    ends = np.stack([done["mean"] - done["low"], done["high"] - done["mean"]])
    ax.plot(_x(curve, zero), curve["mean"], linewidth=1.1, color=look["color"], zorder=3)
    ax.errorbar(_x(done, zero), done["mean"], yerr=np.maximum(ends, 0), linestyle="", markersize=3.6, capsize=1.4,
                elinewidth=0.8, capthick=0.7, markeredgecolor="white", markeredgewidth=0.3, zorder=4,
                **look)  # fmt: skip
    lacking = line[line["n"] == 0]
    crosses(ax, list(_x(lacking, zero)), look["color"])


def _axis(ax: Axes, least: float, most: float, zero: float) -> None:
    ax.set_xscale("log")
    ticks = [t for t in _TICKS if least <= t <= most]
    ax.set_xticks([zero, *ticks], ["NLL", *("1\n(−p)" if t == 1 else f"{t:g}" for t in ticks)])
    ax.set_xticks([], minor=True)
    ax.set_xlim(zero / 1.35, most * 1.2)
    ax.axvline(zero * 1.45, color="#999999", linewidth=0.6, linestyle=(0, (1, 2)))
    if least <= 1 <= most:
        ax.axvline(1, color="#bbbbbb", linewidth=0.8, zorder=1)
    ax.set_xlabel(r"$\alpha$ of $(1-p^{\alpha})/\alpha$ (log axis; NLL is $\alpha\to 0$)", fontsize=7.5)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)


def _handles(styles: dict[str, dict[str, Any]], found: list[tuple[str, pd.DataFrame]]) -> list[Any]:
    from matplotlib.lines import Line2D

    there = {backbone for _, mine in found for backbone in mine["backbone"]}
    return [
        Line2D([], [], markersize=4, linewidth=1.1, label=plain(name), **style)
        for name, style in styles.items()
        if name in there
    ]


def _caption(rows: pd.DataFrame) -> str:
    count = rows.loc[rows["alpha"] > 0, "alpha"].nunique()
    bars = f"Bars: {interval_name(rows)} of the mean score{averaged(rows)}; a line per backbone."
    return (
        f"{decoding_name(rows)}; {counts(rows)}; {count} values of alpha. "
        f"{as_reported(rows) if of_the_paper(rows) else bars}{missing(rows, ' (crosses at the foot)')}"
    )
