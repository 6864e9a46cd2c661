"""The continuum for a paper: gain over NLL against prior strength, one figure or small multiples over variants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.style import (
    MARKERS,
    PRIOR_NAMES,
    REGION_SHADES,
    averaged,
    colours,
    counts,
    decoding_name,
    in_order,
    legend_text,
    note,
    plain,
)
from analysis.statistics.continuum import REFERENCE, Prior, logit
from analysis.statistics.intervals import REGION_EDGES, REGIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOISE_NAMES = {"uniform": "uniform noise", "imbalanced": "imbalanced noise", "missing": "missing answers"}
_TICKS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997)


def continuum(rows: pd.DataFrame, formulas: dict[str, str], prior: Prior = "clean") -> Figure:
    """Gain over NLL against prior strength (logit axis) of the rows of one decoding and one variant, those of
    benchmarks.by_place.

    Below the axis a strip names each point and shows its prior strength with its interval. Objectives at one point are
    drawn side by side around it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.7))
    upper, strip = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4.2, 1], "hspace": 0.04})
    figure.subplots_adjust(left=0.085, right=0.985)  # the regions' names depend on their width
    limits = _limits(rows)
    markers = _draw_gains(upper, rows, limits)
    _shade(upper, limits, named=True)
    _shade(strip, limits, named=False)
    upper.set_ylabel(f"score gain over {REFERENCE.upper()}")
    upper.tick_params(axis="x", length=0, labelbottom=False)
    _strip(strip, rows, markers, limits)
    _logit_axis(strip, limits)
    strip.set_xlabel(
        f"prior strength: mean p of the target tokens under the base model, {PRIOR_NAMES[prior]} (logit scale)"
    )
    lines = _legend(figure, rows, formulas, markers)
    unit = "questions" if (rows["prior_questions"] > 0).all() else "sequences"
    more = "Strip: task and prior strength, with its 95 % bootstrap interval where wider than the mark, over "
    more += f"{_range(rows[f'prior_{unit}'])} training {unit}."
    _caption(figure, rows, more)
    figure.subplots_adjust(top=1 - (0.3 + 0.19 * lines) / 4.7, bottom=0.19)
    return figure


def continuum_panels(rows: pd.DataFrame, formulas: dict[str, str], prior: Prior = "clean") -> Figure:
    """Small multiples of the continuum: kinds of noise down, rates across; or one panel per variant."""
    from matplotlib.figure import Figure

    panels, titles = _panels(rows)
    height, width = len(panels), max(len(line) for line in panels)
    figure = Figure(figsize=(min(2.3 * width + 0.9, 9.6), 1.75 * height + 1.35))
    axes = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    limits = _limits(rows)
    markers: dict[str, str] = {}
    for i, line in enumerate(panels):
        for j in range(width):
            if j >= len(line):
                axes[i, j].set_axis_off()
                continue
            markers = _draw_gains(axes[i, j], line[j], limits, size=3.4, all_rows=rows)
            _shade(axes[i, j], limits, named=i == 0)
            _logit_axis(axes[i, j], limits, sparse=True)
            axes[i, j].set_title(titles[i][j], pad=13 if i == 0 else 4)
    figure.supylabel(f"score gain over {REFERENCE.upper()}", fontsize=8.5, x=0.008)
    figure.supxlabel(
        f"prior strength, {PRIOR_NAMES[prior]} (logit scale)", fontsize=8.5, y=0.44 / figure.get_figheight()
    )
    lines = _legend(figure, rows, formulas, markers)
    _caption(
        figure,
        rows,
        "The panels without noise are one and the same." if sum(t[0] == "no noise" for t in titles) > 1 else "",
    )
    tall = figure.get_figheight()
    figure.subplots_adjust(
        left=0.085,
        right=0.985,
        top=1 - (0.5 + 0.19 * lines) / tall,
        bottom=0.82 / tall,
        hspace=0.3,
        wspace=0.08,
    )
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
    backbones = {name: shapes[i % len(shapes)] for i, name in enumerate(sorted(rows["backbone"].unique()))}
    return {point: backbones[backbone] for point, backbone in zip(rows["point"], rows["backbone"], strict=True)}


