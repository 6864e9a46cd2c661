"""One self-contained HTML page per sweep: it works from a file, loads nothing, and escapes what the records say."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.figures.all import Written, write_figures
from analysis.figures.overlay import Reported
from analysis.figures.style import colours
from analysis.paper.overlay import overlay as reported_beside
from analysis.paper.write import write_comparison
from analysis.report.beside import figures_section
from analysis.report.charts import continuum_chart, curves_chart
from analysis.report.comparisons import gains_section, ranks_section
from analysis.report.grids import Facets, json_script, sign
from analysis.report.reasons import Reasons
from analysis.report.sections import (
    cells_section,
    claims_section,
    continuum_section,
    curves_section,
    priors_section,
    problems_section,
    provenance_section,
    runs_section,
    scores_section,
)
from analysis.report.vega import AXES, VEGA_LITE, css_colour
from analysis.sources.table import CELL, Results
from analysis.statistics.benchmarks import averages, by_place
from analysis.statistics.claims import judge
from analysis.statistics.continuum import Prior, gains, means
from analysis.tables.folder import made
from analysis.tables.results import results_csv
from analysis.tables.sweep import write_sweep_tables
from bll_sweeps.store.records import write_text

_HERE = Path(__file__).parent
# What is in a page while it is watched, and nowhere else: in the texts of records "<" is escaped.
RELOAD = re.compile(r"<meta http-equiv=refresh [^>]*>|<p class=note id=reload>[^<]*</p>")


class Report(NamedTuple):
    """page: its path. compared: what stands beside the paper's numbers, for the terminal; '' where nothing does."""

    page: Path
    compared: str


def write_report(
    results: Results,
    folder: Path,
    prior: Prior = "clean",
    *,
    reload_s: int = 0,
    figures: bool = True,
    overlay: bool = True,
) -> Report:
    """report.html, figures/ (PNG, PDF, SVG), tables/ (Markdown, LaTeX, CSV), cells.csv, means.csv, gains.csv in
    `folder`. Where a domain has several benchmarks, average_means.csv and average_gains.csv too; where reported numbers
    are of this sweep's cells, comparison.md and .csv and paper-tables/ (paper/write.py).

    reload_s: the page asks the browser to load it again after so many seconds (0: never). figures: False leaves the
    figures and the comparison as they are. overlay: draws the paper's numbers where cells can be compared with them.
    """
    made(folder)
    mean_table, gain_table = means(results, prior), gains(results, prior)
    theirs = reported_beside(results, mean_table, gain_table) if overlay else None
    written = None
    if figures:
        written = write_figures(results, mean_table, gain_table, folder / "figures", prior, theirs)
    write_sweep_tables(results, mean_table, gain_table, folder / "tables")
    write_text(folder / "cells.csv", results_csv(results))
    for name, table in (("means", mean_table), ("gains", gain_table)):
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
        if len(whole := averages(table, results.cells)):
            write_text(folder / f"average_{name}.csv", whole.to_csv(index=False, float_format="%.6g"))
    page = html_page(results, mean_table, gain_table, prior, reload_s, written, theirs)
    write_text(folder / "report.html", page)
    return Report(folder / "report.html", write_comparison(results, folder, prior) if figures else "")


def html_page(
    results: Results,
    mean_table: pd.DataFrame,
    gain_table: pd.DataFrame,
    prior: Prior = "clean",
    reload_s: int = 0,
    written: Written | None = None,
    theirs: Reported | None = None,
) -> str:
    """The page's text. written: the figures beside it. theirs: the paper's numbers beside the sweep's."""
    facets = Facets(results.cells)
    placed = by_place(gain_table, results.cells)
    why = Reasons(results)
    objectives, backbones = facets.values["objective"], facets.values["backbone"]
    reported_gains = theirs.gains if theirs is not None else None
    charts = {
        "continuum": continuum_chart(placed, results.formulas, prior, objectives, backbones, why, reported_gains),
        "curves": curves_chart(results, prior, objectives),
    }
    sections = [
        ("continuum", "Continuum", continuum_section(results, placed, charts["continuum"], prior, facets)),
        ("scores", "Scores", scores_section(results, mean_table, why)),
        ("gains", "Gains over NLL", gains_section(results, gain_table, facets, why)),
        ("ranks", "Ranks per region", ranks_section(results, mean_table, facets)),
        ("priors", "Prior strength", priors_section(results, facets)),
        ("curves", "Training curves", curves_section(results, charts["curves"], facets)),
        ("figures", "Figures", figures_section(written, theirs)),
        ("cells", "All cells", cells_section(results, facets, prior)),
        ("claims", "Claims", claims_section(judge(gain_table))),
        ("problems", "Problems and missing cells", problems_section(results, facets)),
        ("runs", "Runs and logs", runs_section(results, facets)),
        ("provenance", "Provenance", provenance_section(results)),
    ]
    body = "".join(f"<section id={key}><h2>{title}</h2>{text}</section>" for key, title, text in sections)
    links = "".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in sections)
    data = json_script("facets", facets.values)
    data += "".join(json_script(f"spec-{key}", spec) for key, spec in charts.items() if spec)
    library = f"<script>{_vega()}</script>" if any(charts.values()) else ""
    reload = f"<meta http-equiv=refresh content={reload_s}>" if reload_s else ""
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">{reload}"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        f"<title>{escape(results.sweep)} - bll-sweeps</title><style>{_css(objectives)}</style></head><body>"
        f"<header>{_header(results, reload_s)}<nav aria-label=Sections>{links}</nav></header>"
        f"{_filters(results, facets)}<main>{body}</main><div id=tip role=tooltip hidden></div>"
        "<noscript><p>Charts, filters and long tables need JavaScript; the numbers lie in cells.csv, means.csv and "
        "gains.csv beside this page.</p></noscript>"
        f"{data}{library}<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


