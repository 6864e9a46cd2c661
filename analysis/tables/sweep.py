"""A sweep's own tables as Markdown, LaTeX and CSV: gains over NLL, crossovers, the objectives' ranks per region,
priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.sources.table import Results
from analysis.statistics.benchmarks import averages, by_place
from analysis.statistics.comparisons import LEVEL, POWER
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.crossover import crossovers
from analysis.statistics.ranks import ranks
from analysis.tables.formats import Grid, comma_separated, latex, markdown
from analysis.tables.priors import prior_rows, priors_grid
from analysis.tables.results import number, with_interval
from bll_sweeps.store.records import write_text
from bll_sweeps.store.regions import REGIONS

RULES = {"region": "prior strength", "region_paper": "the paper's, by domain"}
_GAINS_NOTE = (
    "Gain over {}: difference of mean scores, paired by question, with its 95 % interval, and the "
    "interval over seeds and questions where there are several seeds; n is the number of questions. p: over seeds too "
    "where there are several. p (Holm): adjusted, so that the chance of a "
    f"false discovery among the gains of a decoding stays below {number(LEVEL, 2)}; p (BH), by Benjamini and Hochberg: "
    "so that their expected share does. Averages over benchmarks are adjusted among themselves. MDD: the difference "
    f"that a repetition would show with {100 * POWER:.0f} % power."
)
GAINS_NOTE = _GAINS_NOTE.format(REFERENCE.upper())
RANKS_NOTE = (
    "Mean rank of each trained objective over the points of a region (1 is best), and the share of points where it is "
    "best; n is the number of points, those that have all objectives. 95 % interval: bootstrap over points."
)

CROSSOVERS_NOTE = (
    "Crossover: the prior strength at which a gain that never falls along the continuum goes through zero, and where a "
    "change of sign is not rejected for the scatter between settings (a setting is a backbone on a domain); by task, "
    "and pooled over tasks where there are several. Scatter: standard deviation of settings about the fit, and how "
    "much of it their measurement explains."
)
CROSSOVER_HEADS = ["objective", "decoding", "variant", "task", "prior strength [95 %]", "scatter", "n (settings)"]


def with_averages(table: pd.DataFrame, results: Results, first: bool = False) -> pd.DataFrame:
    """Rows of means or gains, and behind (or before) those of a place its average, where it has several benchmarks."""
    whole = averages(table, results.cells) if len(table) else table
    if whole.empty:
        return table
    parts = [whole, table] if first else [table, whole]
    both = pd.concat(parts, ignore_index=True)
    keys = ["backbone", "domain", "variant"]
    at = {key: i for i, key in enumerate(table.groupby(keys, sort=False).groups)}
    place = [at[key] for key in both[keys].itertuples(index=False, name=None)]
    return both.assign(_place=place).sort_values("_place", kind="stable", ignore_index=True).drop(columns="_place")


def rank_rows(means: pd.DataFrame, results: Results) -> pd.DataFrame:
    """ranks of every decoding and rule: the columns of statistics.ranks, before them `decoding` and `rule`.

    means: of statistics.continuum. The paper's rule is there where it knows the domains and places points otherwise.
    """
    tables = []
    placed = by_place(means, results.cells) if len(means) else means
    for decoding in dict.fromkeys(placed["decoding"]) if len(placed) else []:
        mine = placed[placed["decoding"] == decoding]
        for rule, name in RULES.items():
            if rule == "region" or (mine[rule].ne("").any() and mine[rule].ne(mine["region"]).any()):
                found = ranks(mine, rule)
                tables.append(found.assign(decoding=decoding, rule=name))
    if not tables:
        return pd.DataFrame()
    rows = pd.concat(tables, ignore_index=True)
    return rows[["decoding", "rule", *rows.columns.drop(["decoding", "rule"])]]


def crossover_rows(placed: pd.DataFrame) -> pd.DataFrame:
    """`crossovers` of every variant, objective and decoding of gains by place (benchmarks.by_place)."""
    tables = []
    for variant, some in placed.groupby("variant", sort=False) if len(placed) else []:
        for decoding in dict.fromkeys(some["decoding"]):
            found = crossovers(
                some[some["decoding"] == decoding], list(dict.fromkeys(some["objective"])), str(decoding)
            )
            tables.append(found.assign(decoding=str(decoding), variant=str(variant)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def crossover_texts(rows: pd.DataFrame) -> list[list[str]]:
    """A line of CROSSOVER_HEADS each; where there is none, why."""
    lines = []
    for row in rows.to_dict("records"):
        place = f"none: {row['why']}" if row["why"] else with_interval(row["prior"], row["low"], row["high"])
        lines.append(
            [*(str(row[name]) for name in CROSSOVER_HEADS[:4]), place, scatter_text(row), str(row["settings"])]
        )
    return lines


def scatter_text(row: Mapping[Any, Any]) -> str:
    """`.26 (measurement .16)`."""
    known = not math.isnan(row["scatter"])
    return f"{number(row['scatter'], 2)} (measurement {number(row['measurement'], 2)})" if known else "-"


def crossovers_grid(rows: pd.DataFrame) -> Grid:
    """The crossovers of `crossover_rows`."""
    lines = [[(text, False) for text in line] for line in (crossover_texts(rows) if len(rows) else [])]
    text = CROSSOVERS_NOTE if lines else f"No crossovers: nothing is there to compare with {REFERENCE.upper()}."
    return Grid(f"Where objectives overtake {REFERENCE.upper()}", CROSSOVER_HEADS, lines, text, 4)


def region_name(short: str) -> str:
    """`MS`; what stands for points without a prior strength."""
    return short if short in REGIONS else "no region"


def write_sweep_tables(results: Results, means: pd.DataFrame, gains: pd.DataFrame, folder: Path) -> list[Path]:
    """gains, crossovers, ranks and priors as .md, .tex and .csv in `folder`; the paths of the Markdown files."""
    rows = rank_rows(means, results)
    return [
        _write(folder, "gains", gains_grid(with_averages(gains, results))),
        _write(folder, "crossovers", crossovers_grid(crossover_rows(by_place(gains, results.cells)))),
        _write(folder, "ranks", ranks_grid(rows)),
        _write(folder, "priors", priors_grid(prior_rows(results))),
    ]


def _write(folder: Path, name: str, grid: Grid) -> Path:
    path = folder / f"{name}.md"
    write_text(path, markdown(grid))
    write_text(path.with_suffix(".tex"), latex(grid, f"tab:{name}"))
    write_text(
        path.with_suffix(".csv"), comma_separated(grid.heads, [[text for text, _ in line] for line in grid.lines])
    )
    return path


def gains_grid(gains: pd.DataFrame, reference: str = REFERENCE) -> Grid:
    """Every gain (rows of `with_averages`, or by place) over the reference with its interval, n, p-values and minimum
    detectable difference; bold where Holm's p is below .05.
    """
    over = reference.upper() if reference == REFERENCE else reference
    names = ["point", "benchmark", "variant", "objective", "decoding"]
    heads = [*names, "gain [95 %]", "over seeds", "n", "p", "p (Holm)", "p (BH)", "MDD"]
    lines = []
    for row in gains.to_dict("records"):
        gain = with_interval(row["gain"], row["gain_low"], row["gain_high"]) if row["n"] else "missing"
        texts = [gain, seeds_text(row), str(row["n"]), *p_texts(row)]
        bold = [bool(row["significant_holm"]), *[False] * 6]
        lines.append([*((str(row[name]), False) for name in names), *zip(texts, bold, strict=True)])
    text = f"{_GAINS_NOTE.format(over)} Bold: p (Holm) below {number(LEVEL, 2)}."
    text = text if lines else f"No gains: nothing is there to compare with {over}."
    return Grid(f"Gains over {over}", heads, lines, text, len(names))


def seeds_text(row: dict[Any, Any]) -> str:
    """`-.117 to .761`, the 95 % interval over seeds and questions, cut at -1 and 1; '-' with fewer than two seeds."""
    low, high = max(row["gain_seeds_low"], -1.0), min(row["gain_seeds_high"], 1.0)
    return "-" if math.isnan(low) else f"{number(low)} to {number(high)}"


def p_texts(row: dict[Any, Any]) -> list[str]:
    """p, its adjusted values and the minimum detectable difference; '-' where one is not known."""
    ps = [p_text(row[name]) for name in ("p_value", "p_holm", "p_bh")]
    return [*ps, "-" if math.isnan(row["mdd"]) else number(row["mdd"])]


def p_text(p: float) -> str:
    """`.034`, `< .001`."""
    return "-" if math.isnan(p) else f"< {number(0.001)}" if p < 0.001 else number(p)


def ranks_grid(rows: pd.DataFrame) -> Grid:
    """The ranks of `rank_rows`."""
    heads = [
        "decoding",
        "regions by",
        "region",
        "objective",
        "mean rank [95 %]",
        "of",
        "best at",
        "n",
        "left out",
        "lacking",
    ]
    lines = [[(text, False) for text in rank_texts(row)] for row in rows.to_dict("records")]
    text = RANKS_NOTE if lines else "No ranks: no trained objective has a score."
    return Grid("Ranks of the objectives per region", heads, lines, text, 4)


def rank_texts(row: dict[Any, Any]) -> list[str]:
    """A row of `rank_rows` as texts, in the order of the heads of `ranks_grid`."""
    known = not math.isnan(row["mean_rank"])
    rank = with_interval(row["mean_rank"], row["low"], row["high"], 2) if known else "-"
    best = f"{100 * row['best']:.0f} %" if known else "-"
    names = [row["decoding"], row["rule"], region_name(row["region"]), row["objective"]]
    return [*map(str, names), rank, str(row["of"]), best, str(row["points"]), str(row["left_out"]), str(row["lacking"])]
