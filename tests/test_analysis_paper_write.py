"""`python -m analysis --source paper`: what it writes and prints, and how it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.paper.reported import FOLDER

FIGURES = {
    f"{name}{suffix}"
    for name in (
        "continuum-reported",
        "gains-reported",
        "bars-reported",
        "heatmap-reported",
        "heatmap-reported-math",
        "heatmap-reported-medical",
        "alpha-reported",
        "quantiles-reported",
        "scale-reported",
        "likelihood-reported",
        "theory-gradient-shapes",
        "theory-trade-places",
        "theory-risk-over-time",
    )
    for suffix in (".png", ".pdf", ".svg")
}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_papers_numbers_are_redrawn_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", "paper", "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "468 reported numbers" in told and "10.15 for both llama-3.1-8b and qwen2.5-7b" in told
    first = _files(tmp_path / "a")
    assert {name.removeprefix("figures/") for name in first if name.startswith("figures/")} == FIGURES
    assert {"findings.md", "findings.csv", "means.csv", "gains.csv", "tables/table-10.tex"} <= set(first)
    assert main(["--source", "paper", "--out", str(tmp_path / "b")]) == 0
    assert _files(tmp_path / "b") == first


def test_other_numbers_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (FOLDER / "reported.csv").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("place,", "Table 9,"))]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("\n".join(kept) + "\n")
    assert main(["--source", "paper", "--numbers", str(numbers), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "48 reported numbers from 1 places" in told and "wrote 2 tables, 3 figures" in told


@pytest.mark.slow
def test_claims_are_not_held_against_numbers_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of Table 1, whose averages are of the base models and NLL alone."""
    head, *lines = (FOLDER / "reported.csv").read_text().splitlines()
    names = head.split(",")
    kept = [
        line
        for line in lines
        if line.startswith("Table 1,")
        and dict(zip(names, next(csv.reader([line])), strict=True))["objective"] in ("base", "nll")
    ]
    assert kept
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("\n".join([head, *kept]) + "\n")
    assert main(["--source", "paper", "--numbers", str(numbers), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert f"{len(kept)} reported numbers from 1 places" in told
    assert "are told" not in told and "is told" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--source", "paper"], "--out=None is missing"),
        (["--source", "paper", "--out", "x", "--sweep", "lab"], "--sweep=lab is of sweeps"),
        (["--source", "paper", "--out", "x", "--numbers", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--source", "elsewhere", "--out", "x", "--numbers", "a.csv"], "--numbers=a.csv goes with --source paper"),
    ],
)
def test_bad_usage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
