"""The ablations' figures, bars and the scheme: drawn from the data that they need, missing parts said to be missing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures.all import drawings
from analysis.figures.alpha import alpha_rows, alpha_sweep, alphas
from analysis.figures.bars import bars
from analysis.figures.histograms import distributions, histogram_pages, histograms
from analysis.figures.leaders import Leader, leaders
from analysis.figures.likelihood import likelihood, likelihood_rows
from analysis.figures.overlay import reported_at
from analysis.figures.panels import _in_columns, pages
from analysis.figures.quantile import quantile_ablation, quantile_rows
from analysis.figures.scale import family, parameters, scale_rows, scale_sweep
from analysis.figures.scheme import scheme
from analysis.figures.style import STYLE
from analysis.sources.table import Results, load
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import gains, means
from bll_sweeps.grid.axes import Backbone, Objective
from tests.analysis_store import OBJECTIVES, POINTS, StoreBuilder, cell
from tests.test_analysis_figures import texts_outside

mpl.use("Agg")

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0)
QUANTILES = (0.1, 0.5, 0.9)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def power(alpha: float) -> Objective:
    return Objective(name=f"power-{alpha:g}", family="power", alpha=alpha)


def store(root: Path, cells: list[Any], missing: tuple[int, ...] = (), **settings: Any) -> Results:
    """A launched sweep of these cells, all done but those at `missing`."""
    builder = StoreBuilder(root, questions=20, sequences=60, **settings)
    for i, one in enumerate(cells):
        if i not in missing:
            builder.finish(one)
    builder.launch([(one, []) for one in cells])
    return load(root)


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Results:
    objectives = [OBJECTIVES["base"], OBJECTIVES["nll"], *map(power, ALPHAS)]
    cells = [cell("lab-a", task, one, questions=20) for task in ("spell", "rot") for one in objectives]
    return store(tmp_path_factory.mktemp("runs"), cells, missing=(4,), distribution="histogram")


@pytest.fixture(scope="module")
def quantile(tmp_path_factory: pytest.TempPathFactory) -> Results:
    objectives = [OBJECTIVES["nll"], OBJECTIVES["p"]]
    for name, kind in (("logp", "nll"), ("p", "power")):
        for keep in ("above", "below"):
            for q in QUANTILES:
                label = f"{name}_{keep}(threshold_quantile={q:g})"
                objectives.append(Objective(name=label, family=kind, keep=keep, threshold_quantile=q))  # type: ignore[arg-type]
    cells = [cell("lab-a", "spell", one, questions=20) for one in objectives]
    return store(tmp_path_factory.mktemp("runs"), cells, missing=(3,), distribution="quantiles")


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    sizes = {"tiny-1.5b": 1_600_000_000, "tiny-7b": 0, "tiny-14b": 14_000_000_000}
    POINTS.update({(name, "spell"): POINTS["lab-a", "spell"] for name in sizes})
    cells = []
    for name, count in sizes.items():
        backbone = Backbone(name=name, source="hub", hub=f"org/{name}", parameters=count)
        for one in ("base", "nll", "p"):
            cells.append(dataclasses.replace(cell("lab-a", "spell", one, questions=20), backbone=backbone))
    yield store(tmp_path_factory.mktemp("runs"), cells, missing=(5,))
    for name in sizes:
        del POINTS[name, "spell"]


def placed(results: Results, table: pd.DataFrame | None = None) -> pd.DataFrame:
    rows = by_place(means(results) if table is None else table, results.cells)
    return rows[rows["decoding"] == "sampled"]


def small_print(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def names(results: Results) -> dict[str, str]:
    """Every figure's kind -> why it is not drawn, '' where it is."""
    tables = (means(results), gains(results))
    mean_rows, gain_rows = (table[table["decoding"] == "sampled"] for table in tables)
    return {d.name: d.why for d in drawings(results, mean_rows, gain_rows)}


@pytest.mark.slow
def test_a_sweep_gets_the_figures_that_its_data_give(alpha: Results, quantile: Results, scale: Results) -> None:
    for results, mine in ((alpha, "alpha"), (quantile, "quantile"), (scale, "scale")):
        found = names(results)
        assert found[f"{mine}-sampled"] == ""
        for other in {"alpha", "quantile", "scale"} - {mine}:
            assert found[other]


