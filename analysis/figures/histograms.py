"""How probable the base model finds the target tokens: histograms of p per domain (paper, Section 4)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.panels import finish, grid, look, pages, title
from analysis.figures.style import PRIOR_NAMES, plain
from analysis.sources.table import PLACE, Results
from analysis.statistics.continuum import Prior
from analysis.statistics.seeds import prior_over_seeds
from analysis.tables.results import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6  # panels of a page


def distributions(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """A row per place: what its prior jobs' records tell of the target tokens' p on the answers asked for.

    kind: histogram (`share` [bins], of equal width over [0, 1], of the tokens of all its prior jobs: seeds may have
    backbones of their own), quantiles (`share` [Q] of the tokens up to `p` [Q]: of the first job, whose record is from
    before there were histograms) or missing. tokens, sequences: how many are behind it. prior, low, high: the mean p
    with its interval.
    """
    rows = []
    told = results.priors[results.priors["answers"] == prior] if len(results.priors) else results.priors
    for key, mine in told.groupby(PLACE, sort=False) if len(told) else []:
        known = mine[mine["why"] == ""]
        kind, share, p = _distribution(known)
        ends = [known[name].to_numpy(float) for name in ("mean", "low", "high")]
        mean, low, high = prior_over_seeds(*ends) if len(known) else (math.nan, math.nan, math.nan)
        row: dict[str, Any] = dict(zip(PLACE, map(str, key), strict=True))
        row |= {"point": mine["point"].iloc[0], "prior": mean, "low": low, "high": high, "kind": kind}
        row |= {"share": share, "p": p, **{name: int(known[name].sum()) for name in ("tokens", "sequences")}}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.sort_values("prior", ascending=False, kind="stable", ignore_index=True) if rows else table


def _distribution(known: pd.DataFrame) -> tuple[str, list[float], list[float]]:
    """kind, share and p of the prior jobs of a place."""
    if len(known) and known["histogram"].ne("").all():
        counts = np.sum([json.loads(text) for text in known["histogram"]], axis=0, dtype=float)
        return "histogram", [float(share) for share in counts / max(counts.sum(), 1.0)], []
    names = [name for name in known if str(name).startswith("quantile_")]
    first = known[names].iloc[0].dropna() if len(known) else pd.Series(dtype=float)
    if first.empty:
        return "missing", [], []
    return "quantiles", [float(name.partition("_")[2]) for name in first.index], [float(p) for p in first]


def histogram_pages(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of `distributions` by pages of MOST panels, a panel being a domain, a variant and a kind. Variants with
    the same distributions, as those of label noise have on the clean answers, are one panel: `variants` names them.
    """
    panels: dict[str, pd.DataFrame] = {}
    for (domain, variant, kind), mine in rows.groupby(["domain", "variant", "kind"], sort=False):
        if kind == "missing":
            continue
        lines = mine.sort_values("backbone")[["backbone", "share", "p", "prior"]].to_dict("records")
        same = json.dumps([domain, kind, lines])
        if same in panels:
            panels[same]["variants"] += f"; {variant}"
        else:
            panels[same] = mine.assign(variants=str(variant))
    return [pd.concat(page) for page in pages(list(panels.values()), MOST)]


def histograms(rows: pd.DataFrame, missing: pd.DataFrame, prior: Prior = "clean") -> Figure:
    """Share of the target tokens by p under the base model: a panel per domain, a line per backbone.

    rows: of one page. missing: the rows of `distributions` that tell nothing.
    """
    found = [(key, mine) for key, mine in rows.groupby(["domain", "variant", "kind"], sort=False)]
    styles = look(list(rows["backbone"]))
    figure, axes = grid(len(found), columns=min(3, len(found)) if len(found) != 4 else 2)
    for ax, ((domain, _, kind), mine) in zip(axes, found, strict=True):
        for row in _records(mine):
            (_steps if kind == "histogram" else _quantiles)(ax, row, styles[row["backbone"]])
        ax.set_xlim(0, 1)
        ax.set_xlabel("p under the base model", fontsize=7.5)
        _means(ax, len(mine), above=kind == "histogram")
        title(ax, ", ".join(filter(None, [str(domain), _variants(mine)])) + ": quantiles" * (kind == "quantiles"))
    lines = math.ceil(len(axes) / min(3, len(axes)))
    finish(figure, 2.25 * lines + 0.1, _handles(styles, rows), _caption(rows, missing, prior))
    return figure


def _variants(mine: pd.DataFrame) -> str:
    names = str(mine["variants"].iloc[0]).split("; ")
    return names[0] if len(names) == 1 else f"{len(names)} variants alike"


def _means(ax: Axes, lines: int, above: bool) -> None:
    """The legend of a panel: its lines' mean p; `above` them, where a logarithmic axis is made longer for it."""
    if above:
        low, high = (math.log10(end) for end in ax.get_ylim())
        room = min(0.07 + 0.055 * lines, 0.7)  # of the panel's height
        ticks = [tick for tick in ax.get_yticks() if low <= math.log10(tick) <= high]
        ax.set_ylim(10**low, 10 ** (low + (high - low) / (1 - room)))
        ax.set_yticks(ticks)
        ax.minorticks_off()
    ax.legend(
        fontsize=5.6, title="mean p [95 %]", title_fontsize=5.6, handlelength=1.4, labelspacing=0.25,
        loc="upper center", borderaxespad=0.1, frameon=not above, framealpha=0.8, edgecolor="none",
    )  # fmt: skip


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
    ax.plot(row["p"], row["share"], linewidth=1.0, markersize=3, label=label, clip_on=False, **style)
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
    alike = rows["variants"].str.contains(";").any()
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
    if alike:
        text += " Variants alike: those whose distributions are one and the same, as on answers before label noise."
    if len(missing):
        text += f" Missing (no prior job is done): {plain('; '.join(dict.fromkeys(missing['point'])))}."
    return text
