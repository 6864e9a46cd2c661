"""The gradient shapes W_f(p) of objectives: the paper's nine, or those that a sweep trained with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.figures.panels import finish, grid, listed, objective_handles
from analysis.figures.style import colours, in_order, plain
from analysis.theory.shapes import Proposition, gradient_shape, proposition_3_2
from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HALVES = ((0.0, "convex f peaks here", "#f6ead9"), (0.5, "concave f peaks here", "#dfeaf4"))
_HEIGHT = 2.45  # inches of the panels


@dataclass(frozen=True)
class Trained:
    """The objectives that a sweep trains with.

    shapes: those whose W_f is the same at every point, by name, in order. at_quantile: the names of those whose
    threshold is a quantile of the base model's p, another number at each point. beyond_p: of those whose loss needs
    more of the distribution than p. unknown: those that no spec tells.
    """

    shapes: dict[str, Objective]
    at_quantile: list[str]
    beyond_p: list[str]
    unknown: list[str]

    def left_out(self) -> str:
        """Which have no shape here and why, '' if all have one."""
        parts = []
        if self.at_quantile:
            parts.append(
                f"{_count(self.at_quantile)} with a threshold at a quantile of the base model's p, another p at each "
                f"point ({listed(self.at_quantile, 3)})"
            )
        if self.beyond_p:
            parts.append(f"{_count(self.beyond_p)} of more than p ({listed(self.beyond_p, 3)})")
        if self.unknown:
            parts.append(f"{_count(self.unknown)} that no spec tells ({listed(self.unknown, 3)})")
        return "; ".join(parts)


def _count(names: list[str]) -> str:
    return f"{len(names)} objective{'s' * (len(names) != 1)}"


def trained_objectives(cells: pd.DataFrame) -> Trained:
    """Of the rows of `Results.cells`, from the identities that their specs tell."""
    out = Trained({}, [], [], [])
    known = dict[str, str]()
    for name, identity in cells[["objective", "identity"]].drop_duplicates().itertuples(index=False, name=None):
        known[name] = known.get(name) or identity
    for name in in_order(known):
        told = json.loads(known[name]) if known[name] else None
        if told is None:
            out.unknown.append(name)
        elif "quantile" in told:
            out.at_quantile.append(name)
        elif told["family"] != "base":
            objective = Objective(name=name, **told)
            if objective.is_plain:
                out.shapes[name] = objective
            else:
                out.beyond_p.append(name)
    return out


def gradient_shapes(objectives: Mapping[str, Objective], formulas: dict[str, str], left_out: str = "") -> Figure:
    """W_f(p): a panel of the objectives on all tokens, with the halves of Proposition 3.2 shaded, and a panel of those
    with a threshold. A mark is where W_f is largest. left_out: which are not drawn, for the small print.
    """
    whole = [name for name in objectives if objectives[name].keep == "all"]
    thresholded = [name for name in objectives if name not in whole]
    panels = [names for names in (whole, thresholded) if names]
    palette = colours(objectives)
    found = {name: proposition_3_2(objective) for name, objective in objectives.items()}
    peaks = [float(gradient_shape(one, [found[name].peak])[0]) for name, one in objectives.items()]
    highest = max([1.0, *peaks])
    figure, axes = grid(len(panels), columns=2, sharey=True)
    for ax, names in zip(axes, panels, strict=True):
        for name in names:
            _draw_shape(ax, objectives[name], found[name].peak, palette[name])
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.04 * highest)
        ax.set_xlabel("p of the target token")
        if names is whole:
            _shade_halves(ax)
        else:
            ax.text(0.5, 1.015, "with a threshold", transform=ax.transAxes, ha="center", fontsize=7.5)
    axes[0].set_ylabel("$W_f(p)$: pull on the target's logit")
    handles = [objective_handles(names, palette, formulas) for names in panels]
    finish(figure, _HEIGHT, handles, _caption(objectives, whole, found, left_out))
    return figure


def _shade_halves(ax: Axes) -> None:
    for left, text, shade in _HALVES:
        ax.axvspan(left, left + 0.5, color=shade, linewidth=0, zorder=0)
        ax.text(left + 0.25, 1.015, text, transform=ax.get_xaxis_transform(), ha="center", fontsize=7.5)


def _draw_shape(ax: Axes, objective: Objective, top: float, colour: str) -> None:
    p_G = np.linspace(0, 1, 1001)
    shape_G = gradient_shape(objective, p_G)
    with np.errstate(divide="ignore"):
        jumps = np.flatnonzero(np.diff(family.kept(objective, np.log(p_G)))) + 1
    p_G, shape_G = np.insert(p_G, jumps, np.nan), np.insert(shape_G, jumps, np.nan)  # no slanted line across the jump
    ax.plot(p_G, shape_G, color=colour, linewidth=1.4)
    ax.plot([top], gradient_shape(objective, [top]), "o", color=colour, markersize=4, clip_on=False, zorder=5)


def _caption(
    objectives: Mapping[str, Objective], whole: list[str], found: Mapping[str, Proposition], left_out: str
) -> str:
    both = 0 < len(whole) < len(objectives)
    text = "$W_f(p)=-f'(p)\\,p\\,(1-p)$, exact: no data, so no intervals; marks: where it is largest. "
    if whole:
        holds = sum(bool(found[name].holds) for name in whole)
        linear = any(found[name].curvature == "linear" for name in whole)
        text += f"{'Left: objectives' if both else 'Objectives'} on all tokens; in the shaded halves Proposition 3.2 "
        text += f"puts the peak, which holds for {holds} of {len(whole)}"
        text += f"{' (-p is both convex and concave: 1/2)' * linear}. "
    if len(whole) < len(objectives):
        cuts = sorted({one.threshold for one in objectives.values() if one.keep != "all"})
        at = ", ".join(f"{cut:g}" for cut in cuts)
        text += f"{'Right: f' if both else 'Here f'} jumps at its threshold (p\u00a0=\u00a0{at}), of which Proposition "
        text += "3.2 says nothing. "
    return text + (f"Not drawn: {plain(left_out)}." if left_out else "")
