"""Figures for a paper as PNG, PDF and SVG. Which ones a sweep gets is decided from its data.

Every figure says its n and what its bars are. The same results give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.alpha import LEAST as LEAST_ALPHAS
from analysis.figures.alpha import alpha_rows, alpha_sweep
from analysis.figures.bars import bars
from analysis.figures.continuum import continuum, continuum_panels
from analysis.figures.curves import curve_rows, curves, without_curve
from analysis.figures.heatmap import heatmap
from analysis.figures.histograms import distributions, histogram_pages, histograms
from analysis.figures.leaders import Key, Leader, leaders
from analysis.figures.likelihood import likelihood, likelihood_rows
from analysis.figures.overlay import Reported
from analysis.figures.panels import PANELS, by_page
from analysis.figures.quantile import LEAST as LEAST_QUANTILES
from analysis.figures.quantile import MOST as MOST_QUANTILES
from analysis.figures.quantile import quantile_ablation, quantile_rows
from analysis.figures.save import FORMATS, save
from analysis.figures.scale import LEAST as LEAST_SIZES
from analysis.figures.scale import parameters, scale_rows, scale_sweep
from analysis.figures.scheme import LANES, scheme
from analysis.figures.style import STYLE
from analysis.figures.theory import lab_noise_beside, noise_gains
from analysis.sources.table import Results
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import REFERENCE, Prior
from bll_sweeps.store.records import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "figures.md"
Best = dict[Key, Leader]
_ROWS = 40  # most lines of a heat map's page
_POINTS = 10  # most points of a page of training curves


@dataclass(frozen=True)
class Drawing:
    """A figure by name, or why there is none."""

    name: str
    figure: Figure | None = None
    why: str = ""


def write_figures(
    results: Results,
    means: pd.DataFrame,
    gains: pd.DataFrame,
    folder: Path,
    prior: Prior = "clean",
    reported: Reported | None = None,
) -> list[Path]:
    """All figures of a sweep as PNG, PDF and SVG in `folder`; the paths of the PNG files, the continuum first.

    `figures.md` there names them all, and each kind of figure that was not drawn with the reason. means, gains: of
    statistics.continuum. reported: the paper's numbers, drawn as open marks where they have a place.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return write_drawings(drawings(results, means, gains, prior, reported), folder)


def write_drawings(found: Iterable[Drawing], folder: Path) -> list[Path]:
    """Writes them in all FORMATS, and `figures.md`; call it, and make the figures, under `rc_context(STYLE)`."""
    out, lines = [], ["# Figures", ""]
    for drawing in found:
        if drawing.figure is None:
            lines.append(f"- {drawing.name}: not drawn, {drawing.why}")
            continue
        out.append(save(drawing.figure, folder, drawing.name))
        lines.append(f"- {drawing.name}: {', '.join(f'{drawing.name}{suffix}' for suffix in FORMATS)}")
    write_text(folder / INDEX, "\n".join(lines) + "\n")
    return out


def drawings(
    results: Results, means: pd.DataFrame, gains: pd.DataFrame, prior: Prior = "clean", reported: Reported | None = None
) -> Iterator[Drawing]:
    """Every figure that the results give, or why they give none of that kind. Domains with several benchmarks are drawn
    by their average (benchmarks.by_place); heat maps have the benchmarks as well.
    """
    scored, placed = by_place(means, results.cells), by_place(gains, results.cells)
    theirs = reported.placed() if reported is not None else Reported(pd.DataFrame(), pd.DataFrame())
    names: list[str] = []
    if len(scored):
        names = list(dict.fromkeys(scored.sort_values("primary", ascending=False, kind="stable")["decoding"]))
    yield from _continuum(results, placed, names, prior, theirs)
    best = leaders(results, scored, prior) if len(scored) else {}
    yield from _schemes(results, scored, names, best, prior, theirs)
    yield from _bars(results, scored, names, best, theirs)
    yield from _sweeps(results, scored, placed, names, theirs)
    yield from _heatmaps(results, scored, means, names)
    yield from _priors(results, prior)
    yield from _training(results, prior)
    if results.cells["noise_rate"].nunique() > 1 and len(noise_gains(results)):
        yield Drawing("theory-lab-noise", lab_noise_beside(results))


def _or_why(found: list[Drawing], name: str, why: str) -> list[Drawing]:
    return found or [Drawing(name, why=why)]


def _continuum(
    results: Results, placed: pd.DataFrame, names: list[str], prior: Prior, theirs: Reported
) -> Iterator[Drawing]:
    found = []
    for decoding in names if len(placed) else []:
        shown = placed[(placed["decoding"] == decoding) & (placed["n"] > 0) & placed["prior"].notna()]
        if len(shown):
            if shown["variant"].nunique() > 1:
                figure = continuum_panels(shown, results.formulas, prior)
            else:
                figure = continuum(shown, results.formulas, prior, theirs.gains)
            found.append(Drawing(f"continuum-{decoding}", figure))
    why = f"no objective and {REFERENCE} have scores at one point whose prior strength is known"
    yield from _or_why(found, "continuum", why)


