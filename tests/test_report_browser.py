"""The report in a real browser, from file://, with the network off: nothing complains, filters and sorting work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser

from analysis.report.page import write_report
from analysis.sources.table import load
from bll_sweeps.store.layout import Layout
from tests.analysis_store import StoreBuilder, lab_cells

OBJECTIVES = ("base", "nll", "p", "logp_above")
POINTS = (("lab-a", "rot"), ("lab-a", "spell"), ("lab-c", "add"), ("lab-c", "rot"))
EVIL = "<img src=x onerror=alert(1)>"
WIDTHS = (1280, 390)
pytestmark = pytest.mark.slow
MARKS = ".chart#chart-continuum .mark-symbol path"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen cells; a training of one has failed, with a hostile log."""
    root = tmp_path_factory.mktemp("runs")
    builder = StoreBuilder(root, questions=20, sequences=60)
    cells = lab_cells(objectives=OBJECTIVES, points=POINTS, questions=20)
    for one, _ in cells[:-1]:
        builder.finish(one)
    builder.fail(cells[-1][0], "train", f"ValueError: {EVIL}")
    Layout(root).job(cells[-1][0].train.id).attempt(1).log().write_text(f"step 1\n{EVIL}\nValueError\n")
    builder.launch(cells)
    return write_report(load(root), tmp_path_factory.mktemp("out"), figures=False).page


def show(window: Browser, page: Path, width: int = 1280, fragment: str = "", dark: bool = False) -> None:
    """Opens the page and waits until its four charts are drawn."""
    window.open(page, width=width, fragment=fragment, dark=dark)
    window.wait("document.querySelectorAll('.chart svg').length === 4")
    settle(window)


def settle(window: Browser) -> None:
    """Two frames later all that a click has set off is drawn."""
    window.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
    )


def count(window: Browser, selector: str) -> int:
    """How many elements are there and can be seen."""
    found = window.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getClientRects().length).length"
    )
    return int(found)


def texts(window: Browser, selector: str) -> list[str]:
    found: Any = window.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getClientRects().length)"
        ".map(e => e.textContent)"
    )
    return list(found)


def click(window: Browser, selector: str) -> None:
    window.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
    settle(window)


def column(window: Browser, table: str, head: str) -> list[str]:
    heads = texts(window, f"#table-{table} th")
    return texts(window, f"#table-{table} tbody td:nth-child({heads.index(head) + 1})")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", (False, True))
def test_it_opens_without_a_complaint_and_asks_for_nothing(window: Browser, page: Path, width: int, dark: bool) -> None:
    show(window, page, width, dark=dark)
    assert window.complaints == []
    assert [address for address in window.requests if not address.startswith("data:")] == [page.as_uri()]
    assert count(window, MARKS) == 7  # two objectives on four points, one of them failed
    assert count(window, "#table-cells tbody tr") == 32
    assert count(window, "table.heat") == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_itself_does_not_scroll_sideways(window: Browser, page: Path, width: int) -> None:
    show(window, page, width)
    assert window.evaluate("document.documentElement.scrollWidth") == width
    chart = window.evaluate("document.querySelector('#chart-continuum svg').getBoundingClientRect().right")
    assert chart <= width


def test_colours_follow_the_scheme_that_the_reader_prefers(window: Browser, page: Path) -> None:
    def look() -> tuple[str, str]:
        background = "getComputedStyle(document.documentElement).backgroundColor"
        nll = "getComputedStyle(document.querySelector('label:has([value=nll]) .swatch')).backgroundColor"
        return window.evaluate(background), window.evaluate(nll)

    show(window, page)
    assert look() == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    show(window, page, dark=True)
    background, nll = look()
    assert background == "rgb(22, 24, 29)"
    assert nll != "rgb(0, 0, 0)"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_filter_acts_on_chart_heat_maps_tables_and_logs(window: Browser, page: Path, width: int) -> None:
    show(window, page, width)
    click(window, "input[name=objective][value=p]")
    assert count(window, MARKS) == 4
    assert texts(window, "table.heat thead th") == ["p−p", "p−p"]
    assert set(column(window, "cells", "objective")) == {"p"}
    assert texts(window, ".log") == []
    click(window, "input[name=backbone][value=lab-a]")
    assert count(window, MARKS) == 2
    assert count(window, "table.heat tbody tr") == 4
    assert set(column(window, "gains", "point")) == {"lab-a · rot", "lab-a · spell"}
    assert set(column(window, "priors", "backbone")) == {"lab-a"}
    assert texts(window, "#told") == ["4 of 32 scores chosen"]
    assert window.complaints == []


def test_a_domain_that_is_chosen_leaves_its_jobs_its_log_and_its_reason(window: Browser, page: Path) -> None:
    show(window, page)
    click(window, "input[name=domain][value=rot]")
    assert count(window, MARKS) == 3
    assert count(window, ".log") == 1
    assert count(window, "#table-missing tbody tr") == 1
    assert set(column(window, "cells", "benchmark")) == {"rot"}
    click(window, "input[name=domain][value=rot]")
    click(window, "input[name=domain][value=add]")
    assert count(window, ".log") == 0
    assert texts(window, "#table-missing .pager span") == ["no row of 1 is of this choice"]


def test_reset_takes_every_filter_and_order_back(window: Browser, page: Path) -> None:
    show(window, page, fragment="#objective=p&domain=rot&sort.cells=0d&decoding=greedy")
    assert count(window, MARKS) == 2
    click(window, "button[type=reset]")
    assert count(window, MARKS) == 7
    assert count(window, "#table-cells tbody tr") == 32
    assert count(window, "th[aria-sort=descending]") == 0
    assert window.evaluate("location.hash") == ""


