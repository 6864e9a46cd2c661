"""The ablation of thresholds at quantiles of p under the base model (paper, Section 5.1)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import as_reported, at_place, of_the_paper, reported_at, told
from analysis.figures.panels import (
    GREY,
    crosses,
    finish,
    mark_reported,
    missing,
    places,
    reported_handle,
    strength,
    title,
)
from analysis.figures.style import COLOURS, averaged, counts, decoding_name, interval_name, mathtext
from analysis.sources.table import PLACE, formula
from bll_sweeps.store.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 3  # quantiles of one base objective and side that make an ablation
MOST = 5  # points of a page
SIDES = {"above": "trained on the tokens with p ≥ its quantile", "below": "trained on the tokens with p ≤ its quantile"}
# Without a threshold every token counts: p is above its quantile 0, and below its quantile 1.
_ALL = {"above": 0.0, "below": 1.0}
_BASES = {"logp": "−log p", "p": "−p", "unlikelihood": "log(1−p)"}
_NAME = re.compile(rf"({'|'.join(_BASES)})_(above|below)\(threshold_quantile=(0?\.[0-9]+)\)")
_COLOURS = {"−log p": COLOURS["nll"], "−p": COLOURS["p"], "log(1−p)": COLOURS["logp_above"]}
_MARKERS = {"−log p": "o", "−p": "s", "log(1−p)": "^"}


def quantile_rows(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows (benchmarks.by_place over means, one decoding) of the objectives with a threshold at a quantile, with
    `base` (the loss without it), `side` (above or below) and `quantile`; the losses on all tokens stand on both sides.
    """
    known: dict[str, tuple[str, str, float]] = {}
    for name, identity in cells[["objective", "identity"]].drop_duplicates().itertuples(index=False, name=None):
        found = _ablated(json.loads(identity)) if identity else _named(name)
        if found is not None:
            known.setdefault(name, found)
    parts = []
    for side in SIDES:
        mine = rows[[name in known and known[name][1] in (side, "all") for name in rows["objective"]]]
        base = [known[name][0] for name in mine["objective"]]
        at = [_ALL[side] if known[name][1] == "all" else known[name][2] for name in mine["objective"]]
        parts.append(mine.assign(base=base, side=side, quantile=np.array(at, dtype=float)))
    table = pd.concat(parts, ignore_index=True)
    key = [*PLACE, "side", "base"]
    thresholds = table[(table["quantile"] > 0) & (table["quantile"] < 1)]
    count = thresholds.groupby(key)["quantile"].nunique()
    keep = pd.MultiIndex.from_frame(table[key]).isin(count[count >= LEAST].index)
    return table[keep].sort_values("quantile", kind="stable").drop_duplicates([*key, "decoding", "quantile"])


def _ablated(identity: dict[str, Any]) -> tuple[str, str, float] | None:
    """Base loss, side and quantile of an objective; None where its threshold is no quantile."""
    family, alpha = identity["family"], float(identity.get("alpha", 1.0))
    names = {"nll": "−log p", "unlikelihood": "log(1−p)"}
    base = names.get(family) or ("−p" if alpha == 1 else f"−p^{alpha:g}")
    if family == "formula" or "smoothing" in identity or "anchor" in identity:
        base = formula({key: value for key, value in identity.items() if key != "keep"})
    if family == "base" or ("keep" in identity and "quantile" not in identity):
        return None
    if "keep" not in identity:
        return base, "all", 0.0
    base += " over the kept tokens" if identity.get("normaliser") == "survivors" else ""
    return base, str(identity["keep"]), float(identity["quantile"])


def _named(name: str) -> tuple[str, str, float] | None:
    """The same of a cell without a spec, from a name as grids give it: `logp_above(threshold_quantile=0.1)`."""
    found = _NAME.fullmatch(name)
    return (_BASES[found[1]], found[2], float(found[3])) if found else None


