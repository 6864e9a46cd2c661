"""Figures of the theory: gradient shapes, where two objectives trade places, risk over time, and the lab's label noise.

`theory_figures(results)` draws all; draw and save them under `matplotlib.rc_context(STYLE)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from analysis.figures.shapes import gradient_shapes
from analysis.figures.style import COLOURS, counts, decoding_name, legend_text, mathtext, note, plain, with_seeds
from analysis.sources.table import Results, formula
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import REFERENCE, gains
from analysis.statistics.seeds import decisive
from analysis.tables.results import number
from analysis.theory.base_model import VOCABULARY, BaseModel, strong, weak
from analysis.theory.flow import risk_paths
from analysis.theory.shapes import MAIN
from analysis.theory.theorem import RATIO, TradeMap, trade_map
from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.store.regions import region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

FORMULAS = {name: formula(objective.identity()) for name, objective in MAIN.items()}
PAIRS = (("p", REFERENCE), ("p10", REFERENCE))
NOISES = (0.0, 0.2, 0.4)
_MAP = "PuOr"  # orange: the reference is faster; purple: the other one is
_KINDS = {"uniform": ("o", "#0072B2"), "imbalanced": ("s", "#D55E00"), "missing": ("^", "#009E73")}
_NO_NOISE = ("D", "#444444")
_POINTS = {"strong": "strongest point", "weak": "weakest point"}
_TIME = {"strong": 40.0, "weak": 40.0}


def theory_figures(results: Results | None = None) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each; the lab's label noise only where a sweep's results are given."""
    yield "theory-gradient-shapes", gradient_shapes(MAIN, FORMULAS)
    yield "theory-trade-places", trade_places()
    yield "theory-risk-over-time", risk_over_time()
    if results is not None:
        yield "theory-lab-noise", lab_noise_beside(noise_gains(results))


# --- where two objectives trade places --------------------------------------------------------------------------


def trade_places(pairs: tuple[tuple[str, str], ...] = PAIRS, model: BaseModel | None = None) -> Figure:
    """Difference of the initial risk-reduction rates over noise rate and prior strength, one panel per pair."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.9))
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.075, right=0.865, top=0.93, bottom=0.29, wspace=0.1)
    model = strong() if model is None else model
    for ax, (first, second) in zip(panels, pairs, strict=True):
        found = _map_of(first, second, model, 1.0)
        mesh = _draw_map(ax, found)
        met = "met" if found.ratio < RATIO else "not met"
        ax.set_title(f"{_short(first)} against {_short(second)}   (c/d = {found.ratio:.3g}: < 10 {met})")
        ax.set_xlabel("label-noise rate")
    panels[0].set_ylabel("prior strength of the base model")
    ticks = [-0.2, -0.05, -0.01, 0, 0.01, 0.05, 0.2]
    bar = figure.colorbar(mesh, cax=figure.add_axes((0.885, 0.29, 0.016, 0.64)), ticks=ticks, format="%g")
    bar.ax.minorticks_off()
    bar.set_label("rate of the first less that of the second", fontsize=7.5)
    note(
        figure,
        "Initial rate of risk reduction under gradient flow, in closed form; exact, so no intervals. Purple: the first "
        "objective is faster; orange: the second; black line: they trade places. Hatched: the theorem's conditions on "
        "prior and noise hold (mass of true and wrong label, noise > |A|/(B-A)); its condition c < 10 d is in the "
        f"title, as we have it. Base model: logits scaled from uniform (V = {model.vocabulary}) to strong (prior "
        f"strength {model.strength:.2f}). The line is exact also where c < 10 d is not met.",
    )
    return figure


def _map_of(first: str, second: str, model: BaseModel, noise_end: float) -> TradeMap:
    shares = np.linspace(0, 1, 121)
    return trade_map(MAIN[first], MAIN[second], model, list(np.linspace(0, noise_end, 121)), list(shares))


def _draw_map(ax: Axes, found: TradeMap) -> ScalarMappable:
    from matplotlib.colors import AsinhNorm

    x_E, y_S = found.noise_E, found.strength_S
    norm = AsinhNorm(linear_width=0.02, vmin=-0.25, vmax=0.25)  # the rates at the weak end are small
    mesh = ax.pcolormesh(x_E, y_S, found.rate_SE, cmap=_MAP, norm=norm, shading="gouraud", rasterized=True)
    if found.holds_SE.any():
        ax.contourf(
            x_E, y_S, found.holds_SE.astype(float), levels=[0.5, 1.5], colors="none", hatches=["////"], zorder=2
        )
    known_S = np.isfinite(found.line_S) & (found.line_S <= x_E[-1])
    ax.plot(found.line_S[known_S], y_S[known_S], color="black", linewidth=1.6, zorder=3)
    ax.set_xlim(x_E[0], x_E[-1])
    ax.set_ylim(y_S[0], y_S[-1])
    return mesh


def _short(name: str) -> str:
    return mathtext(FORMULAS[name])


# --- risk over time ---------------------------------------------------------------------------------------------


def risk_over_time(pair: tuple[str, str] = PAIRS[0], noises: tuple[float, ...] = NOISES) -> Figure:
    """The risk of the integrated flow at both ends of the continuum, a line per objective and noise rate."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(7.2, 3.5))
    panels = figure.subplots(1, 2)
    styles: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
    models = {"weak": weak(), "strong": strong()}
    for ax, (end, model) in zip(panels, models.items(), strict=True):
        time_T = np.linspace(0, _TIME[end], 161)
        for name in pair:
            paths = risk_paths(MAIN[name], model, time_T)
            for noise, style in zip(noises, styles, strict=False):
                ax.plot(time_T, paths.mixed(noise), style, color=COLOURS[name], linewidth=1.3)
        ax.set_title(f"model-{end} end (prior strength {model.strength:.2f})")
        ax.set_xlabel("time of the flow (learning rate × steps)")
        ax.set_xlim(0, _TIME[end])
        ax.grid(color="#e6e6e6", linewidth=0.5)
    panels[0].set_ylabel("risk R = −E[p(y*)]")
    entries = [Line2D([], [], color=COLOURS[name], linewidth=2, label=legend_text(name, FORMULAS)) for name in pair]
    entries += [
        Line2D([], [], color="#666666", linestyle=style, label=f"noise {noise:g}")
        for noise, style in zip(noises, styles, strict=False)
    ]
    figure.legend(handles=entries, loc="upper center", ncols=len(entries), bbox_to_anchor=(0.53, 0.995))
    note(
        figure,
        "Gradient flow on the logits of each context, one label each, a share of them wrong; Runge-Kutta, error below "
        f"1e-6; no sampling, so no intervals. V = {VOCABULARY} labels. Lower is better. The theorem is on the slopes "
        "at time 0; once every label is learnt, also each wrong one, the risk is -(1 - noise) for either objective.",
    )
    figure.subplots_adjust(left=0.085, right=0.985, top=0.83, bottom=0.265, wspace=0.17)
    return figure


