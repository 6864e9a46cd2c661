"""Figures of the theory: nothing is cut, the measured noise stands at its ends, gaps are named, same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures.save import save
from analysis.figures.style import STYLE
from analysis.figures.theory import lab_noise_beside, noise_gains, theory_figures
from analysis.sources.table import Results, load
from analysis.statistics.continuum import gains
from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Noise
from tests.analysis_store import StoreBuilder, lab_cells, lab_store

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
