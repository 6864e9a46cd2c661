"""Training dynamics: what a run logs, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.panels import WIDTH, finish, limits, objective_handles, prior_of, with_margin
from analysis.figures.style import PRIOR_NAMES, colours, left_out, plain
from analysis.sources.table import PLACE, Results
from analysis.statistics.continuum import Prior
from analysis.tables.results import number
from bll_sweeps.store.metrics import CURVES, TRAINING
from bll_sweeps.store.regions import region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_FEW = 12  # logged steps that are drawn as marks
_NAMED = 8  # of the trainings without a curve


def curve_rows(results: Results, cells: pd.DataFrame, prior: Prior) -> pd.DataFrame:
    """The logged steps of the cells' trainings, with point and objective; strongest prior first."""
    runs = cells[cells["train"] != ""].drop_duplicates(["point", "objective", "seed"])
    if results.curves.empty or runs.empty:
        return pd.DataFrame()
    # Seeds may have backbones of their own: their mean, as in the other figures.
    strength = {key: prior_of(mine, prior)[0] for key, mine in cells.groupby(PLACE, sort=False)}
    own = [strength[key] for key in runs[PLACE].itertuples(index=False, name=None)]
    runs = runs.assign(prior=own, region=[region(value) for value in own])
    runs = runs.sort_values("prior", ascending=False, kind="stable")
    columns = ["train", "point", "objective", "seed", "prior", "region"]
    wanted = runs[[*columns, *(["left_out"] if "left_out" in runs else [])]]
    return wanted.merge(results.curves, on="train", how="inner", sort=False)


def without_curve(results: Results, cells: pd.DataFrame) -> list[str]:
    """The trainings of the cells that have no curve: `lab-a · spell p`."""
    runs = cells[cells["train"] != ""].drop_duplicates(["point", "objective", "seed"])
    told = set() if results.curves.empty else set(results.curves["train"])
    lacking = runs[~runs["train"].isin(told)]
    return list(dict.fromkeys(lacking["point"] + " " + lacking["objective"])) if len(lacking) else []


def _draw_runs(ax: Axes, rows: pd.DataFrame, key: str, palette: dict[str, str]) -> None:
    for (objective, _), run in rows.groupby(["objective", "seed"], sort=False):
        look: dict[str, Any] = {"color": palette[str(objective)], "linewidth": 1.0, "alpha": 0.9}
        if len(run) <= _FEW:  # so few steps are hardly a line
            look |= {"marker": "o", "markersize": 3.6, "markeredgecolor": "white", "markeredgewidth": 0.3}
        ax.plot(run["step"], run[key], **look)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)


def curves(
    rows: pd.DataFrame,
    formulas: dict[str, str],
    variant: str = "",
    prior: Prior = "clean",
    lacking: Sequence[str] = (),
) -> Figure:
    """NLL, mean p and the share of tokens kept against the step: a line of panels per point, a curve per run.

    lacking: the trainings without a curve (`without_curve`), which the small print names.
    """
    from matplotlib.figure import Figure

    points = list(dict.fromkeys(rows["point"]))
    palette = colours(rows["objective"])
    figure = Figure(figsize=(WIDTH, 4.0))
    # Limits told to each: with many panels that share them, each asks all others again and again.
    axes = figure.subplots(len(points), len(CURVES), squeeze=False)
    heights = {key: limits(TRAINING[key], rows[key]) for key in CURVES}
    steps = with_margin(rows["step"])
    for i, point in enumerate(points):
        mine = rows[rows["point"] == point]
        for ax, key in zip(axes[i], CURVES, strict=True):
            _draw_runs(ax, mine, key, palette)
            ax.set_ylabel(TRAINING[key].title, fontsize=7)
            ax.set(xlim=steps, ylim=heights[key])
            if top := TRAINING[key].ceiling:
                ax.set_yticks((0, top / 2, top))
        first = mine.iloc[0]
        head = f"{plain(point)} ({number(float(first['prior']))} {first['region']})"
        axes[i, 0].set_title(head, loc="left", fontsize=7, pad=3, y=1.0)
    for ax in axes[-1]:
        ax.set_xlabel("optimiser step", fontsize=7.5)
    for ax in axes[:-1].flat:
        ax.xaxis.set_visible(False)
    handles = objective_handles(list(rows["objective"]), palette, formulas)
    finish(figure, 0.95 * len(points) + 0.3, handles, _caption(rows, variant, prior, lacking))
    return figure


def _caption(rows: pd.DataFrame, variant: str, prior: Prior, lacking: Sequence[str]) -> str:
    seeds = int(rows.groupby(["point", "objective"])["seed"].nunique().max())
    text = f"{plain(variant)}. " if variant else ""
    text += f"Means over the step's batch, one curve per run (n = {seeds} {'seed' if seeds == 1 else 'seeds'}; no "
    text += f"interval). In brackets: prior strength {PRIOR_NAMES[prior]}, region."
    if lacking:
        more = f"; and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        text += plain(f" Without a curve: {'; '.join(lacking[:_NAMED])}{more}.")
    return text + left_out(rows)
