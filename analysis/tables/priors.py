"""Prior strength as a table: how probable each base model finds its training targets, and the region that follows."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.sources.scrub import scrubbed
from analysis.sources.table import PLACE, Results
from analysis.tables.formats import Grid
from analysis.tables.results import number, with_interval
from bll_sweeps.store.regions import REGION_EDGES, region_paper

NAMES = ["backbone", "domain", "variant", "answers"]
# Column of `prior_rows` -> its head: numbers over all target tokens, in [0, 1] but for the nll.
OF_TOKENS = {"quantile_0.1": "10 %", "quantile_0.5": "50 %", "quantile_0.9": "90 %", "share_above_0.55": "p > .55",
             "nll": "nll (nats)"}  # fmt: skip
HEADS = [*NAMES, "prior strength [95 %]", "n", "region", "region (paper)", *OF_TOKENS.values(), "tokens", "prior job",
         "missing"]  # fmt: skip
_WEAK, _STRONG = (number(edge, 1) for edge in REGION_EDGES)
PRIORS_NOTE = (
    "Prior strength: mean p of the target tokens under the base model over the training set (the paper's Eq. 5), on "
    "the clean answers and on the answers as trained, label noise included. 95 % interval: bootstrap over n, the "
    "training set's distinct questions, or its sequences where the record does not name these. Region: by prior "
    f"strength (model-weak up to {_WEAK}, model-strong from {_STRONG}); region (paper): as the paper assigns its "
    "domains. 10, 50, 90 %: quantiles of p over all target tokens; p > .55: share of them; nll: mean of -log p. These "
    "count every token and have no interval. A row per prior job: seeds may have backbones of their own."
)
NOTHING = "No prior strength: the sweep has no cells."


def prior_rows(results: Results) -> pd.DataFrame:
    """`Results.priors`, the strongest prior job first, its two kinds of answers together. Besides its columns:

    n, unit: what the interval is over, questions or sequences; 0 where the prior strength is missing. region_paper: ''
    for a domain that is not the paper's. missing: what is not known and why, without what looks like a secret; '' where
    all is known.
    """
    rows = results.priors.reindex(columns=list(dict.fromkeys([*results.priors.columns, *OF_TOKENS])))
    if rows.empty:
        return rows
    strength = rows.groupby([*PLACE, "prior"], sort=False)["mean"].transform("first")  # the clean one where it is known
    rows = rows.assign(_strength=strength).sort_values("_strength", ascending=False, kind="stable", ignore_index=True)
    rows = rows.drop(columns="_strength")
    named = rows["questions"] > 0
    rows["unit"] = named.map({True: "questions", False: "sequences"})
    rows["n"] = rows["questions"].where(named, rows["sequences"]).where(rows["mean"].notna(), 0).astype(int)
    rows["region_paper"] = rows["domain"].map(region_paper)
    rows["missing"] = [_missing(row) for row in rows.to_dict("records")]
    return rows


def _missing(row: dict[Any, Any]) -> str:
    if row["why"]:
        return scrubbed(row["why"])
    parts = []
    if math.isnan(row["low"]):
        parts.append(f"one of {row['unit']} alone has no interval")
    names = {"quantile_0.5": "quantiles", "share_above_0.55": "share above .55", "nll": "nll"}
    untold = [name for column, name in names.items() if math.isnan(row[column])]
    if untold:
        parts.append(f"the record does not tell: {', '.join(untold)}")
    return "; ".join(parts)


def strength_text(row: dict[Any, Any]) -> str:
    """`.8012 [.7950, .8071]`, or `missing`."""
    return with_interval(row["mean"], row["low"], row["high"], 4) if row["n"] else "missing"


def n_text(row: dict[Any, Any]) -> str:
    """`250 questions`; '-' where the prior strength is missing."""
    return f"{row['n']} {row['unit']}" if row["n"] else "-"


def token_text(value: float) -> str:
    """A number over the tokens; '-' where it is not known. Quantiles at the weak end are small, and not nothing."""
    if math.isnan(value):
        return "-"
    return f"< {number(0.001)}" if 0 < value < 0.0005 else number(value)


def priors_grid(rows: pd.DataFrame) -> Grid:
    """The table of `prior_rows`."""
    lines = []
    for row in rows.to_dict("records"):
        texts = [str(row[name]) for name in NAMES]
        texts += [strength_text(row), n_text(row), row["region"] or "-", row["region_paper"] or "-"]
        texts += [token_text(row[name]) for name in OF_TOKENS]
        texts += [str(row["tokens"]) if row["tokens"] else "-", row["prior"] or "-", row["missing"]]
        lines.append([(text, False) for text in texts])
    return Grid("Prior strength", HEADS, lines, PRIORS_NOTE if lines else NOTHING, len(NAMES))
