"""Statistics of a sweep: mean scores, gains over NLL paired by question, and where on the continuum they lie.

A point is a (backbone, domain, benchmark, variant). Its place is the prior strength of the base model (paper, Eq. 5),
either on the clean answers or on the answers as trained (label noise included). All benchmarks of a domain share it;
benchmarks.by_place averages over them. Questions are paired within a benchmark, seeds with one another. Several seeds
are averaged within a question first, so n stays the number of questions: low and high speak of other questions and the
same seeds, `seed_sd` of other seeds, seeds_low and seeds_high of both. docs/statistics.md says which to use for what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.sources.table import POINT, Prior, Results
from analysis.statistics.comparisons import adjusted, minimum_detectable
from analysis.statistics.crossover import prior_leaning
from analysis.statistics.intervals import Array, Interval, mean_interval, mean_intervals, ratio_interval
from analysis.statistics.paired import paired_difference, paired_differences
from analysis.statistics.seeds import detectable_over_seeds, over_seeds, p_over_seeds, prior_over_seeds
from bll_sweeps.grid.axes import canonical_json
from bll_sweeps.store.regions import REGION_EDGES, REGIONS, region, region_paper

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
_GROUP = [*POINT, "objective", "decoding"]
_NLL = canonical_json({"family": "nll"})
_NO_GAINS = [*POINT, *_OF_POINT, "objective", "decoding", "gain", "gain_low", "gain_high", "n", "prior", "region"]

Cell = dict[str, Any]  # a row of Results.cells


@dataclass(frozen=True)
class _Scores:
    """Scores by seed and question [S, N], means over samples; `samples` are behind one question, all seeds together."""

    questions: NDArray[np.int32]  # their numbers, [N]
    score_SN: Array
    samples: int


def means(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """One row per point, objective, decoding: mean, low, high, n (questions), samples, seeds, seed_sd, prior, region.

    low and high are over questions; seeds_low and seeds_high over seeds and questions, nan with fewer than two seeds.
    `region` is by prior strength, `region_paper` the paper's own by domain. Rows whose cells are all missing are there,
    with n = 0.
    """
    rows, found, runs = [], [], []
    for keys, cells in _groups(results).items():
        done = _distinct([cell for cell in cells if cell["state"] == "done"], "evaluate", "grader")
        different = _distinct(done, "evaluate")
        found.append(_scores(results, done))
        runs.append(_seeds(found[-1].samples, len(different), [cell["mean"] for cell in different]))
        rows.append({**dict(zip(_GROUP, keys, strict=True)), **_place(cells, prior)})
    intervals = mean_intervals([_over_runs(one.score_SN) for one in found], [one.samples for one in found])
    for row, interval, one, of_runs in zip(rows, intervals, found, runs, strict=True):
        row |= _fields(interval, "") | _over_seeds(one.score_SN, interval, "seeds") | of_runs
    return _ordered(pd.DataFrame(rows))


def gains(results: Results, prior: Prior = "clean", reference: str = REFERENCE) -> pd.DataFrame:
    """One row per point, objective other than `reference` and base, and decoding: gain over the reference by question.

    The reference is the objective of that name, and any other that is the same (power with alpha 0 is NLL). Columns as
    in `means`, with gain, gain_low, gain_high for the mean difference, gain_seeds_low and gain_seeds_high over seeds
    and questions; p_value (over both where there are several seeds), and adjusted over all gains of a decoding p_holm,
    p_bh and significant_holm; mdd, the difference that could be detected with 80 % power; prior_leaning, whether the
    objective's gain is expected not to fall with prior strength (crossover.py). Only questions that both were asked
    count; only seeds that both have, answered by the same engine and scored by the same grader. n = 0 where either is
    missing.
    """
    groups = _groups(results)
    same = _same_objectives(results, reference)
    at = _GROUP.index("objective")
    partners: dict[tuple[str, ...], list[Cell]] = {}
    for keys in sorted(groups, key=lambda keys: keys[at] != reference):
        if keys[at] in same:
            partners.setdefault(keys[:at] + keys[at + 1 :], groups[keys])
    rows, differences = [], []
    for keys, cells in groups.items():
        if keys[at] in same or keys[at] == "base":
            continue
        done, other = _paired(cells, partners.get(keys[:at] + keys[at + 1 :], []))
        difference_SN, samples = _difference(_scores(results, done), _scores(results, other))
        row = {**dict(zip(_GROUP, keys, strict=True)), **_place(done or cells, prior)}
        row["prior_leaning"] = all(prior_leaning(cell["identity"]) for cell in cells)
        by_seed = difference_SN.mean(axis=1).tolist() if difference_SN.size else []
        rows.append(row | _seeds(samples, len(difference_SN), by_seed))
        differences.append(difference_SN)
    if not rows:
        return adjusted(pd.DataFrame(columns=[*_NO_GAINS, "p_value", "mdd"]))
    found = paired_differences([_over_runs(d_SN) for d_SN in differences])
    for row, one, difference_SN in zip(rows, found, differences, strict=True):
        row |= _fields(one, "gain") | (ends := _over_seeds(difference_SN, one, "gain_seeds"))
        low, high = ends.values()
        several, runs = not math.isnan(low), len(difference_SN)
        p = p_over_seeds(one, (low, high), runs) if several else one.p_value
        mdd = detectable_over_seeds(one, (low, high), runs) if several else minimum_detectable(one)
        row |= {"p_value": p, "mdd": mdd}
    return _ordered(adjusted(pd.DataFrame(rows)))


def _same_objectives(results: Results, reference: str) -> set[str]:
    """The names of the reference: its own, and those of objectives that are the same but for the name."""
    cells = results.cells
    identities = set(cells.loc[cells["objective"] == reference, "identity"]) - {""}
    if reference == REFERENCE:
        identities.add(_NLL)
    return {reference} | set(cells.loc[cells["identity"].isin(identities), "objective"])


def _groups(results: Results) -> dict[tuple[str, ...], list[Cell]]:
    """The cells of each point, objective and decoding, in the order of the sweep."""
    out: dict[tuple[str, ...], list[Cell]] = {}
    for cell in results.cells.to_dict("records"):
        out.setdefault(tuple(str(cell[name]) for name in _GROUP), []).append(cell)  # type: ignore[arg-type]
    return out


def _distinct(cells: Sequence[Cell], *keys: str) -> list[Cell]:
    """The first cell of each value of the keys."""
    first: dict[tuple[Any, ...], Cell] = {}
    for cell in cells:
        first.setdefault(tuple(cell[key] for key in keys), cell)
    return list(first.values())


def _paired(cells: list[Cell], others: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The done cells of seeds that both have, by the same engine and grader; one of each, in the same order."""
    keys = ("seed", "engine", "grader")
    sides = [_distinct([cell for cell in side if cell["state"] == "done"], *keys) for side in (cells, others)]
    done, other = ({tuple(cell[key] for key in keys): cell for cell in side} for side in sides)
    common = [key for key in done if key in other]
    return [done[key] for key in common], [other[key] for key in common]


