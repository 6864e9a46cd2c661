"""Figures: nothing is clipped or overlaps, colours keep their objective, the same results give the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures.all import write_figures
from analysis.figures.continuum import apart, continuum, continuum_panels
from analysis.figures.curves import curve_rows, curves
from analysis.figures.heatmap import heatmap
from analysis.figures.style import COLOURS, MARKERS, PRIOR_NAMES, STYLE, colours, decoding_name, in_order, mathtext
from analysis.report.charts import continuum_chart, curves_chart
from analysis.sources.table import Results, load
from analysis.statistics.continuum import gains, means
from analysis.statistics.crossover import crossover, logit
from analysis.tables.results import number
from bll_sweeps.grid.axes import Noise
from bll_sweeps.objectives.catalogue import main_catalogue
from bll_sweeps.store.metrics import CURVES, TRAINING
from bll_sweeps.tracking import panels
from tests.analysis_store import OBJECTIVES, lab_store

mpl.use("Agg")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("runs")
    lab_store(root, objectives=("base", "nll", "p", "p10", "logp_above"), questions=20)
    return load(root)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("runs")
    noises = (Noise(), Noise(kind="uniform", rate=0.2), Noise(kind="imbalanced", rate=0.2))
    points = (("lab-a", "spell"), ("lab-c", "rot"))
    lab_store(root, objectives=("nll", "p"), points=points, noises=noises, questions=20)
    return load(root)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def sampled(table: Any) -> Any:
    return table[table["decoding"] == "sampled"]


def texts_outside(figure: Any) -> list[str]:
    """Visible texts that stick out of the figure."""
    FigureCanvasAgg(figure).draw()
    box = figure.bbox
    shown = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]
    beyond = _beyond_limits(figure)
    extents = [(t.get_text(), t.get_window_extent()) for t in shown if t not in beyond]
    return [
        text for text, e in extents if e.x0 < box.x0 - 1 or e.x1 > box.x1 + 1 or e.y0 < box.y0 - 1 or e.y1 > box.y1 + 1
    ]


def _beyond_limits(figure: Any) -> set[Any]:
    """Labels of ticks outside an axis's limits: they exist, but are not drawn."""
    out: set[Any] = set()
    for axis in [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks()
        out |= {tick.label1 for tick in ticks if not low - 1e-9 <= tick.get_loc() <= high + 1e-9}
    return out


def figure_of(name: str, lab: Results, noise: Results) -> Any:
    if name == "continuum":
        return continuum(sampled(gains(lab)), lab.formulas)
    if name == "panels":
        return continuum_panels(sampled(gains(noise)), noise.formulas)
    if name == "heatmap":
        return heatmap(sampled(means(lab)), lab.formulas)
    return curves(curve_rows(lab, lab.cells, "clean"), lab.formulas)


@pytest.mark.parametrize("name", ["continuum", "panels", "heatmap", "curves"])
def test_no_text_is_clipped(name: str, lab: Results, noise: Results) -> None:
    assert texts_outside(figure_of(name, lab, noise)) == []


@pytest.mark.parametrize("name", ["continuum", "panels", "heatmap", "curves"])
def test_every_figure_says_its_n(name: str, lab: Results, noise: Results) -> None:
    assert any("n = " in text.get_text() for text in figure_of(name, lab, noise).texts)


def test_the_points_names_in_the_strip_do_not_overlap(lab: Results) -> None:
    figure = figure_of("continuum", lab, lab)
    FigureCanvasAgg(figure).draw()
    strip = figure.axes[-1]
    places = sorted(text.get_position()[0] for text in strip.texts)
    width = strip.get_xlim()[1] - strip.get_xlim()[0]
    assert len(places) == 9
    assert all(b - a >= 0.0519 * width for a, b in pairwise(places))


def test_more_points_than_have_room_are_marks_without_names(lab: Results) -> None:
    table = sampled(gains(lab))
    many = [table.assign(domain=table["domain"] + str(i), point=table["point"] + str(i)) for i in range(3)]
    figure = continuum(pd.concat(many, ignore_index=True), lab.formulas)
    assert list(figure.axes[-1].texts) == []
    assert "(too many to name: means.csv)" in figure.texts[-1].get_text().replace("\n", " ")
    assert texts_outside(figure) == []


def test_crossovers_stand_below_the_gains_with_their_intervals(lab: Results) -> None:
    """Gains that are set to change sign between the weaker and the stronger half of the settings."""
    table = sampled(gains(lab))
    p = table["objective"] == "p"
    rank = table.loc[p, "prior"].rank() / p.sum()
    table.loc[p, "gain"] = np.where(rank > 0.5, 0.3, -0.3)
    table.loc[~p, "gain"] = 0.3
    found = crossover(table, "p", "sampled")
    assert not np.isnan(found.prior)
    figure = continuum(table, lab.formulas)
    lane = figure.axes[1]
    line, diamond = lane.get_lines()
    assert line.get_color() == diamond.get_color() == COLOURS["p"]
    assert list(line.get_xdata()) == pytest.approx(list(logit(np.array([found.low, found.high]))))
    assert list(diamond.get_xdata()) == pytest.approx(list(logit(np.array([found.prior]))))
    text = figure.texts[-1].get_text().replace("\n", " ")
    assert f"p {number(found.prior)} [{number(found.low)}, {number(found.high)}] (n = 9)" in text


def test_without_a_crossover_there_is_no_lane(lab: Results) -> None:
    table = sampled(gains(lab)).assign(gain=0.3)
    figure = continuum(table, lab.formulas)
    assert len(figure.axes) == 2
    assert "Crossover" not in figure.texts[-1].get_text()


def test_intervals_over_seeds_are_thin_lines_of_points_with_several_seeds(lab: Results) -> None:
    table = sampled(gains(lab))
    ends = {"gain_seeds_low": table["gain"] - 0.4, "gain_seeds_high": table["gain"] + 0.4}
    table = table.assign(**ends, seeds=np.where(table["objective"] == "p", 3, 1))
    figure = continuum(table, lab.formulas)
    thin = [c for c in figure.axes[0].collections if c.get_alpha() == 0.5]
    tops = sorted(segment[1, 1] for c in thin for segment in c.get_segments())
    assert tops == pytest.approx(sorted(table.loc[table["objective"] == "p", "gain_seeds_high"]))
    chart = continuum_chart(table, lab.formulas, "clean")
    assert chart is not None
    told = {
        (row["objective"] == "p", row["seeds_text"] == "not told by one seed") for row in chart["datasets"]["gains"]
    }
    assert told == {(True, False), (False, True)}


def test_a_dense_heat_map_names_what_is_missing_and_leaves_the_rest_to_colour(lab: Results) -> None:
    table = sampled(means(lab))
    first = table.index[0]
    table.loc[first, ["mean", "low", "high"]] = np.nan
    table.loc[first, "n"] = 0
    figure = heatmap(table, lab.formulas, dense=True)
    within = [text.get_text() for text in figure.axes[0].texts if min(text.get_position()) > 0]
    assert within == ["missing"]
    shown = figure.axes[0].collections[0].get_array()
    assert int(np.ma.getmaskarray(np.ma.masked_invalid(shown)).sum()) == 1
    assert "Numbers and intervals: means.csv" in figure.texts[-1].get_text()
    assert texts_outside(figure) == []


def test_no_error_bar_is_clipped(lab: Results) -> None:
    table = sampled(gains(lab))
    low, high = continuum(table, lab.formulas).axes[0].get_ylim()
    assert low < table["gain_low"].min()
    assert table["gain_high"].max() < high


def test_noise_kinds_go_down_and_rates_across(noise: Results) -> None:
    figure = figure_of("panels", noise, noise)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["no noise", "uniform noise, 20 %", "no noise", "imbalanced noise, 20 %"]


@pytest.mark.slow
def test_figures_are_png_pdf_and_svg_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), points=(("lab-a", "rot"), ("lab-c", "rot")), questions=5)
    results = load(tmp_path / "runs")
    mean_table, gain_table = sampled(means(results)), sampled(gains(results))
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        pngs = write_figures(results, mean_table, gain_table, folder).drawn
    assert [path.stem for path in pngs] == [
        "continuum-sampled", "scheme-sampled", "bars-sampled", "heatmap-sampled", "likelihood", "curves",
        "theory-gradient-shapes",
    ]  # fmt: skip
    names = sorted(path.name for path in folders[0].iterdir())
    assert sorted(Path(name).suffix for name in names) == [".md"] + [".pdf"] * 7 + [".png"] * 7 + [".svg"] * 7
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