# --- beside the lab ---------------------------------------------------------------------------------------------


def noise_gains(results: Results, objective: str = "p") -> pd.DataFrame:
    """Measured gain of `objective` over NLL at T=1 by noise, at both ends: rows of `gains` (missing cells have n = 0).

    Of the points that the sweep has at several noise rates, `end` is strong for the one of the highest prior strength
    and weak for that of the lowest; a single point is the weak end where its region is MW, else the strong one. Empty
    where there is no such point.
    """
    table = decisive(by_place(gains(results), results.cells))
    if table.empty:
        return table.assign(end=[])
    table = table[(table["objective"] == objective) & table["temperature"].isin([1.0]) & table["prior"].notna()]
    several = table.groupby("point")["noise_rate"].transform("nunique") > 1
    table = table[several & table["noise_kind"].ne("")]
    prior = table.groupby("point")["prior"].mean().sort_values(ascending=False, kind="stable")
    ends = dict(zip(prior.index[[0, -1]], ("strong", "weak"), strict=True)) if len(prior) > 1 else {}
    if len(prior) == 1:
        ends = {prior.index[0]: "weak" if region(float(prior.iloc[0])) == "MW" else "strong"}
    return table[table["point"].isin(ends)].assign(end=lambda rows: rows["point"].map(ends)).reset_index(drop=True)