def _scores(results: Results, cells: list[Cell]) -> _Scores:
    """The scores of the questions that all of these cells were asked, by seed; cells of one seed are averaged."""
    if not cells:
        return _Scores(np.empty(0, np.int32), np.empty((0, 0)), 0)
    columns = results.columns
    at = [columns.rows((cell["evaluate"], cell["decoding"], cell["grader"])) for cell in cells]
    common = columns.code[at[0]]
    for one in at[1:]:
        common = _common(common, columns.code[one])
    by_seed: dict[int, list[Array]] = {}
    for cell, one in zip(cells, at, strict=True):
        score_N = _of(columns.score[one], columns.code[one], common)
        by_seed.setdefault(int(cell["seed"]), []).append(score_N)
    asked = {(cell["evaluate"], cell["grader"]): one for cell, one in reversed(list(zip(cells, at, strict=True)))}
    samples = sum(int(columns.samples[one].min()) for one in asked.values())
    return _Scores(common, np.stack([np.mean(by_seed[seed], axis=0) for seed in sorted(by_seed)]), samples)


def _over_runs(score_SN: Array) -> Array:
    """Averaged over seeds; empty where there are none."""
    return score_SN.mean(axis=0) if score_SN.size else np.empty(0)


def _common(questions: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    """Those of the first that the others have too, in their order."""
    return questions if np.array_equal(questions, others) else questions[np.isin(questions, others)]


def _of(score_XN: Array, asked: NDArray[np.int32], questions: NDArray[np.int32]) -> Array:
    """Of scores of the questions `asked` [.., N] those of `questions`, in that order."""
    if np.array_equal(asked, questions):
        return score_XN
    order = np.argsort(asked)
    return score_XN[..., order[np.searchsorted(asked[order], questions)]]


def _difference(a: _Scores, b: _Scores) -> tuple[Array, int]:
    """Score differences [S, N] of the questions that both were asked, and the samples behind a question of `a`."""
    common = _common(a.questions, b.questions)
    a_SN, b_SN = (_of(one.score_SN, one.questions, common) for one in (a, b))
    return a_SN - b_SN, a.samples


def _place(cells: list[Cell], prior: Prior) -> dict[str, object]:
    """Where seeds have backbones or training sets of their own their prior strengths are averaged, with the interval
    over seeds too (seeds.py), held within [0, 1].
    """
    names = (f"prior_{prior}", f"prior_{prior}_low", f"prior_{prior}_high")
    own = {cell["prior"]: cell for cell in cells if not math.isnan(cell[f"prior_{prior}"])}
    first = next(iter(own.values()), cells[0])
    value_S, low_S, high_S = (np.array([cell[name] for cell in own.values() or [first]], float) for name in names)
    value, low, high = prior_over_seeds(value_S, low_S, high_S)
    temperatures = [cell["temperature"] for cell in cells if not math.isnan(cell["temperature"])]
    return {
        **{key: first[key] for key in _OF_POINT},
        "prior": value,
        "prior_low": low,
        "prior_high": high,
        "prior_questions": first["prior_questions"],
        "prior_sequences": first["prior_sequences"],
        "region": region(value),
        "region_paper": region_paper(first["domain"]),
        "temperature": max(temperatures, default=math.nan),
        "primary": bool(first["primary"]),
    }


def _fields(interval: Interval, stem: str) -> dict[str, float]:
    names = (stem, f"{stem}_low", f"{stem}_high") if stem else ("mean", "low", "high")
    return dict(zip((*names, "n"), (interval.mean, interval.low, interval.high, interval.n), strict=True))


def _over_seeds(score_SN: Array, interval: Interval, stem: str) -> dict[str, float]:
    return dict(zip((f"{stem}_low", f"{stem}_high"), over_seeds(score_SN, interval), strict=True))


def _seeds(samples: int, seeds: int, by_seed: list[float]) -> dict[str, float]:
    """by_seed: the mean of each seed's run."""
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else math.nan
    return {"samples": samples, "seeds": seeds, "seed_sd": spread}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By prior strength, strongest first, the variants of a point together; else in the order of the sweep."""
    if table.empty:
        return table
    strength = table.groupby("point")["prior"].transform("mean")
    table = table.assign(_strength=strength).sort_values(
        ["_strength", "point"], ascending=[False, True], kind="stable", ignore_index=True
    )
    return table.drop(columns="_strength")
