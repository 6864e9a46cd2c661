"""Which reported numbers stand in the figures of a sweep: those of its cells that did what the paper did (ours.py).

Scores of the main grid (Tables 1 to 3) are averaged over the benchmarks that the sweep has. Numbers that the paper
gives as averages only (Figures 1, 5, 6 and 7) stand where the sweep has all benchmarks of the paper's average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.figures.overlay import Reported
from analysis.paper.ours import identities_of, reasons_against, without_normaliser
from analysis.paper.reported import (
    AVERAGE,
    METRICS,
    PRIMARY_METRICS,
    benchmarks,
    prior_of,
    reported,
    reported_gains,
    reported_means,
)
from analysis.sources.table import POINT, Results
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import REFERENCE

_GRID = ""  # the main grid, whose averages are ours
_TABLE = {"math": "Table 1", "medical": "Table 2", "figfont": "Table 3"}
# What stands in a figure, first choice first: the paper has several numbers for some cells, of different runs.
_OF_SCORES = {
    "means": (_GRID, "Figure 1", "Figure 6 left", "Figure 5 (printed maximum)", "Figure 5"),
    "alpha": ("Figure 6 left", _GRID, "Figure 1"),
    "quantile": ("Figure 5 (printed maximum)", "Figure 5", _GRID),
}
_OF_GAINS = {"gains": (_GRID, "Figure 7"), "scale": ("Figure 7", _GRID)}
_ABLATIONS = {"alpha": "Figure 6", "quantile": "Figure 5", "scale": "Figure 7"}
_BLANK = ("low", "high", "seed_sd", "seeds_low", "seeds_high", "gain_low", "gain_high", "gain_seeds_low",
          "gain_seeds_high", "p_value", "p_holm", "p_bh", "mdd", "prior_low", "prior_high")  # fmt: skip


def overlay(
    results: Results, mean_table: pd.DataFrame, gain_table: pd.DataFrame, table: pd.DataFrame | None = None
) -> Reported:
    """The reported numbers of a sweep's cells; nothing, and why, where none can be compared.

    mean_table, gain_table: of statistics.continuum. table: of reported().
    """
    if results.cells.empty:
        return Reported(why="there are no cells yet")
    table = reported() if table is None else table
    known = set(zip(table["backbone"], table["domain"], strict=True))
    if not known & set(zip(results.cells["backbone"], results.cells["domain"], strict=True)):
        return Reported(why="the paper reports nothing of these backbones on these domains")
    reasons, identities = reasons_against(results), identities_of(results)
    found: dict[str, Any] = {}
    for choices, ours, theirs, stem in (
        (_OF_SCORES, mean_table, reported_means(table), "mean"),
        (_OF_GAINS, gain_table, reported_gains(table), "gain"),
    ):
        mine = _comparable(ours, reasons, stem)
        of_grid = _of_grid(mine, theirs, table, identities, results, stem)
        for kind, places in choices.items():
            parts = [of_grid if p == _GRID else _of_average(mine, table, p, identities, results, stem) for p in places]
            found[kind] = _first_of(parts, table)
    if not any(map(len, found.values())):
        whys = [why.partition(":")[0] for why in reasons.values() if why]
        return Reported(why=f"no cell is comparable with the paper's ({', '.join(dict.fromkeys(whys))})")
    return Reported(**found, notes=_notes(table, mean_table))


def _comparable(ours: pd.DataFrame, reasons: dict[tuple[str, ...], str], stem: str) -> pd.DataFrame:
    """The rows of which nothing speaks against a comparison; of a gain, nor against its reference."""
    if ours.empty:
        return ours
    keys = list(map(tuple, ours[[*POINT, "objective", "decoding"]].to_numpy(str)))
    good = [reasons.get(key, "no cell") == "" for key in keys]
    if stem == "gain":
        at = len(POINT)
        good = [one and not reasons.get((*k[:at], REFERENCE, *k[at + 1 :])) for one, k in zip(good, keys, strict=True)]
    return ours[pd.Series(good, index=ours.index) & (ours["n"] > 0) & ours["primary"].astype(bool)]


def _named(identity: str, name: str) -> list[str]:
    """By what an objective is known: what it is, and where no spec tells that its name."""
    return [without_normaliser(identity)] if identity else [name]


def _of_grid(
    mine: pd.DataFrame,
    theirs: pd.DataFrame,
    table: pd.DataFrame,
    identities: dict[str, str],
    results: Results,
    stem: str,
) -> pd.DataFrame:
    """The main grid's scores or gains at our points, averaged over our benchmarks where it has all of them."""
    if mine.empty or theirs.empty:
        return pd.DataFrame()
    scores = _grid_scores(theirs, table, stem)
    score = [_score(scores, row, identities) for row in mine.to_dict("records")]
    told = mine.assign(**{stem: score})
    told = told[told[stem].notna()]
    told = told.assign(**dict.fromkeys([name for name in _BLANK if name in told], math.nan))
    placed = by_place(told, results.cells)
    placed = placed[placed[stem].notna()]
    return placed.assign(place=placed["domain"].map(_TABLE), digitised=0.0)


