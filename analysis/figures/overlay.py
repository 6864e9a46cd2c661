"""The paper's reported numbers beside ours: rows in the schema of continuum.means and gains, without intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.figures.panels import listed, places
from analysis.figures.style import plain
from analysis.sources.table import PLACE
from analysis.tables.results import number

_CELL = [*PLACE, "objective", "decoding"]
_NAMED = 3  # of the points without a reported number, and _OBJECTIVES of each
_OBJECTIVES = 4


@dataclass(frozen=True)
class Reported:
    """Reported numbers by the figures that show them, a row per place, objective and decoding of benchmarks.by_place.

    Besides the columns of that table: `place` (the paper's table or figure) and `digitised` (half the uncertainty of
    reading it off a figure; 0 for printed numbers). notes: by figure, what the paper reports and is not drawn. why: why
    there is nothing, '' if there is something.
    """

    means: pd.DataFrame = field(default_factory=pd.DataFrame)
    gains: pd.DataFrame = field(default_factory=pd.DataFrame)
    alpha: pd.DataFrame = field(default_factory=pd.DataFrame)
    quantile: pd.DataFrame = field(default_factory=pd.DataFrame)
    scale: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: dict[str, str] = field(default_factory=dict)
    why: str = ""


def reported_at(rows: pd.DataFrame, reported: pd.DataFrame | None) -> pd.DataFrame:
    """The reported rows of the places, objectives and decoding of `rows`."""
    if reported is None or reported.empty or rows.empty:
        return pd.DataFrame()
    wanted = pd.MultiIndex.from_frame(rows[_CELL])
    return reported[pd.MultiIndex.from_frame(reported[_CELL]).isin(wanted)].reset_index(drop=True)


def at_place(theirs: pd.DataFrame, place: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reported rows of one place (panels.places)."""
    mine = [row for row in theirs.to_dict("records") if all(row[key] == place[key] for key in PLACE)]
    return [{str(key): value for key, value in row.items()} for row in mine]


def told(rows: pd.DataFrame, theirs: pd.DataFrame, what: str = "scores", note: str = "") -> str:
    """What the open marks are, for the small print: how many of `rows` have one, from where, and which have none.

    note: what besides the paper reports and is not drawn.
    """
    if theirs.empty:
        return f" {note}" if note else ""
    mine = rows.drop_duplicates(_CELL)
    has = pd.MultiIndex.from_frame(mine[_CELL]).isin(pd.MultiIndex.from_frame(theirs[_CELL]))
    text = f" Open marks: the paper's numbers, for {has.sum()} of {len(mine)} {what} ({sources(theirs)})"
    names = [f"{place['name']} ({listed(some['objective'], _OBJECTIVES)})" for place, some in places(mine[~has])]
    if names:
        more = f"; and {len(names) - _NAMED} more points" if len(names) > _NAMED else ""
        text += f". It reports none for {plain('; '.join(names[:_NAMED]))}{more}"
    return f"{text}. {note}".rstrip()


def of_the_paper(rows: pd.DataFrame) -> bool:
    """Whether all of them are reported numbers: then a figure shows these, and none of ours."""
    return "source" in rows and bool(rows["source"].eq("reported").all())


def as_reported(rows: pd.DataFrame) -> str:
    """Where reported numbers that stand alone are from, for the small print; `metric`, if told, names their score."""
    by = ""
    if "metric" in rows:
        metrics = rows.drop_duplicates(["domain", "metric"]).to_dict("records")
        by = ", " + plain(", ".join(f"{row['domain']} by {row['metric']}" for row in metrics))
    return f"Numbers as the paper reports them ({sources(rows)}){by}. No intervals: there are no scores by question."


def sources(theirs: pd.DataFrame) -> str:
    """`Figure 6 left, read off to ±.0005; Table 1`."""
    if "place" not in theirs:
        return "no source is told"
    out = []
    for place, some in theirs.groupby("place", sort=False):
        near = float(some["digitised"].max())
        out.append(str(place) + (f", read off to ±{number(near, 4)}" if near else ""))
    return plain("; ".join(sorted(out)))
