"""The catalogue page is what conf/objective/ makes of it."""

from __future__ import annotations

from pathlib import Path

from analysis.theory.catalogue import catalogue, page, plot

ROOT = Path(__file__).parents[1]


def test_the_page_in_docs_is_that_of_the_configuration() -> None:
    entries = catalogue(ROOT / "conf" / "objective")
    assert (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8") == page(entries), (
        "run python -m analysis.theory.catalogue docs"
    )
    names = {path.stem for path in (ROOT / "conf" / "objective").glob("*.yaml")}
    assert {entry.name for entry in entries} == names - {"base"}


def test_every_objective_has_its_shape_in_the_plot() -> None:
    entries = catalogue(ROOT / "conf" / "objective")
    figure = plot(entries)
    drawn = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title() for ax in drawn] == [entry.name for entry in entries]
    shapes = {entry.name: ax.lines[0] for entry, ax in zip(entries, drawn, strict=True)}
    assert (shapes["dft"].get_ydata() == shapes["p"].get_ydata()).all()
    assert max(shapes["focal"].get_ydata()) > 1


def test_dft_has_the_shape_of_its_weight() -> None:
    shapes = {entry.name: entry.shape for entry in catalogue(ROOT / "conf" / "objective")}
    assert shapes["dft"] == shapes["p"]
    assert shapes["focal"].curvature == "convex" and shapes["eaft"] is None
