"""Prior strength as a table: a row per prior job and kind of answers at a place, from the prior jobs' records."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from analysis.sources.reading import PRIORS, Reader, number_of
from bll_sweeps.store.regions import region

_COLUMNS = ["backbone", "domain", "variant", "point", "answers", "prior", "mean", "low", "high", "region", "tokens"]
_COLUMNS += ["sequences", "questions", "nll", "share_above_0.55", "histogram", "why"]


def priors_table(cells: pd.DataFrame, reader: Reader) -> pd.DataFrame:
    """Of all rows of `Results.cells`, missing ones included; a place has several prior jobs where its seeds have
    backbones of their own:

    answers: clean or as_trained. prior: the job. mean: of p over the target tokens (paper, Eq. 5), low and high its
    interval of 95 % over `questions` distinct questions (0: the record does not name them, and the interval is over
    `sequences`). tokens: all target tokens. nll: mean of -log p, in nats. share_above_0.55: of the tokens (the paper's
    Table 6). quantile_<q>: of the tokens' p. histogram: JSON, the number of tokens in equal parts of [0, 1]; '' where
    the record has none. why: what is missing, '' if nothing is.
    """
    rows = []
    if len(cells):
        place = ["backbone", "domain", "variant"]
        ordered = cells.assign(_unknown=cells["prior_clean"].isna()).sort_values("_unknown", kind="stable")
        firsts = ordered.drop_duplicates([*place, "prior"]).sort_index()
        # Of cells that share a place some may name no prior job: an older launch's, or one that is planned otherwise.
        named = firsts.assign(_named=firsts["prior"] != "").groupby(place)["_named"].transform("any")
        firsts = firsts[(firsts["prior"] != "") | ~named]
        rows = [_row(first, which, reader) for first in firsts.to_dict("records") for which, _, _ in PRIORS]
    quantiles = {key for row in rows for key in row if key.startswith("quantile_")}
    return pd.DataFrame(rows, columns=[*_COLUMNS, *sorted(quantiles, key=lambda key: float(key.rpartition("_")[2]))])


def _row(first: dict[Any, Any], which: str, reader: Reader) -> dict[str, Any]:
    job = str(first["prior"])
    row = {key: first[key] for key in ("backbone", "domain", "variant", "point", "prior")}
    row |= {"answers": which, "mean": first[f"prior_{which}"], "region": region(first[f"prior_{which}"])}
    row |= {"low": first[f"prior_{which}_low"], "high": first[f"prior_{which}_high"]}
    row |= {"questions": first["prior_questions"], "sequences": first["prior_sequences"]}

    def told() -> dict[str, Any] | None:
        record = reader.record(job) if job else None
        return None if record is None else _told(record.result[which])

    # Numbers of a record whose rows do not bear out its mean are not used either.
    known = reader.once(f"prior ({which})", job, told) if not math.isnan(row["mean"]) else None
    if known is None:
        why = (reader.not_done(job) or f"{job} has damaged outputs") if job else "the sweep has no prior job here"
        known = _told({}) | {"why": why}
    return {"why": "", **row, **known}


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """What a record tells of the tokens; nan and '' where an older one does not."""
    out: dict[str, Any] = {key: number_of(result, key) for key in ("nll", "share_above_0.55")}
    out["tokens"] = int(result.get("tokens", 0))
    out |= {f"quantile_{float(q):g}": float(p) for q, p in (result.get("quantiles") or {}).items()}
    histogram = result.get("histogram")
    return out | {"histogram": json.dumps(histogram) if histogram else ""}