@pytest.mark.slow
def test_figures_of_an_earlier_report_that_are_not_drawn_any_more_go(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=5)
    results = load(tmp_path / "runs")
    folder = tmp_path / "figures"
    write_figures(results, means(results), gains(results), folder)
    (folder / "mine.png").write_bytes(b"")
    write_figures(results, sampled(means(results)), sampled(gains(results)), folder)
    names = {path.stem for path in folder.glob("*.png")}
    assert "bars-sampled" in names and "mine" in names
    assert not [name for name in names if "greedy" in name]


def test_every_mark_of_a_backbone_is_a_filled_shape_of_the_pages_charts() -> None:
    filled = {"circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-left", "triangle-right", "cross"}
    assert all(shape in filled or shape.startswith("M") for shape in MARKERS.values())
    assert len(set(MARKERS.values())) == len(MARKERS)


def test_the_pages_continuum_has_the_papers_numbers_as_marks_of_their_own(lab: Results) -> None:
    table = gains(lab)
    theirs = table[(table["objective"] == "p") & (table["backbone"] == "lab-a")]
    theirs = theirs.assign(gain=0.25, gain_low=np.nan, gain_high=np.nan, place="Table 0", digitised=0.0)
    chart = continuum_chart(table, lab.formulas, "clean", reported=theirs)
    assert chart is not None
    rows = chart["datasets"]["reported"]
    assert len(rows) == len(theirs) and {row["gain_text"] for row in rows} == {".250, no interval"}
    (layer,) = [layer for layer in chart["layer"] if layer["data"]["name"] == "reported"]
    assert layer["mark"]["filled"] is False
    without = continuum_chart(table, lab.formulas, "clean", reported=pd.DataFrame())
    assert without is not None and "reported" not in without["datasets"]


