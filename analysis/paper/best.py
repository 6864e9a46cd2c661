"""Which of our objectives is the best of its point, where a paired interval says so."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.sources.table import POINT, Prior, Results
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import gains
from analysis.statistics.seeds import decisive

Key = tuple[str, ...]  # backbone, domain, benchmark, variant, objective, decoding


def best_keys(means: pd.DataFrame, results: Results, prior: Prior = "clean") -> set[Key]:
    """The rows of `continuum.means`, or of their averages, that are the highest of their point and decoding, if the
    95 % interval of the paired difference from the second highest (over seeds too where there are several) excludes
    zero.
    """
    pairs: dict[Key, tuple[str, str]] = {}
    known = means[(means["n"] > 0) & means["mean"].notna()]
    for key, rows in known.groupby([*POINT, "decoding"], sort=False):
        if len(rows) > 1:
            first, second = rows.nlargest(2, "mean")["objective"]
            pairs[tuple(map(str, key))] = (str(first), str(second))
    # Untrained backbones have no gain of their own: their difference is that of the other one, mirrored.
    references = {"base" if "base" in pair else pair[1] for pair in pairs.values()}
    tables = {name: _gains(results, prior, name) for name in sorted(references)}
    best = set()
    for key, (first, second) in pairs.items():
        if first == "base":
            row = tables["base"].get((*key, second))
            clear = row is not None and row["gain_high"] < 0
        else:
            row = tables["base" if second == "base" else second].get((*key, first))
            clear = row is not None and row["gain_low"] > 0
        if clear:
            best.add((*key[:-1], first, key[-1]))
    return best


def _gains(results: Results, prior: Prior, reference: str) -> dict[Key, dict[Any, Any]]:
    """(point, decoding, objective) -> gain over the reference, averages over a domain's benchmarks besides."""
    table = gains(results, prior, reference)
    if table.empty:
        return {}
    both = decisive(pd.concat([table, by_place(table, results.cells)]))
    keys = [*POINT, "decoding", "objective"]
    return {tuple(str(row[name]) for name in keys): row for row in both.to_dict("records") if row["n"] > 0}
