"""The catalogue page is what conf/objective/ makes of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.figures.shapes import gradient_shapes, trained_objectives
from analysis.sources.table import formula
from analysis.statistics.crossover import prior_leaning
from analysis.theory.catalogue import catalogue, page, plot
from bll_sweeps.grid.axes.values import canonical_json

ROOT = Path(__file__).parents[1]


def test_the_page_in_docs_is_that_of_the_configuration() -> None:
    entries = catalogue(ROOT / "conf" / "objective")
    assert (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8") == page(entries), (
        "run python -m analysis.theory.catalogue docs"
    )
    names = {path.stem for path in (ROOT / "conf" / "objective").glob("*.yaml")}
    assert {entry.name for entry in entries} == names - {"base"}
    for entry in entries:
        entry.objective.check_poles()


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


def test_a_formula_is_written_with_the_values_of_its_parameters() -> None:
    told = {entry.name: vars(entry.objective) for entry in catalogue(ROOT / "conf" / "objective")}
    assert formula(told["focal"]) == "−(1 − p)^2 · log p"
    assert formula(told["eaft"]) == "−entropy^1 · log p"
    assert formula(told["label_smoothing"]) == "−log p, smoothing 0.1"


def test_what_depends_on_the_entropy_leans_nowhere_and_has_no_shape_in_figures() -> None:
    objectives = {entry.name: entry.objective for entry in catalogue(ROOT / "conf" / "objective")}
    identities = {name: canonical_json(objective.identity()) for name, objective in objectives.items()}
    leaning = {name for name, identity in identities.items() if prior_leaning(identity)}
    assert {"p", "p10", "dft", "asft"} <= leaning and not {"eaft", "focal"} & leaning
    cells = pd.DataFrame({"objective": list(identities), "identity": list(identities.values())})
    trained = trained_objectives(cells)
    assert set(trained.beyond_p) == {"asft", "eaft", "label_smoothing"}
    assert "3 objectives of more than p (asft, eaft, label_smoothing)" in trained.left_out()
    assert len(gradient_shapes(trained.shapes, {}).axes) == 2
