"""One look for all figures: a fixed colour per objective, a shape per backbone, names, formulas and small print."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.tables.formats import temperatures

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; the last two are Tol's. The reference is black.
COLOURS = {
    "base": "#8c8c8c",
    "nll": "#000000",
    "p": "#0072B2",
    "p10": "#56B4E9",
    "p0.1": "#CC79A7",
    "p0.5": "#009E73",
    "p_above": "#E69F00",
    "p_below": "#DDCC77",
    "logp_above": "#D55E00",
    "logp_below": "#882255",
    "unlikelihood": "#999933",
    "unlikelihood_above": "#44AA99",
    "unlikelihood_below": "#661100",
    "dft": "#4477AA",
    "asft": "#225555",
    "focal": "#BB5566",
    "eaft": "#997700",
    "label_smoothing": "#7F7FBF",
}
_OTHERS = ("#332288", "#AA4499", "#117733", "#6699CC", "#EE8866", "#AA4466")
# Objectives that differ in alpha alone, `power-0.3`: from dark to light with alpha (ends of viridis and of inferno).
_SCALES = {
    "power": ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (181, 222, 43)),
    "convexity": ((66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10)),
}
_SCALED = re.compile(rf"({'|'.join(_SCALES)})(?:-|\(alpha=)([0-9.]+(?:e[-+]?[0-9]+)?)\)?")
MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "<": "triangle-left",
    ">": "triangle-right",
    # Vega has no such marks: paths in a square from -1 to 1.
    "X": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
    "p": "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z",
}
REGION_SHADES = {"MW": "#f6ead9", "MI": "#f4f4f4", "MS": "#dfeaf4"}


def colours(objectives: Iterable[str]) -> dict[str, str]:
    """Colour per objective, the same in every figure. `power-<alpha>` and `convexity-<alpha>` share a scale out evenly
    among the alphas that are there; other names get the spare colours in alphabetical order.
    """
    names = list(dict.fromkeys(objectives))
    others = sorted(name for name in names if name not in COLOURS and alpha_of(name) is None)
    out = COLOURS | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    for family, scale in _SCALES.items():
        mine = [name for name in in_order(names) if (alpha_of(name) or ("", 0))[0] == family]
        for i, name in enumerate(mine):
            out[name] = _on_scale(scale, i / (len(mine) - 1) if len(mine) > 1 else 0.5)
    return {name: out[name] for name in names}


def in_order(objectives: Iterable[str]) -> list[str]:
    """Base, NLL, then the catalogue's order, then families by alpha, then the others by name."""
    order = {name: i for i, name in enumerate(COLOURS)}
    return sorted(
        dict.fromkeys(objectives),
        key=lambda o: (order.get(o, len(order)), alpha_of(o) is None, *(alpha_of(o) or ("", 0.0)), o),
    )


def alpha_of(name: str) -> tuple[str, float] | None:
    """Family and alpha of `power-0.3`; None for other names."""
    found = _SCALED.fullmatch(name)
    try:
        return (found[1], float(found[2])) if found else None
    except ValueError:
        return None


def _on_scale(scale: tuple[tuple[int, int, int], ...], share: float) -> str:
    at = share * (len(scale) - 1)
    i = min(int(at), len(scale) - 2)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in zip(scale[i], scale[i + 1], strict=True))


def mathtext(formula: str) -> str:
    """A formula of `table.formula` as matplotlib's mathtext."""
    text = (
        formula.replace("−", "-")
        .replace("·", r"\cdot ")
        .replace("log", r"\log ")
        .replace("≥", r"\geq ")
        .replace("≤", r"\leq ")
    )
    text = re.sub(r"\^(\d+(?:\.\d+)?)", r"^{\1}", text).replace(r"\cdot  1[", r"\cdot 1[")
    return f"${text}$"


def natural(name: str) -> list[tuple[bool, float, str]]:
    """A key that sorts names as a reader counts: `lab-seen-600` before `lab-seen-2000`, 1.5b before 14b."""
    return [
        (part[:1].isdigit(), float(part) if part[:1].isdigit() else 0.0, part)
        for part in re.split(r"(\d+(?:\.\d+)?)", name)
    ]


