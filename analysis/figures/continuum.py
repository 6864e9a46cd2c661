"""The continuum for a paper: gain over NLL against prior strength, one figure or small multiples over variants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import of_the_paper, reported_at, told
from analysis.figures.panels import WIDTH, finish, objective_handles
from analysis.figures.style import (
    MARKERS,
    OVER_BACKBONES,
    PRIOR_NAMES,
    REGION_SHADES,
    averaged,
    colours,
    counts,
    decoding_name,
    in_order,
    left_out,
    natural,
    plain,
)
from analysis.statistics.continuum import REFERENCE, Prior
from analysis.statistics.crossover import Crossover, crossover, logit
from analysis.tables.results import number
from bll_sweeps.store.regions import REGION_EDGES, REGIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOISE_NAMES = {"uniform": "uniform noise", "imbalanced": "imbalanced noise", "missing": "missing answers"}
_NAMED = 18  # most points that have their names in the strip
_TOLD = 4  # most crossovers that the small print has in numbers
_TICKS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997)


def continuum(
    rows: pd.DataFrame, formulas: dict[str, str], prior: Prior = "clean", reported: pd.DataFrame | None = None
) -> Figure:
    """Gain over NLL against prior strength (logit axis) of the rows of one decoding and one variant, those of
    benchmarks.by_place.

    Below it a lane per objective with a crossover shows that one and its interval, and a strip names each point and
    shows its prior strength with its interval. Objectives at one point are drawn side by side around it. reported:
    gains in the same schema that are drawn as open marks, at their own prior strengths, where `rows` have their point
    and objective.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.7))
    named = rows["point"].nunique() <= _NAMED
    strip_inches = max(0.75, 0.25 + 0.06 * int(rows["domain"].str.len().max())) if named else 0.25
    crossings = _crossings(rows)
    lanes_inches = 0.12 + 0.11 * len(crossings) if crossings else 0.0
    inches = [3.0, *([lanes_inches] if crossings else []), strip_inches]
    upper, *lanes, strip = figure.subplots(len(inches), 1, sharex=True, height_ratios=inches)
    theirs = _reported_at(rows, reported)
    both = pd.concat([rows, theirs]) if len(theirs) else rows
    limits = _limits(both)
    markers = _draw_gains(upper, rows, limits, all_rows=both)
    if len(theirs):
        _draw_gains(upper, theirs, limits, all_rows=both, filled=False)
    _shade(upper, limits, named=True)
    _shade(strip, limits, named=False)
    for ax in lanes:
        _shade(ax, limits, named=False)
        _lanes(ax, crossings, colours(both["objective"]))
    upper.set_ylabel(f"score gain over {REFERENCE.upper()}")
    upper.tick_params(axis="x", length=0, labelbottom=False)
    _strip(strip, rows, markers, limits, named)
    _logit_axis(strip, limits)
    of_what = "as the paper reports it" if of_the_paper(rows) else PRIOR_NAMES[prior]
    strip.set_xlabel(f"prior strength: mean p of the target tokens under the base model, {of_what} (logit scale)")
    unit = "questions" if (rows["prior_questions"] > 0).all() else "sequences"
    what = "task and prior strength" if named else "prior strength of each point (too many to name: means.csv)"
    more = f"Strip: {what}, with its 95 % interval where wider than the mark, over "
    more += f"{_range(rows[f'prior_{unit}'])} training {unit}{OVER_BACKBONES}."
    if rows["prior_low"].isna().all():
        more = f"Strip: {what}, without an interval."
    more += _crossings_told(crossings) + _told(rows, theirs)
    finish(figure, 3.6 + lanes_inches + strip_inches, _handles(rows, formulas, markers), _caption(rows, more), gap=0.0)
    return figure


def _crossings(rows: pd.DataFrame) -> dict[str, Crossover]:
    """The crossover of each objective that has one."""
    decoding = str(rows["decoding"].iloc[0])
    found = {name: crossover(rows, name, decoding) for name in in_order(rows["objective"])}
    return {name: one for name, one in found.items() if not math.isnan(one.prior)}


def _lanes(ax: Axes, crossings: dict[str, Crossover], palette: dict[str, str]) -> None:
    """A line from end to end of each interval, a diamond at its estimate."""
    for i, (name, one) in enumerate(crossings.items()):
        low, prior, high = logit(np.array([one.low, one.prior, one.high]))
        ax.plot([low, high], [i, i], color=palette[name], linewidth=2.0, solid_capstyle="butt", zorder=3)
        ax.plot([prior], [i], marker="D", color=palette[name], markersize=4.6, markeredgecolor="white",
                markeredgewidth=0.5, zorder=4)  # fmt: skip
    ax.set_ylim(len(crossings) - 0.3, -0.7)
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.set_ylabel("crossover", rotation=0, ha="right", va="center", fontsize=7)