def test_no_text_of_these_figures_is_clipped_and_each_says_its_n(
    alpha: Results, quantile: Results, scale: Results
) -> None:
    rows = placed(alpha)
    best = leaders(alpha, rows)
    told = distributions(alpha)
    for figure in (
        alpha_sweep(alpha_rows(rows, alpha.cells)),
        bars(rows, alpha.formulas, best),
        scheme(rows[rows["objective"] != "base"], alpha.formulas, best),
        likelihood(likelihood_rows(alpha), alpha.formulas),
        histograms(histogram_pages(told)[0], told[:0]),
        quantile_ablation(quantile_rows(placed(quantile), quantile.cells)),
        scale_sweep(scale_rows(placed(scale, gains(scale)), parameters(scale)), scale.formulas),
    ):
        FigureCanvasAgg(figure).draw()
        assert texts_outside(figure) == []
        assert "n = " in small_print(figure)


def test_alpha_is_read_from_the_objective_and_not_from_its_name(alpha: Results) -> None:
    assert alphas(alpha.cells) == {"nll": 0.0, **{f"power-{a:g}": a for a in ALPHAS}}
    renamed = alpha.cells.replace({"objective": {"power-3": "cube"}})
    assert alphas(renamed)["cube"] == 3.0
    unknown = alpha.cells.assign(identity="")
    assert alphas(unknown) == alphas(alpha.cells)


def test_the_lines_of_the_alpha_sweep_are_the_scores(alpha: Results) -> None:
    rows = alpha_rows(placed(alpha), alpha.cells)
    axes = alpha_sweep(rows).axes[0]
    done = rows[(rows["domain"] == axes.get_title()) & (rows["n"] > 0) & (rows["alpha"] > 0)].sort_values("alpha")
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == list(done["alpha"])
    assert list(line.get_ydata()) == pytest.approx(list(done["mean"]))


def test_fewer_alphas_are_no_sweep(alpha: Results) -> None:
    rows = placed(alpha)
    assert alpha_rows(rows[~rows["objective"].isin(["power-3", "power-10"])], alpha.cells).empty


def test_missing_cells_are_said_and_marked(alpha: Results, quantile: Results, scale: Results) -> None:
    figures = (
        (alpha_sweep(alpha_rows(placed(alpha), alpha.cells)), "Missing (crosses at the foot): lab-a · spell (power-1)"),
        (bars(placed(alpha), alpha.formulas, {}), "Missing: lab-a · spell (power-1)"),
        (quantile_ablation(quantile_rows(placed(quantile), quantile.cells)), "logp_above(threshold_quantile=0.5)"),
        (
            scale_sweep(scale_rows(placed(scale, gains(scale)), parameters(scale)), scale.formulas),
            "tiny-7b · spell (p)",
        ),
    )
    for figure, text in figures:
        assert text in small_print(figure)
        crosses = [line for ax in figure.axes for line in ax.get_lines() if line.get_marker() == "x"]
        missing = [text for ax in figure.axes for text in ax.texts if text.get_text() == "missing"]
        assert len(crosses) + len(missing) == 1


def test_losses_on_all_tokens_close_both_sides_of_the_quantiles(quantile: Results) -> None:
    rows = quantile_rows(placed(quantile), quantile.cells)
    found = {key: list(mine["quantile"]) for key, mine in rows.groupby(["base", "side"])}
    assert found["−p", "above"] == [0.0, *QUANTILES]
    assert found["−log p", "below"] == [*QUANTILES, 1.0]


def test_parameters_are_the_specs_or_else_the_names(scale: Results) -> None:
    told = parameters(scale)
    assert told["tiny-1.5b"] == (1_600_000_000, "spec")
    assert told["tiny-7b"] == (7_000_000_000, "name")
    assert {family(name) for name in told} == {"tiny"}
    assert family("qwen2.5-math-1.5b") == "qwen2.5-math"
    figure = scale_sweep(scale_rows(placed(scale, gains(scale)), told), scale.formulas)
    assert "of tiny-7b from the name" in small_print(figure)