def _schemes(
    results: Results, scored: pd.DataFrame, names: list[str], best: Best, prior: Prior, theirs: Reported
) -> Iterator[Drawing]:
    found = []
    for decoding in names if best else []:
        rows = scored[(scored["decoding"] == decoding) & (scored["objective"] != "base")]
        for suffix, page in by_page(rows, LANES) if (rows["n"] > 0).any() else []:
            figure = scheme(page, results.formulas, best, prior, theirs.means)
            found.append(Drawing(f"scheme-{decoding}{suffix}", figure))
    yield from _or_why(found, "scheme", "no trained objective has a score")


def _bars(results: Results, scored: pd.DataFrame, names: list[str], best: Best, theirs: Reported) -> Iterator[Drawing]:
    found = []
    for decoding in names:
        rows = scored[scored["decoding"] == decoding]
        for suffix, page in by_page(rows, PANELS) if (rows["n"] > 0).any() else []:
            found.append(Drawing(f"bars-{decoding}{suffix}", bars(page, results.formulas, best, theirs.means)))
    yield from _or_why(found, "bars", "nothing has a score")


def _sweeps(
    results: Results, scored: pd.DataFrame, placed: pd.DataFrame, names: list[str], theirs: Reported
) -> Iterator[Drawing]:
    """The ablations, of those sweeps that are one."""
    alpha: list[Drawing] = []
    quantile: list[Drawing] = []
    scale: list[Drawing] = []
    sizes = parameters(results) if len(placed) else {}
    for decoding in names:
        rows = scored[scored["decoding"] == decoding]
        if (mine := alpha_rows(rows, results.cells))["n"].gt(0).any():
            alpha.append(Drawing(f"alpha-{decoding}", alpha_sweep(mine, theirs.means)))
        if (mine := quantile_rows(rows, results.cells))["n"].gt(0).any():
            for suffix, page in by_page(mine, MOST_QUANTILES):
                quantile.append(Drawing(f"quantile-{decoding}{suffix}", quantile_ablation(page, theirs.means)))
        if len(placed) and (mine := scale_rows(placed[placed["decoding"] == decoding], sizes))["n"].gt(0).any():
            scale.append(Drawing(f"scale-{decoding}", scale_sweep(mine, results.formulas, theirs.gains)))
    yield from _or_why(alpha, "alpha", f"no point has scores and {LEAST_ALPHAS} values of alpha")
    why = f"no point has scores and a threshold at {LEAST_QUANTILES} quantiles"
    yield from _or_why(quantile, "quantile", why)
    why = f"no family of backbones has gains at {LEAST_SIZES} sizes on one domain"
    yield from _or_why(scale, "scale", why)


def _heatmaps(results: Results, scored: pd.DataFrame, means: pd.DataFrame, names: list[str]) -> Iterator[Drawing]:
    found = []
    for decoding in names:
        rows, parts = scored[scored["decoding"] == decoding], means[means["decoding"] == decoding]
        for suffix, page in by_page(rows, _ROWS):
            found.append(Drawing(f"heatmap-{decoding}{suffix}", heatmap(page, results.formulas)))
        for domain in dict.fromkeys(rows.loc[rows["columns"] > 1, "domain"]):
            mine = parts[parts["domain"] == domain]
            for suffix, page in by_page(mine, max(1, _ROWS // max(mine["benchmark"].nunique(), 1))):
                found.append(Drawing(f"heatmap-{decoding}-{domain}{suffix}", heatmap(page, results.formulas)))
    yield from _or_why(found, "heatmap", "the sweep has no cells")


def _priors(results: Results, prior: Prior) -> Iterator[Drawing]:
    rows = distributions(results, prior)
    found = []
    if len(rows):
        listed = histogram_pages(rows)
        lacking = rows[rows["kind"] == "missing"]
        for i, page in enumerate(listed):
            suffix = f"-{i + 1}" if len(listed) > 1 else ""
            found.append(Drawing(f"histograms{suffix}", histograms(page, lacking, prior)))
    yield from _or_why(found, "histograms", "no prior job whose record tells quantiles or a histogram is done")


def _training(results: Results, prior: Prior) -> Iterator[Drawing]:
    rows = likelihood_rows(results, prior)
    found = []
    if len(rows) and (rows["n"] > 0).any():
        for suffix, page in by_page(rows, PANELS):
            if (page["n"] > 0).any():
                found.append(Drawing(f"likelihood{suffix}", likelihood(page, results.formulas)))
    yield from _or_why(found, "likelihood", "no training has a curve")
    found = []
    several = results.cells["variant"].nunique() > 1
    for i, (variant, cells) in enumerate(results.cells.groupby("variant", sort=False)):
        lacking = without_curve(results, cells)
        if len(mine := curve_rows(results, cells, prior)):
            for suffix, page in by_page(mine.assign(variant="", backbone=mine["point"], domain=""), _POINTS):
                name = f"curves{f'-{i + 1}' if several else ''}{suffix}"
                found.append(Drawing(name, curves(page, results.formulas, str(variant), prior, lacking)))
    yield from _or_why(found, "curves", "no training has a curve")
