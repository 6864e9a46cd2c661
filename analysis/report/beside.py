"""The section of the page that names the figures beside it, and those that are not there, with the reason."""

from __future__ import annotations

from html import escape

from analysis.figures.all import Written
from analysis.figures.overlay import Reported
from analysis.figures.save import FORMATS
from analysis.report.grids import table


def figures_section(written: Written | None, reported: Reported | None) -> str:
    """written: None where the figures were not drawn with the page. reported: None where no overlay was asked for."""
    text = f"<p>{escape(_overlay(reported))}</p>" if reported is not None else ""
    if written is None:
        return "<p class=empty>This page was made without its figures; a report at the end of the sweep has them.</p>"
    names = [path.stem for path in written.drawn]
    kinds = ", ".join(suffix.removeprefix(".").upper() for suffix in FORMATS)
    told = f"{len(names)} figures lie in figures/ beside this page, as {kinds}: {', '.join(names)}." if names else ""
    text += f"<p>{escape(told or 'No figure could be drawn.')}</p>"
    if written.absent:
        text += f"<h3>Not drawn</h3>{table(['figure', 'why'], list(written.absent.items()))}"
    return text


def _overlay(reported: Reported) -> str:
    if reported.why:
        return f"The paper's numbers are not drawn into the figures: {reported.why}."
    count = len(reported.means)
    return (
        f"The paper's numbers stand in the figures as open marks: {count} scores by place, objective and decoding that "
        "are comparable with ours."
    )
