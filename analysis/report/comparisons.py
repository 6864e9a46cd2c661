"""The page's tables of comparisons: gains over NLL with their p-values, and the objectives' ranks per region."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.report.charts import n_text
from analysis.report.grids import Facets, data_table
from analysis.report.reasons import Reasons
from analysis.sources.table import Results
from analysis.statistics.continuum import REFERENCE
from analysis.tables.results import number, with_interval
from analysis.tables.sweep import (
    GAINS_NOTE,
    RANKS_NOTE,
    p_text,
    rank_rows,
    rank_texts,
    ranks_grid,
    seeds_text,
    with_averages,
)


def gains_section(results: Results, gains: pd.DataFrame, facets: Facets, why: Reasons) -> str:
    """Every gain, and the averages of domains with several benchmarks; a missing one with its reason."""
    if not len(gains):
        return f"<p class=empty>No gains: the sweep has nothing to compare with {REFERENCE.upper()}.</p>"
    heads = ["point", "benchmark", "variant", "objective", "decoding", "gain [95 %]", "over seeds", "n"]
    heads += ["p", "p (Holm)", "p (BH)", "MDD", "prior [95 %]", "region", "samples", "seeds"]
    records = with_averages(gains, results).to_dict("records")
    rows = []
    for r in records:
        names = [r["point"], r["benchmark"], r["variant"], r["objective"], r["decoding"]]
        ps = [(p_text(r[name]), r[name]) for name in ("p_value", "p_holm", "p_bh")]
        mdd = ("-" if math.isnan(r["mdd"]) else number(r["mdd"]), r["mdd"])
        prior = (with_interval(r["prior"], r["prior_low"], r["prior_high"], 4), r["prior"])
        rows.append(
            [
                *names,
                _gain(r, why),
                (seeds_text(r), r["gain_seeds_low"]),
                r["n"],
                *ps,
                mdd,
                prior,
                r["region"],
                r["samples"],
                r["seeds"],
            ]
        )
    return f"<p class=note>{GAINS_NOTE} Hover for n.</p>" + data_table("gains", heads, rows, records, facets)


def _gain(row: dict[Any, Any], why: Reasons) -> Any:
    """The cell of a gain: its text, its key in sorting, its hover text."""
    if not row["n"]:
        return ("missing", math.nan, why.of_gain(row))
    columns = row.get("columns", 1)
    whole = {**row, "columns": 1 if pd.isna(columns) else int(columns)}
    return (with_interval(row["gain"], row["gain_low"], row["gain_high"]), row["gain"], n_text(whole))


def ranks_section(results: Results, means: pd.DataFrame, facets: Facets) -> str:
    """Mean ranks per region, decoding and rule of the regions."""
    rows = rank_rows(means, results)
    if rows.empty:
        return "<p class=empty>No ranks: no trained objective has a score.</p>"
    records = rows.to_dict("records")
    cells = []
    for r in records:
        texts: list[Any] = list(rank_texts(r))
        texts[4] = (texts[4], r["mean_rank"])
        texts[6] = (texts[6], r["best"])
        for i, name in ((5, "of"), (7, "points"), (8, "left_out")):
            texts[i] = int(r[name])
        cells.append(texts)
    of = [{"objective": r["objective"]} for r in records]
    return f"<p class=note>{RANKS_NOTE}</p>" + data_table("ranks", ranks_grid(rows).heads, cells, of, facets)
