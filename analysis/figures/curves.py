"""Training dynamics: what a run logs, step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.style import PRIOR_NAMES, colours, in_order, legend_text, note, plain
from analysis.sources.table import Results
from analysis.statistics.continuum import Prior
from analysis.tables.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CURVES = {"nll": "NLL (nats)", "mean_p": "mean p", "kept_fraction": "tokens kept"}


def curve_rows(results: Results, cells: pd.DataFrame, prior: Prior) -> pd.DataFrame:
    """The logged steps of the cells' trainings, with point and objective; strongest prior first."""
    runs = cells[cells["train"] != ""].drop_duplicates(["point", "objective", "seed"])
    if results.curves.empty or runs.empty:
        return pd.DataFrame()
    runs = runs.assign(prior=runs[f"prior_{prior}"], region=runs[f"region_{prior}"])
    runs = runs.sort_values("prior", ascending=False, kind="stable")
    wanted = runs[["train", "point", "objective", "seed", "prior", "region"]]
    return wanted.merge(results.curves, on="train", how="inner", sort=False)


def _draw_runs(ax: Axes, rows: pd.DataFrame, key: str, palette: dict[str, str]) -> None:
    for (objective, _), run in rows.groupby(["objective", "seed"], sort=False):
        dot = "o" if len(run) == 1 else None  # a line of one step is no line
        colour = palette[str(objective)]
        ax.plot(run["step"], run[key], marker=dot, color=colour, linewidth=1.0, markersize=3, alpha=0.9)
    ax.grid(color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)


def curves(rows: pd.DataFrame, formulas: dict[str, str], variant: str = "", prior: Prior = "clean") -> Figure:
    """NLL, mean p and the share of tokens kept against the step: a line of panels per point, a curve per run."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points = list(dict.fromkeys(rows["point"]))
    palette = colours(rows["objective"])
    height = 0.95 * len(points) + 1.2
    figure = Figure(figsize=(7.2, height))
    axes = figure.subplots(len(points), len(CURVES), sharex=True, sharey="col", squeeze=False)
    for i, point in enumerate(points):
        mine = rows[rows["point"] == point]
        for j, key in enumerate(CURVES):
            _draw_runs(axes[i, j], mine, key, palette)
            axes[i, j].tick_params(labelleft=j < 2, labelbottom=i == len(points) - 1)
        first = mine.iloc[0]
        # A panel is an inch high: of a longer name the domain goes into the second line.
        name = f"{plain(point)}\n" if len(point) <= 18 else f"{plain(point).replace(' · ', chr(10), 1)} "
        axes[i, 0].set_ylabel(f"{name}{number(float(first['prior']))} {first['region']}", fontsize=7)
    for ax, title in zip(axes[0], CURVES.values(), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("optimiser step")
    for ax in axes[:, 1:].flat:
        ax.set_ylim(-0.03, 1.05)
    entries = [
        Line2D([], [], color=palette[o], linewidth=2, label=legend_text(o, formulas))
        for o in in_order(rows["objective"])
    ]
    figure.legend(
        handles=entries,
        loc="upper center",
        ncols=min(len(entries), 5),
        bbox_to_anchor=(0.53, 1 - 0.03 / height),
        handlelength=1.3,
    )
    seeds = int(rows.groupby(["point", "objective"])["seed"].nunique().max())
    more = f"Left: point, prior strength {PRIOR_NAMES[prior]}, region."
    what = f"{plain(variant)}. " if variant else ""
    what += f"Means over the step's batch, one curve per run (n = {seeds} {'seed' if seeds == 1 else 'seeds'}). {more}"
    note(figure, what)
    legend_rows = math.ceil(len(entries) / 5)
    figure.subplots_adjust(
        left=0.11,
        right=0.99,
        top=1 - (0.35 + 0.17 * legend_rows) / height,
        bottom=0.66 / height,
        hspace=0.22,
        wspace=0.2,
    )
    return figure
