"""Figures of the reported numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.save import save
from analysis.figures.style import STYLE, averaged, colours, counts, in_order, legend_text, note, plain
from analysis.paper.reported import (
    METRICS,
    PRIMARY_METRICS,
    TRAINING_SET,
    formulas,
    prior_of,
    reported_ablation,
    reported_gains,
    reported_means,
)
from analysis.statistics.benchmarks import PRIMARY, by_place
from analysis.statistics.continuum import REFERENCE
from bll_sweeps.store.regions import region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TABLES = ("Table 1", "Table 2", "Table 3")  # the main grid
_NOT_TOLD = ("before_low", "before_high", "after_low", "after_high", "sequences", "n", "seeds", "epochs")


def write_reported_figures(table: pd.DataFrame, folder: Path) -> list[Path]:
    """The continuum, the gains, the scores, the ablations and the likelihoods as reported, as PNG, PDF and SVG, and the
    figures of the theory; the paths of the PNG files. What the table has no numbers of is left out.
    """
    from analysis.figures.theory import theory_figures

    def figures() -> Iterator[tuple[str, Figure]]:
        yield from theory_figures()
        yield from reported_figures(table)

    return _write(figures(), folder)


def reported_figures(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each that the reported numbers give; draw them under `rc_context(STYLE)`."""
    from analysis.figures.continuum import continuum

    rows = placed_gains(table)
    if len(rows) and rows["prior"].notna().any():
        yield "continuum-reported", continuum(rows[rows["prior"].notna()], formulas())
    if len(rows):
        yield "gains-reported", gain_bars(rows)
    yield from _scores(table)
    yield from _ablations(table)
    if len(likelihoods := reported_likelihood(table)):
        from analysis.figures.likelihood import likelihood

        yield "likelihood-reported", likelihood(likelihoods, formulas())


