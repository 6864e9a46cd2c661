"""The likelihood of the training targets before and after training (paper, Section 5.2), per objective and point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import of_the_paper, sources
from analysis.figures.panels import (
    GREY,
    MISSING,
    finish,
    grid,
    limits,
    objective_handles,
    places,
    prior_of,
    strength,
    title,
)
from analysis.figures.style import colours, in_order, left_out
from analysis.sources.reading import Reader
from analysis.sources.table import PLACE, Results
from analysis.statistics.continuum import Prior
from analysis.tables.results import number
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.metrics import TRAINING
from bll_sweeps.store.regions import region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAST = 0.1  # the share of the steps whose batches stand for the trained model


def likelihood_rows(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """A row per place and trained objective: mean p of the training targets before and after training.

    before (before_low, before_high): prior strength on the answers as trained, with its interval. after (after_low,
    after_high): the mean of mean p over the logged steps of the last tenth of the training curve, with its range over
    those steps and all seeds. n: logged steps behind it; 0 where no training has a curve. epochs: passes over the
    training set at the end of training (nan where the prior's record does not tell its size). `prior` and `region` are
    of the answers asked for, and only order and name the points.
    """
    cells = results.cells[results.cells["train"] != ""]
    curves = dict(list(results.curves.groupby("train", sort=False))) if len(results.curves) else {}
    reader, rows = Reader(Layout(results.root)), []
    for key, mine in cells.groupby([*PLACE, "objective"], sort=False):
        runs = [curves[job] for job in dict.fromkeys(mine["train"]) if job in curves]
        ends = [run.loc[run["step"] > (1 - LAST) * run["step"].max(), "mean_p"].to_numpy(float) for run in runs]
        first: dict[Any, Any] = _known(mine, prior)
        before, before_low, before_high = prior_of(mine, "as_trained")
        strong, *_ = prior_of(mine, prior)
        last = np.concatenate(ends) if ends else np.full(0, math.nan)
        rows.append(
            {
                **dict(zip([*PLACE, "objective"], map(str, key), strict=True)),
                "point": first["point"],
                "prior": strong,
                "region": region(strong),
                "before": before,
                "before_low": before_low,
                "before_high": before_high,
                "sequences": first["prior_sequences"],
                "after": float(np.mean([end.mean() for end in ends])) if ends else math.nan,
                "after_low": float(last.min()) if ends else math.nan,
                "after_high": float(last.max()) if ends else math.nan,
                "n": len(last),
                "seeds": len(runs),
                "epochs": max((_epochs(reader, run, first) for run in runs), default=math.nan),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("prior", ascending=False, kind="stable", ignore_index=True) if rows else table


def _known(mine: pd.DataFrame, prior: Prior) -> dict[Any, Any]:
    """What names the place and its training set, of a cell whose prior strength is known, where one is."""
    known = mine[f"prior_{prior}"].notna()
    first = known.argmax() if known.any() else 0
    return {column: mine[column].iloc[first] for column in ("point", "prior_sequences")}


def _epochs(reader: Reader, run: pd.DataFrame, first: dict[Any, Any]) -> float:
    spec = reader.spec(str(run["train"].iloc[0]))
    batch = ((spec or {}).get("job", {}).get("recipe") or {}).get("batch_size")
    return (
        float(run["step"].max() * batch / first["prior_sequences"]) if batch and first["prior_sequences"] else math.nan
    )


_AFTER = ("after", "after_low", "after_high")


def likelihood(rows: pd.DataFrame, formulas: dict[str, str]) -> Figure:
    """Mean p of the training targets of `likelihood_rows`: a panel per point, before as a line, after as marks.

    Rows of the paper (`source`) have no intervals and no n (nan), and `place` says where it reports them.
    """
    found = places(rows)
    names, palette = in_order(rows["objective"]), colours(rows["objective"])
    figure, axes = grid(len(found))
    for ax, (place, mine) in zip(axes, found, strict=True):
        _panel(ax, place, mine, names, palette)
        title(ax, f"{place['name']} ({strength(place)})")
        ax.tick_params(labelleft=ax in axes[:: min(3, len(axes))])
    for ax in axes[:: min(3, len(axes))]:
        ax.set_ylabel(TRAINING["mean_p"].title, fontsize=7.5)
    handles = [*objective_handles(names, palette, formulas), _before_handle()]
    finish(figure, 1.25 * math.ceil(len(axes) / 3) + 0.1, handles, _caption(rows))
    return figure


def _panel(ax: Axes, place: dict[str, Any], mine: pd.DataFrame, names: list[str], palette: dict[str, str]) -> None:
    by = {row["objective"]: row for row in mine.to_dict("records")}
    if math.isnan(place["before"]):
        ax.text(0.02, 0.03, "before: missing", transform=ax.transAxes, fontsize=6, color=MISSING, style="italic")
    else:
        if not math.isnan(place["before_low"]):
            ax.axhspan(place["before_low"], place["before_high"], color=GREY, alpha=0.45, linewidth=0, zorder=1)
        ax.axhline(place["before"], color="#333333", linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    marks = []
    for i, name in enumerate(names):
        row = by.get(name)
        if row is None or row["n"] == 0:
            what = "not in the grid" if row is None else "missing"
            ax.text(i, 0.03, what, transform=ax.get_xaxis_transform(), rotation=90, ha="center", va="bottom",
                    fontsize=5.6 if len(names) <= 12 else 4.6, color=MISSING, style="italic",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
            continue
        marks.append((i, row))
        if math.isnan(row["after_low"]):
            ax.annotate(number(row["after"], 2), (i, row["after"]), xytext=(5, 1), textcoords="offset points",
                        va="bottom", fontsize=6.5)  # fmt: skip
    if marks:
        at, inks = [i for i, _ in marks], [palette[names[i]] for i, _ in marks]
        after, low, high = (np.array([row[key] for _, row in marks], float) for key in _AFTER)
        ax.vlines(at, np.minimum(low, after), np.maximum(high, after), colors=inks, linewidth=1.2, zorder=3)
        ax.scatter(at, after, s=20, c=inks, edgecolors="#333333", linewidths=0.4, zorder=4)
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.set_ylim(*limits(TRAINING["mean_p"], mine["after"]))
    ax.set_xticks([])
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)


def _before_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#333333", linewidth=0.9, linestyle=(0, (4, 2)), label="before training")


def _caption(rows: pd.DataFrame) -> str:
    if of_the_paper(rows):
        return (
            f"Mean p of the training targets as the paper reports it ({sources(rows)}). Dashed: under the base model; "
            "marks: after training. It tells neither intervals nor n. In brackets: prior strength and region."
        )
    done = rows[rows["n"] > 0]
    low, high = int((done["n"] / done["seeds"]).min()), int((done["n"] / done["seeds"]).max())
    steps = f"{low}{f' to {high}' if high > low else ''}"
    seeds = int(done["seeds"].max())
    sequences = [int(of(rows["sequences"])) for of in (min, max)]
    trained = " to ".join(map(str, dict.fromkeys(sequences)))
    return (
        f"Dashed: mean p of the training targets under the base model, as trained (n = {trained} sequences; grey: 95 % "
        f"bootstrap interval). Marks: after training, mean p over the batches of the last tenth of the training curve "
        f"(n = {steps} logged steps a run, at most {seeds} {'seed' if seeds == 1 else 'seeds'}; bars: their range, no "
        f"interval). {_fresh(done)} In brackets: prior strength and region. {_lacking(rows)}{left_out(rows)}"
    )


def _fresh(done: pd.DataFrame) -> str:
    """Whether those batches had been trained on before."""
    if done["epochs"].isna().any():
        return "Whether the runs pass over their training set once is not known for all of them."
    if (done["epochs"] <= 1 + 1e-9).all():
        return "All runs are within one epoch: the batches had not been trained on yet."
    if (done["epochs"] > 1 + 1e-9).all():
        return (
            f"The runs pass over their training set up to {done['epochs'].max():.1f} times: the batches had been seen."
        )
    return "Some runs are within one epoch, so that their batches were new; others had seen them before."


def _lacking(rows: pd.DataFrame) -> str:
    count = int((rows["n"] == 0).sum())
    return f"{count} trainings without a curve are missing." if count else ""