def dodge(rows: pd.DataFrame, width: float) -> np.ndarray:
    """x on the logit axis: objectives of one point side by side, at most `width` apart in all."""
    names = in_order(rows["objective"])
    step = min(0.13, width / max(len(names) - 1, 1))
    place = {name: (i - (len(names) - 1) / 2) * step for i, name in enumerate(names)}
    return logit(rows["prior"].to_numpy(float)) + np.array([place[name] for name in rows["objective"]])


def _draw_gains(
    ax: Axes,
    rows: pd.DataFrame,
    limits: tuple[float, float],
    size: float = 5.0,
    all_rows: pd.DataFrame | None = None,
) -> dict[str, str]:
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
        ax.errorbar(
            some["x"], some["gain"], yerr=np.maximum(bars, 0), color=palette[str(objective)], marker=str(marker),
            linestyle="", markersize=size, markeredgecolor="white", markeredgewidth=0.3, elinewidth=1.0, capsize=1.6,
            capthick=0.8, zorder=4,
        )  # fmt: skip
    ends = whole[["gain_low", "gain_high"]].to_numpy(float)
    margin = 0.06 * max(float(np.nanmax(ends) - np.nanmin(ends)), 0.1)
    ax.set_ylim(min(float(np.nanmin(ends)), -0.05) - margin, max(float(np.nanmax(ends)), 0.05) + margin)
    ax.set_xlim(*limits)
    return markers


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


def _strip(ax: Axes, rows: pd.DataFrame, markers: dict[str, str], limits: tuple[float, float]) -> None:
    points = rows.drop_duplicates("point").sort_values("prior")
    x_N = logit(points["prior"].to_numpy(float))
    places = _apart(x_N, 0.052 * (limits[1] - limits[0]))
    for x, place, row in zip(x_N, places, points.to_dict("records"), strict=True):
        low, high = logit(np.array([row["prior_low"], row["prior_high"]]))
        ax.plot([low, high], [0.86, 0.86], color="#333333", linewidth=1.1, solid_capstyle="butt", zorder=3)
        ax.plot(
            [x],
            [0.86],
            marker=markers[row["point"]],
            color="#333333",
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=4,
        )
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


def _apart(x_N: np.ndarray, gap: float) -> np.ndarray:
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


def _legend(figure: Figure, rows: pd.DataFrame, formulas: dict[str, str], markers: dict[str, str]) -> int:
    """Draws it at the top; the number of its lines."""
    from matplotlib.lines import Line2D

    palette = colours(rows["objective"])
    entries = [
        Line2D([], [], color=palette[o], linewidth=2.4, label=legend_text(o, formulas))
        for o in in_order(rows["objective"])
    ]
    backbones = dict.fromkeys((b, markers[p]) for b, p in sorted(zip(rows["backbone"], rows["point"], strict=True)))
    shapes = [
        Line2D([], [], color="#333333", marker=m, linestyle="", markersize=5, label=plain(b)) for b, m in backbones
    ]
    look: dict[str, Any] = {"loc": "upper center", "handlelength": 1.3, "columnspacing": 1.4, "handletextpad": 0.5}
    if len(entries) + len(shapes) <= 7:
        figure.legend(handles=entries + shapes, ncols=7, bbox_to_anchor=(0.53, 0.998), **look)
        return 1
    lines = math.ceil(len(entries) / 4)
    figure.legend(handles=entries, ncols=math.ceil(len(entries) / lines), bbox_to_anchor=(0.53, 0.998), **look)
    figure.legend(
        handles=shapes, ncols=8, bbox_to_anchor=(0.53, 0.998 - 0.175 * lines / figure.get_figheight()), **look
    )
    return lines + 1


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}{f' to {high}' if high > low else ''}"


def _caption(figure: Figure, rows: pd.DataFrame, more: str) -> None:
    text = (
        f"{decoding_name(rows)}; {counts(rows)}. Bars: 95 % bootstrap interval of the difference paired by question"
        f"{averaged(rows)}. "
        f"Shades: model-weak (MW), -intermediate (MI), -strong (MS). {more}"
    )
    note(figure, text)