def _crossings_told(crossings: dict[str, Crossover]) -> str:
    if not crossings:
        return ""
    each = [
        f"{plain(name)} {number(one.prior)} [{number(one.low)}, {number(one.high)}] (n = {one.settings})"
        for name, one in crossings.items()
    ]
    more = f" and {len(each) - _TOLD} more" if len(each) > _TOLD else ""
    text = " Crossover: the prior strength where a gain that does not fall goes through zero, "
    return (
        f"{text}{', '.join(each[:_TOLD])}{more}; with its 95 % interval and the number of pairs of backbone and task."
    )


def _reported_at(rows: pd.DataFrame, reported: pd.DataFrame | None) -> pd.DataFrame:
    theirs = reported_at(rows, reported)
    return theirs[theirs["prior"].notna()] if len(theirs) else theirs


def _told(rows: pd.DataFrame, theirs: pd.DataFrame) -> str:
    text = told(rows, theirs, "gains")
    return f"{text} They have no intervals and stand at the prior strengths of its Table 5." if text else ""


def continuum_panels(
    rows: pd.DataFrame, formulas: dict[str, str], prior: Prior = "clean", reported: pd.DataFrame | None = None
) -> Figure:
    """Small multiples of the continuum: kinds of noise down, rates across; or one panel per variant. reported: as for
    `continuum`.
    """
    from matplotlib.figure import Figure

    panels, titles = _panels(rows)
    theirs = _reported_at(rows, reported)
    both = pd.concat([rows, theirs]) if len(theirs) else rows
    height, width = len(panels), max(len(line) for line in panels)
    figure = Figure(figsize=(min(2.3 * width + 0.9, 9.6), 1.75 * height + 1.35))
    axes = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    limits = _limits(both)
    markers: dict[str, str] = {}
    for i, line in enumerate(panels):
        for j in range(width):
            if j >= len(line):
                axes[i, j].set_axis_off()
                continue
            markers = _draw_gains(axes[i, j], line[j], limits, size=3.4, all_rows=both)
            if len(here := _reported_at(line[j], reported)):
                _draw_gains(axes[i, j], here, limits, size=3.4, all_rows=both, filled=False)
            _shade(axes[i, j], limits, named=i == 0)
            _logit_axis(axes[i, j], limits, sparse=True)
            axes[i, j].set_title(titles[i][j], pad=13 if i == 0 else 4)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"gain over {REFERENCE.upper()}", fontsize=7.5)
    for j in range(width):
        axes[max(i for i, line in enumerate(panels) if j < len(line)), j].set_xlabel("prior strength", fontsize=7.5)
    more = "The panels without noise are one and the same. " if sum(t[0] == "no noise" for t in titles) > 1 else ""
    more += f"Prior strength: mean p of the target tokens under the base model, {PRIOR_NAMES[prior]} (logit scale)."
    more += _told(rows, theirs)
    finish(figure, 1.75 * height + 0.25, _handles(rows, formulas, markers), _caption(rows, more))
    return figure


def _panels(rows: pd.DataFrame) -> tuple[list[list[pd.DataFrame]], list[list[str]]]:
    """Noise kind x rate where that is all that varies (no noise opens every line); else variants, 3 a line."""
    pairs = rows[["variant", "noise_kind", "noise_rate"]].drop_duplicates()
    by_noise = len(pairs) == pairs["variant"].nunique() == len(pairs[["noise_kind", "noise_rate"]].drop_duplicates())
    if by_noise and rows["noise_kind"].ne("").all():
        kinds = [kind for kind in dict.fromkeys(rows["noise_kind"]) if kind != "none"] or ["none"]
        rates = sorted(rows["noise_rate"].unique())
        panels = [
            [
                rows[rows["noise_rate"].eq(rate) & rows["noise_kind"].isin((kind, *(["none"] if rate == 0 else [])))]
                for rate in rates
            ]
            for kind in kinds
        ]
        titles = [
            ["no noise" if rate == 0 else f"{_NOISE_NAMES.get(kind, kind)}, {100 * rate:g} %" for rate in rates]
            for kind in kinds
        ]
        return panels, titles
    names = list(dict.fromkeys(rows["variant"]))
    lines = [names[i : i + 3] for i in range(0, len(names), 3)]
    return [[rows[rows["variant"] == name] for name in line] for line in lines], [
        [plain(n or "default") for n in line] for line in lines
    ]


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    x = logit(rows["prior"].to_numpy(float))
    return float(min(x.min(), logit(np.array(0.05)))) - 0.7, float(max(x.max(), logit(np.array(0.95)))) + 0.7


