"""Figures of the reported numbers: every number is drawn once, none with an interval, and the captions say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer

from analysis.figures.style import STYLE
from analysis.paper.figures import reported_figures, reported_likelihood
from analysis.paper.reported import reported
from tests.test_analysis_figures import texts_outside

mpl.use("Agg")

NEW = ("bars-reported", "heatmap-reported", "heatmap-reported-math", "heatmap-reported-medical", "likelihood-reported")
GRID = ("Table 1", "Table 2", "Table 3")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return reported()


@pytest.fixture(scope="module")
def figures(table: pd.DataFrame) -> dict[str, Any]:
    with mpl.rc_context(STYLE):
        return dict(reported_figures(table))


def small_print(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def containers(figure: Any, kind: type) -> list[Any]:
    return [one for ax in figure.axes for one in ax.containers if isinstance(one, kind)]


def scores(table: pd.DataFrame, place: str) -> pd.DataFrame:
    """The columns of one of the paper's tables, without its averages."""
    metrics = ("accuracy", "exact_match")
    return table[(table["place"] == place) & table["metric"].isin(metrics) & (table["benchmark"] != "average")]


@pytest.mark.parametrize("name", NEW)
def test_nothing_is_clipped_and_the_caption_says_that_there_are_no_intervals(
    figures: dict[str, Any], name: str
) -> None:
    assert texts_outside(figures[name]) == []
    assert "intervals" in small_print(figures[name])
    assert ("no scores by question" in small_print(figures[name])) == (name != "likelihood-reported")
    assert containers(figures[name], ErrorbarContainer) == []


def test_a_bar_is_a_reported_average_and_tells_its_number(figures: dict[str, Any], table: pd.DataFrame) -> None:
    wanted = [
        mine["score"].mean()
        for place in GRID
        for _, mine in scores(table, place).groupby(["backbone", "name"], sort=False)
    ]
    drawn = [bar.get_height() for bars in containers(figures["bars-reported"], BarContainer) for bar in bars]
    assert len(drawn) == 40
    assert sorted(drawn) == pytest.approx(sorted(wanted))
    numbers = [text.get_text() for ax in figures["bars-reported"].axes for text in ax.texts]
    assert sorted(text for text in numbers if text != "not in the grid") == sorted(
        f"{score:.3f}".removeprefix("0") for score in wanted
    )
    assert numbers.count("not in the grid") == 12 * 4 - 40


def test_the_heat_map_has_a_row_per_backbone_and_domain(figures: dict[str, Any]) -> None:
    (image,) = figures["heatmap-reported"].axes[0].collections
    assert image.get_array().shape == (12, 4)
    assert np.isfinite(np.ma.filled(image.get_array(), np.nan)).sum() == 40


@pytest.mark.parametrize(("domain", "place", "shape"), [("math", "Table 1", (20, 4)), ("medical", "Table 2", (40, 3))])
def test_a_domains_heat_map_has_every_number_of_its_table(
    figures: dict[str, Any], table: pd.DataFrame, domain: str, place: str, shape: tuple[int, int]
) -> None:
    (image,) = figures[f"heatmap-reported-{domain}"].axes[0].collections
    assert image.get_array().shape == shape
    assert sorted(image.get_array().ravel()) == pytest.approx(sorted(scores(table, place)["score"]))
    assert f"({place})" in small_print(figures[f"heatmap-reported-{domain}"])


def test_likelihoods_stand_before_and_after_training(figures: dict[str, Any]) -> None:
    found = []
    for ax in figures["likelihood-reported"].axes:
        dashed = [line.get_ydata()[0] for line in ax.get_lines() if line.get_marker() == "None"]
        marks = [
            float(y) for drawn in ax.collections if isinstance(drawn, PathCollection) for _, y in drawn.get_offsets()
        ]
        assert [text.get_text() for text in ax.texts] == [f"{mark:.2f}".removeprefix("0") for mark in marks]
        assert list(ax.patches) == []  # no band of an interval
        found.append((ax.get_title(), dashed, marks))
    assert found == [
        ("qwen2.5-math-1.5b · math (.80\u00a0MS)", [0.80], [0.83, 0.87]),
        ("qwen2.5-7b · figfont (.07\u00a0MW)", [0.07], [0.65, 0.32]),
    ]
    assert "(Figure 6)" in small_print(figures["likelihood-reported"])
    assert "neither intervals nor n" in small_print(figures["likelihood-reported"])


def test_only_what_is_reported_is_drawn(table: pd.DataFrame) -> None:
    def drawn(*places: str) -> set[str]:
        return {name for name, _ in reported_figures(table[table["place"].isin(places)])}

    assert drawn("Figure 6") == {"likelihood-reported"}
    assert drawn("Table 9") == drawn("Table 5") == set()
    assert drawn("Table 3") == {"gains-reported", "bars-reported", "heatmap-reported"}
    assert drawn("Table 3", "Table 5") == {*drawn("Table 3"), "continuum-reported"}


def test_a_likelihood_without_its_base_model_says_so(table: pd.DataFrame) -> None:
    mine = table[(table["place"] == "Figure 6") & ~((table["objective"] == "base") & (table["domain"] == "math"))]
    assert reported_likelihood(mine)["before"].isna().tolist() == [True, True, False, False]
    figure = dict(reported_figures(mine))["likelihood-reported"]
    assert [text.get_text() for ax in figure.axes for text in ax.texts].count("before: missing") == 1
