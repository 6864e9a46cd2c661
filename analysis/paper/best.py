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
    95 % intervals of the paired differences from every other one (over seeds too where there are several) exclude zero.
    """
    ranked: dict[Key, list[str]] = {}
    known = means[(means["n"] > 0) & means["mean"].notna()]
    for key, rows in known.groupby([*POINT, "decoding"], sort=False):
        if len(rows) > 1:
            ranked[tuple(map(str, key))] = list(map(str, rows.sort_values("mean", ascending=False)["objective"]))
    # Untrained backbones have no gain of their own: their difference is that of the other one, mirrored.
    references = {"base", *(names[0] for names in ranked.values())}
    tables = {name: _gains(results, prior, name) for name in sorted(references)}

    def below(key: Key, top: str, other: str) -> bool:
        row = tables["base"].get((*key, top)) if other == "base" else tables[top].get((*key, other))
        if row is None:
            return False
        return bool(row["gain_low"] > 0 if other == "base" else row["gain_high"] < 0)

    clear = {key: top for key, (top, *others) in ranked.items() if all(below(key, top, other) for other in others)}
    return {(*key[:-1], top, key[-1]) for key, top in clear.items()}


def _gains(results: Results, prior: Prior, reference: str) -> dict[Key, dict[Any, Any]]:
    """(point, decoding, objective) -> gain over the reference, averages over a domain's benchmarks besides."""
    table = gains(results, prior, reference)
    if table.empty:
        return {}
    both = decisive(pd.concat([table, by_place(table, results.cells)]))
    keys = [*POINT, "decoding", "objective"]
    return {tuple(str(row[name]) for name in keys): row for row in both.to_dict("records") if row["n"] > 0}
