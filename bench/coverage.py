"""How often the 95 % intervals cover the truth, by simulation, with the seed that repeats it.

    python -m bench.coverage [--replications 4000] [--only differences] > bench/results/coverage.md

Every replication draws questions anew from a population of difficulties (a question's rate of right answers), then the
samples of each question; the truth is the population's mean. A population is beta(a, b) with a + b = `shape`: near 0
almost every question is always or never answered right ("0": exactly so), at 30 questions are much alike. Two
objectives on the same questions: with probability `shared` the second's rate is the first's, raised (where there is a
difference) by a beta share of what lacks; otherwise it is drawn by itself. Near .98 it is the same with right and wrong
exchanged, so the second is worse there. The functions under test are those that the analysis calls.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.benchmarks import combined
from analysis.statistics.comparisons import minimum_detectable
from analysis.statistics.crossover import Crossover, crossover_of
from analysis.statistics.intervals import Interval, Z, mean_interval
from analysis.statistics.paired import paired_differences
from analysis.statistics.seeds import over_seeds

SEED = 20261123
SHAPES = (0.0, 0.3, 1.0, 6.0, 30.0)
ACCURACIES = (0.02, 0.5, 0.98)
QUESTIONS = (30, 500)
SAMPLES = (1, 16)
Row = dict[str, Any]
Rates = np.ndarray[Any, np.dtype[np.float64]]


def rates(rng: np.random.Generator, mean: float, shape: float, size: tuple[int, ...]) -> Rates:
    if shape == 0:
        return (rng.random(size) < mean).astype(float)
    return rng.beta(mean * shape, (1 - mean) * shape, size)


def answers(rng: np.random.Generator, rate: Rates, samples: int) -> Rates:
    return rng.binomial(samples, rate) / samples


def pair(
    rng: np.random.Generator, mean: float, shape: float, gain: float, shared: float, size: tuple[int, ...]
) -> tuple[Rates, Rates, float]:
    """Rates of two objectives on the same questions, and the true mean difference, second less first."""
    swap = mean > 0.5
    mean = 1 - mean if swap else mean
    first = rates(rng, mean, shape, size)
    better = first + rates(rng, gain, shape, size) * (1 - first) if gain else first
    second = np.where(rng.random(size) < shared, better, rates(rng, mean + gain * (1 - mean), shape, size))
    truth = gain * (1 - mean)
    return (1 - first, 1 - second, -truth) if swap else (first, second, truth)


def tally(found: Iterable[Interval | Crossover], truth: float) -> Row:
    ends = np.array([(one.low, one.high) for one in found])
    covered = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
    return {"coverage": covered.mean(), "median width": float(np.median(ends[:, 1] - ends[:, 0]))}


def means(replications: int) -> Iterator[Row]:
    for number, (n, mean, shape, samples) in enumerate(itertools.product(QUESTIONS, ACCURACIES, SHAPES, SAMPLES)):
        rng = np.random.default_rng([SEED, 1, number])
        score_RN = answers(rng, rates(rng, mean, shape, (replications, n)), samples)
        setting = {"scores": "right or wrong", "n": n, "accuracy": mean, "shape": shape, "samples": samples}
        yield setting | tally((mean_interval(score_N, samples) for score_N in score_RN), mean)
    for number, (n, mean, shape) in enumerate(itertools.product(QUESTIONS, ACCURACIES, (1.0, 6.0, 30.0))):
        rng = np.random.default_rng([SEED, 2, number])
        score_RN = rates(rng, mean, shape, (replications, n))
        setting = {"scores": "continuous", "n": n, "accuracy": mean, "shape": shape, "samples": 1}
        yield setting | tally((mean_interval(score_N) for score_N in score_RN), mean)


def differences(replications: int) -> Iterator[Row]:
    gains, shares = (0.0, 0.06, 0.3), (0.0, 0.9)
    settings = itertools.product(QUESTIONS, ACCURACIES, gains, SHAPES, shares, SAMPLES)
    for number, (n, mean, gain, shape, shared, samples) in enumerate(settings):
        rng = np.random.default_rng([SEED, 3, number])
        first, second, truth = pair(rng, mean, shape, gain, shared, (replications, n))
        difference_RN = answers(rng, second, samples) - answers(rng, first, samples)
        setting = {"n": n, "accuracy": mean, "difference": truth, "shape": shape, "shared": shared, "samples": samples}
        yield (
            setting
            | {"questions that differ": effective(difference_RN)}
            | tally(paired_differences(list(difference_RN)), truth)
        )


def effective(difference_RN: Rates) -> float:
    """Kish's effective number of questions that differ, (sum |d|)^2 / sum d^2, averaged: questions that differ by a
    sample's chance among sixteen count little beside those that differ altogether.
    """
    size_RN = np.abs(difference_RN)
    squares_R = (size_RN**2).sum(axis=1)
    return float(np.divide(size_RN.sum(axis=1) ** 2, squares_R, out=np.zeros(len(size_RN)), where=squares_R > 0).mean())


def averages(replications: int) -> Iterator[Row]:
    sizes = (30, 40, 272, 500, 675)  # AIME24, AMC23, Minerva, MATH500, OlympiadBench
    kinds = {"mixed": (0.02, 0.2, 0.1, 0.5, 0.2), "rare": (0.02,) * 5, "middle": (0.5,) * 5}
    for number, (kind, shape, samples) in enumerate(itertools.product(kinds, (0.0, 1.0, 6.0), SAMPLES)):
        rng = np.random.default_rng([SEED, 4, number])
        parts, gains, truths = [], [], []
        for n, mean in zip(sizes, kinds[kind], strict=True):
            first, second, truth = pair(rng, mean, shape, 0.06, 0.9, (replications, n))
            a_RN, b_RN = answers(rng, first, samples), answers(rng, second, samples)
            parts.append([mean_interval(score_N, samples) for score_N in a_RN])
            gains.append(paired_differences(list(b_RN - a_RN)))
            truths.append(truth)
        names = [f"benchmark {k}" for k in range(len(sizes))]
        setting = {"accuracies": kind, "shape": shape, "samples": samples}
        for what, found, truth in (("mean", parts, np.mean(kinds[kind])), ("gain", gains, np.mean(truths))):
            whole = [combined(list(zip(names, row, strict=True))) for row in zip(*found, strict=True)]
            yield {"of": what} | setting | tally(whole, float(truth))


def logistic(x: Rates) -> Rates:
    return np.asarray(1 / (1 + np.exp(-x)))


def seeds(replications: int) -> Iterator[Row]:
    """Each run shifts the log-odds of all questions by N(0, seed_sd), and of each question by N(0, 1) besides."""
    settings = itertools.product((2, 3, 5), QUESTIONS, (0.02, 0.5), (0.0, 0.1, 0.4), SAMPLES)
    for number, (runs, n, mean, spread, samples) in enumerate(settings):
        rng = np.random.default_rng([SEED, 5, number])
        truth = _true_gain(mean, spread)
        over_both, over_questions = [], []
        for start in range(0, replications, 250):
            size = (min(250, replications - start), n)
            first, second = (answers(rng, rate, samples) for rate in _runs(rng, mean, spread, runs, size))
            difference_RSN = second - first
            for score_SN, one in zip(difference_RSN, paired_differences(list(difference_RSN.mean(1))), strict=True):
                over_questions.append(one)
                over_both.append(Interval(one.mean, *over_seeds(score_SN, one), one.n))
        setting = {"seeds": runs, "n": n, "accuracy": mean, "seed sd": spread, "samples": samples, "truth": truth}
        yield setting | {"over questions": tally(over_questions, truth)["coverage"]} | tally(over_both, truth)


@cache
def _true_gain(mean: float, spread: float) -> float:
    rng = np.random.default_rng([SEED, 7])
    return float(np.mean([np.diff(_runs(rng, mean, spread, 1, (500_000, 1)), axis=0).mean() for _ in range(4)]))


def _runs(rng: np.random.Generator, mean: float, spread: float, runs: int, size: tuple[int, int]) -> Rates:
    """Rates of two objectives [2, R, S, N]; the second's log-odds are .5 higher."""
    base = np.clip(rates(rng, mean, 2.0, (size[0], 1, size[1])), 1e-9, 1 - 1e-9)
    shifts = spread * rng.standard_normal((2, size[0], runs, 1)) + rng.standard_normal((2, size[0], runs, size[1]))
    return logistic(np.log(base / (1 - base)) + shifts + np.array([0.0, 0.5]).reshape(2, 1, 1, 1))