def point_markers(rows: pd.DataFrame) -> dict[str, str]:
    """A marker per backbone: point -> marker."""
    shapes = list(MARKERS)
    backbones = {name: shapes[i % len(shapes)] for i, name in enumerate(sorted(rows["backbone"].unique(), key=natural))}
    return {point: backbones[backbone] for point, backbone in zip(rows["point"], rows["backbone"], strict=True)}


def dodge(rows: pd.DataFrame, width: float) -> np.ndarray:
    """x on the logit axis: objectives of one point side by side, at most `width` apart in all."""
    names = in_order(rows["objective"])
    step = min(0.13, width / max(len(names) - 1, 1))
    place = {name: (i - (len(names) - 1) / 2) * step for i, name in enumerate(names)}
    return _beside(rows, width) + np.array([place[name] for name in rows["objective"]])


def _tied(rows: pd.DataFrame) -> bool:
    """Whether points share a prior strength that is rounded, as reported ones are; measured ones have an interval."""
    points = rows.drop_duplicates("point")
    return bool(points["prior_low"].isna().all() and points["prior"].duplicated().any())


def _beside(rows: pd.DataFrame, width: float) -> np.ndarray:
    """Logits of the prior strengths; points of one and the same rounded prior strength stand side by side."""
    x_N = logit(rows["prior"].to_numpy(float))
    points = rows.drop_duplicates("point").sort_values(["prior", "point"])
    if not _tied(rows):
        return x_N
    # A point in several variants has a prior strength in each: it is moved by the same in all.
    exact = logit(points["prior"].to_numpy(float))
    shift = dict(zip(points["point"], apart(exact, 0.4 * width) - exact, strict=True))
    return np.asarray(x_N + np.array([shift[point] for point in rows["point"]]))


def _draw_gains(
    ax: Axes,
    rows: pd.DataFrame,
    limits: tuple[float, float],
    size: float = 5.0,
    all_rows: pd.DataFrame | None = None,
    filled: bool = True,
) -> dict[str, str]:
    """Marks with their bars; a gain without an interval has no bar."""
    whole = rows if all_rows is None else all_rows
    palette, markers = colours(whole["objective"]), point_markers(whole)
    ax.axhline(0, color="#333333", linewidth=0.8, zorder=2)
    ax.grid(axis="y", color="white", linewidth=0.8, zorder=1)
    many = whole["objective"].nunique() > 4
    size = 0.8 * size if many else size
    width = (0.06 if many else 0.045) * (limits[1] - limits[0])
    placed = rows.assign(x=dodge(rows, width), marker=[markers[p] for p in rows["point"]])
    for (objective, marker), some in placed.groupby(["objective", "marker"], sort=False):
        bars = np.stack([some["gain"] - some["gain_low"], some["gain_high"] - some["gain"]])
        colour = palette[str(objective)]
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.3}
        if not filled:
            edge = {"markeredgecolor": colour, "markeredgewidth": 0.9, "markerfacecolor": "none"}
        ax.errorbar(
            some["x"], some["gain"], yerr=np.maximum(bars, 0), color=colour, marker=str(marker), linestyle="",
            markersize=size, elinewidth=1.0, capsize=1.6, capthick=0.8, zorder=4, **edge,
        )  # fmt: skip
        if len(seeds := some[over_seeds(some)]):
            ax.vlines(seeds["x"], seeds["gain_seeds_low"], seeds["gain_seeds_high"], color=colour, linewidth=0.6,
                      alpha=0.5, zorder=3)  # fmt: skip
    ends = whole[["gain", "gain_low", "gain_high"]].to_numpy(float)
    margin = 0.06 * max(float(np.nanmax(ends) - np.nanmin(ends)), 0.1)
    ax.set_ylim(min(float(np.nanmin(ends)), -0.05) - margin, max(float(np.nanmax(ends)), 0.05) + margin)
    ax.set_xlim(*limits)
    return markers


def over_seeds(rows: pd.DataFrame) -> pd.Series:
    """Which rows have an interval over seeds, which is drawn besides that over questions."""
    none = pd.Series(False, rows.index)
    return rows["gain_seeds_low"].notna() & (rows["seeds"] > 1) if "gain_seeds_low" in rows else none


