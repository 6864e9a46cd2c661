"""The report: one file that loads nothing, shows everything with its n, and escapes what records say."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.sources.table import load
from bll_sweeps.store.layout import Layout
from tests.analysis_store import OBJECTIVES, StoreBuilder, lab_cells, lab_store

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
    assert main(["--source", str(root), "--out", str(out)]) == 0
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


def test_the_charts_are_whole_specifications_with_their_data_inside(page: Page) -> None:
    specs = {attrs["id"]: json.loads(text) for attrs, text in page.scripts if attrs.get("type") == "application/json"}
    assert set(specs) == {"spec-continuum", "spec-curves"}
    for spec in specs.values():
        assert spec["datasets"]
        assert '"url"' not in json.dumps(spec)
    assert any("window.vegaEmbed" in text for _, text in page.scripts)


def test_it_opens_on_the_continuum_and_has_every_section(page: Page) -> None:
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["continuum", "scores", "curves", "cells", "claims", "problems", "provenance"]


def test_it_tells_missing_cells_problems_n_and_provenance(page: Page) -> None:
    shown = "".join(page.texts)
    assert "4 of 6 cells have scores" in shown
    assert "differs from the digest" in shown
    assert "n = 20 questions x 8 samples" in shown
    assert "c0de" in shown
    assert "torch 2.13" in shown
    assert "2026-11-23T06:00:00+00:00" in shown


def test_it_stays_small(report: Path) -> None:
    assert (report / "report.html").stat().st_size < 4_000_000


def test_figures_and_tables_lie_beside_it(report: Path) -> None:
    names = {path.name for path in report.rglob("*") if path.is_file()}
    assert {"cells.csv", "means.csv", "gains.csv", "continuum-sampled.png", "continuum-sampled.pdf"} <= names


def test_warnings_stand_at_the_top_of_the_page(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "runs", questions=10, rows_cut=3, length_limited=0.5)
    cells = lab_cells(objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=10)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    assert main(["--source", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--prior", "as_trained"]) == 0
    header = (tmp_path / "out" / "report.html").read_text().partition("</header>")[0]
    assert "Warning: training rows were cut to max_length: lab-a · rot (3)." in header
    assert "max_new_tokens: lab-a · rot sampled (up to 50 %)" in header


def test_a_sweep_of_which_nothing_has_run_yet_has_a_page_too(tmp_path: Path) -> None:
    StoreBuilder(tmp_path / "runs").launch(lab_cells(objectives=("nll", "p"), points=(("lab-a", "rot"),)))
    assert main(["--source", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "0 of 2 cells have scores" in (tmp_path / "out" / "report.html").read_text()


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
