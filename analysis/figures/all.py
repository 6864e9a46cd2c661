"""Figures for a paper, PNG and PDF: the continuum, a heat map of all scores, the training curves.

Every figure says its n and what its bars are. The same results give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.continuum import continuum, continuum_panels
from analysis.figures.curves import curve_rows, curves
from analysis.figures.heatmap import heatmap
from analysis.figures.style import STYLE
from analysis.sources.table import Results
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import Prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figures(
    results: Results, means: pd.DataFrame, gains: pd.DataFrame, folder: Path, prior: Prior = "clean"
) -> list[Path]:
    """All figures of a sweep as PNG and PDF in `folder`; the paths of the PNG files, the continuum first.

    The continuum and a heat map have a domain with several benchmarks once, by its average (benchmarks.by_place);
    further heat maps, one per such domain, have the benchmarks.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(results, means, gains, prior):
            for suffix, metadata in (
                (".png", {"Software": None}),
                (".pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
            ):
                figure.savefig(folder / f"{name}{suffix}", metadata=metadata)
            out.append(folder / f"{name}.png")
    return out


def _figures(results: Results, means: pd.DataFrame, gains: pd.DataFrame, prior: Prior) -> Iterator[tuple[str, Figure]]:
    scored, placed = by_place(means, results.cells), by_place(gains, results.cells)
    decodings = list(dict.fromkeys(scored.sort_values("primary", ascending=False, kind="stable")["decoding"]))
    for decoding in decodings:
        shown = placed
        if len(placed):
            shown = placed[(placed["decoding"] == decoding) & (placed["n"] > 0) & placed["prior"].notna()]
        if len(shown):
            panelled = shown["variant"].nunique() > 1
            figure = (
                continuum_panels(shown, results.formulas, prior)
                if panelled
                else continuum(shown, results.formulas, prior)
            )
            yield f"continuum-{decoding}", figure
    for decoding in decodings:
        rows, parts = scored[scored["decoding"] == decoding], means[means["decoding"] == decoding]
        if len(rows):
            yield f"heatmap-{decoding}", heatmap(rows, results.formulas)
        for domain in dict.fromkeys(rows.loc[rows["columns"] > 1, "domain"]):
            if len(mine := parts[parts["domain"] == domain]):
                yield f"heatmap-{decoding}-{domain}", heatmap(mine, results.formulas)
    for i, (variant, cells) in enumerate(results.cells.groupby("variant", sort=False)):
        if len(figure_rows := curve_rows(results, cells, prior)):
            suffix = f"-{i + 1}" if results.cells["variant"].nunique() > 1 else ""
            yield f"curves{suffix}", curves(figure_rows, results.formulas, str(variant), prior)
