"""Gains over NLL by question, seeds averaged first, and the lab's claims."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Bll
from hypothesis import given
from hypothesis import strategies as st

from analysis.__main__ import main
from analysis.figures.leaders import leaders
from analysis.paper.best import best_keys
from analysis.sources.table import Results, load
from analysis.statistics.benchmarks import PRIMARY, by_place
from analysis.statistics.claims import check, judge
from analysis.statistics.continuum import gains, means
from analysis.statistics.intervals import Interval
from analysis.statistics.seeds import p_over_seeds
from analysis.tables.claims import claims_text, reading, sampled
from analysis.tables.sweep import gains_grid, with_averages
from bll_sweeps.grid.axes import Noise, Objective
from bll_sweeps.grid.cell import Cell
from tests.analysis_store import StoreBuilder, cell, lab_cells, lab_store

POINTS = (("lab-b", "rot"), ("lab-a", "spell"), ("lab-c", "spell"), ("lab-c", "rot"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    lab_store(root, objectives=("base", "nll", "p", "logp_above"), points=POINTS, questions=50)
    return root


def with_scores(builder: StoreBuilder, one: Cell, sampled: list[list[int]]) -> None:
    """The cell's jobs done, its evaluation with these samples per question."""
    rows: list[dict[str, Any]] = [{"question": f"q{i}", "sampled": s, "greedy": [1]} for i, s in enumerate(sampled)]
    for job in one.jobs():
        builder.spec(job)
    if one.prior.id not in builder.written:
        builder._prior(one.prior, one)
    builder.written |= {one.prior.id}
    builder.score(one.evaluate, rows)


def test_a_gain_is_the_mean_difference_by_question(store: Path) -> None:
    results = load(store)
    table = gains(results)
    assert set(table["objective"]) == {"p", "logp_above"}
    row = table.query("point == 'lab-a · spell' and objective == 'p' and decoding == 'sampled'").iloc[0]
    scored = means(results).set_index(["point", "objective", "decoding"])["mean"]
    expected = scored["lab-a · spell", "p", "sampled"] - scored["lab-a · spell", "nll", "sampled"]
    assert row["gain"] == pytest.approx(expected)
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    assert (row["n"], row["samples"], row["seeds"]) == (50, 8, 1)


def test_points_are_placed_by_the_prior_that_was_asked_for(store: Path) -> None:
    results = load(store)
    clean, trained = (
        gains(results, prior).drop_duplicates("point").set_index("point") for prior in ("clean", "as_trained")
    )
    assert clean.loc["lab-b · rot", "prior"] == pytest.approx(0.998, abs=0.01)
    assert trained.loc["lab-b · rot", "prior"] < 0.9
    assert clean["prior"].is_monotonic_decreasing


def test_only_questions_that_both_were_asked_are_paired(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    nll, p = (cell("lab-a", "spell", name) for name in ("nll", "p"))
    with_scores(builder, nll, [[0], [0], [0], [1]])
    with_scores(builder, p, [[1], [1]])
    builder.launch([(nll, []), (p, [])])
    row = gains(load(tmp_path)).query("decoding == 'sampled'").iloc[0]
    assert (row["n"], row["gain"]) == (2, 1.0)


def test_seeds_are_averaged_within_a_question_and_n_stays_the_questions(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    cells = [cell("lab-a", "spell", name, seed=seed) for name in ("nll", "p") for seed in (0, 1)]
    for one, scores in zip(cells, ([[0], [0]], [[0], [1]], [[1], [1]], [[1], [0]]), strict=True):
        with_scores(builder, one, scores)
    builder.launch([(one, []) for one in cells])
    results = load(tmp_path)
    row = gains(results).query("decoding == 'sampled'").iloc[0]
    assert (row["n"], row["seeds"], row["gain"]) == (2, 2, 0.5)
    assert row["seed_sd"] == pytest.approx(np.std([1.0, 0.0], ddof=1))
    mean = means(results).query("objective == 'nll' and decoding == 'sampled'").iloc[0]
    assert (mean["mean"], mean["n"], mean["seeds"]) == (0.25, 2, 2)


def test_the_interval_over_seeds_and_questions_holds_that_over_questions_and_is_unknown_for_one_seed(
    tmp_path: Path, store: Path
) -> None:
    for table, stem in ((means(load(store)), ""), (gains(load(store)), "gain_")):
        assert table[[f"{stem}seeds_low", f"{stem}seeds_high"]].isna().all(axis=None)
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], seeds=(0, 1, 2), questions=30)
    for table, low, high, stem in (
        (means(load(tmp_path)), "low", "high", ""),
        (gains(load(tmp_path)), "gain_low", "gain_high", "gain_"),
    ):
        row = table.query("decoding == 'sampled'").iloc[0]
        assert row["seeds"] == 3
        assert row[f"{stem}seeds_low"] < row[low] < row[high] < row[f"{stem}seeds_high"]


