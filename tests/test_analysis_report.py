"""The report: one file that loads nothing, shows everything with its n, and escapes what records say."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.__main__ import main
from analysis.report.page import DARK_PAGE, Report, html_page, on_dark, write_report
from analysis.report.reasons import Reasons
from analysis.report.runs import LOG_LINES, last_lines, runs
from analysis.report.watch import store_state, watch_report
from analysis.sources.scrub import scrubbed
from analysis.sources.table import Results, load
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import gains, means
from analysis.tables.results import number, with_interval
from bll_sweeps.cli import run as bll
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import write_json
from tests.analysis_store import OBJECTIVES, StoreBuilder, lab_cells, lab_store
from tests.test_analysis_table import rewrite

EVIL = "<img src=http://evil/x onerror=alert(1)></script><b>"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, texts outside scripts, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a store with a failed training, a damaged record and hostile names."""
    root = tmp_path_factory.mktemp("runs")
    builder = StoreBuilder(root, questions=20)
    cells = lab_cells(objectives=("base", "nll", "p"), points=(("lab-a", "spell"), ("lab-c", "rot")), questions=20)
    for one, _ in cells[:-1]:
        builder.finish(one)
    builder.fail(cells[-1][0], "train", f"ValueError: {EVIL}")
    builder.launch([(one, [*overrides, f"lab.note={EVIL}"]) for one, overrides in cells])
    record = Layout(root).job(cells[0][0].evaluate.id).attempt(1).output("scores.exact-v1.jsonl")
    record.write_text(record.read_text()[:-9])
    out = tmp_path_factory.mktemp("out")
    write_report(load(root), out, figures=False)
    return out


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    for tag, attrs in page.tags:
        for key in ("src", "href", "data", "action", "poster", "srcset"):
            assert (attrs.get(key) or "#").startswith("#"), (tag, attrs)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "img")]
    assert all("src" not in attrs for attrs, _ in page.scripts)


def test_the_browser_is_told_to_load_nothing(page: Page) -> None:
    policies = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert len(policies) == 1
    assert policies[0] is not None
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0]


def test_texts_from_records_are_escaped(page: Page) -> None:
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    shown = "".join(page.texts)
    assert f"ValueError: {EVIL}" in shown
    assert f"lab.note={EVIL}" in shown
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            assert "<" not in text


def test_the_charts_are_whole_specifications_with_their_data_inside(page: Page) -> None:
    specs = {attrs["id"]: json.loads(text) for attrs, text in page.scripts if attrs.get("type") == "application/json"}
    charts = {key: spec for key, spec in specs.items() if key.startswith("spec-")}
    assert set(charts) == {"spec-continuum", "spec-curves"}
    for spec in charts.values():
        assert all(spec["datasets"].values())
        assert '"url"' not in json.dumps(spec)
    assert any("window.vegaEmbed" in text for _, text in page.scripts)


def test_it_opens_on_the_continuum_and_has_every_section(page: Page) -> None:
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == [
        *("continuum", "scores", "gains", "ranks", "priors", "curves", "figures", "cells"),
        *("claims", "problems", "runs", "provenance"),
    ]


def test_it_tells_missing_cells_problems_n_and_provenance(page: Page) -> None:
    shown = "".join(page.texts)
    assert "4 of 6 cells have scores" in shown
    assert "differs from the digest" in shown
    assert "Mean score [95 %], n = 20 questions" in shown
    assert any("n = 20 questions x 8 samples" in (attrs.get("data-tip") or "") for _, attrs in page.tags)
    assert "c0de" in shown
    assert "torch 2.13" in shown
    assert "2026-11-23T06:00:00+00:00" in shown


def test_it_stays_small(report: Path) -> None:
    assert (report / "report.html").stat().st_size < 4_000_000


