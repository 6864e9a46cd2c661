"""How probable the base model finds the target tokens: histograms of p per domain (paper, Section 4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.panels import finish, grid, look, pages, prior_of, title
from analysis.figures.style import PRIOR_NAMES, plain
from analysis.sources.reading import Reader
from analysis.sources.table import PLACE, Results
from analysis.statistics.continuum import Prior
from analysis.tables.results import with_interval
from bll_sweeps.store.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6  # panels of a page


def distributions(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """A row per prior job's place: what its record tells of the target tokens' p on the answers asked for.

    kind: histogram (`share` [bins], of equal width over [0, 1]), quantiles (`share` [Q] of the tokens up to `p` [Q]:
    records from before there were histograms) or missing. tokens, sequences: how many are behind it. prior, low, high:
    the mean p with its interval.
    """
    reader, rows = Reader(Layout(results.root)), []
    for key, mine in results.cells.groupby(PLACE, sort=False):
        first: dict[Any, Any] = mine.sort_values("prior", ascending=False, kind="stable").iloc[0].to_dict()
        records = [reader.record(job) for job in sorted(set(mine["prior"])) if job]
        told = [record.result.get(prior, {}) for record in records if record is not None]
        kind = next((name for name in ("histogram", "quantiles") if told and all(t.get(name) for t in told)), "missing")
        mean, low, high = prior_of(mine, prior)
        rows.append(
            {
                **dict(zip(PLACE, map(str, key), strict=True)),
                "point": first["point"],
                "prior": mean,
                "low": low,
                "high": high,
                "kind": kind,
                "share": _share(told, kind),
                "p": list(told[0]["quantiles"].values()) if kind == "quantiles" else [],
                "tokens": sum(int(t.get("tokens", 0)) for t in told),
                "sequences": sum(int(t.get("sequences", 0)) for t in told),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("prior", ascending=False, kind="stable", ignore_index=True) if rows else table


def _share(told: list[dict[str, Any]], kind: str) -> list[float]:
    """Of the tokens of all prior jobs of a place: seeds may have backbones of their own. Quantiles are the first's."""
    if kind == "histogram":
        counts = np.sum([t["histogram"] for t in told], axis=0, dtype=float)
        return [float(share) for share in counts / max(counts.sum(), 1.0)]
    return [float(q) for q in told[0]["quantiles"]] if kind == "quantiles" else []


def histogram_pages(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of `distributions` by pages of MOST panels, a panel being a domain, a variant and a kind."""
    drawn = [
        mine for _, mine in rows.groupby(["domain", "variant", "kind"], sort=False) if mine["kind"].ne("missing").all()
    ]
    return [pd.concat(page) for page in pages(drawn, MOST)]


def histograms(rows: pd.DataFrame, missing: pd.DataFrame, prior: Prior = "clean") -> Figure:
    """Share of the target tokens by p under the base model: a panel per domain, a line per backbone.

    rows: of one page. missing: the rows of `distributions` that tell nothing.
    """
    found = [(key, mine) for key, mine in rows.groupby(["domain", "variant", "kind"], sort=False)]
    styles = look(list(rows["backbone"]))
    figure, axes = grid(len(found), columns=min(3, len(found)) if len(found) != 4 else 2)
    for ax, ((domain, variant, kind), mine) in zip(axes, found, strict=True):
        for row in _records(mine):
            (_steps if kind == "histogram" else _quantiles)(ax, row, styles[row["backbone"]])
        ax.set_xlim(0, 1)
        ax.set_xlabel("p under the base model", fontsize=7.5)
        ax.legend(
            fontsize=5.6,
            title="mean p [95 %]",
            title_fontsize=5.6,
            handlelength=1.4,
            labelspacing=0.25,
            loc="upper center" if kind == "histogram" else "upper left",
            frameon=True,
            framealpha=0.8,
            edgecolor="none",
        )
        title(ax, ", ".join(filter(None, [str(domain), str(variant)])) + (": quantiles" if kind == "quantiles" else ""))
    lines = math.ceil(len(axes) / min(3, len(axes)))
    finish(figure, 2.1 * lines + 0.1, _handles(styles, rows), _caption(rows, missing, prior))
    return figure


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _steps(ax: Axes, row: dict[str, Any], style: dict[str, Any]) -> None:
    share = np.array(row["share"])
    edges = np.linspace(0, 1, len(share) + 1)
    label = with_interval(row["prior"], row["low"], row["high"])
    ax.stairs(
        np.where(share > 0, share, math.nan), edges, baseline=None, color=style["color"], linewidth=1.0, label=label
    )
    ax.set_yscale("log")
    ax.set_ylabel(f"share of tokens per {1 / len(share):g} of p", fontsize=7.5)


def _quantiles(ax: Axes, row: dict[str, Any], style: dict[str, Any]) -> None:
    label = with_interval(row["prior"], row["low"], row["high"])
    ax.plot(row["p"], row["share"], linewidth=1.0, markersize=3, label=label, **style)
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of tokens up to p", fontsize=7.5)


def _handles(styles: dict[str, dict[str, Any]], rows: pd.DataFrame) -> list[Any]:
    from matplotlib.lines import Line2D

    names = set(rows["backbone"])
    return [
        Line2D([], [], color=style["color"], linewidth=1.6, label=plain(name))
        for name, style in styles.items()
        if name in names
    ]


def _caption(rows: pd.DataFrame, missing: pd.DataFrame, prior: Prior) -> str:
    tokens, sequences = ([int(of(rows[key])) for of in (min, max)] for key in ("tokens", "sequences"))
    text = f"p of every target token under the base model, {PRIOR_NAMES[prior]}; n = "
    text += f"{' to '.join(map(str, dict.fromkeys(tokens)))} tokens of "
    text += (
        f"{' to '.join(map(str, dict.fromkeys(sequences)))} sequences a line. All are counted: only the mean has an "
    )
    text += "interval (95 % bootstrap over training questions)."
    if (rows["kind"] == "histogram").any():
        text += " Logarithmic shares; bins without a token are gaps."
    if (rows["kind"] == "quantiles").any():
        text += " Quantiles: records from before histograms were kept; lines join what they tell."
    if len(missing):
        text += f" Missing (no prior job is done): {plain('; '.join(dict.fromkeys(missing['point'])))}."
    return text