def lab_noise_beside(rows: pd.DataFrame, objective: str = "p") -> Figure:
    """The map of the theory, and what a sweep over label noise measured at both ends: gain over NLL against noise rate.

    rows: `noise_gains` of the same objective. Noise runs to the right and prior strength upwards in both. What is
    missing is named below it.

    Raises ConfigError for an objective that is none of the main ones.
    """
    from matplotlib.figure import Figure

    if objective not in MAIN or objective == REFERENCE:
        raise ConfigError("objective", objective, one_of([name for name in MAIN if name != REFERENCE], objective))
    figure = Figure(figsize=(7.2, 4.7))
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.25], wspace=0.32, hspace=0.34)
    left = figure.add_subplot(grid[:, 0])
    _draw_map(left, _map_of(objective, REFERENCE, strong(), 0.5))
    left.set_ylim(0, 1)
    left.set_title(f"theory: {_short(objective)} against {_short(REFERENCE)}")
    left.set_xlabel("share of wrong labels")
    left.set_ylabel("prior strength of the base model")
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    for ax, end in ((upper, "strong"), (lower, "weak")):
        mine = rows[rows["end"] == end]
        _draw_measured(ax, mine, end, objective)
        if len(mine):
            _mark_end(left, float(mine["prior"].mean()), end)
    for ax in [ax for ax in (lower, upper) if ax.axison][:1]:
        ax.set_xlabel("share of wrong answers in training")
    entries = {
        label: handle for ax in (upper, lower) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="upper right", ncols=len(entries),
                      bbox_to_anchor=(0.995, 0.998), columnspacing=1.2)  # fmt: skip
    note(figure, _beside_note(rows, objective))
    figure.subplots_adjust(left=0.075, right=0.985, top=0.89, bottom=0.26)
    return figure


def _mark_end(ax: Axes, prior: float, end: str) -> None:
    """An arrow at the right edge of the map where the lab's point has its prior strength."""
    right = ax.get_xlim()[1]
    arrow = {"arrowstyle": "-|>", "color": "#333333", "lw": 0.8}
    ax.annotate("", (right, prior), (1.06 * right, prior), arrowprops=arrow, annotation_clip=False)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    ax.text(0.98 * right, min(prior, 0.975), _POINTS[end], ha="right", va="center", fontsize=6.6, bbox=box)


def _draw_measured(ax: Axes, rows: pd.DataFrame, end: str, objective: str) -> None:
    known = rows[rows["n"] > 0]
    ax.set_xlim(0 - 0.03, 0.5)
    if known.empty:
        ax.set_axis_off()
        text = (
            f"This sweep has no gain of {plain(objective)} over NLL \nat T=1 and several noise rates: {_POINTS[end]}."
        )
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=7.5)
        return
    kinds = [kind for kind in _KINDS if (known["noise_kind"] == kind).any()]
    dodge = {kind: 0.008 * (i - (len(kinds) - 1) / 2) for i, kind in enumerate(kinds)}
    for kind, (marker, colour) in {"none": _NO_NOISE, **_KINDS}.items():
        some = known[known["noise_kind"] == kind]
        if some.empty:
            continue
        bars = np.stack([some["gain"] - some["gain_low"], some["gain_high"] - some["gain"]])
        ax.errorbar(
            some["noise_rate"] + dodge.get(kind, 0.0), some["gain"], yerr=np.maximum(bars, 0), color=colour,
            marker=marker, linestyle="", markersize=4.5, elinewidth=1.0, capsize=1.8, zorder=4,
            label="no noise" if kind == "none" else plain(kind),
        )  # fmt: skip
    low, high = min(float(known["gain_low"].min()), -0.05), max(float(known["gain_high"].max()), 0.05)
    margin = 0.08 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    ax.axhspan(0, 1, color="#e9e6f2", linewidth=0, zorder=0)
    ax.axhspan(-1, 0, color="#fbeedd", linewidth=0, zorder=0)
    ax.axhline(0, color="#333333", linewidth=0.8, zorder=2)
    ax.set_ylabel("gain over NLL")
    first = known.iloc[0]
    at = f"prior {number(float(first['prior']))}, {region(float(first['prior']))}"
    ax.set_title(f"{_POINTS[end]}: {plain(str(first['label']))} ({at})", loc="left")


def _beside_note(rows: pd.DataFrame, objective: str) -> str:
    text = (
        f"Purple: {_short(objective)} is better; orange: NLL is; black line: the initial rates are equal; hatched: the "
    )
    text += "theorem's conditions on prior and noise hold. Strongest and weakest point by prior strength. "
    known = rows[rows["n"] > 0]
    if len(known):
        text += f"Measured: {decoding_name(known).lower().replace('t=', 'T=')}; {counts(known)}; bars: 95 % interval "
        text += f"of the difference paired by question{with_seeds(known)}. "
    lost = rows[rows["n"] == 0].groupby(["end", "noise_kind"], sort=False)["noise_rate"]
    if len(lost):
        named = [f"{_POINTS[str(end)]}, {kind} {', '.join(f'{r:g}' for r in rates)}" for (end, kind), rates in lost]
        text += f"Missing: {plain('; '.join(named))}. "
    return text + (
        "Not the same quantity: theory has the initial rate of lowering the risk, with one label per context; the lab "
        "has the score after training, with noise that replaces whole answers."
    )
