"""Several benchmarks of a domain: told apart, paired within themselves, averaged with an interval, in two views."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.figures.all import drawings, write_figures
from analysis.sources.table import load
from analysis.statistics.benchmarks import PRIMARY, averages, by_place, combined, in_view
from analysis.statistics.claims import check
from analysis.statistics.continuum import gains, means
from analysis.statistics.intervals import Interval
from analysis.tables.results import results_csv, results_text
from bll_sweeps.grid.axes import Decoding
from bll_sweeps.grid.cell import Cell
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import write_json, write_jsonl
from tests.analysis_store import StoreBuilder, cell

PAIR = ("math500", "aime24")
MEDICAL = ("medmcqa", "lancet", "nejm", "medbullets_op4", "medbullets_op5")
Scores = list[list[int]]


def at(benchmark: str, objective: str = "nll", **changes: Any) -> Cell:
    """A cell of the domain `spell`, evaluated on another benchmark."""
    one = cell("lab-a", "spell", objective)
    number = (*PAIR, *MEDICAL).index(benchmark)  # an evaluation's name is not in its id
    return replace(one, benchmark=replace(one.benchmark, name=benchmark, max_new_tokens=16 + number, **changes))


def scored(builder: StoreBuilder, one: Cell, sampled: Scores, prefix: str = "q") -> None:
    """The cell's jobs done, its evaluation with these samples per question."""
    for job in one.jobs():
        builder.spec(job)
    if one.prior.id not in builder.written:
        builder.written.add(one.prior.id)
        builder._prior(one.prior, one)
    rows = [{"question": f"{prefix}{i}", "sampled": s, "greedy": [s[0]]} for i, s in enumerate(sampled)]
    builder.score(one.evaluate, rows)


