"""What the figures of several panels share: pages, a grid of panels, legend above, small print below, missing rows."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from analysis.figures.style import MARKERS, canvas_of, in_order, legend_text, natural, plain
from analysis.sources.table import PLACE, Prior
from analysis.statistics.seeds import prior_over_seeds
from analysis.tables.results import number
from bll_sweeps.store.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

WIDTH = 7.2  # inches, of a page with two columns of text
GREY, MISSING = "#8c8c8c", "#a03030"
PANELS = 15  # most panels of a page
_NAMED = 8  # of what is missing
_LINE_INCHES = 6.6 * 1.25 / 72  # of the small print
_SPARE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def pages(items: Sequence[T], most: int) -> list[list[T]]:
    """The items in order, as few lists as hold at most `most` each, of sizes as equal as can be."""
    count = math.ceil(len(items) / most)
    size = math.ceil(len(items) / count) if count else 0
    return [list(items[i * size : (i + 1) * size]) for i in range(count)]


def look(backbones: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each backbone, told apart by either; in the order of their names."""
    shapes, names = list(MARKERS), sorted(dict.fromkeys(backbones), key=natural)
    return {
        name: {"color": _SPARE[i % len(_SPARE)], "marker": shapes[(i + i // len(_SPARE)) % len(shapes)]}
        for i, name in enumerate(names)
    }


def places(rows: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of each place (backbone, domain, variant) in their order, with the place's fields and `name`."""
    out = []
    for key, mine in rows.groupby(PLACE, sort=False):
        first: dict[str, Any] = {str(name): value for name, value in mine.iloc[0].to_dict().items()}
        first |= dict(zip(PLACE, map(str, key), strict=True))
        name = ", ".join(filter(None, [first["point"], first["variant"]]))
        out.append(({**first, "name": name}, mine))
    return out


def prior_of(cells: pd.DataFrame, prior: Prior) -> tuple[float, float, float]:
    """Prior strength of a place with its interval, over seeds too where they have backbones of their own, as in
    `continuum.means`; nan where it is not known.
    """
    columns = (cells[f"prior_{prior}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    own: dict[str, tuple[float, float, float]] = {}
    for job, *values in zip(cells["prior"], *columns, strict=True):
        if not math.isnan(values[0]):
            own.setdefault(job, (values[0], values[1], values[2]))
    return prior_over_seeds(*np.array(list(own.values())).T) if own else (math.nan, math.nan, math.nan)


def domains(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each domain and variant, strongest prior first, with the panel's title."""
    out = []
    for (domain, variant), mine in rows.groupby(["domain", "variant"], sort=False):
        out.append((", ".join(filter(None, [str(domain), str(variant)])), mine))
    return out


def grid(count: int, columns: int = 3, sharey: bool = False, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `columns` in a line; `finish` gives it its height."""
    from matplotlib.figure import Figure

    across = min(columns, count)
    figure = Figure(figsize=(WIDTH, 4.0))
    axes = list(figure.subplots(math.ceil(count / across), across, squeeze=False, sharey=sharey, sharex=sharex).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def title(ax: Axes, name: str, wide: int = 38) -> None:
    """A panel's name, broken into lines of at most `wide` characters; what stands in brackets stays together."""
    together = re.sub(r"\([^)]*\)", lambda found: found[0].replace(" ", "\u00a0"), name)
    lines = textwrap.wrap(together, wide) or [""]
    ax.set_title(plain("\n".join(lines)), fontsize=7, pad=3, y=1.0)  # y told: not sought again at each drawing


def strength(place: dict[str, Any]) -> str:
    """Prior strength and region: `.991 MS`; as the paper reports it with two digits."""
    value, digits = float(place["prior"]), 2 if place.get("source") == "reported" else 3
    return "prior unknown" if math.isnan(value) else f"{number(value, digits)} {place['region']}"


def objective_handles(objectives: Sequence[str], palette: dict[str, str], formulas: dict[str, str]) -> list[Any]:
    """A coloured square per objective, in their order."""
    from matplotlib.lines import Line2D

    names = in_order(objectives)
    look: dict[str, Any] = {"marker": "s", "linestyle": "", "markersize": 5}
    return [Line2D([], [], color=palette[o], label=legend_text(o, formulas), **look) for o in names]


def reported_handle(label: str = "reported by the paper (no interval)") -> Any:
    """The legend's entry of the paper's numbers."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", label=label, **REPORTED)


REPORTED: dict[str, Any] = {
    "marker": "D", "markersize": 4.2, "markerfacecolor": "none", "markeredgecolor": "#333333", "markeredgewidth": 0.8
}  # fmt: skip


def mark_reported(ax: Axes, x: Sequence[float], y: Sequence[float], colour: str = "#333333") -> None:
    """Open marks of the paper's numbers, seen on any ground, also where they lie on the axis."""
    from matplotlib.patheffects import withStroke

    look = {**REPORTED, "markeredgecolor": colour}
    ax.plot(x, y, linestyle="", zorder=6, clip_on=False, path_effects=[withStroke(linewidth=2, foreground="white")],
            **look)  # fmt: skip


def limits(metric: Metric, values: pd.Series) -> tuple[float, float]:
    """Of its axis: all that the metric can be where it has a ceiling, else its values, and room at both ends."""
    return with_margin(values) if metric.ceiling is None else (-0.04 * metric.ceiling, 1.06 * metric.ceiling)


def with_margin(values: pd.Series) -> tuple[float, float]:
    """Limits with a twentieth of the range on either side; of one value, or none, a range around it."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def finish(figure: Figure, body: float, handles: Sequence[Any], text: str, gap: float = 0.03) -> None:
    """Legend above, small print below, and the panels, `body` inches high in all, between them, `gap` apart.

    handles: of the legend; a list among them is a group, which begins and ends a column.
    """
    renderer: Any = canvas_of(figure).get_renderer()
    width = figure.get_figwidth()
    kept = text.strip().replace(" %", "\u00a0%")
    lines = textwrap.wrap(kept, int((width - 0.15) / 0.0525))
    legend, above = None, 0.04
    if handles:
        entries, columns = _in_columns(_groups(handles), width - 0.1)
        legend = figure.legend(
            handles=entries, ncols=columns, loc="upper center", handlelength=1.3,
            columnspacing=1.3, handletextpad=0.5, labelspacing=0.3, borderpad=0.2,
        )  # fmt: skip
        above += float(legend.get_window_extent(renderer).height) / figure.dpi
    below = 0.1 + _LINE_INCHES * len(lines)
    height = body + above + below
    figure.set_size_inches(width, height)
    if legend is not None:
        legend.set_bbox_to_anchor((0.5, 1 - 0.01 / height))
        legend.set_loc("upper center")
    figure.text(0.012, 0.05 / height, "\n".join(lines), fontsize=6.6, color="#444444", linespacing=1.25)
    figure.set_layout_engine(
        "constrained", rect=(0.006, below / height, 0.988, body / height), w_pad=0.04,
        h_pad=0.035 if gap else 0.015, wspace=0.02,
        hspace=gap,
    )  # fmt: skip
    renderer = canvas_of(figure).get_renderer()
    # Laid out once here, not again for each format, and without drawing, which finds no more than where labels are.
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.label.get_text():
                axis.get_tightbbox(renderer)
                where = axis.label.get_transform().transform(axis.label.get_position())
                axis.set_label_coords(*ax.transAxes.inverted().transform(where))


def _groups(handles: Sequence[Any]) -> list[list[Any]]:
    """Lists as they are; what stands between them is a group too."""
    out: list[list[Any]] = []
    loose = False
    for one in handles:
        if isinstance(one, list):
            out.append(one)
        elif loose:
            out[-1].append(one)
        else:
            out.append([one])
        loose = not isinstance(one, list)
    return [group for group in out if group]


def _in_columns(groups: list[list[Any]], inches: float) -> tuple[list[Any], int]:
    """A legend's entries by column, as few lines as fit, and the number of columns. Groups are filled up with empty
    entries, so that none shares a column. Widths are estimated, as measuring formulas takes long.
    """
    from matplotlib.lines import Line2D

    most = max(len(group) for group in groups)
    for tall in range(1, most + 1):
        parts = [group[i : i + tall] for group in groups for i in range(0, len(group), tall)]
        if tall == most or sum(max(map(_inches, part)) for part in parts) <= inches:
            break
    if len(groups) == 1:  # the last column may be shorter
        return groups[0], len(parts)
    empty = Line2D([], [], linestyle="", label=" ")
    return [entry for part in parts for entry in (*part, *[empty] * (tall - len(part)))], len(parts)


def _inches(handle: Any) -> float:
    label = re.sub(r"\\\w+|[${}^ ]", "", str(handle.get_label()))
    return 0.066 * len(label) + 0.42


def crosses(ax: Axes, x: Sequence[float], colour: str) -> None:
    """Crosses at the foot of a panel, where a score is missing."""
    if len(x):  # marks of no data would be laid out as if they stood in the figure's corner
        ax.plot(x, [0.03] * len(x), transform=ax.get_xaxis_transform(), marker="x", linestyle="", markersize=4,
                color=colour, zorder=5, clip_on=False)  # fmt: skip


def missing(rows: pd.DataFrame, how: str = "") -> str:
    """` Missing: lab-a · spell (p10); ...` of the rows without a score, '' if there are none; how: they are drawn."""
    lacking = rows[rows["n"] == 0]
    names = [f"{place['name']} ({listed(mine['objective'])})" for place, mine in places(lacking)]
    if not names:
        return ""
    more = f"; and {len(names) - _NAMED} more points" if len(names) > _NAMED else ""
    return plain(f" Missing{how}: {'; '.join(names[:_NAMED])}{more}.")


def listed(names: Iterable[str], most: int = _NAMED) -> str:
    """The distinct names, `and N more` for those beyond `most`."""
    known = list(dict.fromkeys(names))
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def by_page(rows: pd.DataFrame, most: int = PANELS) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of at most `most` places at a time, with the suffix of the page's name ('' if there is one page)."""
    found = pages(places(rows), most)
    for i, page in enumerate(found):
        yield (f"-{i + 1}" if len(found) > 1 else ""), pd.concat([mine for _, mine in page])


def spread(count: int) -> float:
    """Width of a bar of `count` side by side, the slots being 1 apart."""
    return 0.84 if count > 1 else 0.4