def test_the_address_holds_the_view_and_gives_it_back(window: Browser, page: Path) -> None:
    show(window, page)
    click(window, "input[name=objective][value=logp_above]")
    click(window, "input[name=domain][value=spell]")
    click(window, "#table-cells th:nth-child(4) button")
    fragment = window.evaluate("location.hash")
    chosen = texts(window, "#table-cells tbody")
    show(window, page, fragment=fragment)
    assert texts(window, "#table-cells tbody") == chosen
    assert count(window, MARKS) == 1
    assert window.evaluate("document.querySelector('input[value=logp_above]').checked")
    assert window.evaluate("document.querySelector('#table-cells th:nth-child(4)').ariaSort") == "ascending"


def test_names_in_the_address_that_the_page_has_not_are_told(window: Browser, page: Path) -> None:
    show(window, page, fragment=f"#objective=p&objective={EVIL.replace(' ', '%20')}")
    assert texts(window, "#told") == [f"8 of 32 scores chosen; not on this page: {EVIL}"]
    assert window.complaints == []


def test_another_decoding_is_another_chart(window: Browser, page: Path) -> None:
    show(window, page)
    paths = f"[...document.querySelectorAll('{MARKS}')].map(e => e.getAttribute('transform'))"
    sampled = window.evaluate(paths)
    window.evaluate(
        "(s => { s.value = 'greedy'; s.dispatchEvent(new Event('change')) })"
        "(document.querySelector('[data-choice=decoding]'))"
    )
    settle(window)
    assert window.evaluate("location.hash") == "#decoding=greedy"
    assert window.evaluate(paths) != sampled


def test_a_table_is_sorted_with_the_keyboard_by_number_and_what_is_missing_comes_last(
    window: Browser, page: Path
) -> None:
    show(window, page)
    head = "[...document.querySelectorAll('#table-cells th button')].find(b => b.textContent.startsWith('mean'))"
    window.evaluate(f"{head}.focus()")
    for direction, name in ((1, "ascending"), (-1, "descending")):
        window.press("Enter")
        settle(window)
        assert window.evaluate(f"{head}.parentElement.ariaSort") == name
        shown = column(window, "cells", "mean [95 %]")
        means = [direction * float(text.split()[0]) for text in shown if text]
        assert means == sorted(means)
        assert len(means) == 30
        assert shown[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("selector", "said"),
    (
        (MARKS, ("gain over NLL [95 %]: ", "n: 20 questions x 8 samples, 1 seed", "prior strength [95 %]: ")),
        ("table.heat tbody td[style]", ("mean ", "n = 20 questions x 8 samples")),
        ("table.heat tbody td.none", ("missing: ", "failed: ValueError")),
        (".chart#chart-continuum .role-mark.layer_5_marks text", ("missing: ", "failed: ValueError")),
    ),
)
def test_marks_and_heat_map_cells_tell_their_n_or_what_they_lack(
    window: Browser, page: Path, selector: str, said: tuple[str, ...]
) -> None:
    show(window, page)
    window.move(1, 1)
    place = window.evaluate(
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
        f"return [r.x + r.width / 2, r.y + r.height / 2] }})(document.querySelector({json.dumps(selector)}))"
    )
    settle(window)
    window.move(*place)
    settle(window)
    (tip,) = texts(window, "#tip")
    for part in said:
        assert part in tip


def test_texts_of_records_stay_texts(window: Browser, page: Path) -> None:
    show(window, page)
    click(window, ".log summary")
    assert texts(window, ".log pre") == [f"step 1\n{EVIL}\nValueError"]
    assert window.evaluate("document.querySelectorAll('img').length") == 0


def test_on_paper_there_are_no_controls_and_whole_tables(window: Browser, page: Path) -> None:
    show(window, page, dark=True)
    window.evaluate("dispatchEvent(new Event('beforeprint'))")
    window.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert count(window, "#filters, nav, .pager, .controls, .log") == 0
        assert count(window, "#table-cells tbody tr") == 32
        assert count(window, "th button") == 0  # Chromium would not repeat the heads on every page
        assert "mean [95 %]" in texts(window, "#table-cells th")
        assert window.evaluate("getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
        assert window.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        window.command("Emulation.setEmulatedMedia", media="")
    window.evaluate("dispatchEvent(new Event('afterprint'))")
    assert count(window, "#table-cells th button") == len(texts(window, "#table-cells th"))
    assert window.pdf().startswith(b"%PDF-")


def test_three_thousand_cells_open(window: Browser, tmp_path: Path) -> None:
    """Six thousand scores: the browser shows a hundred rows at a time, and turns pages."""
    builder = StoreBuilder(tmp_path / "runs", questions=2, sequences=4, steps=20)
    cells = lab_cells(objectives=("nll", "p", "p10"), points=POINTS, seeds=tuple(range(250)), questions=2)
    for one, _ in cells[::375]:
        builder.finish(one)
    builder.launch(cells)
    report = write_report(load(tmp_path / "runs"), tmp_path / "out", figures=False).page
    assert report.stat().st_size < 6_000_000
    window.open(report)
    window.wait("document.querySelectorAll('#table-cells tbody tr').length === 100")
    assert texts(window, "#table-cells .pager span") == ["rows 1 to 100 of 6000"]
    click(window, "#table-cells .pager button:last-child")
    assert texts(window, "#table-cells .pager span") == ["rows 101 to 200 of 6000"]
    assert window.complaints == []
