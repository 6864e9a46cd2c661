"""All scores at once: a row per point by prior strength, a column per objective."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.style import averaged, counts, decoding_name, in_order, legend_text, note, plain
from analysis.tables.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def heatmap(rows: pd.DataFrame, formulas: dict[str, str], dense: bool = False) -> Figure:
    """Mean score with its interval: a row per label (and variant) by prior strength, a column per objective.

    dense: many rows, low ones, by colour alone.
    """
    from matplotlib.figure import Figure

    points = rows.drop_duplicates(["label", "variant"])[
        ["label", "variant", "prior", "prior_low", "prior_high", "region"]
    ]
    names = in_order(rows["objective"])
    found = {(r["label"], r["variant"], r["objective"]): r for r in rows.to_dict("records")}
    label_width = 1.15 + 0.055 * int((points["label"] + points["variant"]).str.len().max())
    line = 0.1 if dense else 0.33  # inches
    width, height = label_width + 0.78 * len(names) + 0.75, line * len(points) + 1.1
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((label_width / width, 0.5 / height, 0.78 * len(names) / width, line * len(points) / height))
    value = np.full((len(points), len(names)), np.nan)
    labels = []
    for i, point in enumerate(points.to_dict("records")):
        for j, name in enumerate(names):
            row = found.get((point["label"], point["variant"], name))
            if row is None:  # the grid does not have it
                continue
            value[i, j] = row["mean"] if row["n"] > 0 else np.nan
            if not dense or not row["n"]:
                _cell_text(ax, i, j, row)
        label = plain(f"{point['label']}{', ' + point['variant'] if point['variant'] else ''}")
        labels.append(f"{label}   {_prior(point)}" if dense else label)
        if not dense:
            _prior_text(ax, i, point)
    image = ax.imshow(value, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    _axes(ax, [_column_head(name, formulas) for name in names], labels, line, dense)
    bar = figure.colorbar(
        image,
        cax=figure.add_axes((1 - 0.55 / width, 0.5 / height, 0.12 / width, line * len(points) / height)),
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, length=2)
    interval = ". Numbers and intervals: means.csv" if dense else ", 95 % interval (Wilson)"
    what = f"Mean scores{averaged(rows)}{interval}"
    note(figure, f"{what}. {decoding_name(rows)}; {counts(rows)}. Rows by prior strength.")
    return figure


def _axes(ax: Axes, heads: list[str], labels: list[str], line: float, dense: bool) -> None:
    """Heads above, labels to the left, white lines between; line: the height of a row in inches."""
    ax.set_xticks(range(len(heads)), heads, fontsize=7)
    ax.set_yticks(range(len(labels)), labels, fontsize=5.8 if dense else 7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.tick_params(axis="y", pad=3 if dense else 62)
    ax.text(-0.53, -0.5 - 0.04 / line, "prior", ha="right", va="bottom", fontsize=7)
    ax.spines[:].set_visible(False)
    look: Any = {"color": "white", "linewidth": 0.4 if dense else 1.2}
    ax.vlines(np.arange(1, len(heads)) - 0.5, -0.5, len(labels) - 0.5, **look)
    ax.hlines(np.arange(1, len(labels)) - 0.5, -0.5, len(heads) - 0.5, **look)


def _column_head(name: str, formulas: dict[str, str]) -> str:
    text = legend_text(name, formulas)
    return text.replace("  ", "\n", 1).replace(r" \cdot 1[", "$\n$1[")


def _prior(point: dict[Any, Any]) -> str:
    return "?" if math.isnan(point["prior"]) else f"{number(point['prior'])} {point['region']}"


def _prior_text(ax: Axes, i: int, point: dict[Any, Any]) -> None:
    ax.text(-0.6, i - 0.14, _prior(point), ha="right", va="center", fontsize=7)
    if not math.isnan(point["prior"]):
        interval = f"[{number(point['prior_low'])}, {number(point['prior_high'])}]"
        ax.text(-0.6, i + 0.24, interval, ha="right", va="center", fontsize=5.6)


def _cell_text(ax: Axes, i: int, j: int, row: dict[Any, Any]) -> None:
    if not row["n"]:
        ax.text(j, i, "missing", ha="center", va="center", fontsize=6, color="#a03030", style="italic")
        return
    ink = "white" if row["mean"] < 0.47 else "black"  # where either has the same contrast
    ax.text(j, i - 0.14, number(row["mean"], 2), ha="center", va="center", fontsize=7.5, color=ink)
    ax.text(
        j,
        i + 0.24,
        f"[{number(row['low'], 2)}, {number(row['high'], 2)}]",
        ha="center",
        va="center",
        fontsize=5.6,
        color=ink,
    )
