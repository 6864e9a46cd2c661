"""The claims of statistics/claims.py in words and as a table."""

from __future__ import annotations

import math
from typing import Any

from analysis.statistics.claims import Claim
from analysis.tables.formats import temperatures
from analysis.tables.results import text_table, with_interval


def sampled(claim: Claim) -> str:
    """How the judged answers were sampled: `T=1`, `T=0.7 to 1`."""
    known = claim.rows["temperature"].dropna()
    return temperatures(known) if len(known) else "sampled"


def reading(claim: Claim) -> str:
    """One sentence: how many count, and what greedy decoding says."""
    above, known = claim.count()
    greedy_above, greedy_known = claim.count("greedy_")
    text = f"{above} of {known} comparisons have an interval above zero ({sampled(claim)})"
    if greedy_known:
        text += f"; greedily {greedy_above} of {greedy_known}"
    if above and greedy_known and greedy_above < above / 2:
        text += f": mostly an effect of sampling ({sampled(claim)})"
    return text


def claims_text(claims: list[Claim]) -> str:
    """The claims with every number, for the terminal."""
    parts = []
    for claim in claims:
        heads, rows = claim_rows(claim)
        parts.append(f"claim ({claim.name}): {claim.statement}")
        if rows:
            parts.append(text_table(heads, rows))
        parts.append(f"verdict: {claim.verdict} - {reading(claim)}\n")
    return "\n".join(parts)


def claim_rows(claim: Claim) -> tuple[list[str], list[list[str]]]:
    """Heads and text rows of the claim's table."""
    heads = [
        "point",
        "comparison",
        "prior [95 %]",
        "exposure",
        f"{sampled(claim)} [95 %]",
        "n",
        "> 0",
        "greedy [95 %]",
        "n",
        "> 0",
    ]
    records = claim.rows.to_dict("records")
    rows = [_line(row) for row in records]
    if claim.rows["variant"].any():
        heads.insert(1, "variant")
        rows = [[line[0], str(row["variant"]), *line[1:]] for line, row in zip(rows, records, strict=True)]
    return heads, rows


def _line(row: dict[Any, Any]) -> list[str]:
    cells = [
        str(row["point"]),
        row["comparison"],
        with_interval(row["prior"], row["prior_low"], row["prior_high"], 4),
    ]
    cells.append("?" if math.isnan(row["exposure"]) else f"{row['exposure']:.0f}")
    for prefix in ("", "greedy_"):
        known = row[f"{prefix}n"] > 0
        gain = with_interval(row[f"{prefix}gain"], row[f"{prefix}gain_low"], row[f"{prefix}gain_high"])
        verdict = ("yes" if row[f"{prefix}gain_low"] > 0 else "no") if known else "missing"
        cells += [gain if known else "-", str(row[f"{prefix}n"]), verdict]
    return cells
