"""The reported numbers as a table, and in the tidy schema of `continuum.means` and `continuum.gains`.

table = reported()
table[["place", "backbone", "objective", "benchmark", "metric", "value"]]

Scores lie in [0, 1] in every table made here. None has an interval: no question-level data are reported.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics.continuum import REFERENCE
from analysis.statistics.crossover import prior_leaning
from bll_sweeps.errors import UsageError, hint
from bll_sweeps.grid.axes import Objective, canonical_json
from bll_sweeps.store.regions import region

FOLDER = Path(__file__).parent
COLUMNS = (
    "place", "how", "tolerance", "domain", "region", "backbone", "objective", "alpha", "quantile", "benchmark",
    "metric", "unit", "value", "printed",
)  # fmt: skip
_NUMBER = ("place", "domain", "backbone", "name", "benchmark", "metric")  # what tells a number apart
HOW = ("printed", "digitised", "third-party")
UNITS = {"percent": 0.01, "fraction": 1.0}
METRICS = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "jaro_winkler": "Jaro-Winkler similarity",
    "pass_at_1": "pass@1",
    "win_rate": "win rate against NLL",
    "length_controlled_win_rate": "length-controlled win rate against NLL",
    "mean_p": "mean p of the training set's target tokens",
    "share_above_0.55": "share of target tokens with p > 0.55",
    "gain_over_nll": "gain over NLL",
}
REGIONS = ("", "MS", "MI", "MW")
TRAINING_SET, AVERAGE = "training set", "average"
# What a benchmark of the project is scored by first, and so what means and gains are of.
PRIMARY_METRICS = ("accuracy", "exact_match")
_TABLES = ("Table 1", "Table 2", "Table 3")  # the main grid
_PRIORS = "Table 5"
_FAMILIES: dict[str, dict[str, Any]] = {
    "nll": {"family": "nll"},
    "p": {"family": "power", "alpha": 1.0},
    "power": {"family": "power"},
    "convexity": {"family": "convexity"},
    "logp": {"family": "nll"},
    "unlikelihood": {"family": "unlikelihood"},
}
OBJECTIVES = (
    "base", "nll", "p", "power", "convexity", "unlikelihood", "logp_above", "logp_below", "p_above", "p_below",
    "unlikelihood_above", "unlikelihood_below", "reference",
)  # fmt: skip
_OF_SEEDS = ("seed_sd", "seeds_low", "seeds_high")
# What of a gain only scores by question can tell.
_BY_QUESTION = ("gain_low", "gain_high", "gain_seeds_low", "gain_seeds_high", "p_value", "p_holm", "p_bh", "mdd")
_FORMULAS = {"base": "untrained", "nll": "−log p", "p": "−p", "logp_above": "−log p · 1[p ≥ 0.2]"}


def reported(path: Path | None = None) -> pd.DataFrame:
    """Every reported number, one row each: COLUMNS, and `score` (the value in [0, 1]), `rounding` (half a unit of its
    last digit, or the tolerance that it was digitised with, as a score), `identity` (the objective without its name),
    `name` (the objective as the project names its cells, `power-0.3`).

    Another file of the same columns can be read. Raises UsageError naming file, line and column of a bad value.
    """
    path = path or FOLDER / "reported.csv"
    rows = [_row(path, line, row) for line, row in read_csv(path, COLUMNS)]
    if not rows:
        raise UsageError(f"{path} has no rows")
    lines = [line for line, _ in read_csv(path, COLUMNS)]
    first: dict[tuple[str, ...], int] = {}
    for line, row in zip(lines, rows, strict=True):
        key = tuple(str(row[name]) for name in _NUMBER)
        if key in first:
            raise UsageError(f"{path} lines {first[key]} and {line} tell one and the same number ({', '.join(key)})")
        first[key] = line
    return pd.DataFrame(rows)


def read_csv(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with these columns. Raises UsageError for a file that is not one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            found = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
    if found != columns:
        raise UsageError(f"{path} line 1: the columns are {', '.join(found)}; they must be {', '.join(columns)}")
    for line, row in rows:
        if None in row or None in row.values():
            raise UsageError(f"{path} line {line} has not {len(columns)} columns")
    return rows


def number_in(path: Path, line: int, column: str, text: str, low: float = 0.0, high: float = math.inf) -> float:
    """A number of a CSV file. Raises UsageError naming the place of a text that is none, or is out of range."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        bound = f" between {low:g} and {high:g}" if high < math.inf else f" of at least {low:g}"
        raise UsageError(f"{path} line {line}, column {column}: {text!r} is no number{bound}")
    return value


def choice_in(path: Path, line: int, column: str, text: str, choices: tuple[str, ...]) -> str:
    """A name of a CSV file that must be one of these."""
    if text not in choices:
        known = [name or "(empty)" for name in choices]
        raise UsageError(f"{path} line {line}, column {column}: {text!r} is unknown{hint(known, text)}")
    return text


