"""Our numbers under the names of the reported ones, each with what speaks against setting it beside the paper's."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper.best import best_keys
from analysis.paper.reported import AVERAGE, PRIMARY_METRICS, TRAINING_SET, benchmarks
from analysis.sources.reading import Reader
from analysis.sources.table import PLACE, POINT, Prior, Results
from analysis.statistics.benchmarks import PRIMARY, by_place
from analysis.statistics.continuum import gains, means
from analysis.statistics.intervals import Interval
from analysis.statistics.seeds import decisive, over_seeds
from bll_sweeps.store.layout import Layout

COLUMNS = [
    "domain", "backbone", "objective", "identity", "benchmark", "metric", "mean", "low", "high", "n", "seeds",
    "best", "variant", "decoding", "reason",
]  # fmt: skip
# A cell with one of these recipes is a training as the paper describes it, or as its authors' code does it.
RECIPES = ("paper", "authors")
# Overrides that say where files lie or what an estimate assumes: the cell stays what its axes name.
_SAME: tuple[str, ...] = (
    "backbone.source=directory",
    "backbone.path=",
    "backbone.revision=",
    "domain.data.path=",
    "domain.hints.",
)
_SAME += ("domain.data.revision=", "benchmark.data.path=", "benchmark.data.revision=", "recipe=")
_METRICS = {"jaro_winkler": "jaro_winkler", "word": "exact_match"}
_QUESTIONS = 0.02  # share of its questions that a benchmark may differ by: those asked twice count once with us


def our_numbers(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """One row per number of ours that could stand beside a reported one (COLUMNS): scores by benchmark, their averages
    by domain, Jaro-Winkler similarities, gains over NLL, prior strengths; intervals are over seeds too where there are
    several. `reason` says why it is not comparable with what the paper did, '' where it is.
    """
    if results.cells.empty:
        return pd.DataFrame(columns=COLUMNS)
    reasons, identities = reasons_against(results), identities_of(results)
    mean_table, gain_table = means(results, prior), gains(results, prior)
    rows = [_score(row, reasons) for row in decisive(mean_table, "").to_dict("records")]
    rows += [_average(row, reasons, "mean") for row in _averages(mean_table, results)]
    rows += [_average(row, reasons, "gain") for row in _averages(gain_table, results)]
    rows += [_other_metric(group, reasons) for group in _similarities(results)]
    rows += _priors(results, mean_table, reasons, prior)
    table = pd.DataFrame(rows, columns=[*COLUMNS, "averaged"])
    table["identity"] = [identities.get(name, "") for name in table["objective"]]
    table["best"] = False
    if (table["reason"] == "").any():  # the differences take their time
        best = best_keys(pd.concat([mean_table, pd.DataFrame(_averages(mean_table, results))]), results, prior)
        scores = table["metric"].isin(PRIMARY_METRICS).to_numpy()
        table["best"] = scores & np.array([_key(row) in best for row in _renamed(table).to_dict("records")])
    return table[COLUMNS]


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """The averages under the names that by_place gives them."""
    return table.assign(benchmark=table["averaged"].where(table["averaged"].notna(), table["benchmark"]))


def without_normaliser(identity: str) -> str:
    """An objective's identity, whichever tokens its loss is divided by: the paper's formula and its authors' code
    differ in that.
    """
    if not identity:
        return ""
    fields = {key: value for key, value in json.loads(identity).items() if key != "normaliser"}
    return json.dumps(fields, sort_keys=True)


def identities_of(results: Results) -> dict[str, str]:
    """Objective -> its identity as JSON, of those that a spec tells."""
    known = results.cells[results.cells["identity"] != ""]
    return dict(zip(known["objective"], known["identity"], strict=True))


def _key(row: dict[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in (*POINT, "objective", "decoding"))


def _score(row: dict[Any, Any], reasons: dict[tuple[str, ...], str]) -> dict[str, Any]:
    metric = "exact_match" if row["domain"] == "figfont" else "accuracy"
    return {**row, "metric": metric, "reason": reasons[_key(row)]}


def _averages(table: pd.DataFrame, results: Results) -> list[dict[Any, Any]]:
    """The averages over a domain's benchmarks; without the repetition of those in their own decoding."""
    placed = by_place(table, results.cells)
    placed = placed[(placed["columns"] > 1) & (placed["decoding"] != PRIMARY)]
    return decisive(placed, "gain" if "gain" in placed else "").to_dict("records")


def _average(row: dict[Any, Any], reasons: dict[tuple[str, ...], str], stem: str) -> dict[str, Any]:
    """An average is comparable where all its parts are, and it has the paper's columns."""
    keys = ("backbone", "domain", "variant", "objective", "decoding")
    mine = tuple(str(row[name]) for name in keys)
    parts = {key[2]: why for key, why in reasons.items() if (key[0], key[1], key[3], key[4], key[5]) == mine}
    known = benchmarks()
    wanted = [name for domain, name in known[known["reported"]].index if domain == row["domain"]]
    absent = [name for name in wanted if name not in parts]
    reason = next((why for why in parts.values() if _of_place(why)), "")
    if not reason and (row["lacking"] or absent):
        reason = f"an average without a score: {row['lacking'] or ', '.join(absent)}"
    reason = reason or next((why for why in parts.values() if why), "")
    numbers = {"mean": row[stem], "low": row["gain_low" if stem == "gain" else "low"]}
    numbers |= {"high": row["gain_high" if stem == "gain" else "high"]}
    metric = "gain_over_nll" if stem == "gain" else "accuracy"
    return {**row, **numbers, "benchmark": AVERAGE, "averaged": row["benchmark"], "metric": metric, "reason": reason}


