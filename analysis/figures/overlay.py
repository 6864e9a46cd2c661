"""The paper's reported numbers beside ours: tables in the schema of continuum.means and gains, without intervals."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from analysis.statistics.benchmarks import PRIMARY, by_place

_PLACE = ["backbone", "domain", "objective"]


class Reported(NamedTuple):
    """Reported means and gains over NLL, a row per point, objective and benchmark; their intervals are not known."""

    means: pd.DataFrame
    gains: pd.DataFrame

    def placed(self) -> Reported:
        """A row per place and objective, as the figures show it; of the primary decodings."""
        return Reported(*(_placed(table) for table in self))


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    rows = by_place(table)
    rows = rows[rows["primary"].astype(bool) | (rows["decoding"] == PRIMARY)]
    stem = "gain" if "gain" in rows else "mean"
    # Rows of PRIMARY stand for the same decodings once more.
    return rows[rows[stem].notna()].drop_duplicates([*_PLACE, "variant"], ignore_index=True)


def reported_at(rows: pd.DataFrame, reported: pd.DataFrame | None) -> pd.DataFrame:
    """The reported rows of the places and objectives of `rows`, as far as both are of the primary decoding.

    Rows with another noise, recipe or the like than the default (`variant`) have no counterpart.
    """
    if reported is None or reported.empty or rows.empty:
        return pd.DataFrame()
    ours = rows[rows["primary"].astype(bool) & (rows["variant"] == "")]
    wanted = pd.MultiIndex.from_frame(ours[_PLACE])
    return reported[pd.MultiIndex.from_frame(reported[_PLACE]).isin(wanted)].reset_index(drop=True)