def test_likelihood_before_is_the_prior_as_trained_and_after_the_last_tenth(alpha: Results) -> None:
    rows = likelihood_rows(alpha)
    one = rows[(rows["domain"] == "spell") & (rows["objective"] == "nll")].iloc[0]
    run = alpha.cells[(alpha.cells["domain"] == "spell") & (alpha.cells["objective"] == "nll")].iloc[0]
    curve = alpha.curves[alpha.curves["train"] == run["train"]]
    last = curve[curve["step"] > 225]["mean_p"]
    assert one["before"] == run["prior_as_trained"] and one["before"] != run["prior_clean"]
    assert one["after"] == pytest.approx(last.mean()) and one["n"] == len(last) == 3
    assert one["epochs"] == pytest.approx(250 * 64 / 60)
    assert "the batches had been seen" in small_print(likelihood(rows, alpha.formulas))
    fresh = rows.assign(epochs=1.0)
    assert "had not been trained on yet" in small_print(likelihood(fresh, alpha.formulas))
    assert rows.loc[rows["objective"] == "power-1", "n"].tolist().count(0) == 1


@pytest.mark.parametrize("kind", ["histogram", "quantiles", "missing"])
def test_distributions_are_histograms_or_quantiles_or_missing(kind: str, alpha: Results, quantile: Results,
                                                              scale: Results) -> None:  # fmt: skip
    results = {"histogram": alpha, "quantiles": quantile, "missing": scale}[kind]
    rows = distributions(results)
    assert set(rows["kind"]) == {kind}
    if kind == "missing":
        assert histogram_pages(rows) == []
        assert names(results)["histograms"].startswith("no prior job whose record tells")
        return
    assert len(rows.iloc[0]["share"]) == (50 if kind == "histogram" else 13)
    figure = histograms(histogram_pages(rows)[0], rows[:0])
    assert ("records from before histograms" in small_print(figure)) == (kind == "quantiles")
    if kind == "histogram":
        assert sum(rows.iloc[0]["share"]) == pytest.approx(1)


def test_variants_with_the_same_distributions_are_one_panel(alpha: Results) -> None:
    rows = distributions(alpha)
    noisy = pd.concat([rows.assign(variant=f"noise uniform {rate}") for rate in (0.1, 0.2)], ignore_index=True)
    (page,) = histogram_pages(noisy)
    assert len(page) == len(rows)
    assert {ax.get_title() for ax in histograms(page, rows[:0]).axes} == {
        "spell, 2 variants alike", "rot, 2 variants alike",
    }  # fmt: skip
    shifted = pd.concat([rows, rows.assign(variant="other", share=[[1.0, 0.0]] * len(rows))], ignore_index=True)
    assert len(pd.concat(histogram_pages(shifted))) == 2 * len(rows)


def test_the_legend_of_a_histogram_stands_above_its_lines(alpha: Results) -> None:
    figure = histograms(histogram_pages(distributions(alpha))[0], pd.DataFrame())
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes:
        foot = ax.get_legend().get_window_extent().y0
        tops = [ax.transData.transform((0, step.get_data().values[~np.isnan(step.get_data().values)].max()))[1]
                for step in ax.patches]  # fmt: skip
        assert max(tops) < foot


