"""One look for all figures: a fixed colour per objective, a shape per backbone, names, formulas and small print."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; the last two are Tol's. The reference is black.
COLOURS = {
    "base": "#8c8c8c",
    "nll": "#000000",
    "p": "#0072B2",
    "p10": "#56B4E9",
    "p0.1": "#CC79A7",
    "power": "#009E73",
    "p_above": "#E69F00",
    "logp_above": "#D55E00",
    "logp_below": "#882255",
    "unlikelihood": "#999933",
}
_OTHERS = ("#44AA99", "#332288", "#AA4499", "#117733", "#DDCC77", "#6699CC")
MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "stroke",
}
REGION_SHADES = {"MW": "#f6ead9", "MI": "#f4f4f4", "MS": "#dfeaf4"}


def colours(objectives: Iterable[str]) -> dict[str, str]:
    """Colour per objective, the same in every figure; other names get the spare ones in alphabetical order."""
    names = list(dict.fromkeys(objectives))
    others = sorted(name for name in names if _key(name) not in COLOURS)
    spare = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {name: spare.get(name) or COLOURS[_key(name)] for name in names}


def _key(name: str) -> str:
    return name.replace("p01", "p0.1") if name in ("p01", "p0_1") else name


def in_order(objectives: Iterable[str]) -> list[str]:
    """Base, NLL, then the catalogue's order, then the others by name."""
    order = list(COLOURS)
    return sorted(
        dict.fromkeys(objectives), key=lambda o: (order.index(_key(o)) if _key(o) in order else len(order), o)
    )


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
    "savefig.dpi": 200,
    "svg.hashsalt": "bll",
}
PRIOR_NAMES = {"clean": "on the clean answers", "as_trained": "on the answers as trained"}


def note(figure: Figure, text: str) -> None:
    """Small print at the lower left, broken into lines that fit."""
    wide = textwrap.wrap(text.strip(), int((figure.get_figwidth() - 0.15) / 0.0525))
    figure.text(0.012, 0.07 / figure.get_figheight(), "\n".join(wide), fontsize=6.6, color="#444444", linespacing=1.25)


def decoding_name(rows: pd.DataFrame) -> str:
    name = str(rows["decoding"].iloc[0])
    return {"sampled": "Answers sampled at T=1", "greedy": "Greedy answers"}.get(name, f"{name} answers")


def counts(rows: pd.DataFrame) -> str:
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