def quantile_ablation(rows: pd.DataFrame, reported: pd.DataFrame | None = None, note: str = "") -> Figure:
    """Score against the threshold's quantile of `quantile_rows`: a line of two panels per point (tokens above, tokens
    below), the loss without its threshold by colour and mark.

    reported: the paper's means (overlay.Reported), drawn as open marks; note: what of them is not drawn.
    """
    from matplotlib.figure import Figure

    found = places(rows.sort_values(["prior", "quantile"], ascending=[False, True], kind="stable"))
    figure = Figure(figsize=(7.2, 4.0))
    axes = figure.subplots(len(found), 2, squeeze=False, sharey="row", sharex=True)
    theirs = reported_at(rows, reported)
    for i, (place, mine) in enumerate(found):
        for ax, side in zip(axes[i], SIDES, strict=True):
            here = mine[mine["side"] == side]
            for base, line in here.groupby("base", sort=False):
                _line(ax, line, str(base))
            _reported(ax, at_place(theirs, place), here)
            title(ax, f"{place['name']} ({strength(place)}): {SIDES[side]}", 52)
            ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
            ax.set_axisbelow(True)
            if here.empty:
                ax.text(0.5, 0.5, "not in the grid", transform=ax.transAxes, ha="center", fontsize=7, style="italic")
        axes[i, 0].set_ylabel(SCORES["mean"].title, fontsize=7.5)
    for ax in axes[-1]:
        ax.set_xlim(-0.04, 1.04)
        ax.set_xticks(np.arange(0, 1.01, 0.1), [f"{q:.2g}" for q in np.arange(0, 1.01, 0.1)])
        ax.set_xlabel("quantile of p under the base model", fontsize=7.5)
    axes[-1, 0].set_xlabel("quantile of p under the base model (0: all tokens)", fontsize=7.5)
    axes[-1, 1].set_xlabel("quantile of p under the base model (1: all tokens)", fontsize=7.5)
    handles = _handles(list(dict.fromkeys(rows["base"]))) + ([reported_handle()] if len(theirs) else [])
    finish(figure, 1.85 * len(found) + 0.2, handles, _caption(rows) + told(rows, theirs, note=note))
    return figure


def _style(base: str) -> dict[str, Any]:
    plain = base.removesuffix(" over the kept tokens")
    return {
        "color": _COLOURS.get(plain, GREY),
        "marker": _MARKERS.get(plain, "D"),
        "linestyle": "-" if plain == base else "--",
    }


def _line(ax: Axes, line: pd.DataFrame, base: str) -> None:
    done, lacking = line[line["n"] > 0], line[line["n"] == 0]
    ends = np.stack([done["mean"] - done["low"], done["high"] - done["mean"]])
    ax.errorbar(done["quantile"], done["mean"], yerr=np.maximum(ends, 0), linewidth=1.1, markersize=3.8, capsize=1.4,
                elinewidth=0.8, capthick=0.7, markeredgecolor="white", markeredgewidth=0.3, zorder=4,
                **_style(base))  # fmt: skip
    crosses(ax, list(lacking["quantile"]), _style(base)["color"])


def _reported(ax: Axes, theirs: list[dict[str, Any]], here: pd.DataFrame) -> None:
    score = {row["objective"]: row["mean"] for row in theirs}
    for row in here[here["objective"].isin(score)].to_dict("records"):
        mark_reported(ax, [row["quantile"]], [score[row["objective"]]], _style(row["base"])["color"])


def _handles(bases: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    out = []
    for base in sorted(bases):
        text, _, more = base.partition(" over ")
        label = mathtext(text) + (f" over {more}" if more else "")
        out.append(Line2D([], [], markersize=4, linewidth=1.1, label=label, **_style(base)))
    return out


def _caption(rows: pd.DataFrame) -> str:
    bars = f"Bars: {interval_name(rows)} of the mean score{averaged(rows)}."
    return (
        f"{decoding_name(rows)}; {counts(rows)}. Thresholds: quantiles of the training targets' p under the base "
        f"model, as trained. {as_reported(rows) if of_the_paper(rows) else bars}"
        f"{missing(rows, ' (crosses at the foot)')}"
    )
