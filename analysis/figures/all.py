"""Figures for a paper as PNG, PDF and SVG. Which ones a sweep gets is decided from its data.

Every figure says its n and what its bars are. The same results give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
from analysis.figures.panels import PANELS, by_page, pages
from analysis.figures.quantile import LEAST as LEAST_QUANTILES
from analysis.figures.quantile import MOST as MOST_QUANTILES
from analysis.figures.quantile import quantile_ablation, quantile_rows
from analysis.figures.save import Drawing, Written, write_drawings
from analysis.figures.scale import LEAST as LEAST_SIZES
from analysis.figures.scale import parameters, scale_rows, scale_sweep
from analysis.figures.scheme import LANES, scheme
from analysis.figures.shapes import gradient_shapes, trained_objectives
from analysis.figures.style import in_order
from analysis.figures.theory import lab_noise_beside, noise_gains
from analysis.sources.table import Results
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import REFERENCE, Prior
from analysis.statistics.seeds import decisive

Best = dict[Key, Leader]
_ROWS, _COLUMNS = 26, 10  # most lines and objectives of a heat map's page
_DENSE, _DENSE_ROWS = 200, 100  # more lines of benchmarks than this are drawn by colour alone, so many a page
_COLOURS = 24  # most objectives of a figure that tells them apart by colour
_POINTS = 10  # most points of a page of training curves


def write_figures(
    results: Results,
    means: pd.DataFrame,
    gains: pd.DataFrame,
    folder: Path,
    prior: Prior = "clean",
    reported: Reported | None = None,
) -> Written:
    """All figures of a sweep as PNG, PDF and SVG in `folder`, the continuum first.

    `figures.md` there names them all, and each kind of figure that was not drawn with the reason. means, gains: of
    statistics.continuum. reported: the paper's numbers (paper/overlay.py), drawn as open marks beside ours.
    """
    return write_drawings(drawings(results, means, gains, prior, reported), folder)


def drawings(
    results: Results, means: pd.DataFrame, gains: pd.DataFrame, prior: Prior = "clean", reported: Reported | None = None
) -> Iterator[Drawing]:
    """Every figure that the results give, or why they give none of that kind. Domains with several benchmarks are drawn
    by their average (benchmarks.by_place); heat maps have the benchmarks as well.
    """
    # The intervals of scores are those that stars and bold go by; averaged before, as all parts have the same seeds.
    scored, placed = decisive(by_place(means, results.cells), ""), by_place(gains, results.cells)
    means = decisive(means, "")
    theirs = reported if reported is not None else Reported()
    names: list[str] = []
    if len(scored):
        names = list(dict.fromkeys(scored.sort_values("primary", ascending=False, kind="stable")["decoding"]))
    ablated = _ablated(results, scored)
    few, few_gains, cells = (_without(table, ablated) for table in (scored, placed, results.cells))
    some = dataclasses.replace(results, cells=cells)
    yield from _continuum(results, few_gains, names, prior, theirs)
    best = leaders(some, few, prior) if len(few) else {}
    yield from _schemes(results, few, names, best, prior, theirs)
    yield from _bars(results, few, names, best, theirs)
    yield from _sweeps(results, scored, placed, names, theirs)
    yield from _heatmaps(results, scored, means, names)
    yield from _priors(results, prior)
    yield from _training(some, prior)
    yield from _theory(results)


def _ablated(results: Results, scored: pd.DataFrame) -> set[str]:
    """The objectives that only the figure of quantiles shows: there are more than colours tell apart."""
    if not len(scored) or scored["objective"].nunique() <= _COLOURS:
        return set()
    rows = pd.concat([quantile_rows(mine, results.cells) for _, mine in scored.groupby("decoding", sort=False)])
    return set(rows.loc[(rows["quantile"] > 0) & (rows["quantile"] < 1), "objective"])


def _without(table: pd.DataFrame, objectives: set[str]) -> pd.DataFrame:
    """The rows of the others; `left_out` says how many objectives were taken out."""
    if not objectives or not len(table):
        return table
    return table[~table["objective"].isin(objectives)].assign(left_out=len(objectives))


def _or_why(found: list[Drawing], name: str, why: str) -> list[Drawing]:
    return found or [Drawing(name, why=why)]


def _continuum(
    results: Results, placed: pd.DataFrame, names: list[str], prior: Prior, theirs: Reported
) -> Iterator[Drawing]:
    found = []
    for decoding in names if len(placed) else []:
        shown = placed[(placed["decoding"] == decoding) & (placed["n"] > 0) & placed["prior"].notna()]
        if len(shown):
            kind = continuum_panels if shown["variant"].nunique() > 1 else continuum
            figure = partial(kind, shown, results.formulas, prior, theirs.gains)
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
            figure = partial(scheme, page, results.formulas, best, prior, theirs.means)
            found.append(Drawing(f"scheme-{decoding}{suffix}", figure))
    yield from _or_why(found, "scheme", "no trained objective has a score")


def _bars(results: Results, scored: pd.DataFrame, names: list[str], best: Best, theirs: Reported) -> Iterator[Drawing]:
    found = []
    for decoding in names:
        rows = scored[scored["decoding"] == decoding]
        for suffix, page in by_page(rows, PANELS) if (rows["n"] > 0).any() else []:
            figure = partial(bars, page, results.formulas, best, theirs.means)
            found.append(Drawing(f"bars-{decoding}{suffix}", figure))
    yield from _or_why(found, "bars", "nothing has a score")


def _sweeps(
    results: Results, scored: pd.DataFrame, placed: pd.DataFrame, names: list[str], theirs: Reported
) -> Iterator[Drawing]:
    """The ablations, of those sweeps that are one."""
    alpha: list[Drawing] = []
    quantile: list[Drawing] = []
    scale: list[Drawing] = []
    sizes = parameters(results) if len(placed) else {}
    notes = {kind: theirs.notes.get(kind, "") for kind in ("alpha", "quantile", "scale")}
    for decoding in names:
        rows = scored[scored["decoding"] == decoding]
        if (mine := alpha_rows(rows, results.cells))["n"].gt(0).any():
            alpha.append(Drawing(f"alpha-{decoding}", partial(alpha_sweep, mine, theirs.alpha, notes["alpha"])))
        if (mine := quantile_rows(rows, results.cells))["n"].gt(0).any():
            for suffix, page in by_page(mine, MOST_QUANTILES):
                figure = partial(quantile_ablation, page, theirs.quantile, notes["quantile"])
                quantile.append(Drawing(f"quantile-{decoding}{suffix}", figure))
        if len(placed) and (mine := scale_rows(placed[placed["decoding"] == decoding], sizes))["n"].gt(0).any():
            figure = partial(scale_sweep, mine, results.formulas, theirs.scale, notes["scale"])
            scale.append(Drawing(f"scale-{decoding}", figure))
    yield from _or_why(alpha, "alpha", f"no point has scores and {LEAST_ALPHAS} values of alpha")
    why = f"no point has scores and a threshold at {LEAST_QUANTILES} quantiles"
    yield from _or_why(quantile, "quantile", why)
    why = f"no family of backbones has gains at {LEAST_SIZES} sizes on one domain"
    yield from _or_why(scale, "scale", why)


def _heatmaps(results: Results, scored: pd.DataFrame, means: pd.DataFrame, names: list[str]) -> Iterator[Drawing]:
    found = []
    for decoding in names:
        rows, parts = scored[scored["decoding"] == decoding], means[means["decoding"] == decoding]
        for suffix, page in _blocks(rows, _ROWS):
            found.append(Drawing(f"heatmap-{decoding}{suffix}", partial(heatmap, page, results.formulas)))
        several = dict.fromkeys(rows.loc[rows["columns"] > 1, "domain"])
        parts = parts[parts["domain"].isin(list(several))]
        dense = len(parts.drop_duplicates(["label", "variant"])) > _DENSE
        for domain in several:
            mine = parts[parts["domain"] == domain]
            most = (_DENSE_ROWS if dense else _ROWS) // max(mine["benchmark"].nunique(), 1)
            for suffix, page in _blocks(mine, max(1, most)):
                figure = partial(heatmap, page, results.formulas, dense)
                found.append(Drawing(f"heatmap-{decoding}-{domain}{suffix}", figure))
    yield from _or_why(found, "heatmap", "the sweep has no cells")


def _blocks(rows: pd.DataFrame, most: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows by pages of at most `most` places and _COLUMNS objectives, with the suffix of the page's name."""
    columns = pages(in_order(rows["objective"]), _COLUMNS)
    blocks = [rows[rows["objective"].isin(names)] for names in columns]
    found = [page for block in blocks for _, page in by_page(block, most)]
    for i, page in enumerate(found):
        yield (f"-{i + 1}" if len(found) > 1 else ""), page