def test_a_missing_number_has_the_reason_of_its_own_benchmark(tmp_path: Path) -> None:
    """A domain of two benchmarks: p failed on one, NLL on the other."""
    builder = StoreBuilder(tmp_path / "runs", questions=10)
    both = lab_cells(("nll", "p"), (("lab-a", "rot"),), questions=10)
    other = [
        (
            dataclasses.replace(one, benchmark=dataclasses.replace(one.benchmark, name="rot-hard", max_new_tokens=9)),
            more,
        )
        for one, more in both
    ]
    for one, _ in (both[0], other[1]):  # NLL on rot, p on rot-hard
        builder.finish(one)
    builder.fail(both[1][0], "evaluate", "OutOfMemory of p")
    builder.fail(other[0][0], "evaluate", "TimeLimit of nll")
    builder.launch([*both, *other])
    results = load(tmp_path / "runs")
    why = Reasons(results)
    rows = gains(results).set_index("benchmark")
    assert (rows["n"] == 0).all()
    for benchmark, told in (("rot", "OutOfMemory of p"), ("rot-hard", "TimeLimit of nll")):
        for row in rows.loc[[benchmark]].reset_index().to_dict("records"):
            assert told in why.of_gain(row)
    (average,) = by_place(gains(results), results.cells).query("decoding == 'sampled'").to_dict("records")
    told = why.of_gain(average)
    assert (
        told.startswith("lacks rot (") and "OutOfMemory of p" in told and ", rot-hard (" in told and "TimeLimit" in told
    )
    lacking = [row for row in means(results).to_dict("records") if not row["n"]]
    assert {(row["benchmark"], "OutOfMemory" in why.of_score(row)) for row in lacking} == {
        ("rot", True),
        ("rot-hard", False),
    }


def test_runs_without_a_seed_in_common_are_called_so(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "runs", questions=10)
    cells = [
        *lab_cells(("nll",), (("lab-a", "rot"),), seeds=(0,), questions=10),
        *lab_cells(("p",), (("lab-a", "rot"),), seeds=(1,), questions=10),
    ]
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    results = load(tmp_path / "runs")
    (row, *_) = gains(results).to_dict("records")
    assert Reasons(results).of_gain(row) == "its runs and those of NLL share no seed, engine, grader or question"
    page = html_page(results, means(results), gains(results))
    assert "share no seed" in page and "there is no NLL to compare with" not in page


def test_crossovers_stand_by_task_and_pooled(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), questions=20)
    write_report(load(tmp_path / "runs"), tmp_path / "out", figures=False)
    told = (tmp_path / "out" / "tables" / "crossovers.md").read_text()
    for task in ("spell", "rot", "add", "pooled"):
        assert f"| p | sampled |  | {task} | " in told
    assert "none: too few settings" in told
    shown = "".join(Page((tmp_path / "out" / "report.html").read_text()).texts)
    assert "pooled" in shown and "by task" in shown