def plain(text: str) -> str:
    """A name from a record, harmless in matplotlib text, where a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def legend_text(objective: str, formulas: dict[str, str]) -> str:
    """`p  (−p)`: the name in the configuration and the loss it stands for."""
    formula = formulas.get(objective, "")
    if not formula or objective == "base":
        return plain(objective)
    return f"{plain(objective)}  {mathtext(formula)}"


# --- matplotlib ------------------------------------------------------------------------------------------------------

# What every figure is drawn under (`matplotlib.rc_context(STYLE)`).
STYLE: Any = {
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
    "figure.dpi": 200,  # of the layout: what it measures need not be measured again for the PNG
    "savefig.dpi": 200,
    "svg.hashsalt": "bll",  # identifiers in SVG follow from it
    "svg.fonttype": "none",  # text stays text
}


@lru_cache(1)
def _formulas() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


def canvas_of(figure: Figure) -> FigureCanvasAgg:
    """The canvas that the figure is laid out and drawn on, which knows the formulas of all figures of this process: a
    tenth of the time would go into reading the same again. To be asked again when the figure has another size.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.get_renderer().mathtext_parser = _formulas()
    return canvas


def interval_name(rows: pd.DataFrame) -> str:
    """What the interval of a mean score (seeds.decisive) is over: `95 % interval (Wilson)` of one seed."""
    several = "seeds_low" in rows and bool(rows["seeds_low"].notna().any())
    return "95 % interval over questions and seeds" if several else "95 % interval (Wilson)"


# What the interval of a prior is over, where seeds have backbones of their own.
OVER_BACKBONES = ", and over backbones where seeds have their own"
PRIOR_NAMES = {"clean": "on the clean answers", "as_trained": "on the answers as trained"}


def note(figure: Figure, text: str) -> None:
    """Small print at the lower left, broken into lines that fit."""
    wide = textwrap.wrap(text.strip(), int((figure.get_figwidth() - 0.15) / 0.0525))
    figure.text(0.012, 0.07 / figure.get_figheight(), "\n".join(wide), fontsize=6.6, color="#444444", linespacing=1.25)


def decoding_name(rows: pd.DataFrame) -> str:
    """How the answers of rows of one decoding were had, by their temperature: `Answers sampled at T=0.7`."""
    known = rows["temperature"].dropna()
    if known.empty:
        return f"{plain(str(rows['decoding'].iloc[0]))} answers"
    if known.max() == 0:
        return "Greedy answers"
    greedy = plain(" and ".join(dict.fromkeys(rows.loc[rows["temperature"] == 0, "domain"])))
    sampled = f"nswers sampled at {temperatures(known[known > 0])}"
    return f"Greedy answers ({greedy}), else a{sampled}" if greedy else f"A{sampled}"


def prior_counts(row: Mapping[Any, Any]) -> str:
    """What the interval of a prior rests on: `250 questions, 16000 sequences`; '' where nothing is known."""
    names = (("prior_questions", "questions"), ("prior_sequences", "sequences"))
    return ", ".join(f"{int(row[key])} {name}" for key, name in names if row[key])


def with_seeds(rows: pd.DataFrame) -> str:
    """`, over seeds too`, where rows of `seeds.decisive` have several."""
    return ", over seeds too where there are several" if "seeds" in rows and rows["seeds"].gt(1).any() else ""


def averaged(rows: pd.DataFrame) -> str:
    """`, averaged over the benchmarks of math (5)`; '' where each row rests on one benchmark."""
    if "columns" not in rows:
        return ""
    domains = rows[rows["columns"] > 1].groupby("domain", sort=False)["columns"].max()
    names = " and ".join(f"{plain(str(domain))} ({n})" for domain, n in domains.items())
    return f", averaged over the benchmarks of {names}" if names else ""


def left_out(rows: pd.DataFrame) -> str:
    """Of rows without the objectives of an ablation (column `left_out`), that these are drawn elsewhere; else ''."""
    count = int(rows["left_out"].max()) if "left_out" in rows else 0
    return f" The {count} objectives with a threshold at a quantile have a figure of their own." if count else ""


def counts(rows: pd.DataFrame) -> str:
    """n of rows in words: `n = 200 questions, 8 samples each, 1 seed`; of reported numbers not all is known."""
    rows = rows[rows["n"] > 0]
    if rows.empty:
        return "n = 0"
    parts, unknown = [], []
    for column, one, many in (
        ("n", "question", "questions"),
        ("samples", "sample each", "samples each"),
        ("seeds", "seed", "seeds"),
    ):
        known = rows[column].dropna()
        if known.empty:
            unknown.append(many)
            continue
        low, high = int(known.min()), int(known.max())
        parts.append(f"{low}{f' to {high}' if high > low else ''} {one if high == 1 else many}")
    told = "n = " + ", ".join(parts) if parts else "n is not told"
    return told if not unknown or not parts else f"{told} ({' and '.join(unknown)} are not told)"
