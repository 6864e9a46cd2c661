"""The scale sweep: gain over NLL against the number of the backbone's parameters (paper, Figure 7)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.overlay import as_reported, of_the_paper, reported_at, told
from analysis.figures.panels import (
    crosses,
    domains,
    finish,
    grid,
    mark_reported,
    missing,
    objective_handles,
    reported_handle,
    title,
)
from analysis.figures.style import MARKERS, averaged, colours, counts, decoding_name, in_order, plain, with_seeds
from analysis.sources.reading import Reader
from analysis.sources.table import Results
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.seeds import decisive
from bll_sweeps.store.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 3  # sizes of one family that make a scale sweep
_SIZE = re.compile(r"(?<![0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
_UNIT = {"b": 1e9, "m": 1e6}


def parameters(results: Results) -> dict[str, tuple[int, str]]:
    """Backbone -> number of its weights and who tells it: `spec`, or where that does not its `name` (`...-1.5b`).

    Backbones of which neither tells it are left out.
    """
    reader = Reader(Layout(results.root))
    out: dict[str, tuple[int, str]] = {}
    for backbone, cells in results.cells.groupby("backbone", sort=False):
        name = str(backbone)
        for job in dict.fromkeys(job for kind in ("train", "prior", "evaluate") for job in cells[kind] if job):
            spec = reader.spec(job)
            if spec is not None:
                told = int(spec["job"].get("backbone", {}).get("parameters") or 0)
                out |= {name: (told, "spec")} if told else {}
                break
        if name not in out:
            out |= named([name])
    return out


def named(backbones: Iterable[str]) -> dict[str, tuple[int, str]]:
    """The same by the names alone: `qwen2.5-1.5b` has 1.5 billion."""
    found = {name: _SIZE.search(name) for name in backbones}
    return {name: (round(float(size[1]) * _UNIT[size[2]]), "name") for name, size in found.items() if size is not None}


def family(backbone: str) -> str:
    """The name less its size: qwen2.5-1.5b and qwen2.5-7b are of `qwen2.5`."""
    return re.sub(r"-{2,}", "-", _SIZE.sub("", backbone)).strip("-")


def scale_rows(rows: pd.DataFrame, sizes: dict[str, tuple[int, str]]) -> pd.DataFrame:
    """The rows (benchmarks.by_place over gains, one decoding) of families with at least LEAST sizes on a domain, with
    `parameters`, `told` (by whom) and `family`; intervals are over seeds too where there are several.
    """
    mine = decisive(rows[rows["backbone"].isin(sizes)])
    told = [sizes[name] for name in mine["backbone"]]
    mine = mine.assign(
        parameters=np.array([count for count, _ in told], dtype=float),
        told=[who for _, who in told],
        family=[family(name) for name in mine["backbone"]],
    )
    key = ["domain", "variant", "family"]
    count = mine.groupby(key)["parameters"].nunique()
    keep = pd.MultiIndex.from_frame(mine[key]).isin(count[count >= LEAST].index)
    return mine[keep].sort_values("parameters", kind="stable", ignore_index=True)


def scale_sweep(
    rows: pd.DataFrame, formulas: dict[str, str], reported: pd.DataFrame | None = None, note: str = ""
) -> Figure:
    """Gain over NLL against parameters (log axis) of `scale_rows`: a panel per domain, a line per objective and family.

    reported: the paper's gains (overlay.Reported), drawn as open marks; note: what of them is not drawn.
    """
    found = domains(rows)
    palette, names = colours(rows["objective"]), in_order(rows["objective"])
    markers = {name: list(MARKERS)[i % len(MARKERS)] for i, name in enumerate(sorted(set(rows["family"])))}
    figure, axes = grid(len(found), columns=2)
    theirs = reported_at(rows, reported)
    for ax, (name, mine) in zip(axes, found, strict=True):
        for (objective, kind), line in mine.groupby(["objective", "family"], sort=False):
            shift = 1.012 ** (names.index(str(objective)) - (len(names) - 1) / 2)
            _line(ax, line, palette[str(objective)], markers[str(kind)], shift)
        if len(theirs):
            size = dict(zip(mine["backbone"], mine["parameters"], strict=True))
            for row in theirs[theirs["domain"] == mine["domain"].iloc[0]].to_dict("records"):
                mark_reported(ax, [size[row["backbone"]]], [row["gain"]], palette[row["objective"]])
        _axis(ax, mine)
        title(ax, name, 50)
    handles = objective_handles(names, palette, formulas) + _families(markers)
    handles += [reported_handle()] if len(theirs) else []
    finish(
        figure,
        2.3 * math.ceil(len(axes) / min(2, len(axes))) + 0.1,
        handles,
        _caption(rows) + told(rows, theirs, "gains", note),
    )
    return figure


def _line(ax: Axes, line: pd.DataFrame, colour: str, marker: str, shift: float) -> None:
    done, lacking = line[line["n"] > 0], line[line["n"] == 0]
    ends = np.stack([done["gain"] - done["gain_low"], done["gain_high"] - done["gain"]])
    ax.errorbar(done["parameters"] * shift, done["gain"], yerr=np.maximum(ends, 0), color=colour, marker=marker,
                linewidth=1.1, markersize=4.2, capsize=1.5, elinewidth=0.9, capthick=0.7, markeredgecolor="white",
                markeredgewidth=0.3, zorder=4)  # fmt: skip
    crosses(ax, list(lacking["parameters"] * shift), colour)


def _axis(ax: Axes, mine: pd.DataFrame) -> None:
    from matplotlib.ticker import NullLocator

    ax.axhline(0, color="#333333", linewidth=0.8, zorder=2)
    ax.set_xscale("log")
    sizes = sorted(set(mine["parameters"]))
    ticks = [size for i, size in enumerate(sizes) if i == 0 or size / sizes[i - 1] > 1.12]
    ax.set_xticks(ticks, [_short(size) for size in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel("parameters of the backbone (log axis)", fontsize=7.5)
    ax.set_ylabel(f"score gain over {REFERENCE.upper()}", fontsize=7.5)


def _short(count: float) -> str:
    """1543714304 -> 1.5B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.2g}{name}" if count < 100 * unit else f"{count / unit:.0f}{name}"
    return f"{count:.0f}"


def _families(markers: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": "#333333", "linestyle": "", "markersize": 5}
    return [Line2D([], [], marker=mark, label=plain(name) + " family", **look) for name, mark in markers.items()]


def _caption(rows: pd.DataFrame) -> str:
    by_name = list(dict.fromkeys(rows.loc[rows["told"] == "name", "backbone"]))
    source = "from the backbones' specs" + (f", of {plain(', '.join(by_name))} from the name" if by_name else "")
    if (rows["told"] == "name").all():
        source = "from the backbones' names"
    bars = f"Bars: 95 % interval of the difference paired by question{with_seeds(rows)}{averaged(rows)}."
    told_by = as_reported(rows) if of_the_paper(rows) else bars
    return (
        f"{decoding_name(rows)}; {counts(rows)}. {told_by} Numbers of parameters: {source}."
        f"{missing(rows, ' (crosses at the foot)')}"
    )