def _similarities(results: Results) -> list[list[dict[Any, Any]]]:
    """Scores by a benchmark's other graders that the paper reports as a metric of their own, grouped by seed."""
    table = results.other_graders
    if table.empty:
        return []
    table = table.assign(metric=table["grader"].str.rpartition("-v")[0].map(_METRICS))
    table = table[table["metric"].notna()]
    groups = table.groupby([*POINT, "objective", "decoding", "metric"], sort=False)
    return [group.to_dict("records") for _, group in groups]


def _other_metric(rows: list[dict[Any, Any]], reasons: dict[tuple[str, ...], str]) -> dict[str, Any]:
    """Over several seeds the mean of the means and of the limits, with the scatter of the seeds in the interval."""
    numbers = {key: sum(row[key] for row in rows) / len(rows) for key in ("mean", "low", "high")}
    first = rows[0]
    if len(rows) > 1:
        means_S1 = np.array([[row["mean"]] for row in rows])
        questions = Interval(numbers["mean"], numbers["low"], numbers["high"], first["questions"])
        numbers["low"], numbers["high"] = over_seeds(means_S1, questions)
    told = {"n": first["questions"], "seeds": len(rows), "reason": reasons.get(_key(first), "")}
    return {**first, **numbers, **told}


def _priors(
    results: Results, mean_table: pd.DataFrame, reasons: dict[tuple[str, ...], str], prior: Prior
) -> list[dict[str, Any]]:
    """Of each place, over the backbones of its seeds (continuum.means)."""
    rows = []
    cells = results.cells[results.cells[f"prior_{prior}"].notna()]
    placed = mean_table[mean_table["prior"].notna()]
    for (backbone, domain, variant), group in cells.groupby(PLACE, sort=False):
        first = placed[(placed[PLACE] == [backbone, domain, variant]).all(axis=1)].iloc[0]
        about = [why for why in (reasons.get(_key(row), "") for row in group.to_dict("records")) if _of_place(why)]
        rows.append(
            {
                "backbone": backbone, "domain": domain, "variant": variant, "objective": "base", "decoding": "",
                "benchmark": TRAINING_SET, "metric": "mean_p", "mean": first["prior"], "low": first["prior_low"],
                "high": first["prior_high"], "n": first["prior_questions"] or first["prior_sequences"],
                "seeds": group["prior"].nunique(),
                "reason": about[0] if about else "",
            }
        )  # fmt: skip
    return rows


# --- what speaks against a comparison --------------------------------------------------------------------------------

_RANDOM, _LAB, _REHEARSAL = "random weights", "a backbone of the lab", "rehearsal data"
_OVERRIDES, _NOISE = "other settings", "label noise"


def _of_place(reason: str) -> bool:
    """Whether a reason holds for the prior too, which has neither recipe nor decoding."""
    return reason.startswith((_RANDOM, _LAB, _REHEARSAL, _OVERRIDES, _NOISE))


def reasons_against(results: Results) -> dict[tuple[str, ...], str]:
    """(point, objective, decoding) -> why its score is not comparable, '' where it is."""
    reader = Reader(Layout(results.root))
    out: dict[tuple[str, ...], str] = {}
    for row in results.cells.to_dict("records"):
        out[_key(row)] = out.get(_key(row)) or _reason(row, results, reader)
    return out


def _reason(row: dict[Any, Any], results: Results, reader: Reader) -> str:
    spec = reader.spec(str(row["evaluate"]))
    kind = _made_up(spec["job"]) if spec else ""
    if kind:
        return kind
    settings = [text for text in [*str(row["variant"]).split(", "), *results.shared] if text]
    others = [text for text in settings if not text.startswith((*_SAME, "noise ", "as of launch"))]
    if others:
        return f"{_OVERRIDES}: {', '.join(others)}"
    if row["noise_rate"] > 0:
        return f"{_NOISE}: {row['noise_kind']} {row['noise_rate']:g}"
    if row["objective"] != "base" and row["recipe"] not in RECIPES:
        return f"another recipe: {row['recipe']}"
    if row["state"] != "done":
        return f"cell missing: {row['why']}"
    if spec is None:
        return "the spec of its evaluation is missing, so that its data are not known"
    return _protocol(row)


def _protocol(row: dict[Any, Any]) -> str:
    of = benchmarks().to_dict("index").get((row["domain"], row["benchmark"]))
    if of is None:
        return ""
    if not math.isclose(row["temperature"], of["temperature"]):
        return f"another decoding: temperature {row['temperature']:g}, the paper's is {of['temperature']:g}"
    if abs(row["questions"] - of["questions"]) > _QUESTIONS * of["questions"]:
        return f"other questions: {row['questions']}, the paper has {of['questions']}"
    return ""


def _made_up(job: dict[str, Any]) -> str:
    """What in an evaluation's spec is not real: the weights, or the rows."""
    backbone = (job.get("train") or {}).get("backbone") or job.get("backbone") or {}
    if backbone.get("source") == "random":
        return _RANDOM
    if backbone.get("source") == "lab":
        return _LAB
    tables = [((job.get(axis) or {}).get("data") or {}).get("paths") or [] for axis in ("domain", "benchmark")]
    return _REHEARSAL if any("/rehearsal/" in str(path) for paths in tables for path in paths) else ""