def _scores(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Average scores as bars and as a heat map; a heat map by benchmark of each domain with several."""
    from analysis.figures.bars import bars
    from analysis.figures.heatmap import heatmap

    means = scored(table)
    if means.empty:
        return
    rows = placed_scores(means)
    yield "bars-reported", bars(rows, formulas(), {})
    yield "heatmap-reported", heatmap(rows, formulas())
    for domain in dict.fromkeys(rows.loc[rows["columns"] > 1, "domain"]):
        yield f"heatmap-reported-{domain}", heatmap(means[means["domain"] == domain], formulas())


def _ablations(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    from analysis.figures.alpha import alpha_rows, alpha_sweep
    from analysis.figures.quantile import quantile_ablation, quantile_rows
    from analysis.figures.scale import named, scale_rows, scale_sweep

    if len(alphas := _ablated(reported_ablation("alpha", table), alpha_rows)):
        yield "alpha-reported", alpha_sweep(alphas)
    if len(quantiles := _ablated(reported_ablation("quantile", table), quantile_rows)):
        yield "quantiles-reported", quantile_ablation(quantiles)
    gains = reported_ablation("scale", table)
    if len(gains) and len(sizes := scale_rows(gains, named(gains["backbone"]))):
        yield "scale-reported", scale_sweep(sizes, formulas())


def _ablated(rows: pd.DataFrame, kind: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    return kind(rows, rows) if len(rows) else rows


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """reported_means, with `place`, the paper's table, and `metric` in words."""
    rows = reported_means(table)
    if rows.empty:
        return rows
    main = table[table["place"].isin(_TABLES) & table["metric"].isin(PRIMARY_METRICS)].drop_duplicates("domain")
    of = main.set_index("domain")
    names = {"place": rows["domain"].map(of["place"]), "metric": rows["domain"].map(of["metric"]).map(METRICS)}
    return rows.assign(**names, digitised=0.0)


def placed_scores(means: pd.DataFrame) -> pd.DataFrame:
    """Rows of `scored`, a row per backbone, domain and objective: averages over a domain's benchmarks."""
    rows = by_place(means)
    several = rows["decoding"].eq(PRIMARY).any()
    return rows[rows["decoding"] == PRIMARY].reset_index(drop=True) if several else rows


def reported_likelihood(table: pd.DataFrame) -> pd.DataFrame:
    """Mean p of the training targets before and after training, with the columns of likelihood.likelihood_rows, and
    `place`, `source`. Intervals, n and the rest that the paper does not tell are nan.
    """
    told = table[(table["metric"] == "mean_p") & (table["benchmark"] == TRAINING_SET)]
    key = ["place", "backbone", "domain"]
    before = told[told["objective"] == "base"].set_index(key)["score"]
    rows = []
    for row in told[told["objective"] != "base"].to_dict("records"):
        where, prior = (row["backbone"], row["domain"]), prior_of(table, row["backbone"], row["domain"])
        out: dict[str, Any] = {"backbone": row["backbone"], "domain": row["domain"], "variant": ""}
        out |= {"point": " · ".join(where), "objective": row["name"], "place": row["place"], "source": "reported"}
        out |= {"prior": prior, "region": row["region"] or region(prior), "after": row["score"], "digitised": 0.0}
        out |= {"before": before.get((row["place"], *where), math.nan)}
        rows.append(out | dict.fromkeys(_NOT_TOLD, math.nan))
    found = pd.DataFrame(rows)
    return found.sort_values("prior", ascending=False, kind="stable", ignore_index=True) if rows else found


def placed_gains(table: pd.DataFrame) -> pd.DataFrame:
    """The reported gains, a row per backbone, domain and objective."""
    rows = reported_gains(table)
    if rows.empty:
        return rows
    placed = by_place(rows)
    several = placed["decoding"].eq(PRIMARY).any()
    placed = placed[placed["decoding"] == PRIMARY] if several else placed
    return placed[placed["gain"].notna()].reset_index(drop=True)


def gain_bars(rows: pd.DataFrame) -> Figure:
    """Gain over NLL in points, a bar per objective and point of `placed_gains`, weakest prior at the bottom."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    points = list(dict.fromkeys(rows["point"]))
    names, palette = in_order(rows["objective"]), colours(rows["objective"])
    figure = Figure(figsize=(7.2, 0.27 * len(points) + 1.35))
    ax = figure.subplots()
    height = 0.8 / len(names)
    for row in rows.to_dict("records"):
        here = in_order(rows.loc[rows["point"] == row["point"], "objective"])
        y = -points.index(row["point"]) - (here.index(row["objective"]) - (len(here) - 1) / 2) * height
        ax.barh([y], [100 * row["gain"]], height=0.92 * height, color=palette[row["objective"]], linewidth=0, zorder=2)
        right = row["gain"] >= 0
        text = f"{100 * row['gain']:+.1f}".replace("-", "−")
        ax.annotate(text, (100 * row["gain"], y), xytext=(2 if right else -2, 0), textcoords="offset points",
                    ha="left" if right else "right", va="center", fontsize=6)  # fmt: skip
    first = rows.drop_duplicates("point").set_index("point")
    strengths = [f"{plain(p)} ({first.loc[p, 'region']}, prior {first.loc[p, 'prior']:.2f})" for p in points]
    ax.set_yticks(-np.arange(len(points)), strengths, fontsize=7)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color="#333333", linewidth=0.8, zorder=3)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.margins(x=0.08, y=0.01)
    ax.set_xlabel(f"score gain over {REFERENCE.upper()} (points)")
    handles = [Patch(color=palette[name], label=legend_text(name, formulas())) for name in names]
    figure.legend(handles=handles, ncols=4, loc="upper center", bbox_to_anchor=(0.6, 0.998))
    text = (
        f"Numbers as the paper reports them{averaged(rows)} (our means of the columns), figlet fonts by exact match; "
    )
    text += f"{counts(rows)}. The gains have no interval: no scores by question are reported. An objective without a "
    note(figure, text + "bar was not run.")
    tall = figure.get_figheight()
    figure.subplots_adjust(left=0.31, right=0.985, top=1 - 0.3 / tall, bottom=0.85 / tall)
    return figure


def _write(figures: Iterator[tuple[str, Figure]], folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    with matplotlib.rc_context(STYLE):
        for name, figure in figures:
            out.append(save(figure, folder, name))
    return out