def power(replications: int) -> Iterator[Row]:
    """How often a true difference of the size of `mdd` (the median of a first run) is found: 80 % is promised."""
    settings = itertools.product(QUESTIONS, (0.1, 0.5), (1.0, 6.0), SAMPLES)
    for number, (n, mean, shape, samples) in enumerate(settings):
        rng = np.random.default_rng([SEED, 6, number])
        gain = 0.0
        for _ in range(4):  # the variance depends on the difference a little: settle on both
            first, second, truth = pair(rng, mean, shape, gain, 0.5, (200, n))
            found = paired_differences(list(answers(rng, second, samples) - answers(rng, first, samples)))
            gain = float(np.median([minimum_detectable(one) for one in found])) / (1 - mean)
        first, second, truth = pair(rng, mean, shape, gain, 0.5, (replications, n))
        found = paired_differences(list(answers(rng, second, samples) - answers(rng, first, samples)))
        share = float(np.mean([one.p_value < 0.05 for one in found]))
        yield {"n": n, "accuracy": mean, "shape": shape, "samples": samples, "mdd": truth, "power": share}


def crossovers(replications: int) -> Iterator[Row]:
    """Gains .4 tanh(steepness (x - c)) of settings along x, the logit of prior strength, with the crossover c at a
    prior strength of .4; each setting is off by its scatter and by a measurement error of .05, its x by one of .05.
    An eighth of the replications, since each takes a fit for every setting left out.
    """
    settings = itertools.product((5, 10, 20), (0.0, 0.1, 0.2), (0.3, 1.0, 5.0))
    for number, (n, scatter, steepness) in enumerate(settings):
        rng = np.random.default_rng([SEED, 8, number])
        truth, found = 0.4, []
        for _ in range(max(replications // 8, 1)):
            x_N = np.linspace(-2.5, 4.5, n) + 0.3 * rng.standard_normal(n)
            gain_N = 0.4 * np.tanh(steepness * (x_N - np.log(truth / (1 - truth))))
            gain_N += np.hypot(scatter, 0.05) * rng.standard_normal(n)
            x_N += 0.05 * rng.standard_normal(n)
            own = {"low": gain_N - Z * 0.05, "high": gain_N + Z * 0.05, "gain_var": 0.05**2, "x_var": 0.05**2}
            found.append(
                crossover_of(pd.DataFrame({"x": x_N, "prior": logistic(x_N), "gain": gain_N, "points": 1} | own))
            )
        told = [one for one in found if not one.why]
        row = {"settings": n, "scatter": scatter, "steepness": steepness, "told": len(told) / len(found)}
        yield row | (tally(told, truth) if told else {"coverage": float("nan"), "median width": float("nan")})


def promised(row: Row, by_difference: bool = True) -> tuple[float, float]:
    """The bounds that the coverage of a mean or a difference is to keep: narrow ones where at least ten questions tell
    something, be it that they are answered right, or wrong, or (by_difference) that they differ.
    """
    telling = row["n"] * min(row["accuracy"], 1 - row["accuracy"])
    if by_difference:
        telling = min(telling, row.get("questions that differ", telling))
    return (0.93, 0.97) if telling >= 10 - 1e-9 else (0.9, 1.0)


def attainable() -> Iterator[Row]:
    """What any rule can cover, exactly, where questions are all or nothing (shape 0), n = 30, accuracy .5, no gain.

    Of a rule that treats both sides alike, and to which a question more on either side is no more evidence, one number
    decides: from how many questions that differ, all on one side, it calls a difference significant. It then errs
    wherever all are on one side, and at most wherever one side leads by that many.
    """
    for lead, shared in itertools.product((2, 3, 4), (0.9, 1 - 8 / 30)):
        differ = (1 - shared) / 2
        one_sided = leading = 0.0
        for k in range(lead, 31):
            chance = math.comb(30, k) * differ**k * (1 - differ) ** (30 - k)
            one_sided += chance * 2.0 ** (1 - k)
            leading += chance * sum(math.comb(k, wins) for wins in range(k + 1) if abs(2 * wins - k) >= lead) / 2**k
        yield {
            "significant from": f"{lead} : 0",
            "questions that differ": 30 * differ,
            "coverage at least": 1 - leading,
            "coverage at most": 1 - one_sided,
        }


def table(rows: list[Row]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + " --- |" * len(rows[0])
    for row in rows:
        yield "| " + " | ".join(_text(key, value) for key, value in row.items()) + " |"


def _text(key: str, value: Any) -> str:
    if key.startswith("coverage") or key in ("over questions", "power", "told"):
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(rows: list[Row]) -> Iterator[str]:
    """Which settings leave their bounds, by name; of differences also where bounds go by accuracy alone."""
    yield ""
    low = min(rows, key=lambda row: row["coverage"])
    yield f"{len(rows)} settings; the lowest coverage is {100 * low['coverage']:.1f} %."
    yield ""
    yield from _outside(rows)
    if "questions that differ" in rows[0]:
        yield "By n x min(accuracy, 1 - accuracy) >= 10 alone, however few questions differ:"
        yield ""
        yield from _outside(rows, by_difference=False)
        yield "No rule keeps these bounds at every number of questions that differ, if it treats both sides alike and a"
        yield "question more on either side is no more evidence to it. Where questions are all or nothing, n = 30,"
        yield "accuracy 0.5, no difference, exactly:"
        yield ""
        yield from table(list(attainable()))


def _outside(rows: list[Row], by_difference: bool = True) -> Iterator[str]:
    bounds = [promised(row, by_difference) for row in rows]
    yield f"{sum(low > 0.9 for low, _ in bounds)} settings have narrow bounds."
    below = [row for row, (least, _) in zip(rows, bounds, strict=True) if row["coverage"] < least]
    above = [row for row, (_, most) in zip(rows, bounds, strict=True) if row["coverage"] > most]
    for name, out in (("below", below), ("above", above)):
        yield f"{'No setting is' if not out else f'{len(out)} settings are'} {name} the bounds{':' if out else '.'}"
        yield ""
        if out:
            yield from table(out)
            yield ""


PARTS: dict[str, tuple[str, Callable[[int], Iterator[Row]]]] = {
    "means": ("Means of one cell (`mean_interval`)", means),
    "differences": ("Paired differences (`paired_difference`)", differences),
    "averages": ("Macro averages of five benchmarks of 30 to 675 questions (`combined`)", averages),
    "seeds": ("Differences over seeds and questions (`over_seeds`), and by the interval over questions alone", seeds),
    "crossovers": (
        "Crossovers (`crossover`): how often one is told, and how often its interval then holds it",
        crossovers,
    ),
    "power": ("Power at the minimum detectable difference (`minimum_detectable`)", power),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    error = 100 * (0.95 * 0.05 / args.replications) ** 0.5
    print("# Coverage of the 95 % intervals\n")
    print(
        f"`python -m bench.coverage --replications {args.replications}`, seed {SEED}; what is drawn stands in its head."
    )
    print(f"Monte-Carlo standard error of a coverage near 95 %: {error:.2f} points. Bounds: 93 to 97 % where")
    print(
        "n x min(accuracy, 1 - accuracy) >= 10 and, of differences, Kish's effective number of questions that differ is"
    )
    print("10 or more; else at least 90 %.\n")
    for name, (title, rows_of) in PARTS.items():
        if args.only in (None, name):
            print(f"## {title}\n")
            rows = []
            for row in rows_of(args.replications):
                rows.append(row)
                print(name, row, file=sys.stderr, flush=True)
            lines = [*table(rows), *(verdict(rows) if name in ("means", "differences") else [])]
            print("\n".join(lines), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