def test_names_below_the_pages_continuum_are_apart(lab: Results) -> None:
    chart = continuum_chart(gains(lab), lab.formulas, "clean")
    assert chart is not None
    places = sorted(row["at"] for row in chart["datasets"]["points"])
    assert len(places) == 9
    assert all(b - a > 0.012 * (places[-1] - places[0]) for a, b in pairwise(places))


def test_curves_of_seeds_with_backbones_of_their_own_stand_at_their_mean(lab: Results) -> None:
    one = lab.cells[lab.cells["point"] == "lab-a · spell"]
    other = one.assign(seed=1, prior="prior-other", prior_clean=one["prior_clean"] - 0.2)
    rows = curve_rows(lab, pd.concat([one, other]), "clean")
    assert rows["prior"].unique() == pytest.approx([one["prior_clean"].iloc[0] - 0.1])


def test_a_sweep_without_scores_gives_no_figure_of_gains(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("base",), points=(("lab-a", "rot"),), questions=5)
    results = load(tmp_path / "runs")
    written = write_figures(results, means(results), gains(results), tmp_path / "figures")
    assert [path.stem for path in written.drawn] == [
        f"{kind}-{d}" for kind in ("bars", "heatmap") for d in ("sampled", "greedy")
    ]
    told = (tmp_path / "figures" / "figures.md").read_text()
    for name in ("continuum", "scheme", "alpha", "quantile", "scale", "histograms", "likelihood", "curves",
                 "theory-gradient-shapes", "theory-lab-noise"):  # fmt: skip
        assert f"- {name}: not drawn, no " in told
        assert written.absent[name].startswith("no ")


def test_every_objective_of_the_catalogue_has_its_own_colour() -> None:
    files = Path(__file__).parents[1].glob("conf/objective/*.yaml")
    others = {path.stem for path in files} - {"power", "convexity"}  # these two are named by their alpha
    assert set(main_catalogue()) | others == set(COLOURS)
    assert set(OBJECTIVES) <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colours(["p"]) == {"p": colours(["zeta", "nll", "p"])["p"]}
    assert colours(["zeta"])["zeta"] not in COLOURS.values()


def test_many_alphas_are_told_apart_in_the_order_of_alpha() -> None:
    names = [f"power-{alpha:g}" for alpha in (1e-5, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 5, 10, 20)]
    names += ["convexity-0.5", "convexity-2", "p(alpha=3)"]
    found = colours([*names, *COLOURS])
    assert len(set(found.values())) == len(found)
    assert in_order([*reversed(names), "nll"]) == [
        "nll", "convexity-0.5", "convexity-2", *names[:11], "p(alpha=3)",
    ]  # fmt: skip
    brightness = [sum(int(found[name][i : i + 2], 16) for i in (1, 3, 5)) for name in ("power-1e-05", "power-20")]
    assert brightness[0] < brightness[1]


@pytest.mark.parametrize("prior", ["clean", "as_trained"])
def test_curves_are_placed_by_the_prior_that_was_asked_for(lab: Results, prior: Any) -> None:
    rows = curve_rows(lab, lab.cells, prior)
    expected = lab.cells.drop_duplicates("point").set_index("point")
    first = rows.drop_duplicates("point").set_index("point")
    assert first["prior"].to_dict() == expected.loc[first.index, f"prior_{prior}"].to_dict()
    assert first["region"].to_dict() == expected.loc[first.index, f"region_{prior}"].to_dict()
    figure = curves(rows, lab.formulas, prior=prior)
    assert any(PRIOR_NAMES[prior] in text.get_text().replace("\n", " ") for text in figure.texts)