def _priors(results: Results, prior: Prior) -> Iterator[Drawing]:
    rows = distributions(results, prior)
    found = []
    if len(rows):
        listed = histogram_pages(rows)
        lacking = rows[rows["kind"] == "missing"]
        for i, page in enumerate(listed):
            suffix = f"-{i + 1}" if len(listed) > 1 else ""
            found.append(Drawing(f"histograms{suffix}", partial(histograms, page, lacking, prior)))
    yield from _or_why(found, "histograms", "no prior job whose record tells quantiles or a histogram is done")


def _training(results: Results, prior: Prior) -> Iterator[Drawing]:
    rows = likelihood_rows(results, prior)
    if "left_out" in results.cells:
        rows = rows.assign(left_out=results.cells["left_out"].max())
    found = []
    if len(rows) and (rows["n"] > 0).any():
        for suffix, page in by_page(rows, PANELS):
            if (page["n"] > 0).any():
                found.append(Drawing(f"likelihood{suffix}", partial(likelihood, page, results.formulas)))
    yield from _or_why(found, "likelihood", "no training has a curve")
    found = []
    several = results.cells["variant"].nunique() > 1
    for i, (variant, cells) in enumerate(results.cells.groupby("variant", sort=False)):
        lacking = without_curve(results, cells)
        if len(mine := curve_rows(results, cells, prior)):
            for suffix, page in by_page(mine.assign(variant="", backbone=mine["point"], domain=""), _POINTS):
                name = f"curves{f'-{i + 1}' if several else ''}{suffix}"
                found.append(Drawing(name, partial(curves, page, results.formulas, str(variant), prior, lacking)))
    yield from _or_why(found, "curves", "no training has a curve")


def _theory(results: Results) -> Iterator[Drawing]:
    """The shapes of the sweep's objectives; where it has several noise rates, theory beside its gains."""
    trained = trained_objectives(results.cells)
    lacking, found = trained.left_out(), list[Drawing]()
    listed = pages(list(trained.shapes), _COLOURS)
    for i, names in enumerate(listed):
        suffix = f"-{i + 1}" if len(listed) > 1 else ""
        mine = {name: trained.shapes[name] for name in names}
        figure = partial(gradient_shapes, mine, results.formulas, lacking)
        found.append(Drawing(f"theory-gradient-shapes{suffix}", figure))
    why = "no objective is trained" if not lacking else f"no objective has one known shape at every point: {lacking}"
    yield from _or_why(found, "theory-gradient-shapes", why)
    why, found = "no two rates of label noise are in the sweep", []
    if results.cells["noise_rate"].nunique() > 1:
        why = f"no point has gains of p over {REFERENCE} at T=1 and several rates of label noise"
        if len(rows := noise_gains(results)):
            found.append(Drawing("theory-lab-noise", partial(lab_noise_beside, rows)))
    yield from _or_why(found, "theory-lab-noise", why)