def _row(path: Path, line: int, row: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = dict(row)
    for column in ("place", "domain", "backbone", "benchmark"):
        if not row[column]:
            raise UsageError(f"{path} line {line}, column {column}: is empty")
    lists = {"how": HOW, "unit": tuple(UNITS), "metric": tuple(METRICS), "region": REGIONS, "objective": OBJECTIVES}
    for column, choices in lists.items():
        choice_in(path, line, column, row[column], choices)
    scale = UNITS[row["unit"]]
    low = -1.0 / scale if row["metric"] == "gain_over_nll" else 0.0
    out["value"] = number_in(path, line, "value", row["value"], low, 1.0 / scale)
    out["decimals"] = len(row["value"].strip().partition(".")[2])
    if (row["how"] == "digitised") != bool(row["tolerance"]):
        raise UsageError(f"{path} line {line}, column tolerance: digitised numbers have one, and no others")
    half = number_in(path, line, "tolerance", row["tolerance"]) if row["tolerance"] else 0.5 * 10 ** -out["decimals"]
    out |= {"tolerance": half if row["tolerance"] else math.nan, "score": out["value"] * scale}
    out["rounding"] = half * scale
    for column, top in (("alpha", math.inf), ("quantile", 1.0)):
        out[column] = number_in(path, line, column, row[column], 0.0, top) if row[column] else math.nan
    if (row["objective"] in ("power", "convexity")) != bool(row["alpha"]):
        raise UsageError(f"{path} line {line}, column alpha: power and convexity have one, and no others")
    out["identity"], out["name"] = _objective(path, line, out)
    return out


def _objective(path: Path, line: int, row: dict[str, Any]) -> tuple[str, str]:
    """Identity (as `Results.cells` has it) and name. A threshold at the lowest or highest quantile keeps all tokens."""
    name, quantile = str(row["objective"]), float(row["quantile"])
    if name in ("base", "reference"):
        return canonical_json({"family": name}), name
    family, _, keep = name.partition("_")
    told = dict(_FAMILIES[family])
    if not math.isnan(row["alpha"]):
        told["alpha"] = row["alpha"]
        name = f"{name}-{row['alpha']}"
    if keep and not math.isnan(quantile):
        name = f"{name}(threshold_quantile={quantile:g})"
        if quantile != (0.0 if keep == "above" else 1.0):
            told |= {"keep": keep, "threshold_quantile": quantile}
    elif keep:
        told |= {"keep": keep, "threshold": 0.2}
    try:
        return canonical_json(Objective(name=row["objective"], **told).identity()), name
    except ValueError as error:
        raise UsageError(f"{path} line {line}: {error}") from None


@cache
def benchmarks(path: Path = FOLDER / "benchmarks.csv") -> pd.DataFrame:
    """Benchmarks by (domain, benchmark): title, questions, samples, temperature, reported (whether it has a column)."""
    columns = ("domain", "benchmark", "title", "questions", "samples", "temperature", "reported", "basis")
    rows = []
    for line, row in read_csv(path, columns):
        numbers = {key: int(number_in(path, line, key, row[key], 1)) for key in ("questions", "samples")}
        numbers["temperature"] = number_in(path, line, "temperature", row["temperature"])  # type: ignore[assignment]
        told = choice_in(path, line, "reported", row["reported"], ("yes", "no")) == "yes"
        rows.append({**row, **numbers, "reported": told})
    return pd.DataFrame(rows).set_index(["domain", "benchmark"])


def formulas() -> dict[str, str]:
    """How the objectives of the main grid are written, as in `Results.formulas`."""
    return dict(_FORMULAS)


# --- in the schema of analysis.statistics.continuum ------------------------------------------------------------------


def reported_means(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The main grid (Tables 1 to 3) with the columns of `continuum.means`, and `source`.

    Figlet fonts by exact match. The prior is that of Table 5, its interval and that of the mean nan; the region is the
    paper's, by the domain; n is the benchmark's number of questions, seeds nan as none are told of. The averages that
    the paper prints are left out: benchmarks.by_place makes them from the columns.
    """
    table = reported() if table is None else table
    rows = []
    for row in _grid(table).to_dict("records"):
        place = _place(table, row)
        rows.append({**place, "mean": row["score"], "low": math.nan, "high": math.nan})
    return _ordered(pd.DataFrame(rows))


def reported_gains(table: pd.DataFrame | None = None, reference: str = REFERENCE) -> pd.DataFrame:
    """The main grid's gains over the reference with the columns of `continuum.gains`; rows as in `reported_means`."""
    table = reported() if table is None else table
    means = reported_means(table)
    if means.empty:
        return means
    keys = ["backbone", "domain", "benchmark"]
    of_reference = means[means["objective"] == reference].set_index(keys)["mean"]
    rows = means[~means["objective"].isin(("base", reference))]
    known = [of_reference.get(tuple(row), math.nan) for row in rows[keys].to_numpy(str)]
    gains = rows.assign(gain=rows["mean"] - known, significant_holm=False, **dict.fromkeys(_BY_QUESTION, math.nan))
    gains.loc[gains["gain"].isna(), "n"] = 0
    identities = dict(zip(table["name"], table["identity"], strict=True))
    gains["prior_leaning"] = [prior_leaning(identities[name]) for name in gains["objective"]]
    return gains.drop(columns=["mean", "low", "high"]).reset_index(drop=True)


_ALONE = {  # by the kind of ablation: the metrics that its figure is of, and its places, first choice first
    "alpha": (("accuracy", "jaro_winkler"), ("Figure 6 left", "Figure 6 right")),
    "quantile": (("accuracy",), ("Figure 5 (printed maximum)", "Figure 5")),
    "scale": (("gain_over_nll",), ("Figure 7",)),
}


def reported_ablation(kind: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The numbers of the paper's ablation of `alpha`, `quantile` or `scale` (Figures 6, 5, 7), a row per objective,
    backbone and domain, with the columns of `reported_means` (of scale: `reported_gains`) and `place`, `digitised` (as
    figures.overlay.Reported) and of scores `metric` in words. To alphas NLL is added from the main grid where
    that has the same score.
    """
    table = reported() if table is None else table
    metrics, places = _ALONE[kind]
    mine = table[table["place"].isin(places) & table["metric"].isin(metrics)]
    if kind == "alpha":
        cell = ["backbone", "domain", "benchmark", "metric"]
        same = pd.MultiIndex.from_frame(table[cell]).isin(pd.MultiIndex.from_frame(mine[cell]))
        mine = pd.concat([mine, table[table["place"].isin(_TABLES) & (table["objective"] == REFERENCE) & same]])
    mine = mine.iloc[mine["place"].map([*places, *_TABLES].index).argsort(kind="stable")]
    rows = []
    for row in mine.drop_duplicates(["backbone", "domain", "name"]).to_dict("records"):
        more = {"place": row["place"], "identity": row["identity"]}
        more["digitised"] = row["rounding"] if row["how"] == "digitised" else 0.0
        if kind == "scale":
            more |= {"gain": row["score"], "significant_holm": False, **dict.fromkeys(_BY_QUESTION, math.nan)}
        else:
            more |= {"mean": row["score"], "low": math.nan, "high": math.nan, "metric": METRICS[row["metric"]]}
        rows.append({**_place(table, row), **more})
    return _ordered(pd.DataFrame(rows))


def _grid(table: pd.DataFrame) -> pd.DataFrame:
    main = table["place"].isin(_TABLES) & table["metric"].isin(PRIMARY_METRICS) & (table["benchmark"] != AVERAGE)
    return table[main]


def _place(table: pd.DataFrame, row: dict[Any, Any]) -> dict[str, Any]:
    backbone, domain, benchmark = row["backbone"], row["domain"], row["benchmark"]
    out: dict[str, Any] = {"backbone": backbone, "domain": domain, "benchmark": benchmark, "variant": ""}
    out |= {"objective": row["name"], "point": f"{backbone} · {domain}", "label": f"{backbone} · {benchmark}"}
    out |= {"task": domain, "exposure": math.nan, "noise_kind": "none", "noise_rate": 0.0}
    prior = prior_of(table, backbone, domain)
    out |= {"prior": prior, "prior_low": math.nan, "prior_high": math.nan, "prior_questions": 0, "prior_sequences": 0}
    known = _asked(domain, benchmark)
    temperature, samples = float(known.get("temperature", math.nan)), int(known.get("samples", 0))
    out |= {"decoding": "sampled" if temperature > 0 else "greedy", "temperature": temperature, "primary": True}
    out |= {
        "region": row["region"] or region(prior),
        "region_paper": row["region"],
        "n": int(known.get("questions", 0)),
        "samples": samples,
    }
    return out | {"seeds": math.nan, "source": "reported", **dict.fromkeys(_OF_SEEDS, math.nan)}


def _asked(domain: str, benchmark: str) -> dict[str, Any]:
    """Questions, samples and temperature; of an average, those of the benchmarks that it is over."""
    known = benchmarks()
    if benchmark != AVERAGE:
        return {str(k): v for k, v in known.to_dict("index").get((domain, benchmark), {}).items()}
    parts = known[known["reported"] & (known.index.get_level_values("domain") == domain)]
    if parts.empty:
        return {}
    least = parts[["samples", "temperature"]].min()
    return {"questions": int(parts["questions"].sum()), **{str(name): value for name, value in least.items()}}


def prior_of(table: pd.DataFrame, backbone: str, domain: str) -> float:
    """Prior strength as Table 5 reports it; nan where it does not."""
    mine = table[(table["place"] == _PRIORS) & (table["backbone"] == backbone) & (table["domain"] == domain)]
    return float(mine["score"].iloc[0]) if len(mine) else math.nan


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    return table.sort_values(["prior", "point"], ascending=[False, True], kind="stable", ignore_index=True)
