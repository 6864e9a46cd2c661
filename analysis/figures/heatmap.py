"""All scores at once: a row per point by prior strength, a column per objective."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import as_reported, of_the_paper
from analysis.figures.style import averaged, counts, decoding_name, in_order, interval_name, legend_text, note, plain
from analysis.tables.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMN = 0.78  # inches, of an objective


def heatmap(rows: pd.DataFrame, formulas: dict[str, str], dense: bool = False) -> Figure:
    """Mean score with its interval: a row per label (and variant) by prior strength, a column per objective.

    dense: many rows, low ones, by colour alone. Where all are of the paper there are no intervals.
    """
    from matplotlib.figure import Figure

    points = rows.drop_duplicates(["label", "variant"])[
        ["label", "variant", "prior", "prior_low", "prior_high", "region"]
    ]
    names = in_order(rows["objective"])
    found = {(r["label"], r["variant"], r["objective"]): r for r in rows.to_dict("records")}
    bare = of_the_paper(rows)
    line = 0.1 if dense else 0.2 if bare else 0.33  # inches
    pad = 3 if dense else 40 if bare else 62  # points, room for the prior
    label_width = (0.82 if bare else 1.15) + 0.055 * int((points["label"] + points["variant"]).str.len().max())
    width = label_width + _COLUMN * len(names) + 0.75
    below = _below(text := _caption(rows, dense), width)
    height = line * len(points) + 0.6 + below
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes(
        (label_width / width, below / height, _COLUMN * len(names) / width, line * len(points) / height)
    )
    value = np.full((len(points), len(names)), np.nan)
    labels = []
    for i, point in enumerate(points.to_dict("records")):
        for j, name in enumerate(names):
            row = found.get((point["label"], point["variant"], name))
            if row is None:  # the grid does not have it
                continue
            value[i, j] = row["mean"] if row["n"] > 0 else np.nan
            if not dense or not row["n"]:
                _cell_text(ax, i, j, row, bare)
        label = plain(f"{point['label']}{', ' + point['variant'] if point['variant'] else ''}")
        labels.append(f"{label}   {_prior(point)}" if dense else label)
        if not dense:
            _prior_text(ax, i, point, bare)
    # Not an image, which viewers of PDF and SVG may smooth.
    image = ax.pcolormesh(value, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.4 if dense else 1.2)
    _axes(ax, [_column_head(name, formulas) for name in names], labels, line, pad, dense)
    bar = figure.colorbar(
        image,
        cax=figure.add_axes((1 - 0.55 / width, below / height, 0.12 / width, line * len(points) / height)),
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, length=2)
    note(figure, text)
    return figure


def _caption(rows: pd.DataFrame, dense: bool) -> str:
    whole, how = averaged(rows), f"{decoding_name(rows)}; {counts(rows)}. Rows by prior strength."
    if of_the_paper(rows):
        what = f"{as_reported(rows)} Mean scores{whole}{': our means of its columns' if whole else ''}"
    else:
        what = f"Mean scores{whole}{'. Numbers and intervals: means.csv' if dense else f', {interval_name(rows)}'}"
    return f"{what}. {how}"


def _below(text: str, width: float) -> float:
    """Inches that the small print needs in a figure of this width (style.note)."""
    lines = len(textwrap.wrap(text, int((width - 0.15) / 0.0525)))
    return max(0.5, 0.13 + 0.115 * lines)


def _axes(ax: Axes, heads: list[str], labels: list[str], line: float, pad: float, dense: bool) -> None:
    """Heads above, labels `pad` points to the left; line: the height of a row in inches."""
    ax.invert_yaxis()
    ax.set_axis_off()
    for j, head in enumerate(heads):
        ax.text(j + 0.5, -0.05 / line, head, ha="center", va="bottom", fontsize=7)
    for i, label in enumerate(labels):
        ax.text(-pad / 72 / _COLUMN, i + 0.5, label, ha="right", va="center", fontsize=5.8 if dense else 7)
    ax.text(-0.03, -0.04 / line, "prior", ha="right", va="bottom", fontsize=7)


def _column_head(name: str, formulas: dict[str, str]) -> str:
    text = legend_text(name, formulas)
    return text.replace("  ", "\n", 1).replace(r" \cdot 1[", "$\n$1[")


def _prior(point: dict[Any, Any], digits: int = 3) -> str:
    return "?" if math.isnan(point["prior"]) else f"{number(point['prior'], digits)} {point['region']}"


def _prior_text(ax: Axes, i: int, point: dict[Any, Any], bare: bool) -> None:
    if bare:
        ax.text(-0.1, i + 0.5, _prior(point, 2), ha="right", va="center", fontsize=7)
        return
    ax.text(-0.1, i + 0.36, _prior(point), ha="right", va="center", fontsize=7)
    if not math.isnan(point["prior"]):
        interval = f"[{number(point['prior_low'])}, {number(point['prior_high'])}]"
        ax.text(-0.1, i + 0.74, interval, ha="right", va="center", fontsize=5.6)


def _cell_text(ax: Axes, i: int, j: int, row: dict[Any, Any], bare: bool) -> None:
    if not row["n"]:
        ax.text(j + 0.5, i + 0.5, "missing", ha="center", va="center", fontsize=6, color="#a03030", style="italic")
        return
    ink = "white" if row["mean"] < 0.47 else "black"  # where either has the same contrast
    if bare:
        ax.text(j + 0.5, i + 0.5, number(row["mean"]), ha="center", va="center", fontsize=7.5, color=ink)
        return
    ax.text(j + 0.5, i + 0.36, number(row["mean"], 2), ha="center", va="center", fontsize=7.5, color=ink)
    ax.text(
        j + 0.5,
        i + 0.74,
        f"[{number(row['low'], 2)}, {number(row['high'], 2)}]",
        ha="center",
        va="center",
        fontsize=5.6,
        color=ink,
    )
