"""Warnings: what the records tell that limits how sound a sweep's results are, a line for each kind of it."""

from __future__ import annotations

import pandas as pd

NO_ANSWER = 0.1  # shares of the generations above which a benchmark is warned of
DISAGREEMENT = 0.02
_MOST_NAMED = 8


def limits(cells: pd.DataFrame) -> list[str]:
    """One line per kind of limit that rows of `Results.cells` show; a benchmark is named with its worst number."""
    seen = cells[cells["seen_in_training"] > 0].groupby("label", sort=False)["seen_in_training"].max()
    cut = cells[cells["rows_cut"] > 0].groupby("point", sort=False)["rows_cut"].max()
    long = cells[cells["length_limited"] > 0]
    shares = long.groupby(long["label"] + " " + long["decoding"], sort=False)["length_limited"].max()
    return [
        *_line("training rows were cut to max_length", [f"{point} ({n:.0f})" for point, n in cut.items()]),
        *_line(
            "generations ran into max_new_tokens",
            [f"{where} (up to {percent(share)})" for where, share in shares.items()],
        ),
        *_line("benchmark questions are in the training set", [f"{label} ({n:.0f})" for label, n in seen.items()]),
        *_line(f"no answer was found in more than {percent(NO_ANSWER)} of the generations", _unanswered(cells), most=0),
        *_line(f"graders disagree on more than {percent(DISAGREEMENT)} of the generations", _disputed(cells), most=0),
    ]


def _unanswered(cells: pd.DataFrame) -> list[str]:
    known = cells[cells["no_answer"].notna()].drop_duplicates(["evaluate", "decoding"])
    known = known.assign(generations=known["questions"] * known["samples"])
    return [
        f"{benchmark} {decoding} ({_above(rows, 'no_answer', NO_ANSWER)})"
        for (benchmark, decoding), rows in known.groupby(["benchmark", "decoding"], sort=False)
        if (rows["no_answer"] > NO_ANSWER).any()
    ]


def _disputed(cells: pd.DataFrame) -> list[str]:
    known = cells[cells["disagreements"].notna() & (cells["generations"] > 0)].drop_duplicates("evaluate")
    known = known.assign(share=known["disagreements"] / known["generations"])
    return [
        f"{benchmark} ({_above(rows, 'share', DISAGREEMENT)})"
        for benchmark, rows in known.groupby("benchmark", sort=False)
        if (rows["share"] > DISAGREEMENT).any()
    ]


def _above(rows: pd.DataFrame, column: str, edge: float) -> str:
    """How many of the evaluations lie above it, and the one that lies furthest."""
    many = rows[rows[column] > edge].sort_values(column, ascending=False, kind="stable")
    worst = many.to_dict("records")[0]
    most = f"{percent(worst[column])} of {worst['generations']}, by {worst['backbone']} {worst['objective']}"
    return f"{len(many)} of {len(rows)} evaluations, up to {most}"


def _line(what: str, where: list[str], most: int = _MOST_NAMED) -> list[str]:
    """most: how many are named; 0: all."""
    if not where:
        return []
    most = most or len(where)
    more = [f"and {len(where) - most} more"] if len(where) > most else []
    return [f"{what}: {', '.join([*where[:most], *more])}"]


def percent(share: float) -> str:
    """Two significant digits, and never `1e+02 %`."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