def store(root: Path, cells: dict[tuple[str, str], Scores | None], overrides: tuple[str, ...] = ()) -> Path:
    """A sweep of (benchmark, objective) with their scores; None: the cell never ran."""
    builder = StoreBuilder(root)
    made = [(at(*names), scores) for names, scores in cells.items()]
    for one, scores in made:
        if scores is not None:
            scored(builder, one, scores, one.benchmark.name)
    builder.launch([(one, list(overrides)) for one, _ in made])
    return root


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two benchmarks of one domain: p gains .5 over NLL on the first (4 questions) and -.5 on the second (2)."""
    return store(
        tmp_path / "runs",
        {
            ("math500", "nll"): [[1], [0], [0], [0]],
            ("aime24", "nll"): [[1], [1]],
            ("math500", "p"): [[1], [1], [1], [0]],
            ("aime24", "p"): [[1], [0]],
        },
    )


def part(mean: float, low: float, high: float, n: int = 10) -> Interval:
    return Interval(mean, low, high, n)


# --- the average ----------------------------------------------------------------------------------------------------


def test_the_interval_of_an_average_is_that_of_independent_estimates() -> None:
    found = combined([("math500", part(0.5, 0.4, 0.7)), ("aime24", part(0.1, 0.0, 0.4, 5))])
    assert found.mean == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - math.sqrt(0.05**2 + 0.05**2))
    assert found.high == pytest.approx(0.3 + math.sqrt(0.1**2 + 0.15**2))
    assert found.n == 15


def test_an_average_of_one_is_its_own_interval() -> None:
    found = combined([("math500", part(0.5, 0.4, 0.7))])
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.5, 0.4, 0.7, 10))


def test_benchmarks_with_the_same_questions_are_no_two_witnesses() -> None:
    one = part(0.5, 0.4, 0.6)
    together = combined([("medbullets_op4", one), ("medbullets_op5", one)])
    apart = combined([("lancet", one), ("nejm", one)])
    assert (together.low, together.high) == pytest.approx((0.4, 0.6))
    assert apart.high == pytest.approx(0.5 + 0.1 / math.sqrt(2))
    assert (together.n, apart.n) == (10, 20)


def test_the_14_view_gives_a_column_of_two_the_weight_of_one() -> None:
    values = dict(zip(MEDICAL, (0.9, 0.2, 0.4, 0.5, 0.7), strict=True))
    parts = [(name, part(value, value, value)) for name, value in values.items()]
    assert combined(parts).mean == pytest.approx((0.9 + 0.2 + 0.4 + 0.5 + 0.7) / 5)
    assert combined(parts, view=14).mean == pytest.approx((0.9 + 0.3 + 0.6) / 3)


def test_averages_are_of_the_benchmarks_means_whatever_their_questions(two: Path) -> None:
    rows = averages(load(two).cells).set_index(["objective", "decoding"])
    assert len(rows) == 4
    nll = rows.loc[("nll", "sampled")]
    assert nll["mean"] == pytest.approx((0.25 + 1) / 2)
    assert (nll["questions"], nll["columns"], nll["lacking"], nll["state"]) == (6, 2, "", "done")
    parts = load(two).cells.query("objective == 'nll' and decoding == 'sampled'")
    below = math.hypot(*(parts["mean"] - parts["low"])) / 2
    assert nll["low"] == pytest.approx(nll["mean"] - below)


def test_a_missing_benchmark_leaves_the_average_open_and_is_counted(tmp_path: Path) -> None:
    root = store(
        tmp_path, {("math500", "nll"): [[1]], ("aime24", "nll"): [[1]], ("math500", "p"): [[1]], ("aime24", "p"): None}
    )
    rows = averages(load(root).cells).query("decoding == 'sampled'").set_index("objective")
    assert rows["lacking"].to_dict() == {"nll": "", "p": "aime24"}
    assert math.isnan(rows.loc["p", "mean"])
    text = results_text(load(root))
    assert "- (1 missing)" in text
    assert "lab-a · aime24 p seed=0: " in text


def test_a_benchmark_that_only_another_objective_has_is_missing_too(tmp_path: Path) -> None:
    root = store(tmp_path, {("math500", "nll"): [[1]], ("aime24", "nll"): [[1]], ("math500", "p"): [[1]]})
    rows = averages(load(root).cells).query("decoding == 'sampled'").set_index("objective")
    assert rows.loc["p", "lacking"] == "aime24"


def test_a_domain_with_one_benchmark_has_no_average(tmp_path: Path) -> None:
    results = load(store(tmp_path, {("math500", "nll"): [[1], [0]], ("math500", "p"): [[1], [1]]}))
    assert averages(results.cells).empty
    assert "average" not in results_text(results)
    table = gains(results)
    assert by_place(table, results.cells)[table.columns].equals(table)


# --- pairs and the continuum ----------------------------------------------------------------------------------------


def test_gains_are_paired_within_a_benchmark(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    cells = [at("math500", "nll"), at("aime24", "nll"), at("math500", "p"), at("aime24", "p")]
    for one, scores in zip(cells, ([[1], [0]], [[1], [1]], [[1], [1]], [[0], [1]]), strict=True):
        scored(builder, one, scores, "the same question ")
    builder.launch([(one, []) for one in cells])
    table = gains(load(tmp_path)).query("decoding == 'sampled'").set_index("benchmark")
    assert table["gain"].to_dict() == {"math500": 0.5, "aime24": -0.5}
    assert table["n"].to_dict() == {"math500": 2, "aime24": 2}


def test_a_place_has_the_mean_of_its_benchmarks_gains(two: Path) -> None:
    results = load(two)
    table = gains(results)
    (row,) = by_place(table, results.cells).query("decoding == 'sampled'").to_dict("records")
    parts = table.query("decoding == 'sampled'")
    assert row["gain"] == pytest.approx(0.0)
    assert row["gain_high"] == pytest.approx(math.hypot(*(parts["gain_high"] - parts["gain"])) / 2)
    assert (row["point"], row["label"]) == ("lab-a · spell", "lab-a · spell (average of 2)")
    assert (row["n"], row["columns"]) == (6, 2)


@pytest.mark.slow
def test_a_place_without_all_its_benchmarks_is_not_drawn_and_the_report_says_so(tmp_path: Path) -> None:
    scores: dict[tuple[str, str], Scores | None] = {(b, o): [[1], [0]] for o in ("nll", "p") for b in PAIR}
    root = store(tmp_path / "runs", scores | {("aime24", "p"): None})
    assert main(["--source", str(root), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not drawn, for want of benchmarks: lab-a · spell p (aime24)" in page
    names = {path.name for path in (tmp_path / "out").rglob("*.png")}
    assert "heatmap-sampled-spell.png" in names
    assert not [name for name in names if name.startswith("continuum")]
    assert (tmp_path / "out" / "average_means.csv").exists()


@pytest.mark.slow
def test_the_report_has_averages_and_single_benchmarks(two: Path, tmp_path: Path) -> None:
    assert main(["--source", str(two), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("lab-a · spell (average of 2)", "lab-a · math500", "lab-a · aime24", "4 of 4 cells have scores"):
        assert text in page
    assert "spell (2)" in page
    assert {path.name for path in (tmp_path / "out" / "figures").glob("continuum-*.png")} == {
        "continuum-sampled.png",
        "continuum-greedy.png",
    }


@pytest.mark.slow
def test_bars_have_the_interval_over_seeds_of_an_average_whose_parts_share_them(tmp_path: Path) -> None:
    """The same runs answer both benchmarks: what seeds add does not average out between them."""
    builder = StoreBuilder(tmp_path)
    cells = [replace(at(name, o), seed=seed) for name in PAIR for o in ("nll", "p") for seed in (0, 1, 2)]
    for one in cells:
        right = 3 if one.seed == 1 else 2
        scored(builder, one, [[1] * right + [0] * (4 - right)] * 40, prefix=one.benchmark.name)
    builder.launch([(one, []) for one in cells])
    results = load(tmp_path)
    table = means(results)
    whole = by_place(table, results.cells).query("decoding == 'sampled'").iloc[0]
    drawn = {drawing.name: drawing.draw for drawing in drawings(results, table, gains(results))}
    bars = drawn["bars-sampled"]
    assert isinstance(bars, partial)
    row = bars.args[0].query("objective == @whole.objective").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((whole["seeds_low"], whole["seeds_high"]))
    assert 0 < row["low"] < whole["low"] and whole["high"] < row["high"] < 1


@pytest.mark.slow
def test_benchmarks_with_other_decodings_meet_in_one_continuum(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "runs", questions=10)
    greedy = {"decodings": {"greedy": Decoding(temperature=0.0)}, "primary": "greedy"}
    cells = []
    for objective in ("nll", "p"):
        other = cell("lab-c", "rot", objective, questions=10)
        cells += [at("math500", objective), replace(other, benchmark=replace(other.benchmark, **greedy))]
    for one in cells:
        builder.finish(one)
    builder.launch([(one, []) for one in cells])
    results = load(tmp_path / "runs")
    placed = by_place(gains(results), results.cells).query("decoding == @PRIMARY")
    assert placed["domain"].tolist() == ["spell", "rot"]
    assert placed["temperature"].tolist() == [1.0, 0.0]
    pngs = write_figures(results, means(results), gains(results), tmp_path / "figures").drawn
    assert [path.stem for path in pngs][:3] == [f"continuum-{name}" for name in (PRIMARY, "sampled", "greedy")]


def test_claims_name_the_benchmark_and_count_a_task_once(two: Path) -> None:
    strong, _ = check(load(two))
    assert strong.rows["point"].tolist() == ["lab-a · math500"] * 2 + ["lab-a · aime24"] * 2
    assert strong.verdict == "not decided (2 of 4 comparisons missing)"


# --- what the tables show -------------------------------------------------------------------------------------------


def test_the_terminal_table_names_the_benchmark_and_averages(two: Path) -> None:
    text = results_text(load(two))
    assert text.splitlines()[0].endswith("4 of 4 cells have scores")
    line = next(line for line in text.splitlines() if "aime24" in line and " p " in line and "sampled" in line)
    assert line.startswith("lab-a · spell  aime24")
    average = next(line for line in text.splitlines() if "2 benchmarks" in line and " p " in line)
    assert ".625 [" in average


def test_the_14_view_merges_two_benchmarks_into_a_column(tmp_path: Path) -> None:
    rights = dict(zip(MEDICAL, (4, 1, 3, 2, 4), strict=True))
    cells: dict[tuple[str, str], Scores | None] = {
        (name, "nll"): [[int(i < right)] for i in range(4)] for name, right in rights.items()
    }
    results = load(store(tmp_path, cells))
    rows = in_view(results.cells, 14).query("decoding == 'sampled'").set_index("benchmark")
    assert rows["mean"].to_dict() == {"medmcqa": 1.0, "lancet_nejm": 0.5, "medbullets": 0.75}
    assert rows["questions"].to_dict() == {"medmcqa": 4, "lancet_nejm": 8, "medbullets": 4}  # two sets, one twice
    assert rows.loc["medbullets", "label"] == "lab-a · medbullets"
    assert in_view(results.cells, 16) is results.cells
    text = results_text(results, view=14)
    assert "lancet_nejm" in text
    assert "medbullets_op4" not in text
    assert "3 columns" in text
    assert ".750 [" in text  # (1 + .5 + .75) / 3
    assert ".700 [" in results_text(results)  # (4 + 1 + 3 + 2 + 4) / 20
    assert len(results_csv(results, view=14).splitlines()) == 1 + 3 * 2


def test_a_question_that_two_benchmarks_ask_is_counted_once(tmp_path: Path) -> None:
    cells: dict[tuple[str, str], Scores | None] = {(name, "nll"): [[1], [0], [1]] for name in MEDICAL}
    root = store(tmp_path, cells)
    for name in MEDICAL:
        record = Layout(root).job(at(name).evaluate.id).attempt(1).record
        edit(record, lambda data: data["result"].update(seen_in_training=2))
    results = load(root)
    rows = in_view(results.cells, 14).query("decoding == 'sampled'").set_index("benchmark")
    assert rows["questions"].to_dict() == {"medmcqa": 3, "lancet_nejm": 6, "medbullets": 3}
    assert rows["seen_in_training"].to_dict() == {"medmcqa": 2, "lancet_nejm": 4, "medbullets": 2}
    assert rows["generations"].to_dict() == {"medmcqa": 6, "lancet_nejm": 12, "medbullets": 12}
    for view in (16, 14):
        assert set(averages(results.cells, view=view)["questions"]) == {12}
        assert set(averages(means(results), view=view)["n"]) == {12}


def test_a_column_by_two_engines_names_both(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    for name, engine in (("lancet", "vllm 0.11.0"), ("nejm", "hf")):
        builder.engine = engine
        scored(builder, at(name), [[1]])
    builder.launch([(at(name), []) for name in ("lancet", "nejm")])
    results = load(tmp_path)
    assert set(in_view(results.cells, 14)["engine"]) == {"vllm 0.11.0; hf"}
    assert set(averages(results.cells)["engine"]) == {""}


def test_a_column_of_two_with_one_missing_is_missing(tmp_path: Path) -> None:
    results = load(store(tmp_path, {("lancet", "nll"): [[1]], ("nejm", "nll"): None}))
    (row,) = in_view(results.cells, 14).query("decoding == 'sampled'").to_dict("records")
    assert (row["state"], row["questions"]) == ("missing", 0)
    assert "is not done" in row["why"]
    assert math.isnan(row["mean"])


def test_a_benchmark_whose_counterpart_is_not_in_the_sweep_stays_itself(tmp_path: Path) -> None:
    results = load(store(tmp_path, {("lancet", "nll"): [[1]], ("math500", "nll"): [[1]]}))
    assert set(in_view(results.cells, 14)["benchmark"]) == {"lancet", "math500"}


# --- overrides that all cells share ---------------------------------------------------------------------------------

SHARED = ("backbone.source=random", "recipe.batch_size=8", "domain.noise.kind=uniform", "domain.noise.rate=0.2")


@pytest.mark.slow
def test_overrides_of_all_cells_are_told_once_and_label_noise_stays(two: Path, tmp_path: Path) -> None:
    scores: dict[tuple[str, str], Scores | None] = {(b, "nll"): [[1]] for b in PAIR}
    root = store(tmp_path / "shared", scores, SHARED)
    results = load(root)
    assert set(results.cells["variant"]) == {"noise uniform 0.2"}
    assert results.shared == ["backbone.source=random", "recipe.batch_size=8"]
    text = results_text(results)
    assert text.count("backbone.source=random") == 1
    assert "all cells: backbone.source=random, recipe.batch_size=8" in text
    assert main(["--source", str(root), "--out", str(tmp_path / "out")]) == 0
    provenance = (tmp_path / "out" / "report.html").read_text().partition("<section id=provenance>")[2]
    assert "All cells: backbone.source=random, recipe.batch_size=8." in provenance
    assert load(two).shared == []


def test_what_some_cells_override_stays_in_their_variant(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    builder.launch(
        [(at("math500"), ["recipe.steps=9", "recipe.batch_size=8"]), (at("aime24"), ["recipe.batch_size=8"])]
    )
    assert load(tmp_path).cells["variant"].tolist() == ["recipe.steps=9", ""]


def test_a_single_cells_overrides_are_its_variant(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch([(at("math500"), ["recipe.batch_size=8"])])
    results = load(tmp_path)
    assert (results.cells["variant"].tolist(), results.shared) == (["recipe.batch_size=8"], [])


# --- other metrics and graders --------------------------------------------------------------------------------------

TOLD = {"no_answer": 0.25, "length_limited": 0.125, "majority": 0.5, "pass_at": {"2": 0.75, "16": 0.9},
        "kinds": {"boxed": 0.75, "none": 0.25}}  # fmt: skip


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    """An evaluation by two graders that disagree on 3 of its 8 generations, one of another benchmark by one grader."""
    root = store(tmp_path, {("math500", "nll"): [[1, 0], [0, 0], [1, 1], [1, 0]], ("aime24", "nll"): [[1]]})
    job = at("math500").evaluate
    attempt = Layout(root).job(job.id).attempt(1)
    rows = [{"question": f"math500{i}", "sampled": [1, 1], "greedy": [1]} for i in range(4)]
    write_jsonl(attempt.output("scores.other-v1.jsonl"), rows)
    other = {
        "sampled": {"mean": 1.0, "questions": 4, "samples": 2, "no_answer": 0.0, "kinds": {"number": 1.0}},
        "greedy": {"mean": 1.0, "questions": 4, "samples": 1},
    }

    def change(record: dict[str, Any]) -> None:
        record["result"]["metrics"]["sampled"] |= TOLD
        record["result"] |= {
            "graders": {"other-v1": other, "exact-v1": record["result"]["metrics"]},
            "disagreements": 3,
        }
        data = attempt.output("scores.other-v1.jsonl")
        record["outputs"]["scores.other-v1.jsonl"] = digest_of(data)

    edit(attempt.record, change)
    return root


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    change(record)
    write_json(path, record)


def digest_of(path: Path) -> dict[str, Any]:
    from bll_sweeps.store.records import file_sha256

    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def test_the_csv_has_the_other_metrics_and_a_row_per_grader(graded: Path) -> None:
    results = load(graded)
    assert results.problems == []
    table = pd.read_csv(io.StringIO(results_csv(results))).query("decoding == 'sampled' and benchmark == 'math500'")
    assert table["grader"].tolist() == ["exact-v1", "other-v1"]
    assert table["primary_grader"].tolist() == [True, False]
    assert table["mean"].tolist() == [0.5, 1.0]
    first, second = table.to_dict("records")
    keys = ("no_answer", "length_limited", "majority", "pass_at_2", "pass_at_16", "kind_boxed", "kind_none")
    assert [first[key] for key in keys] == [0.25, 0.125, 0.5, 0.75, 0.9, 0.75, 0.25]
    assert (first["disagreements"], first["generations"], second["kind_number"]) == (3, 12, 1.0)
    columns = list(table.columns)
    assert columns.index("pass_at_2") < columns.index("pass_at_16") < columns.index("kind_boxed")


def test_the_tables_rest_on_the_primary_grader_alone(graded: Path) -> None:
    results = load(graded)
    assert set(results.cells["grader"]) == {"exact-v1"}
    assert results.cells["primary_grader"].all()
    assert means(results).query("benchmark == 'math500' and decoding == 'sampled'")["mean"].tolist() == [0.5]


def test_a_launch_that_names_another_grader_is_scored_by_it_in_means_and_pairs(graded: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["cells"][0]["graders"] = ["other", "exact"]

    edit(Layout(graded).sweep("lab").manifest(1), change)
    results = load(graded)
    row = results.cells.query("benchmark == 'math500' and decoding == 'sampled'").iloc[0]
    assert (row["grader"], row["mean"]) == ("other-v1", 1.0)
    assert means(results).query("benchmark == 'math500' and decoding == 'sampled'")["mean"].tolist() == [1.0]
    assert results.other_graders["grader"].unique().tolist() == ["exact-v1"]


def test_missing_answers_and_disagreeing_graders_are_warned_of_with_their_numbers(graded: Path) -> None:
    warnings = load(graded).warnings
    assert (
        "no answer was found in more than 10 % of the generations: "
        "math500 sampled (1 of 1 evaluations, up to 25 % of 8, by lab-a nll)"
    ) in warnings
    assert (
        "graders disagree on more than 2 % of the generations: "
        "math500 (1 of 1 evaluations, up to 25 % of 12, by lab-a nll)"
    ) in warnings
    assert "warning: graders disagree" in results_text(load(graded))


def test_a_whole_share_is_a_hundred_percent(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, length_limited=1.0)
    scored(builder, at("math500"), [[1]])
    builder.launch([(at("math500"), [])])
    assert load(tmp_path).warnings == ["generations ran into max_new_tokens: lab-a · math500 sampled (up to 100 %)"]