@pytest.mark.slow
def test_figures_and_tables_lie_beside_it(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), points=(("lab-a", "spell"), ("lab-c", "rot")), questions=20)
    assert main(["--source", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"cells.csv", "means.csv", "gains.csv", "continuum-sampled.png", "continuum-sampled.pdf"} <= names


def test_warnings_stand_at_the_top_of_the_page(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "runs", questions=10, rows_cut=3, length_limited=0.5)
    cells = lab_cells(objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=10)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    page = write_report(load(tmp_path / "runs"), tmp_path / "out", "as_trained", figures=False).page
    header = page.read_text().partition("</header>")[0]
    assert "Warning: training rows were cut to max_length: lab-a · rot (3)." in header
    assert "max_new_tokens: lab-a · rot sampled (up to 50 %)" in header


# --- little or nothing to show --------------------------------------------------------------------------------------


def page_of(results: Results, folder: Path) -> str:
    return write_report(results, folder, figures=False).page.read_text()


def store_of(root: Path, objectives: tuple[str, ...], done: bool = True) -> Results:
    """A sweep of these objectives at one point."""
    builder = StoreBuilder(root, questions=10, sequences=60)
    cells = lab_cells(objectives=objectives, points=(("lab-a", "rot"),), questions=10)
    for one, _ in cells if done else ():
        builder.finish(one)
    builder.launch(cells)
    return load(root)


def test_a_sweep_of_which_nothing_has_run_yet_says_so_and_why(tmp_path: Path) -> None:
    text = page_of(store_of(tmp_path, ("nll", "p"), done=False), tmp_path / "out")
    assert "0 of 2 cells have scores" in text
    assert "No cell has a score yet" in text
    assert "No continuum yet: it shows gains over NLL, of which no cell has a score." in text
    assert "No training has logged a step yet" in text
    assert "is not done" in text


def test_a_sweep_without_cells_says_so(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch([])
    text = page_of(load(tmp_path), tmp_path / "out")
    assert "This sweep has no cells, so there is nothing to show." in text
    assert "No continuum: the sweep has no cells." in text


def data_of(page: Page, key: str) -> list[dict[str, object]]:
    """The rows of one of the page's tables, by its heads; of a cell its text."""
    (data,) = [json.loads(text) for attrs, text in page.scripts if attrs.get("id") == f"data-{key}"]
    texts = [[cell[0] if isinstance(cell, list) else cell for cell in row] for row in data["rows"]]
    return [dict(zip(data["heads"], row, strict=True)) for row in texts]


def test_gains_stand_with_p_values_and_the_minimum_detectable_difference(tmp_path: Path) -> None:
    results = store_of(tmp_path / "runs", ("nll", "p", "p10"))
    page = Page(page_of(results, tmp_path / "out"))
    table = gains(results).set_index(["objective", "decoding"])
    for row in data_of(page, "gains"):
        known = table.loc[(row["objective"], row["decoding"])]
        assert row["n"] == known["n"] == 10
        for head, name in (("p", "p_value"), ("p (Holm)", "p_holm"), ("p (BH)", "p_bh"), ("MDD", "mdd")):
            text = str(row[head])
            low, high = (0.0, 0.001) if text == "< .001" else (float(text) - 0.0006, float(text) + 0.0006)
            assert low <= known[name] <= high, (head, text)
    shown = "".join(page.texts)
    assert "Benjamini and Hochberg" in shown
    told = (tmp_path / "out" / "tables" / "gains.md").read_text()
    assert "| objective | decoding | gain [95 %] | over seeds | n | p | p (Holm) | p (BH) | MDD |" in told
    assert told.count("\n| lab-a · rot |") == len(table)
    assert sorted(path.name for path in (tmp_path / "out" / "tables").iterdir()) == [
        f"{name}.{suffix}" for name in ("crossovers", "gains", "priors", "ranks") for suffix in ("csv", "md", "tex")
    ]


def test_ranks_stand_per_region_with_the_number_of_points(tmp_path: Path) -> None:
    points = (("lab-a", "rot"), ("lab-b", "rot"), ("lab-c", "rot"))
    lab_store(tmp_path / "runs", objectives=("base", "nll", "p"), points=points, questions=10)
    page = Page(page_of(load(tmp_path / "runs"), tmp_path / "out"))
    rows = [row for row in data_of(page, "ranks") if row["decoding"] == "sampled"]
    found = {(row["region"], row["objective"]): (row["mean rank [95 %]"], row["n"], row["best at"]) for row in rows}
    assert set(found) == {(region, name) for region in ("MS", "MW") for name in ("nll", "p")}
    assert found["MS", "p"][0].startswith("1.00 [1.00, ") and found["MS", "p"][1:] == (2, "100 %")
    assert found["MW", "nll"] == ("1.00 [?, ?]", 1, "100 %")
    assert (
        "| sampled | prior strength | MS | p | 1.00 [1.00, " in (tmp_path / "out" / "tables" / "ranks.md").read_text()
    )


SECRET_TOKEN = "hf_" + "x" * 20


def priors_of(root: Path) -> tuple[Results, list[dict[str, object]], list[list[str]]]:
    """The results, and the rows of the page's table of priors and of the table beside it. Of three points the first
    has a record with everything, the second an older one, and the prior job of the third has failed.
    """
    builder = StoreBuilder(root, questions=10, sequences=60, repeats=3, distribution="quantiles")
    points = (("lab-a", "rot"), ("lab-c", "rot"), ("lab-c", "spell"))
    cells = lab_cells(objectives=("nll", "p"), points=points, questions=10)
    for one, _ in cells[:2]:
        builder.finish(one)
    builder.distribution, builder.repeats = "", 0
    for one, _ in cells[2:4]:
        builder.finish(one)
    builder.fail(cells[4][0], "prior", f"ValueError: {SECRET_TOKEN}")
    builder.launch(cells)
    record = Layout(root).job(cells[0][0].prior.id).attempt(1).record
    rewrite(record, lambda data: data["result"]["clean"].update({"share_above_0.55": 0.6251}))
    results = load(root)
    page = Page(page_of(results, root / "out"))
    with (root / "out" / "tables" / "priors.csv").open(newline="") as file:
        beside = list(csv.reader(file))
    return results, data_of(page, "priors"), beside


def test_prior_strength_stands_with_its_interval_n_and_region(tmp_path: Path) -> None:
    results, rows, beside = priors_of(tmp_path)
    assert [(row["backbone"], row["domain"], row["answers"]) for row in rows] == [
        (backbone, task, answers)
        for backbone, task in (("lab-a", "rot"), ("lab-c", "rot"), ("lab-c", "spell"))
        for answers in ("clean", "as_trained")
    ]
    known = results.priors.set_index(["backbone", "domain", "answers"])
    first = known.loc[("lab-a", "rot", "clean")]
    expected = with_interval(first["mean"], first["low"], first["high"], 4)
    assert rows[0]["prior strength [95 %]"] == expected and first["low"] < first["mean"]
    assert (rows[0]["n"], rows[2]["n"]) == ("20 questions", "60 sequences")
    assert (rows[0]["region"], rows[2]["region"], rows[0]["region (paper)"]) == ("MS", "MW", "-")
    assert (rows[0]["p > .55"], rows[0]["nll (nats)"], rows[0]["tokens"]) == (".625", "1.000", first["tokens"])
    for head, name in (("10 %", "quantile_0.1"), ("50 %", "quantile_0.5"), ("90 %", "quantile_0.9")):
        assert rows[0][head] == number(first[name])
    # The table beside the page has the same texts, and one more column that the page leaves out: no variant here.
    heads, *lines = beside
    assert [head for head in heads if head != "variant"] == list(rows[0])
    for row, line in zip(rows, lines, strict=True):
        mine = {head: text for head, text in zip(heads, line, strict=True) if head != "variant"}
        assert {k: str(v) or "-" for k, v in row.items() if k != "missing"} == {
            k: v for k, v in mine.items() if k != "missing"
        }


def test_what_is_missing_of_a_prior_is_told_with_its_reason(tmp_path: Path) -> None:
    _, rows, beside = priors_of(tmp_path)
    assert rows[0]["missing"] == ""
    assert rows[1]["missing"] == "the record does not tell: share above .55"
    assert rows[2]["missing"] == "the record does not tell: quantiles, share above .55"
    for row in rows[4:]:
        assert (row["prior strength [95 %]"], row["n"], row["region"]) == ("missing", "-", "-")
        assert "failed: ValueError: [removed]" in str(row["missing"])
    assert [line[-1] for line in beside[1:]] == [row["missing"] for row in rows]
    for path in (tmp_path / "out").rglob("priors.*"):
        assert SECRET_TOKEN not in path.read_text()
        assert "model-weak up to .3" in path.read_text() or path.suffix == ".csv"


def test_filters_act_on_prior_strength_by_backbone_and_domain(tmp_path: Path) -> None:
    priors_of(tmp_path)
    page = Page((tmp_path / "out" / "report.html").read_text())
    data = {attrs["id"]: json.loads(text) for attrs, text in page.scripts if "id" in attrs}
    facets = data["facets"]
    for row, of in zip(data["data-priors"]["rows"], data["data-priors"]["of"], strict=True):
        assert of == [[-1, facets["backbone"].index(row[0]), facets["domain"].index(row[1])]]


def test_the_papers_regions_stand_beside_those_by_prior_strength(tmp_path: Path) -> None:
    results = store_of(tmp_path, ("nll", "p"))
    theirs = dataclasses.replace(results, priors=results.priors.assign(domain="medical"))
    for row in data_of(Page(page_of(theirs, tmp_path / "out")), "priors"):
        assert (row["region"], row["region (paper)"]) == ("MS", "MI")


def test_without_cells_there_is_no_prior_strength(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch([])
    assert "No prior strength: the sweep has no cells." in page_of(load(tmp_path), tmp_path / "out")
    assert "No prior strength: the sweep has no cells." in (tmp_path / "out" / "tables" / "priors.md").read_text()


@pytest.mark.slow
def test_figures_that_were_not_drawn_stand_on_the_page_with_the_reason(tmp_path: Path) -> None:
    page = write_report(store_of(tmp_path / "runs", ("p",)), tmp_path / "out").page
    section = page.read_text().partition("<section id=figures>")[2].partition("</section>")[0]
    assert "bars-sampled" in section
    told = (tmp_path / "out" / "figures" / "figures.md").read_text()
    absent = [line[2:].split(": not drawn, ") for line in told.splitlines() if ": not drawn, " in line]
    assert {name for name, _ in absent} == {"continuum", "alpha", "quantile", "scale", "histograms", "theory-lab-noise"}
    for name, why in absent:
        assert f"<td>{name}</td>" in section and why in section
    assert "The paper&#x27;s numbers are not drawn into the figures" in section


def test_without_figures_the_page_says_so(tmp_path: Path) -> None:
    assert "This page was made without its figures" in page_of(store_of(tmp_path / "a", ("p",)), tmp_path / "b")


@pytest.mark.slow
def test_a_run_root_without_a_sweep_is_reported_as_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert main(["--source", str(root), "--out", str(folder)]) == 0
    assert "holds no sweep yet; `bll launch sweep=lab` runs one" in capsys.readouterr().err
    text = (tmp_path / "a" / "report.html").read_text()
    assert "This run root holds no sweep yet, so there is nothing to show." in text
    assert "<td>continuum</td>" in text
    assert "No gains" in (tmp_path / "a" / "tables" / "gains.md").read_text()
    written = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all(
        path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in written
    )
    assert bll(["report", "--root", str(root)]) == 0
    assert (root / "reports" / "report.html").read_text() == text


@pytest.mark.slow
def test_a_launch_of_an_empty_grid_is_no_failure(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch([])
    assert bll(["report", "--root", str(tmp_path)]) == 0
    assert "This sweep has no cells" in (tmp_path / "reports" / "lab" / "report.html").read_text()


def test_a_run_root_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_no_launch_are_a_page_too(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch([])
    text = page_of(dataclasses.replace(load(tmp_path), launches=[]), tmp_path / "out")
    assert "This run root holds no sweep yet" in text


@pytest.mark.parametrize(
    ("objectives", "said"),
    (
        (("p",), "No continuum: it shows gains over NLL, and the sweep has no NLL to compare with."),
        (("nll",), "No continuum: it shows gains over NLL, and the sweep has no objective besides it."),
        (("base",), "has no NLL to compare with."),
    ),
)
def test_one_objective_alone_has_scores_but_no_continuum(
    tmp_path: Path, objectives: tuple[str, ...], said: str
) -> None:
    text = page_of(store_of(tmp_path, objectives), tmp_path / "out")
    assert "1 of 1 cells have scores" in text
    assert said in text
    assert "n = 10 questions x 8 samples" in text


def test_a_missing_comparison_stands_in_the_chart_with_its_reason(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10, sequences=60)
    cells = lab_cells(objectives=("nll", "p", "p10"), points=(("lab-a", "rot"),), questions=10)
    for one, _ in cells[:2]:
        builder.finish(one)
    builder.fail(cells[2][0], "train", "ValueError: too much")
    builder.launch(cells)
    page = Page(page_of(load(tmp_path), tmp_path / "out"))
    (spec,) = [json.loads(text) for attrs, text in page.scripts if attrs.get("id") == "spec-continuum"]
    assert {row["objective"] for row in spec["datasets"]["gains"]} == {"p"}
    assert {row["objective"] for row in spec["datasets"]["lacking"]} == {"p10"}
    assert all("failed: ValueError: too much" in row["why"] for row in spec["datasets"]["lacking"])
    assert "missing: 2 of 4 comparisons" in "".join(page.texts)


def test_numbers_that_are_none_are_named_and_break_nothing(tmp_path: Path) -> None:
    results = store_of(tmp_path, ("nll", "p"))
    mean_table, gain_table = means(results), gains(results)
    nan = float("nan")
    text = html_page(
        dataclasses.replace(results, cells=results.cells.assign(mean=nan, low=nan, high=nan)),
        mean_table.assign(mean=nan, low=nan, high=nan),
        gain_table.assign(gain=nan, gain_low=nan, gain_high=nan),
    )
    assert "its mean is not a number" in text
    assert "NaN" not in "".join(body for attrs, body in Page(text).scripts if attrs.get("type"))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    results = store_of(tmp_path, ("base", "nll", "p"))
    first = page_of(results, tmp_path / "a")
    assert first == page_of(load(tmp_path), tmp_path / "b")


# --- runs and their logs --------------------------------------------------------------------------------------------


def test_every_job_is_told_with_its_state_and_a_failed_one_with_the_end_of_its_log(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10, sequences=60)
    cells = lab_cells(objectives=("nll", "p", "p10"), points=(("lab-a", "rot"),), questions=10)
    builder.finish(cells[0][0])
    builder.fail(cells[1][0], "train", "ValueError: too much")
    attempt = Layout(tmp_path).job(cells[1][0].train.id).attempt(1)
    bar = "".join(f"{i} %\r" for i in range(100))
    attempt.log().write_text(
        "".join(f"\x1b[1mstep {i}\x1b[0m\n" for i in range(9000)) + bar + "\nValueError: too much\n"
    )
    write_json(attempt.provenance, {"host": "node7", "started_at": "2026-11-23T06:00:00+00:00"})
    builder.launch(cells)
    jobs = {row["job"]: row for row in runs(load(tmp_path)).to_dict("records")}
    failed = jobs[cells[1][0].train.id]
    assert (failed["state"], failed["host"], failed["error"]) == ("failed", "node7", "ValueError: too much")
    assert failed["log"].split("\n")[-3:] == ["step 8999", "99 %", "ValueError: too much"]
    assert len(failed["log"].split("\n")) == LOG_LINES
    done = jobs[cells[0][0].train.id]
    assert (done["state"], done["attempt"], done["host"], done["seconds"]) == ("done", 1, "node1", 10.0)
    assert jobs[cells[2][0].train.id]["state"] == "not started"
    assert jobs[cells[0][0].prior.id]["cells"] == "lab-a · rot"


SECRETS = {
    "token hf_" + "A1b2" * 8: "token [removed]",
    "api_key=" + "0123456789abcdef" * 2: "api_key=[removed]",
    "'WANDB_API_KEY': '" + "ab12" * 10 + "'": "'WANDB_API_KEY': '[removed]'",
    "https://user:pass-word1@host/x": "https://[removed]@host/x",
    "Authorization: Bearer abc.def.ghijk": "Authorization: Bearer [removed]",
    "--password hunter2 secret: correct-horse": "--password hunter2 secret: [removed]",
    "posting to https://hooks.slack.com/services/T0/B0/xyz": "posting to [removed]",
}
HARMLESS = (
    "tokens=102400000 lr 1e-3",
    "tokenizer: Qwen2TokenizerFast",
    "max_new_tokens: 4096",
    "basic configuration of the run",
    "revision 0123456789abcdef0123456789abcdef01234567",
    "KeyError: 'question'",
    "pad_token_id=151643123",
)


@pytest.mark.parametrize("text", SECRETS)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    assert scrubbed(f"x {text} y") == f"x {SECRETS[text]} y"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text: str) -> None:
    assert scrubbed(text) == text


def test_a_secret_of_the_environment_is_taken_out_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery")
    assert scrubbed("said correct horse battery twice") == "said [removed] twice"


@given(st.text(), st.integers(1, 5), st.integers(1, 40))
def test_the_end_of_a_log_is_bounded_and_has_no_control_characters(text: str, lines: int, length: int) -> None:
    shown = last_lines(text, lines, length).split("\n")
    assert len(shown) <= lines
    assert all(len(line) <= length for line in shown)
    assert not any(ord(char) < 32 and char != "\t" for line in shown for char in line)


# --- while a sweep runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_watched_report_is_made_anew_when_the_store_changes_and_once_more_at_the_end(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "runs", questions=10, sequences=60)
    cells = lab_cells(objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=10)
    builder.launch(cells)
    told: list[tuple[int, bool]] = []
    looks: list[float] = []

    def wrote(report: Report, results: Results) -> None:
        told.append((len(results.done), "http-equiv=refresh content=7" in report.page.read_text()))

    def wait(seconds: float) -> None:
        """Between the looks the cells finish one after another; at the second and the fourth nothing happens."""
        looks.append(seconds)
        if len(looks) in (1, 3):
            builder.finish(cells[len(looks) // 2][0])

    out = tmp_path / "out"
    results = watch_report(tmp_path / "runs", None, out, lambda: len(looks) == 4, every_s=7, wrote=wrote, wait=wait)
    assert told == [(0, True), (2, True), (4, True), (4, False)]
    assert looks == [7] * 4
    assert len(results.done) == 4
    assert (out / "figures").is_dir()
    assert "loads itself again" not in (out / "report.html").read_text()


def test_a_failure_is_a_change_too(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    cells = lab_cells(objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=10)
    builder.launch(cells)
    before = store_state(tmp_path, None)
    assert store_state(tmp_path, None) == before
    builder.fail(cells[0][0], "train", "ValueError")
    failed = store_state(tmp_path, None)
    assert failed != before
    builder.launch(cells, number=2)
    assert store_state(tmp_path, None) != failed


def test_an_interrupted_watch_leaves_a_page_that_does_not_reload(tmp_path: Path) -> None:
    StoreBuilder(tmp_path / "runs").launch(lab_cells(objectives=("nll",), points=(("lab-a", "rot"),)))

    def interrupt(seconds: float) -> None:
        assert "http-equiv=refresh" in (tmp_path / "out" / "report.html").read_text()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_report(tmp_path / "runs", None, tmp_path / "out", lambda: False, wait=interrupt)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "http-equiv=refresh" not in text
    assert "loads itself again" not in text


# --- colours --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06x}"))
def test_every_colour_stands_out_from_the_dark_page(colour: str) -> None:
    found = on_dark(colour)
    assert _contrast(found, DARK_PAGE) >= 4.4  # rounded to whole steps of 1/255
    if _contrast(colour, DARK_PAGE) >= 4.5:
        assert found == colour


def _contrast(colour: str, page: tuple[int, int, int]) -> float:
    """WCAG 2.2's contrast ratio."""

    def luminance(parts: Iterable[int]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (p / 255 for p in parts)]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, dark = sorted((luminance(bytes.fromhex(colour[1:])), luminance(page)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.slow
def test_a_sweep_of_ninety_cells_is_loaded_and_reported_in_seconds(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=tuple(OBJECTIVES), questions=200)
    start = time.process_time()
    results = load(tmp_path / "runs")
    assert len(results.done) == 180
    assert time.process_time() - start < 6
    assert main(["--source", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert time.process_time() - start < 30  # on an idle machine about a quarter of that
    assert (tmp_path / "out" / "report.html").stat().st_size < 4_000_000
