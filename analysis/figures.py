"""Figures for a paper, PNG and PDF: the continuum, a heat map of all scores, the training curves.

Every figure says its n and what its bars are. The same results give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.continuum import REFERENCE, Prior, logit
from analysis.intervals import REGION_EDGES, REGIONS
from analysis.style import MARKERS, REGION_SHADES, colours, in_order, legend_text, plain
from analysis.table import Results
from analysis.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.hashsalt": "bll",
}
PRIOR_NAMES = {"clean": "on the clean answers", "as_trained": "on the answers as trained"}
_NOISE_NAMES = {"uniform": "uniform noise", "imbalanced": "imbalanced noise", "missing": "missing answers"}
_TICKS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997)


def write_figures(
    results: Results, means: pd.DataFrame, gains: pd.DataFrame, folder: Path, prior: Prior = "clean"
) -> list[Path]:
    """All figures of a sweep as PNG and PDF in `folder`; the paths of the PNG files, the continuum first."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    with matplotlib.rc_context(_RC):
        for name, figure in _figures(results, means, gains, prior):
            for suffix, metadata in (
                (".png", {"Software": None}),
                (".pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
            ):
                figure.savefig(folder / f"{name}{suffix}", metadata=metadata)
            out.append(folder / f"{name}.png")
    return out


def _figures(results: Results, means: pd.DataFrame, gains: pd.DataFrame, prior: Prior) -> Any:
    decodings = list(dict.fromkeys(means.sort_values("primary", ascending=False, kind="stable")["decoding"]))
    for decoding in decodings:
        shown = (
            gains[(gains["decoding"] == decoding) & (gains["n"] > 0) & gains["prior"].notna()]
            if len(gains)
            else gains
        )
        if len(shown):
            panelled = shown["variant"].nunique() > 1
            figure = (
                continuum_panels(shown, results.formulas, prior)
                if panelled
                else continuum(shown, results.formulas, prior)
            )
            yield f"continuum-{decoding}", figure
    for decoding in decodings:
        if len(rows := means[means["decoding"] == decoding]):
            yield f"heatmap-{decoding}", heatmap(rows, results.formulas)
    for i, (variant, cells) in enumerate(results.cells.groupby("variant", sort=False)):
        if len(figure_rows := _curve_rows(results, cells)):
            suffix = f"-{i + 1}" if results.cells["variant"].nunique() > 1 else ""
            yield f"curves{suffix}", curves(figure_rows, results.formulas, str(variant))


# --- the continuum --------------------------------------------------------------------------------------------------


def continuum(rows: pd.DataFrame, formulas: dict[str, str], prior: Prior = "clean") -> Figure:
    """Gain over NLL against prior strength (logit axis) of the rows of one decoding and one variant.

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
    more = "Strip: task and prior strength, with its 95 % bootstrap interval over training sequences where that is wider than the mark."
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
        "The panels without noise are one and the same."
        if sum(t[0] == "no noise" for t in titles) > 1
        else "",
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
    """Noise kind x rate where the variants are no more than that (no noise opens every line); else variants, 3 a line."""
    pairs = rows[["variant", "noise_kind", "noise_rate"]].drop_duplicates()
    by_noise = (
        len(pairs) == pairs["variant"].nunique() == len(pairs[["noise_kind", "noise_rate"]].drop_duplicates())
    )
    if by_noise and rows["noise_kind"].ne("").all():
        kinds = [kind for kind in dict.fromkeys(rows["noise_kind"]) if kind != "none"] or ["none"]
        rates = sorted(rows["noise_rate"].unique())
        panels = [
            [
                rows[
                    rows["noise_rate"].eq(rate)
                    & rows["noise_kind"].isin((kind, *(["none"] if rate == 0 else [])))
                ]
                for rate in rates
            ]
            for kind in kinds
        ]
        titles = [
            [
                "no noise" if rate == 0 else f"{_NOISE_NAMES.get(kind, kind)}, {100 * rate:g} %"
                for rate in rates
            ]
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
    return {
        point: backbones[backbone] for point, backbone in zip(rows["point"], rows["backbone"], strict=True)
    }


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
    placed = rows.assign(
        x=dodge(rows, 0.045 * (limits[1] - limits[0])), marker=[markers[p] for p in rows["point"]]
    )
    for (objective, marker), some in placed.groupby(["objective", "marker"], sort=False):
        bars = np.stack([some["gain"] - some["gain_low"], some["gain_high"] - some["gain"]])
        ax.errorbar(
            some["x"], some["gain"], yerr=np.maximum(bars, 0), color=palette[str(objective)], marker=str(marker), linestyle="",
            markersize=size, markeredgecolor="white", markeredgewidth=0.3, elinewidth=1.0, capsize=1.6, capthick=0.8, zorder=4,
        )  # fmt: skip
    ends = whole[["gain_low", "gain_high"]].to_numpy(float)
    margin = 0.06 * max(float(np.nanmax(ends) - np.nanmin(ends)), 0.1)
    ax.set_ylim(min(float(np.nanmin(ends)), -0.05) - margin, max(float(np.nanmax(ends)), 0.05) + margin)
    ax.set_xlim(*limits)
    return markers


def _shade(ax: Axes, limits: tuple[float, float], named: bool) -> None:
    edges = [limits[0], *logit(np.array(REGION_EDGES)), limits[1]]
    for (short, name), left, right in zip(REGIONS.items(), edges, edges[1:], strict=False):
        ax.axvspan(left, right, color=REGION_SHADES[short], linewidth=0, zorder=0)
        if named:
            inches = (
                (right - left) / (limits[1] - limits[0]) * ax.get_position().width * ax.figure.get_figwidth()
            )
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
    several = (
        points["task"].nunique() < points["point"].nunique()
        and points["domain"].nunique() < points["benchmark"].nunique()
    )
    labels = points["benchmark"] if several else points["domain"]
    places = _apart(x_N, 0.052 * (limits[1] - limits[0]))
    for x, place, label, row in zip(x_N, places, labels, points.to_dict("records"), strict=True):
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
            plain(label),
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
    backbones = dict.fromkeys(
        (b, markers[p]) for b, p in sorted(zip(rows["backbone"], rows["point"], strict=True))
    )
    shapes = [
        Line2D([], [], color="#333333", marker=m, linestyle="", markersize=5, label=plain(b))
        for b, m in backbones
    ]
    look = {"loc": "upper center", "handlelength": 1.3, "columnspacing": 1.4, "handletextpad": 0.5}
    if len(entries) + len(shapes) <= 7:
        figure.legend(handles=entries + shapes, ncols=7, bbox_to_anchor=(0.53, 0.998), **look)
        return 1
    lines = math.ceil(len(entries) / 4)
    figure.legend(
        handles=entries, ncols=math.ceil(len(entries) / lines), bbox_to_anchor=(0.53, 0.998), **look
    )
    figure.legend(
        handles=shapes, ncols=8, bbox_to_anchor=(0.53, 0.998 - 0.175 * lines / figure.get_figheight()), **look
    )
    return lines + 1


def _caption(figure: Figure, rows: pd.DataFrame, more: str) -> None:
    text = (
        f"{_decoding(rows)}; {_counts(rows)}. Bars: 95 % bootstrap interval of the difference paired by question. "
        f"Shades: model-weak (MW), -intermediate (MI), -strong (MS). {more}"
    )
    _note(figure, text)


def _note(figure: Figure, text: str) -> None:
    """Small print at the lower left, broken into lines that fit."""
    wide = textwrap.wrap(text.strip(), int((figure.get_figwidth() - 0.15) / 0.0525))
    figure.text(
        0.012, 0.07 / figure.get_figheight(), "\n".join(wide), fontsize=6.6, color="#444444", linespacing=1.25
    )


def _decoding(rows: pd.DataFrame) -> str:
    name = str(rows["decoding"].iloc[0])
    return {"sampled": "Answers sampled at T=1", "greedy": "Greedy answers"}.get(name, f"{name} answers")


def _counts(rows: pd.DataFrame) -> str:
    """n of a set of rows in words: `n = 200 questions x 8 samples, 1 seed`."""
    rows = rows[rows["n"] > 0]
    if rows.empty:
        return "n = 0"
    parts = []
    for column, one, many in (
        ("n", "question", "questions"),
        ("samples", "sample each", "samples each"),
        ("seeds", "seed", "seeds"),
    ):
        low, high = int(rows[column].min()), int(rows[column].max())
        parts.append(f"{low}{f' to {high}' if high > low else ''} {one if high == 1 else many}")
    return "n = " + ", ".join(parts)


# --- the heat map ---------------------------------------------------------------------------------------------------


def heatmap(rows: pd.DataFrame, formulas: dict[str, str]) -> Figure:
    """Mean score with its interval: a row per point (and variant) by prior strength, a column per objective, base first."""
    from matplotlib.figure import Figure

    points = rows.drop_duplicates(["point", "variant"])[
        ["point", "variant", "prior", "prior_low", "prior_high", "region"]
    ]
    names = in_order(rows["objective"])
    found = {(r["point"], r["variant"], r["objective"]): r for r in rows.to_dict("records")}
    label_width = 1.15 + 0.055 * int((points["point"] + points["variant"]).str.len().max())
    width, height = label_width + 0.78 * len(names) + 0.75, 0.33 * len(points) + 1.1
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes(
        (label_width / width, 0.5 / height, 0.78 * len(names) / width, 0.33 * len(points) / height)
    )
    value = np.full((len(points), len(names)), np.nan)
    labels = []
    for i, point in enumerate(points.to_dict("records")):
        for j, name in enumerate(names):
            row = found.get((point["point"], point["variant"], name))
            known = row is not None and row["n"] > 0
            value[i, j] = row["mean"] if row is not None and known else np.nan
            _cell_text(ax, i, j, row if known else None)
        _prior_text(ax, i, point)
        labels.append(plain(f"{point['point']}{', ' + point['variant'] if point['variant'] else ''}"))
    image = ax.imshow(value, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(names)), [_column_head(name, formulas) for name in names], fontsize=7)
    ax.set_yticks(range(len(points)), labels, fontsize=7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.tick_params(axis="y", pad=62)
    ax.text(-0.53, -0.62, "prior", ha="right", va="bottom", fontsize=7)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(points)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.2)
    ax.tick_params(which="minor", length=0)
    bar = figure.colorbar(
        image,
        cax=figure.add_axes((1 - 0.55 / width, 0.5 / height, 0.12 / width, 0.33 * len(points) / height)),
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=6.5, length=2)
    text = f"Mean scores with their 95 % interval (Wilson, effective n). {_decoding(rows)}; {_counts(rows)}. Rows by prior strength."
    _note(figure, text)
    return figure


def _column_head(name: str, formulas: dict[str, str]) -> str:
    text = legend_text(name, formulas)
    return text.replace("  ", "\n", 1).replace(r" \cdot 1[", "$\n$1[")


def _prior_text(ax: Axes, i: int, point: dict[Any, Any]) -> None:
    known = not math.isnan(point["prior"])
    ax.text(
        -0.6,
        i - 0.14,
        f"{number(point['prior'])} {point['region']}" if known else "?",
        ha="right",
        va="center",
        fontsize=7,
    )
    if known:
        interval = f"[{number(point['prior_low'])}, {number(point['prior_high'])}]"
        ax.text(-0.6, i + 0.24, interval, ha="right", va="center", fontsize=5.6)


def _cell_text(ax: Axes, i: int, j: int, row: dict[Any, Any] | None) -> None:
    if row is None:
        ax.text(j, i, "missing", ha="center", va="center", fontsize=6, color="#a03030", style="italic")
        return
    ink = "white" if row["mean"] < 0.55 else "black"
    ax.text(j, i - 0.14, number(row["mean"], 2), ha="center", va="center", fontsize=7.5, color=ink)
    ax.text(
        j,
        i + 0.24,
        f"[{number(row['low'], 2)}, {number(row['high'], 2)}]",
        ha="center",
        va="center",
        fontsize=5.6,
        color=ink,
    )


# --- training curves ------------------------------------------------------------------------------------------------

CURVES = {"nll": "NLL (nats)", "mean_p": "mean p", "kept_fraction": "tokens kept"}


def _curve_rows(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """The logged steps of the cells' trainings, with point and objective; strongest prior first."""
    runs = cells[cells["train"] != ""].drop_duplicates(["point", "objective", "seed"])
    if results.curves.empty or runs.empty:
        return pd.DataFrame()
    runs = runs.sort_values("prior_clean", ascending=False, kind="stable")
    wanted = runs[["train", "point", "objective", "seed", "prior_clean", "region"]]
    return wanted.merge(results.curves, on="train", how="inner", sort=False)


def curves(rows: pd.DataFrame, formulas: dict[str, str], variant: str = "") -> Figure:
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
            ax = axes[i, j]
            for (objective, _), run in mine.groupby(["objective", "seed"], sort=False):
                ax.plot(run["step"], run[key], color=palette[str(objective)], linewidth=1.0, alpha=0.9)
            ax.grid(color="#e6e6e6", linewidth=0.5)
            ax.set_axisbelow(True)
            ax.tick_params(labelleft=j < 2, labelbottom=i == len(points) - 1)
        first = mine.iloc[0]
        axes[i, 0].set_ylabel(
            f"{plain(point)}\n{number(float(first['prior_clean']))} {first['region']}", fontsize=7
        )
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
    more = "Left: point, prior strength on clean answers, region."
    _note(
        figure,
        f"{plain(variant) + '. ' if variant else ''}Means over the step's batch, one curve per run (n = {seeds} {'seed' if seeds == 1 else 'seeds'}). {more}",
    )
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
