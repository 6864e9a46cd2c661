"""Statistics of a sweep: mean scores, gains over NLL paired by question, and where on the continuum they lie.

A point is a (backbone, domain, benchmark, variant). Its place is the prior strength of the base model (paper, Eq. 5),
either on the clean answers or on the answers as trained (label noise included). All benchmarks of a domain share it;
benchmarks.by_place averages over them. Questions are paired within a benchmark. Several seeds are averaged within a
question first, so n stays the number of questions: the interval speaks of other questions, `seed_sd` of other seeds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.sources.table import POINT, Prior, Results
from analysis.statistics.intervals import (
    REGION_EDGES,
    REGIONS,
    RESAMPLES,
    Interval,
    mean_interval,
    nothing,
    paired_difference,
    paired_differences,
    ratio_interval,
    region,
)
from bll_sweeps.grid.axes import canonical_json

__all__ = [
    "REGIONS",
    "REGION_EDGES",
    "Prior",
    "gains",
    "mean_interval",
    "means",
    "paired_difference",
    "ratio_interval",
    "region",
]

REFERENCE = "nll"
# What a row of `means` and `gains` says of its point, besides POINT itself.
_OF_POINT = ["point", "label", "task", "exposure", "noise_kind", "noise_rate"]
_NLL = canonical_json({"family": "nll"})


def means(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """One row per point, objective, decoding: mean, low, high, n (questions), samples, seeds, seed_sd, prior, region.

    Rows whose cells are all missing are there, with n = 0.
    """
    rows = []
    for keys, cells in _groups(results):
        done = cells[cells["state"] == "done"]
        score_N, samples = _question_means(results, done)
        interval = mean_interval(score_N.to_numpy(dtype=float), samples) if len(score_N) else nothing()
        rows.append({**keys, **_place(cells, prior), **_fields(interval, ""), **_seeds(done, samples)})
    return _ordered(pd.DataFrame(rows))


def gains(
    results: Results, prior: Prior = "clean", reference: str = REFERENCE, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """One row per point, objective other than `reference` and base, and decoding: gain over the reference by question.

    The reference is the objective of that name, and any other that is the same (power with alpha 0 is NLL). Columns as
    in `means`, with gain, gain_low, gain_high for the mean difference. Only questions that both were asked count; only
    seeds that both have, answered by the same engine and scored by the same grader. n = 0 where either is missing.
    """
    groups = _groups(results)
    same = _same_objectives(results, reference)
    partners: dict[tuple[str, ...], pd.DataFrame] = {}
    for keys, cells in sorted(groups, key=lambda group: group[0]["objective"] != reference):
        if keys["objective"] in same:
            partners.setdefault(tuple({**keys, "objective": reference}.values()), cells)
    rows, differences = [], []
    for keys, cells in groups:
        if keys["objective"] in same or keys["objective"] == "base":
            continue
        partner = partners.get(tuple({**keys, "objective": reference}.values()))
        done = cells[cells["state"] == "done"]
        other = partner[partner["state"] == "done"] if partner is not None else done.iloc[:0]
        done, other = _paired(done, other)
        difference_N, samples = _difference(results, done, other)
        paired = done.set_index("seed")["mean"] - other.set_index("seed")["mean"]
        seed_sd = float(paired.std()) if len(paired) > 1 else math.nan
        rows.append({**keys, **_place(cells, prior), **_seeds(done, samples), "seed_sd": seed_sd})
        differences.append(difference_N)
    if not rows:
        return pd.DataFrame(columns=[*POINT, *_OF_POINT, "objective", "decoding", "gain", "n", "prior"])
    intervals = paired_differences(differences, resamples)
    return _ordered(pd.DataFrame([row | _fields(one, "gain") for row, one in zip(rows, intervals, strict=True)]))


def _same_objectives(results: Results, reference: str) -> set[str]:
    """The names of the reference: its own, and those of objectives that are the same but for the name."""
    cells = results.cells
    identities = set(cells.loc[cells["objective"] == reference, "identity"]) - {""}
    if reference == REFERENCE:
        identities.add(_NLL)
    return {reference} | set(cells.loc[cells["identity"].isin(identities), "objective"])


def _paired(done: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of seeds that both have, by the same engine and grader; one row of each."""
    keys = ["seed", "engine", "grader"]
    done, other = done.drop_duplicates(keys), other.drop_duplicates(keys)
    index = pd.MultiIndex.from_frame(done[keys]).intersection(pd.MultiIndex.from_frame(other[keys]))
    done, other = (rows[pd.MultiIndex.from_frame(rows[keys]).isin(index)] for rows in (done, other))
    return done, other


def _difference(results: Results, done: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Score differences of the questions that both were asked, and the samples behind one score."""
    a_N, samples = _question_means(results, done)
    b_N, _ = _question_means(results, other)
    common = a_N.index.intersection(b_N.index)
    return a_N[common].to_numpy(float) - b_N[common].to_numpy(float), samples


def _groups(results: Results) -> list[tuple[dict[str, str], pd.DataFrame]]:
    by = [*POINT, "objective", "decoding"]
    groups = results.cells.groupby(by, sort=False)
    return [({name: str(part) for name, part in zip(by, key, strict=True)}, cells) for key, cells in groups]


def _question_means(results: Results, done: pd.DataFrame) -> tuple[pd.Series, int]:
    """Score of each question, averaged over samples and then over seeds; and the samples behind one such score."""
    names = done[["evaluate", "decoding", "grader"]].drop_duplicates().to_numpy(str)
    tables = [results.scores[job, decoding, grader] for job, decoding, grader in names]
    if not tables:
        return pd.Series(dtype=float), 0
    joined = pd.concat([table["score"] for table in tables], axis=1, join="inner")
    return joined.mean(axis=1), int(sum(table["samples"].min() for table in tables))


def _place(cells: pd.DataFrame, prior: Prior) -> dict[str, object]:
    known = cells[cells[f"prior_{prior}"].notna()]
    first: dict[Any, Any] = (known if len(known) else cells).iloc[0].to_dict()
    out: dict[str, object] = {key: first[key] for key in _OF_POINT}
    value = float(first[f"prior_{prior}"])
    out |= {
        "prior": value,
        "prior_low": first[f"prior_{prior}_low"],
        "prior_high": first[f"prior_{prior}_high"],
    }
    return out | {
        "prior_questions": first["prior_questions"],
        "prior_sequences": first["prior_sequences"],
        "region": region(value),
        "temperature": cells["temperature"].max(),
        "primary": bool(first["primary"]),
    }


def _fields(interval: Interval, stem: str) -> dict[str, float]:
    names = (stem, f"{stem}_low", f"{stem}_high") if stem else ("mean", "low", "high")
    return dict(zip((*names, "n"), (interval.mean, interval.low, interval.high, interval.n), strict=True))


def _seeds(done: pd.DataFrame, samples: int) -> dict[str, float]:
    different = done.drop_duplicates("evaluate")
    spread = float(different["mean"].std()) if len(different) > 1 else math.nan
    return {"samples": samples, "seeds": len(different), "seed_sd": spread}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By prior strength, strongest first, the variants of a point together; else in the order of the sweep."""
    if table.empty:
        return table
    strength = table.groupby("point")["prior"].transform("mean")
    table = table.assign(_strength=strength).sort_values(
        ["_strength", "point"], ascending=[False, True], kind="stable", ignore_index=True
    )
    return table.drop(columns="_strength")