def test_more_objectives_than_colours_stand_in_the_figure_of_quantiles_alone(
    quantile: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn() -> dict[str, Any]:
        tables = (means(quantile), gains(quantile))
        mean_rows, gain_rows = (table[table["decoding"] == "sampled"] for table in tables)
        return {d.name: d.draw() for d in drawings(quantile, mean_rows, gain_rows) if d.draw is not None}

    assert "have a figure of their own" not in small_print(drawn()["bars-sampled"])
    monkeypatch.setattr("analysis.figures.all._COLOURS", 5)
    few = drawn()
    for name in ("continuum-sampled", "scheme-sampled", "bars-sampled", "likelihood", "curves"):
        assert "The 12 objectives with a threshold at a quantile have a figure of their own." in small_print(few[name])
    shown = {text.get_text() for text in few["bars-sampled"].legends[0].get_texts()}
    assert len(shown) == 2
    assert len(few["quantile-sampled"].axes) == 2


def test_groups_of_a_legend_share_no_column() -> None:
    from matplotlib.lines import Line2D

    def entries(count: int) -> list[Line2D]:
        return [Line2D([], [], label="x" * 20) for _ in range(count)]

    found, columns = _in_columns([entries(2), entries(7)], 7.0)
    tall = len(found) // columns
    assert len(found) == tall * columns and tall == 3
    assert [one.get_label() for one in found[:tall]].count(" ") == 1
    alone, columns = _in_columns([entries(3)], 7.0)
    assert len(alone) == columns == 3


# --- the best objective ---------------------------------------------------------------------------------------------


def test_the_best_is_named_only_where_every_interval_says_so(tmp_path: Path) -> None:
    cells = [cell("lab-c", "add", one, questions=20) for one in ("base", "nll", "p", "p10")]
    clear = store(tmp_path / "a", cells)
    key = ("lab-c", "add", "", "sampled")
    assert leaders(clear, placed(clear))[key] == Leader("p", ("p",), 3, ())
    cells = [cell("lab-a", "rot", one, questions=20) for one in ("base", "nll", "p", "p10")]
    tied = leaders(store(tmp_path / "b", cells, missing=(3,)), placed(load(tmp_path / "b")))
    assert tied["lab-a", "rot", "", "sampled"] == Leader("p", ("p",), 2, ("p10",))
    level = store(tmp_path / "c", [cell("lab-a", "rot", one, questions=20) for one in ("nll", "p", "logp_above")])
    found = leaders(level, placed(level))["lab-a", "rot", "", "sampled"]
    assert not found.decided and set(found.level) == {"p", "logp_above"}


def test_a_lone_objective_is_not_the_best(tmp_path: Path) -> None:
    results = store(tmp_path, [cell("lab-a", "rot", one, questions=20) for one in ("base", "p")])
    found = leaders(results, placed(results))["lab-a", "rot", "", "sampled"]
    assert found.compared == 1 and not found.decided


def test_stars_stand_only_over_the_best(alpha: Results) -> None:
    rows = placed(alpha)
    key = ("lab-a", "spell", "", "sampled")

    def stars(best: dict[Any, Leader]) -> int:
        lines = [line for ax in bars(rows, alpha.formulas, best).axes for line in ax.get_lines()]
        return sum(line.get_marker() == "*" for line in lines)

    assert stars({key: Leader("nll", ("nll",), 5, ())}) == 1
    assert stars({key: Leader("nll", ("nll", "power-3"), 5, ())}) == 0


# --- the paper's numbers beside ours --------------------------------------------------------------------------------


def test_reported_numbers_are_open_marks_where_there_are_cells(alpha: Results) -> None:
    rows = placed(alpha)
    theirs = rows[rows["objective"].isin(["nll", "power-3"])]
    reported = theirs.assign(mean=0.5, low=math.nan, high=math.nan, place="Table 0", digitised=0.0)
    assert len(reported_at(rows, reported)) == 4
    assert reported_at(rows.assign(decoding="another"), reported).empty
    figure = bars(rows, alpha.formulas, {}, reported)
    marks = [line for ax in figure.axes for line in ax.get_lines() if line.get_marker() == "D"]
    assert len(marks) == 4 and all(line.get_markerfacecolor() == "none" for line in marks)
    assert any("no interval" in text.get_text() for legend in figure.legends for text in legend.get_texts())
    assert f"the paper's numbers, for 4 of {len(rows)} scores (Table 0)" in small_print(figure)
    plain = bars(rows, alpha.formulas, {}, reported.assign(backbone="another"))
    assert not [line for ax in plain.axes for line in ax.get_lines() if line.get_marker() == "D"]


@pytest.mark.parametrize(("count", "most", "sizes"), [(0, 5, []), (5, 5, [5]), (6, 5, [3, 3]), (11, 5, [4, 4, 3])])
def test_pages_hold_all_in_order_and_none_too_many(count: int, most: int, sizes: list[int]) -> None:
    found = pages(list(range(count)), most)
    assert [len(page) for page in found] == sizes
    assert [item for page in found for item in page] == list(range(count))
