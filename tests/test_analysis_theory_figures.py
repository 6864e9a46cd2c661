"""Figures of the theory: nothing is cut, the measured noise stands at its ends, gaps are named, same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures.all import drawings
from analysis.figures.save import Drawing, save
from analysis.figures.shapes import gradient_shapes, trained_objectives
from analysis.figures.style import COLOURS, STYLE, legend_text
from analysis.figures.theory import FORMULAS, lab_noise_beside, noise_gains, theory_figures
from analysis.sources.table import Results, load
from analysis.statistics.continuum import gains, means
from analysis.theory.shapes import MAIN
from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Noise, Objective, canonical_json
from tests.analysis_store import StoreBuilder, cell, lab_cells, lab_store

mpl.use("Agg")

ENDS = (("lab-a", "spell"), ("lab-a", "add"))
NOISES = (Noise(), Noise(kind="uniform", rate=0.2), Noise(kind="missing", rate=0.4))


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("runs")
    lab_store(root, objectives=("nll", "p"), points=ENDS, noises=NOISES, questions=20)
    return load(root)


def words(figure: Any) -> str:
    shown = [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()]
    return " ".join(" ".join(shown).split())


def outside(figure: Any) -> list[str]:
    """Texts that stick out of the figure; labels of ticks beyond an axis's limits are not drawn."""
    FigureCanvasAgg(figure).draw()
    box, hidden = figure.bbox, set()
    for axis in [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        hidden |= {t.label1 for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9}
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    extents = [(t.get_text(), t.get_window_extent()) for t in texts]
    return [
        text for text, e in extents if e.x0 < box.x0 - 1 or e.x1 > box.x1 + 1 or e.y0 < box.y0 - 1 or e.y1 > box.y1 + 1
    ]


def test_all_figures_are_drawn_and_nothing_is_cut(noise: Results) -> None:
    drawn = dict(theory_figures(noise))
    assert list(drawn) == ["theory-gradient-shapes", "theory-trade-places", "theory-risk-over-time", "theory-lab-noise"]
    assert {name: outside(figure) for name, figure in drawn.items()} == {name: [] for name in drawn}


def test_without_results_the_theory_stands_alone() -> None:
    assert "theory-lab-noise" not in [name for name, _ in theory_figures()]


def test_the_same_figure_has_the_same_bytes(noise: Results, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(lab_noise_beside(noise_gains(noise)), tmp_path / name, "figure")
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"figure.png", "figure.pdf", "figure.svg"}


def test_the_map_says_whether_c_is_below_ten_d() -> None:
    figure = dict(theory_figures())["theory-trade-places"]
    assert [ax.get_title().rpartition("(")[2] for ax in figure.axes[:2]] == [
        "c/d = 20: < 10 not met)",
        "c/d = 2.49: < 10 met)",
    ]


def test_the_measured_gains_are_those_at_t_1_of_the_strongest_and_the_weakest_point(noise: Results) -> None:
    found = noise_gains(noise)
    assert found.groupby("end")["point"].unique().map(list).to_dict() == {
        "strong": ["lab-a · spell"],
        "weak": ["lab-a · add"],
    }
    assert set(found["temperature"]) == {1.0} and set(found["objective"]) == {"p"}
    every = gains(noise)
    keys = ["point", "noise_kind", "noise_rate", "decoding", "objective"]
    both = found.merge(every, on=keys, suffixes=("", "_all"))
    assert len(both) == len(found) == 2 * len(NOISES)
    assert (both["gain"] == both["gain_all"]).all() and (both["gain_low"] == both["gain_low_all"]).all()


def test_intervals_are_over_seeds_too_where_there_are_several(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=20)
    cells = lab_cells(("nll", "p"), ENDS, NOISES[:2], seeds=(0, 1, 2), questions=20)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    results = load(tmp_path)
    found = noise_gains(results)
    assert found["gain_low"].tolist() == found["gain_seeds_low"].clip(-1, 1).tolist()
    assert "paired by question, over seeds too" in words(lab_noise_beside(found))


def test_the_drawn_marks_are_the_gains(noise: Results) -> None:
    found = noise_gains(noise)
    figure = lab_noise_beside(noise_gains(noise))
    for ax, end in zip(figure.axes[1:], ("strong", "weak"), strict=True):
        drawn = sorted(round(float(y), 9) for bar in ax.containers for y in bar.lines[0].get_ydata())
        assert drawn == sorted(found.loc[found["end"] == end, "gain"].round(9))


def test_missing_cells_are_named(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=20)
    cells = lab_cells(objectives=("nll", "p"), points=ENDS, noises=NOISES, questions=20)
    for one, _ in cells:
        if not (one.domain.name == "add" and one.domain.noise.kind == "missing" and one.objective.name == "p"):
            builder.finish(one)
    builder.launch(cells)
    text = words(lab_noise_beside(noise_gains(load(tmp_path))))
    assert "Missing: weakest point, missing 0.4." in text
    assert "n = 20 questions" in text


def test_a_sweep_at_one_noise_rate_has_nothing_to_set_beside(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=ENDS, questions=10)
    figure = lab_noise_beside(noise_gains(load(tmp_path)))
    assert words(figure).count("This sweep has no gain of p over NLL") == 2
    assert not outside(figure)


def test_a_sweep_without_the_reference_says_so(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("p",), points=ENDS, noises=NOISES, questions=10)
    text = words(lab_noise_beside(noise_gains(load(tmp_path))))
    assert text.count("This sweep has no gain of p over NLL") == 2
    assert "Missing: strongest point" in text


def test_a_single_point_stands_at_its_own_end(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=ENDS[1:], noises=NOISES, questions=10)
    assert set(noise_gains(load(tmp_path))["end"]) == {"weak"}


def test_an_objective_without_a_theory_is_refused(noise: Results) -> None:
    with pytest.raises(ConfigError, match="did you mean 'p10'"):
        lab_noise_beside(noise_gains(noise), "p11")


# --- the shapes of a sweep's objectives -----------------------------------------------------------------------------


def told(*objectives: Objective) -> pd.DataFrame:
    """Rows of `Results.cells` of these objectives, as far as shapes need them."""
    rows = [(one.name, canonical_json(one.identity())) for one in objectives]
    return pd.DataFrame(rows, columns=["objective", "identity"])


def shapes_of(results: Results) -> dict[str, Drawing]:
    found = drawings(results, means(results), gains(results))
    return {one.name: one for one in found if one.name.startswith("theory")}


def curves_of(figure: Any) -> list[list[Any]]:
    """The lines of each panel, without the marks of their peaks."""
    return [[line for line in ax.get_lines() if line.get_marker() == "None"] for ax in figure.axes]


def test_a_sweep_gets_the_shapes_of_its_own_objectives(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("base", "nll", "p10", "logp_above"), points=ENDS, questions=10)
    results = load(tmp_path)
    drawing = shapes_of(results)["theory-gradient-shapes"]
    assert drawing.draw is not None
    figure = drawing.draw()
    whole, cut = curves_of(figure)
    assert [line.get_color() for line in whole] == [COLOURS["nll"], COLOURS["p10"]]
    assert [line.get_color() for line in cut] == [COLOURS["logp_above"]]
    p_G = whole[1].get_xdata()
    assert whole[1].get_ydata() == pytest.approx(p_G**10 * (1 - p_G))
    shown = {text.get_text() for legend in figure.legends for text in legend.get_texts()} - {" "}
    assert shown == {legend_text(name, results.formulas) for name in ("nll", "p10", "logp_above")}
    assert "holds for 2 of 2" in words(figure) and "jumps at its threshold (p = 0.2)" in words(figure)
    assert outside(figure) == []


def test_no_line_is_drawn_across_the_jump_of_a_threshold() -> None:
    cut = [Objective(name=f"p {keep}", family="power", keep=keep, threshold=0.3) for keep in ("above", "below")]  # type: ignore[arg-type]
    (lines,) = curves_of(gradient_shapes(trained_objectives(told(*cut)).shapes, {}))
    for line in lines:
        p_G, shape_G = line.get_xdata(), line.get_ydata()
        (gap,) = np.flatnonzero(np.isnan(p_G))
        assert p_G[gap - 1] < 0.3 + 1e-9 and p_G[gap + 1] > 0.3 - 1e-9
        assert sorted([shape_G[gap - 1] > 0, shape_G[gap + 1] > 0]) == [False, True]


def test_many_alphas_fit_into_one_panel() -> None:
    alphas = [*(i / 10 for i in range(1, 11)), *range(2, 11)]
    found = trained_objectives(told(*(Objective(name=f"power-{a:g}", family="power", alpha=a) for a in alphas)))
    figure = gradient_shapes(found.shapes, dict.fromkeys(found.shapes, "−p"))
    (lines,) = curves_of(figure)
    assert len({line.get_color() for line in lines}) == len(lines) == 19
    peaks = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert peaks == pytest.approx([a / (1 + a) for a in alphas], abs=1e-4)
    assert "holds for 19 of 19" in words(figure) and outside(figure) == []


def test_what_has_no_shape_of_its_own_is_named() -> None:
    quantile = Objective(name="p_above(q)", family="power", keep="above", threshold_quantile=0.5)
    rows = pd.concat([told(MAIN["p"], quantile), pd.DataFrame({"objective": ["mine"], "identity": [""]})])
    found = trained_objectives(rows)
    assert list(found.shapes) == ["p"]
    text = words(gradient_shapes(found.shapes, {}, found.left_out()))
    assert "Not drawn: 1 objective with a threshold at a quantile" in text and "(p_above(q))" in text
    assert "1 objective that no spec tells (mine)" in text
    known = trained_objectives(pd.concat([rows, told(Objective(name="mine", family="unlikelihood"))]))
    assert list(known.shapes) == ["p", "mine"]


def test_shapes_that_are_not_drawn_say_why(tmp_path: Path) -> None:
    quantile = Objective(name="p_above(q)", family="power", keep="above", threshold_quantile=0.5)
    builder = StoreBuilder(tmp_path, questions=10)
    builder.finish(one := cell(*ENDS[0], quantile, questions=10))
    builder.launch([(one, [])])
    found = shapes_of(load(tmp_path))
    assert found["theory-gradient-shapes"].draw is None
    assert found["theory-gradient-shapes"].why.startswith(
        "no objective has one known shape at every point: 1 objective"
    )


def test_label_noise_is_drawn_or_says_why(noise: Results, tmp_path: Path) -> None:
    assert shapes_of(noise)["theory-lab-noise"].draw is not None
    at_one_rate = lab_store(tmp_path / "a", objectives=("nll", "p"), points=ENDS, questions=10).root
    assert shapes_of(load(at_one_rate))["theory-lab-noise"].why == "no two rates of label noise are in the sweep"
    without_p = lab_store(tmp_path / "b", objectives=("nll", "p10"), points=ENDS, noises=NOISES, questions=10).root
    assert shapes_of(load(without_p))["theory-lab-noise"].why.startswith("no point has gains of p over nll at T=1")


def test_the_same_shapes_have_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = trained_objectives(told(MAIN["nll"], MAIN["p_above"]))
        save(gradient_shapes(found.shapes, FORMULAS), tmp_path / name, "shapes")
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1] and len(written[0]) == 3