def _shade(ax: Axes, limits: tuple[float, float], named: bool) -> None:
    inches_wide = ax.get_window_extent().width / ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    edges = [limits[0], *logit(np.array(REGION_EDGES)), limits[1]]
    for (short, name), left, right in zip(REGIONS.items(), edges, edges[1:], strict=False):
        ax.axvspan(left, right, color=REGION_SHADES[short], linewidth=0, zorder=0)
        if named:
            inches = (right - left) / (limits[1] - limits[0]) * inches_wide
            text = f"{name.removeprefix('model-')} ({short})" if inches > 0.95 else short
            ax.text((left + right) / 2, 1.015, text, transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                    fontsize=7.5, color="#444444")  # fmt: skip


def _logit_axis(ax: Axes, limits: tuple[float, float], sparse: bool = False) -> None:
    wanted = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999) if sparse else _TICKS
    ticks = [t for t in wanted if limits[0] < logit(np.array(t)) < limits[1]]
    ax.set_xticks(logit(np.array(ticks)), [f"{t:g}".removeprefix("0") for t in ticks])


def _strip(ax: Axes, rows: pd.DataFrame, markers: dict[str, str], limits: tuple[float, float], named: bool) -> None:
    points = rows.drop_duplicates("point").sort_values("prior")
    x_N = _beside(points, 0.045 * (limits[1] - limits[0]))
    order = np.argsort(x_N, kind="stable")
    points, x_N = points.iloc[order], x_N[order]
    level = 0.86 if named else 0.5
    places = apart(x_N, 0.052 * (limits[1] - limits[0]))
    for x, place, row in zip(x_N, places, points.to_dict("records"), strict=True):
        low, high = logit(np.array([row["prior_low"], row["prior_high"]]))
        ax.plot([low, high], [level, level], color="#333333", linewidth=1.1, solid_capstyle="butt", zorder=3)
        ax.plot(
            [x],
            [level],
            marker=markers[row["point"]],
            color="#333333",
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=4,
        )
        if not named:
            continue
        ax.plot([x, place], [0.74, 0.6], color="#888888", linewidth=0.5, zorder=2)
        ax.text(
            place,
            0.57,
            plain(row["domain"]),
            rotation=38,
            rotation_mode="anchor",
            ha="right",
            va="top",
            fontsize=7,
            zorder=4,
        )
    ax.set_ylim(0, 1.02)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def apart(x_N: np.ndarray, gap: float) -> np.ndarray:
    """The places nearest to ascending x that are at least `gap` apart."""
    # Least squares under x[i+1] - x[i] >= gap is isotonic regression of x - i*gap.
    blocks: list[list[float]] = []
    for value in x_N - gap * np.arange(len(x_N)):
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            last, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + last * count) / total, total]
    level = np.concatenate([np.full(int(count), value) for value, count in blocks]) if blocks else np.zeros(0)
    return np.asarray(level + gap * np.arange(len(x_N)))


def _handles(rows: pd.DataFrame, formulas: dict[str, str], markers: dict[str, str]) -> list[Any]:
    """The legend's entries: objectives by colour, backbones by mark."""
    from matplotlib.lines import Line2D

    pairs = zip(rows["backbone"], rows["point"], strict=True)
    backbones = dict.fromkeys((b, markers[p]) for b, p in sorted(pairs, key=lambda pair: natural(pair[0])))
    look: dict[str, Any] = {"color": "#333333", "linestyle": "", "markersize": 5}
    shapes = [Line2D([], [], marker=mark, label=plain(name), **look) for name, mark in backbones]
    return [objective_handles(list(rows["objective"]), colours(rows["objective"]), formulas), shapes]


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}{f' to {high}' if high > low else ''}"


def _caption(rows: pd.DataFrame, more: str) -> str:
    bars = f"Bars: 95 % interval of the difference paired by question{averaged(rows)}. "
    if over_seeds(rows).any():
        bars += "Thin lines: 95 % interval of the mean over seeds (cut where it leaves the panel). "
    unknown = int(rows["gain_low"].isna().sum())
    if unknown:
        which = f"The gains{averaged(rows)}" if unknown == len(rows) else f"{unknown} of {len(rows)} gains"
        bars = bars * (unknown < len(rows)) + f"{which}: no interval, as there are no scores by question. "
    if of_the_paper(rows):
        more += " Numbers as the paper reports them, figlet fonts by exact match."
    if _tied(rows):
        more += " Points of nearly one prior strength stand side by side."
    return (
        f"{decoding_name(rows)}; {counts(rows)}. {bars}"
        f"Shades: model-weak (MW), -intermediate (MI), -strong (MS). {more}{left_out(rows)}"
    )