def _grid_scores(theirs: pd.DataFrame, table: pd.DataFrame, stem: str) -> dict[tuple[str, ...], float]:
    identities = dict(table[["name", "identity"]].drop_duplicates("name").itertuples(index=False, name=None))
    out: dict[tuple[str, ...], float] = {}
    for row in theirs.to_dict("records"):
        for name in (row["objective"], without_normaliser(identities.get(row["objective"], ""))):
            out[row["backbone"], row["domain"], row["benchmark"], name] = row[stem]
    return out


def _score(scores: dict[tuple[str, ...], float], row: dict[Any, Any], identities: dict[str, str]) -> float:
    where = (row["backbone"], row["domain"], row["benchmark"])
    names = _named(identities.get(row["objective"], ""), row["objective"])
    return next((scores[*where, name] for name in names if (*where, name) in scores), math.nan)


def _of_average(
    mine: pd.DataFrame, table: pd.DataFrame, place: str, identities: dict[str, str], results: Results, stem: str
) -> pd.DataFrame:
    """What one of the paper's figures reports as an average, at our averages over the same benchmarks."""
    metric = "gain_over_nll" if stem == "gain" else "accuracy"
    wanted = table[(table["place"] == place) & (table["benchmark"] == AVERAGE) & (table["metric"] == metric)]
    if mine.empty or wanted.empty:
        return pd.DataFrame()
    theirs: dict[tuple[str, ...], dict[Any, Any]] = {}
    for row in wanted.to_dict("records"):
        for name in (row["name"], without_normaliser(row["identity"])):
            theirs.setdefault((row["backbone"], row["domain"], AVERAGE, name), row)
    ours = by_place(mine, results.cells)
    ours = ours[(ours["lacking"] == "") & (ours["n"] > 0) & ours["domain"].isin(_whole_domains(results))]
    rows = []
    for row in ours.to_dict("records"):
        where = (row["backbone"], row["domain"], AVERAGE)
        names = _named(identities.get(row["objective"], ""), row["objective"])
        one = next((theirs[*where, name] for name in names if (*where, name) in theirs), None)
        if one is not None:
            digitised = one["rounding"] if one["how"] == "digitised" else 0.0
            blank: dict[Any, Any] = {name: math.nan for name in _BLANK if name in row}
            rows.append({**row, **blank, stem: one["score"], "place": place, "digitised": digitised})
    return pd.DataFrame(rows)


def _whole_domains(results: Results) -> list[str]:
    """The domains of which the sweep has the benchmarks of the paper's average, and no others."""
    known = benchmarks()
    wanted: dict[str, set[str]] = {}
    for domain, name in known[known["reported"]].index:
        wanted.setdefault(domain, set()).add(name)
    mine = {str(domain): set(rows["benchmark"]) for domain, rows in results.cells.groupby("domain")}
    return [domain for domain, names in mine.items() if names == wanted.get(domain)]


def _first_of(parts: Sequence[pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all parts, of each cell the first, at the prior strengths that the paper reports."""
    there = [part for part in parts if len(part)]
    if not there:
        return pd.DataFrame()
    rows = pd.concat(there, ignore_index=True)
    rows = rows.drop_duplicates(["backbone", "domain", "variant", "objective", "decoding"], ignore_index=True)
    priors = [prior_of(table, *place) for place in rows[["backbone", "domain"]].itertuples(index=False, name=None)]
    return rows.assign(prior=priors, source="reported")


def _notes(table: pd.DataFrame, ours: pd.DataFrame) -> dict[str, str]:
    """What the paper's ablation figures report of our places in another metric than ours, by the figure's kind."""
    mine = list(zip(ours["backbone"], ours["domain"], strict=True))
    out = {}
    for kind, place in _ABLATIONS.items():
        rows = table[table["place"].str.startswith(place) & (table["benchmark"] != "training set")]
        rows = rows[~rows["metric"].isin((*PRIMARY_METRICS, "gain_over_nll"))]
        rows = rows[pd.MultiIndex.from_frame(rows[["backbone", "domain"]]).isin(mine)]
        texts = [
            f"{name} of the paper is of {METRICS[str(metric)]}, another score, and not drawn."
            for name, metric in rows[["place", "metric"]].drop_duplicates().itertuples(index=False, name=None)
        ]
        if texts:
            out[kind] = " ".join(texts)
    return out