def test_gains_tell_their_p_value_adjusted_over_the_decoding_and_what_could_be_detected(store: Path) -> None:
    table = gains(load(store))
    assert ((table["p_value"] < 0.05) == ((table["gain_low"] > 0) | (table["gain_high"] < 0))).all()
    for _, rows in table.groupby("decoding"):
        assert rows["p_holm"].min() == pytest.approx(min(1, len(rows) * rows["p_value"].min()))
        assert (rows["p_bh"] <= rows["p_holm"]).all()
    assert (table["significant_holm"] == (table["p_holm"] < 0.05)).all()
    assert table["significant_holm"].any() and not table["significant_holm"].all()
    width = table["gain_high"] - table["gain_low"]
    assert table["mdd"].tolist() == pytest.approx((width / 2 * 2.8016 / 1.96).tolist(), rel=1e-3)


def test_a_point_has_the_papers_region_only_in_the_papers_domains(store: Path, tmp_path: Path) -> None:
    assert set(gains(load(store))["region_paper"]) == {""}
    builder = StoreBuilder(tmp_path)
    one = cell("lab-a", "spell", "nll")
    domain = dataclasses.replace(one.domain, name="math")
    benchmark = dataclasses.replace(one.benchmark, domain="math")
    named = dataclasses.replace(one, domain=domain, benchmark=benchmark)
    builder.launch([(named, [])])
    assert means(load(tmp_path))["region_paper"].tolist() == ["MS"]


def test_only_seeds_of_both_sides_are_compared(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    cells = [cell("lab-a", "spell", "nll"), cell("lab-a", "spell", "p"), cell("lab-a", "spell", "p", seed=1)]
    for one, scores in zip(cells, ([[0]], [[0]], [[1]]), strict=True):
        with_scores(builder, one, scores)
    builder.launch([(one, []) for one in cells])
    row = gains(load(tmp_path)).query("decoding == 'sampled'").iloc[0]
    assert (row["seeds"], row["gain"]) == (1, 0.0)


def _with_priors(results: Results, by_seed: dict[int, float]) -> Results:
    """As if the backbone of each seed had been pretrained with it."""
    cells = results.cells
    prior = cells["seed"].map(by_seed)
    ends = {"prior_clean_low": prior - 0.01, "prior_clean_high": prior + 0.01}
    cells = cells.assign(prior=[f"prior-{seed}" for seed in cells["seed"]], prior_clean=prior, **ends)
    return dataclasses.replace(results, cells=cells)


def test_the_prior_strength_of_seeds_with_their_own_backbones_has_their_scatter_in_its_interval(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], seeds=(0, 1, 2), questions=10)
    results = _with_priors(load(tmp_path), {0: 0.3, 1: 0.4, 2: 0.5})
    for table in (means(results), gains(results)):
        assert table["prior"].tolist() == pytest.approx([0.4] * len(table))
        half = 4.302653 * 0.1 / np.sqrt(3)  # Student's t with two degrees of freedom
        assert table["prior_high"].tolist() == pytest.approx([0.4 + np.hypot(half, 0.01)] * len(table), abs=1e-4)
        assert table["prior_low"].tolist() == pytest.approx([0.4 - np.hypot(half, 0.01)] * len(table), abs=1e-4)
    alike = gains(_with_priors(results, {0: 0.4, 1: 0.4, 2: 0.4}))
    assert alike["prior_high"].tolist() == pytest.approx([0.41] * len(alike))