def test_captions_tell_the_temperature_and_not_the_decodings_name(lab: Results) -> None:
    rows = sampled(means(lab))
    assert decoding_name(rows) == "Answers sampled at T=1"
    assert decoding_name(rows.assign(temperature=0.7)) == "Answers sampled at T=0.7"
    assert decoding_name(rows.assign(temperature=0.0)) == "Greedy answers"
    assert decoding_name(rows.assign(temperature=np.nan)) == "sampled answers"


def test_axes_of_curves_are_those_of_the_store_and_so_of_wandb(lab: Results) -> None:
    definitions = [TRAINING[key] for key in CURVES]
    figure = curves(curve_rows(lab, lab.cells, "clean"), lab.formulas)
    page = curves_chart(lab)
    assert page is not None
    shown = [panel.title for panel in panels.training()[: len(CURVES)]]
    assert shown == [metric.title for metric in definitions]
    assert [axes.get_ylabel() for axes in figure.axes[: len(CURVES)]] == shown
    marks = [panel["encoding"]["y"] if "encoding" in panel else panel for panel in page["panels"]]
    assert [(y["field"], y["title"]) for y in marks] == [(metric.key, metric.title) for metric in definitions]
    for axes, y, metric in zip(figure.axes, marks, definitions, strict=False):
        ends = axes.get_ylim()[1], y["scale"]["domain"][1]
        if metric.ceiling is None:
            assert ends[1] == {"expr": f"most_{metric.key}"}  # of the point that the page shows
        else:
            assert all(metric.ceiling < end < 1.1 * metric.ceiling for end in ends)


def test_charts_hold_thousands_of_rows(lab: Results) -> None:
    runs = lab.cells[lab.cells["train"] != ""].drop_duplicates("train").iloc[[0] * 150]
    trains = [f"train-{i}" for i in range(len(runs))]
    one = lab.curves[lab.curves["train"] == runs["train"].iloc[0]]
    long = pd.concat([one, one, one], ignore_index=True)
    many = pd.concat([long.assign(train=train) for train in trains], ignore_index=True)
    cells = runs.assign(train=trains, seed=range(len(runs)))
    spec = curves_chart(dataclasses.replace(lab, cells=cells, curves=many))
    assert spec is not None
    assert sum(map(len, spec["datasets"].values())) > 5_000
    table = gains(lab)
    chart = continuum_chart(pd.concat([table] * 200, ignore_index=True), lab.formulas, "clean")
    assert chart is not None
    assert max(map(len, chart["datasets"].values())) > 5_000


def test_base_comes_first_then_the_reference() -> None:
    assert in_order(["zeta", "p", "nll", "base"]) == ["base", "nll", "p", "zeta"]


def test_formulas_become_mathtext() -> None:
    assert mathtext("−p^0.1") == "$-p^{0.1}$"
    assert mathtext("−log p · 1[p ≥ 0.2]") == r"$-\log  p \cdot 1[p \geq  0.2]$"


def test_wide_ticks_do_not_run_into_the_axis_label(noise: Results) -> None:
    table = sampled(gains(noise)).assign(gain=-0.0123, gain_low=-0.0127, gain_high=-0.0121)
    figure = continuum_panels(table, noise.formulas)
    FigureCanvasAgg(figure).draw()
    for axes in (axes for axes in figure.axes if axes.get_ylabel()):
        label = axes.yaxis.label.get_window_extent()
        assert label.x0 >= 0
        assert all(label.x1 <= tick.label1.get_window_extent().x0 for tick in axes.yaxis.get_major_ticks())


def test_curves_of_few_steps_have_marks_and_missing_runs_are_named(lab: Results) -> None:
    rows = curve_rows(lab, lab.cells, "clean")
    few = rows[rows["step"] <= 20]
    lines = curves(few, lab.formulas, lacking=["lab-a · spell p"]).axes[0].get_lines()
    assert {line.get_marker() for line in lines} == {"o"}
    assert {line.get_marker() for line in curves(rows, lab.formulas).axes[0].get_lines()} == {"None"}
    texts = curves(few, lab.formulas, lacking=["lab-a · spell p"]).texts
    assert any("Without a curve: lab-a · spell p." in text.get_text().replace("\n", " ") for text in texts)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12).map(sorted), st.floats(0.1, 1))
def test_labels_are_moved_apart_and_no_further_than_needed(x: list[float], gap: float) -> None:
    places = apart(np.array(x), gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))
    if all(b - a >= gap for a, b in pairwise(x)):
        assert places == pytest.approx(np.array(x))