# The browser itself then refuses whatever would be loaded from elsewhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@cache  # making it takes seconds
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the copy that vl-convert carries."""
    import vl_convert

    return (
        str(vl_convert.javascript_bundle(None, vl_version=VEGA_LITE))  # type: ignore[arg-type]
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )


_FIRST_STEPS = (
    "<code>bll plan sweep=lab</code> shows what a launch would run, <code>bll launch sweep=lab</code> runs it, and "
    "<code>bll report</code> makes this page anew."
)


def _header(results: Results, reload_s: int) -> str:
    done, all_cells = len(results.done.drop_duplicates(CELL)), len(results.cells.drop_duplicates(CELL))
    text = f"<h1>{escape(results.sweep)}</h1><p>"
    if results.launches:
        numbers = ", ".join(str(m.get("launch")) for m in results.launches)
        text += f"launch {escape(numbers)}, {escape(str(results.launches[-1].get('created_at', '')))}: "
    text += f"{done} of {all_cells} cells have scores"
    wanting = [f"{all_cells - done} missing"] * (done < all_cells)
    wanting += [f"{len(results.problems)} problem{'s' * (len(results.problems) != 1)}"] * bool(results.problems)
    text += f" - <a class=bad href='#problems'>{', '.join(wanting)}</a></p>" if wanting else "</p>"
    if not all_cells:
        what = "This sweep has no cells" if results.launches else "This run root holds no sweep yet"
        text += f"<p class=bad>{what}, so there is nothing to show. {_FIRST_STEPS}</p>"
    elif not done:
        text += "<p class=bad>No cell has a score yet; what each one waits for stands under "
        text += "<a href='#problems'>missing cells</a>.</p>"
    if reload_s:
        text += f"<p class=note id=reload>Made anew as results come in; it loads itself again every {reload_s} s.</p>"
    return text + "".join(f"<p class=bad>Warning: {escape(warning)}.</p>" for warning in results.warnings)


def _filters(results: Results, facets: Facets) -> str:
    """One menu of check boxes per axis; nothing checked means all."""
    if not len(results.cells):
        return ""
    menus = []
    for axis in AXES:
        boxes = []
        for name in facets.values[axis]:
            more = f" <small>{escape(results.formulas.get(name, ''))}</small>" if axis == "objective" else ""
            box = f"<input type=checkbox name={axis} value='{escape(name)}'>"
            boxes.append(f"<label>{box}{sign(axis, name, facets)}<span>{escape(name)}{more}</span></label>")
        summary = f"<summary>{axis}: <b data-told={axis}>all</b></summary>"
        menus.append(
            f"<details class=menu>{summary}<fieldset><legend>{axis}</legend>{''.join(boxes)}</fieldset></details>"
        )
    told = "<output id=told aria-live=polite></output>"
    return f"<form id=filters aria-label=Filters>{''.join(menus)}<button type=reset>Reset</button>{told}</form>"


def _css(objectives: list[str]) -> str:
    """page.css, after it the objectives' colours as variables: in figures' colours on a light page, lighter on a dark
    one where they would not stand out from it.
    """
    used = dict.fromkeys(colours(objectives).values())
    light = "".join(f"{_variable(one)}:{one};" for one in used)
    dark = "".join(f"{_variable(one)}:{on_dark(one)};" for one in used)
    text = (_HERE / "page.css").read_text(encoding="utf-8")
    return f"{text}:root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _variable(colour: str) -> str:
    return css_colour(colour).removeprefix("var(").removesuffix(")")


DARK_PAGE = (22, 24, 29)  # --page of page.css
_LEAST_CONTRAST = 4.5


def on_dark(colour: str) -> str:
    """The colour, mixed with as much white as gives it a contrast of 4.5 to the dark page (WCAG 2.2, 1.4.3)."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    for step in range(21):
        mixed = [round(part + (255 - part) * step / 20) for part in parts]
        if (_luminance(mixed) + 0.05) / (_luminance(DARK_PAGE) + 0.05) >= _LEAST_CONTRAST:
            break
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _luminance(rgb: Any) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