def test_a_gain_is_placed_by_the_seeds_that_it_compares(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    cells = [cell("lab-a", "spell", "nll"), cell("lab-a", "spell", "nll", seed=1)]
    cells += [cell("lab-a", "spell", "p"), cell("lab-a", "spell", "p", seed=1)]
    for one in cells[:3]:
        with_scores(builder, one, [[1], [0]])
    builder.launch([(one, []) for one in cells])
    results = _with_priors(load(tmp_path), {0: 0.3, 1: 0.5})
    row = gains(results).query("decoding == 'sampled'").iloc[0]
    assert (row["seeds"], row["prior"]) == (1, 0.3)


def test_over_several_seeds_p_values_and_claims_go_by_the_interval_over_seeds(tmp_path: Path) -> None:
    """Every question says the same within a seed, but the seeds contradict each other."""
    builder = StoreBuilder(tmp_path)
    cells = [cell("lab-a", "spell", name, seed=seed) for name in ("nll", "p") for seed in (0, 1, 2)]
    for one in cells:
        better = one.objective.name == "p" and one.seed != 1
        with_scores(builder, one, [[1 if better else 0] * 4 for _ in range(40)])
    builder.launch([(one, []) for one in cells])
    results = load(tmp_path)
    row = gains(results).query("decoding == 'sampled'").iloc[0]
    assert row["gain"] == pytest.approx(2 / 3) and row["gain_low"] > 0 > row["gain_seeds_low"]
    assert row["p_value"] > 0.05 and not row["significant_holm"]
    assert row["mdd"] > 1
    table = gains(results).assign(prior=0.99)
    strong = next(claim for claim in judge(table) if claim.name == "strong end")
    assert not strong.rows.query("objective == 'p'")["counts"].any()
    best = leaders(results, by_place(means(results), results.cells))
    assert not any(leader.decided for key, leader in best.items() if key[3] == "sampled")
    grid = gains_grid(with_averages(gains(results), results))
    at = grid.heads.index("gain [95 %]")
    assert [line[at][1] for line in grid.lines if line[4][0] == "sampled"] == [False]


def test_bold_in_tables_is_what_is_starred_in_figures(store: Path) -> None:
    """The best by its difference from every other objective, not from the second alone."""
    results = load(store)
    trained = dataclasses.replace(results, cells=results.cells[results.cells["objective"] != "base"])
    table = means(trained)
    starred = {
        (*key[:2], key[3], leader.top)
        for key, leader in leaders(trained, by_place(table, trained.cells)).items()
        if leader.decided
    }
    bold = {(key[0], key[1], key[5], key[4]) for key in best_keys(table, trained)}
    assert bold == {one for one in starred if one[2] != PRIMARY} and bold
    assert len(bold) < len(table.drop_duplicates(["point", "decoding"]))


@given(
    mean=st.floats(0.001, 0.9),
    questions=st.floats(0.001, 0.5),
    spread=st.floats(0.001, 0.5),
    runs=st.integers(2, 12),
    sign=st.sampled_from([1, -1]),
)
def test_the_p_value_over_seeds_is_below_5_percent_where_the_interval_excludes_zero(
    mean: float, questions: float, spread: float, runs: int, sign: int
) -> None:
    half = float(np.hypot(questions, spread))
    p = p_over_seeds(Interval(sign * mean, sign * mean - questions, sign * mean + questions, 9),
                     (sign * mean - half, sign * mean + half), runs)  # fmt: skip
    assert 0 <= p <= 1
    if abs(mean - half) > 1e-4 * half:
        assert (p < 0.05) == (mean > half)


def test_the_p_value_over_seeds_is_that_of_students_t_where_seeds_are_all() -> None:
    """t = 3 with two degrees of freedom: .0955 (tables of Student's t)."""
    tiny = 1e-9
    half = 4.302653 / 3
    assert p_over_seeds(Interval(1.0, 1 - tiny, 1 + tiny, 9), (1 - half, 1 + half), 3) == pytest.approx(
        0.0955, abs=2e-4
    )


def test_the_base_model_counts_once_however_many_seeds_name_it(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("base",), points=POINTS[:1], seeds=(0, 1, 2), questions=10)
    row = means(load(tmp_path)).query("decoding == 'sampled'").iloc[0]
    assert (row["seeds"], row["samples"]) == (1, 8)


def test_without_the_reference_a_gain_is_not_known(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("p",), points=POINTS[:1], questions=10)
    table = gains(load(tmp_path))
    assert table["n"].tolist() == [0, 0]
    assert table["gain"].isna().all()


@pytest.mark.parametrize("named", [True, False])
def test_the_reference_is_nll_under_whatever_name_and_is_not_compared_with_itself(tmp_path: Path, named: bool) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    zero = cell("lab-a", "spell", Objective(name="power-0", family="power", alpha=0.0), questions=10)
    nll, p = (cell("lab-a", "spell", name, questions=10) for name in ("nll", "p"))
    cells = [zero, p, *([nll] if named else [])]
    for one in cells:
        builder.finish(one)
    builder.launch([(one, []) for one in cells])
    table = gains(load(tmp_path))
    assert table["objective"].tolist() == ["p", "p"]
    assert table["n"].tolist() == [10, 10]


def test_claims_hold_on_a_store_that_shows_them_and_greedy_is_told_beside(store: Path) -> None:
    strong, weak = check(load(store))
    assert strong.verdict == "holds (at 2 of 2 points, 2 are needed)"
    assert weak.verdict == "not decided (at 1 of 1 points, 2 are needed)"
    assert len(strong.rows) == 4  # two points above .98, two objectives
    assert strong.count() == (4, 4)
    assert strong.count("greedy_")[0] < 4
    assert "effect of sampling" in reading(strong)
    assert weak.rows["point"].tolist() == ["lab-c · rot"]
    assert (weak.rows["gain"] > 0).all()
    text = claims_text([strong, weak])
    assert text.count("verdict: holds") == 1
    assert "greedy" in text


def test_a_claim_that_the_records_deny_does_not_hold(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    cells = [cell("lab-b", "rot", name) for name in ("nll", "p", "logp_above")]
    for one, right in zip(cells, (1, 1, 0), strict=True):
        with_scores(builder, one, [[right]] * 40)
    builder.launch([(one, []) for one in cells])
    strong, weak = check(load(tmp_path))
    assert strong.verdict == "does not hold (at 0 of 1 points, 2 are needed)"
    assert strong.count() == (0, 2)
    assert weak.verdict.startswith("not decided")


def test_a_claim_holds_at_two_points_and_names_the_one_where_it_does_not(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=50)
    cells = lab_cells(objectives=("nll", "p", "logp_above"), points=POINTS[:2], questions=50)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    strong = check(load(tmp_path))[0]
    worse = strong.rows.assign(point="odd", backbone="odd", task="odd", counts=False)
    both = dataclasses.replace(strong, rows=pd.concat([strong.rows, worse]))
    assert both.verdict == "holds (at 2 of 3 points, 2 are needed; not at odd)"


def test_a_claim_does_not_hold_on_an_objective_that_was_never_run(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:2], questions=50)
    strong = check(load(tmp_path))[0]
    assert strong.rows["comparison"].tolist() == ["p - nll", "logp_above - nll"] * 2
    assert strong.rows["n"].tolist() == [50, 0, 50, 0]
    assert strong.verdict == "not decided (2 of 4 comparisons missing)"
    assert "missing" in claims_text([strong])


def test_variants_of_one_point_are_one_point_and_all_must_count(tmp_path: Path) -> None:
    noises = (Noise(kind="uniform", rate=0.2), Noise(kind="uniform", rate=0.4))
    lab_store(tmp_path, objectives=("nll", "p", "logp_above"), points=POINTS[:1], noises=noises, questions=50)
    strong = check(load(tmp_path))[0]
    assert len(strong.rows) == 4
    assert strong.rows["counts"].all()
    assert strong.verdict == "not decided (at 1 of 1 points, 2 are needed)"
    denied = strong.rows.assign(counts=strong.rows["variant"] != strong.rows["variant"].iloc[0])
    assert dataclasses.replace(strong, rows=denied).verdict == "does not hold (at 0 of 1 points, 2 are needed)"


def test_claims_are_judged_by_temperature_whatever_the_decodings_are_called(store: Path) -> None:
    table = gains(load(store))
    names = {"sampled": "greedy", "greedy": "hot"}  # as unhelpful as names can be
    table = table.assign(decoding=table["decoding"].map(names))
    table.loc[table["temperature"] > 0, "temperature"] = 0.7
    strong = judge(table)[0]
    assert strong.verdict.startswith("holds")
    assert sampled(strong) == "T=0.7"
    assert "T=1" not in claims_text([strong])


def test_a_claim_with_a_missing_comparison_is_not_decided(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=50)
    cells = lab_cells(objectives=("nll", "p", "logp_above"), points=POINTS[:1], questions=50)
    for one, _ in cells[:-1]:
        builder.finish(one)
    builder.launch(cells)
    strong, _ = check(load(tmp_path))
    assert strong.verdict == "not decided (1 of 2 comparisons missing)"
    assert "missing" in claims_text([strong])


def test_the_command_prints_claims_and_exits_with_zero_whatever_they_say(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(store), "--claims"]) == 0
    assert "verdict: holds" in capsys.readouterr().out


def test_the_command_exits_with_two_for_a_usage_error(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(store)]) == 2
    assert main(["--source", str(store), "--claims", "--sweep", "lob"]) == 2
    assert "did you mean 'lab'" in capsys.readouterr().err


def test_claims_load_neither_plotting_nor_torch_nor_hydra(store: Path) -> None:
    code = (
        "import sys; from analysis.__main__ import main; main(['--source', sys.argv[1], '--claims']);"
        "print([m for m in ('matplotlib', 'altair', 'torch', 'hydra', 'lm_eval', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.slow
def test_any_objective_can_be_the_reference(store: Path, bll: Bll) -> None:
    """What one has over the other is what the other lacks."""
    env = {"BLL_RUNS": str(store)}
    tables = {}
    for reference in ("p", "logp_above"):
        done = bll("results", "--reference", reference, "--csv", env=env)
        assert done.returncode == 0, done.stderr
        tables[reference] = pd.read_csv(io.StringIO(done.stdout)).set_index(["point", "objective", "decoding"])
    assert set(tables["p"].index.get_level_values("objective")) == {"nll", "logp_above"}
    ours = tables["p"]["gain"].xs("logp_above", level="objective")
    theirs = tables["logp_above"]["gain"].xs("p", level="objective")
    assert len(ours) == 2 * len(POINTS) and ours.abs().max() > 0.05
    pd.testing.assert_series_equal(ours, -theirs)
    text = bll("results", "--reference", "p", env=env).stdout
    assert "Gain over p: difference of mean scores" in text and "| lab-a · spell |" in text
    for wrong in (["--reference", "p", "--view", "14"], ["--claims", "--csv"], ["--claims", "--view", "14"]):
        done = bll("results", *wrong, env=env)
        assert done.returncode == 2 and "has no meaning with --" in done.stderr
    done = bll("results", "--reference", "logp_abov", env=env)
    assert done.returncode == 2
    assert "--reference='logp_abov' is unknown; did you mean 'logp_above'?" in done.stderr
