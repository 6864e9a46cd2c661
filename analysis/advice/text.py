"""Advice and its validation as text for a terminal."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.advice.advise import Advice
from analysis.advice.evidence import Evidence
from analysis.advice.judge import SURE, Judgement
from analysis.statistics.benchmarks import PRIMARY
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.crossover import SETTING, Crossover, Prediction, crossovers
from analysis.tables.formats import temperatures
from analysis.tables.results import number, text_table, with_interval
from analysis.tables.sweep import scatter_text
from bll_sweeps.store.regions import REGIONS

ENOUGH = 10  # significant differences, to say how often advice is right


def advice_text(advice: Advice) -> str:
    """Place, evidence, each objective, the advice, the paper's numbers, what would settle it."""
    prior = advice.prior
    over = f", over {advice.prior_seeds} seeds" if advice.prior_seeds > 1 else ""
    lines = [
        f"{advice.backbone} on {advice.domain}: prior strength {with_interval(prior.mean, prior.low, prior.high)} "
        f"(n={prior.n}{over}), {REGIONS[advice.region]}",
        _evidence_line(advice.evidence),
        *(f"  left out, {text}" for text in advice.evidence.left_out),
        *(line for one in advice.judgements for line in _judgement_lines(one)),
        _choice_line(advice),
        *_paper_lines(advice),
    ]
    if advice.settle:
        lines += ["what would settle it:", *(f"  {one.command}   # {one.why}" for one in advice.settle)]
    return "\n".join(lines) + "\n"


def _evidence_line(evidence: Evidence) -> str:
    if not len(evidence.table):
        return "evidence: none in this store with the same label noise and recipe"
    known = evidence.table[evidence.table["n"] > 0]
    settings = len(known.drop_duplicates(SETTING))
    drawn = known["temperature"].dropna()
    how = "greedy answers" if drawn.empty or drawn.max() == 0 else f"answers sampled at {temperatures(drawn)}"
    return f"evidence: {settings} settings (backbone x domain) of {', '.join(evidence.sweeps)}; gains are of {how}"


def _judgement_lines(one: Judgement) -> list[str]:
    lines = []
    if one.measured is not None:
        found = one.measured
        told = f"{found.questions} questions, {found.seeds} seed{'s' * (found.seeds != 1)}"
        gain = with_interval(found.gain, found.low, found.high)
        lines.append(f"  {one.objective} - {REFERENCE}, measured here: {gain} ({told})")
    if one.predicted is None:
        return [*lines, f"  {one.objective} - {REFERENCE}: the other settings tell nothing ({one.crossover.why})"]
    said = one.predicted
    lines.append(
        f"  {one.objective} - {REFERENCE}, predicted from {said.settings} other settings: "
        f"{with_interval(said.gain, said.low, said.high)}, {_sign_text(one, said)}"
    )
    return [*lines, f"    crossover: {crossover_text(one.crossover)}"]


def _sign_text(one: Judgement, said: Prediction) -> str:
    beyond = "; prior strength beyond theirs" if one.beyond else ""
    if not math.isnan(said.better):
        return f"above zero with probability {number(said.better, 2)}{beyond}"
    return f"{beyond[2:]}, where they do not tell the sign{'; the paper leans' if one.paper else ''}"


def crossover_text(found: Crossover) -> str:
    """`.452 [.401, .504], 9 settings`, or why there is none."""
    if found.why:
        return f"none: {found.why}"
    return f"{with_interval(found.prior, found.low, found.high)}, {found.settings} settings"


def _choice_line(advice: Advice) -> str:
    if advice.favoured:
        better = [one for one in advice.judgements if one.verdict == "better"]
        decided = [one for one in better if one.objective == advice.favoured] or advice.judgements
        how = sorted({one.by for one in decided} - {""})
        seeds = [one.measured.seeds for one in decided if one.by == "measured" and one.measured is not None]
        more = "; of one seed, another may say otherwise" if any(n < 2 for n in seeds) else ""
        others = [f"{one.objective} (as {one.by})" for one in better if one.objective != advice.favoured]
        more += f"; above {REFERENCE} by less: {', '.join(others)}" if others else ""
        return f"advice: {advice.favoured} (by what was {' and '.join(how)}{more})"
    if not advice.leaning:
        return "advice: none, there is no evidence"
    return f"advice: undecided, leaning to {advice.leaning} (no probability reaches {SURE:g})"


def _paper_lines(advice: Advice) -> list[str]:
    if not advice.paper:
        return [f"the paper reports no comparison of these in the {REGIONS[advice.region]} region"]
    parts = [
        f"{one.objective} above {REFERENCE} at {one.above} of {one.settings} settings, {100 * one.gain:+.1f} points"
        for one in advice.paper
    ]
    return [f"the paper, {REGIONS[advice.region]}: {'; '.join(parts)} (means, no intervals reported)"]


def validation_text(evidence: Evidence, table: pd.DataFrame) -> str:
    """Crossovers per task and pooled, one row per left-out setting, and the shares that were right."""
    if table.empty:
        return "no setting has been compared with NLL by the primary decoding\n"
    heads = ["objective", "left out", "prior", "predicted [95 %]", "P(>0)", "measured [95 %]", "seeds", "significant"]
    rows = [_row(row) for row in table.to_dict("records")]
    parts = [
        f"evidence: {', '.join(evidence.sweeps)}",
        *(f"left out, {text}" for text in evidence.left_out),
        _crossover_table(evidence, list(dict.fromkeys(table["objective"]))),
        text_table([*heads, "advice", "right"], rows).rstrip("\n"),
        "\n".join(_shares(table)),
    ]
    return "\n\n".join(parts) + "\n"


def _row(row: dict[Any, Any]) -> list[str]:
    value = {key: float(row[key]) for key in _NUMBERS}
    how = "" if row["sure"] else " (leaning)" if row["foreseen"] == row["predicted"] else " (the paper's region)"
    advice = f"{row['advice']}{how}" if row["advice"] else "none"
    return [
        str(row["objective"]),
        f"{row['backbone']} x {row['domain']}",
        number(value["prior"]),
        with_interval(value["predicted"], value["low"], value["high"], 2),
        number(value["better"], 2),
        with_interval(value["measured"], value["measured_low"], value["measured_high"], 2),
        str(row["seeds"]),
        "yes" if row["significant"] else "no",
        advice,
        ("yes" if row["right"] else "no") if row["advice"] else "-",
    ]


_NUMBERS = ("prior", "predicted", "low", "high", "better", "measured", "measured_low", "measured_high")


def _crossover_table(evidence: Evidence, objectives: list[str]) -> str:
    rows = []
    for row in crossovers(evidence.table, objectives, PRIMARY).to_dict("records"):
        place = f"none: {row['why']}" if row["why"] else with_interval(row["prior"], row["low"], row["high"])
        rows.append([row["objective"], row["task"], str(row["settings"]), scatter_text(row), place])
    return text_table(["crossover of", "task", "settings", "scatter", "prior strength [95 %]"], rows).rstrip("\n")


def _shares(table: pd.DataFrame) -> list[str]:
    """Of each objective and of all: among the differences that are significant, how many the advice had right."""
    lines = []
    for name, some in [*table.groupby("objective", sort=False), ("all", table)]:
        significant = some[some["significant"]]
        judged = significant[significant["advice"] != ""]
        n, right, sure = len(judged), int(judged["right"].sum()), judged[judged["sure"]]
        if significant.empty:
            lines.append(f"{name}: no left-out setting has a significant difference")
            continue
        settings = len(significant.drop_duplicates(SETTING))
        line = f"{name}: {len(significant)} significant differences at {settings} left-out settings"
        if n:
            always = int((judged["measured"] > 0).sum())
            line += (
                f"; right on {right} of {n} ({100 * right / n:.0f} %), of those advised with probability {SURE:g} or "
                f"more on {int(sure['right'].sum())} of {len(sure)}; always the objective would be right on {always}, "
                f"always {REFERENCE.upper()} on {n - always}"
            )
        if n < len(significant):
            line += f"; {len(significant) - n} without advice"
        if name == "all" and n < ENOUGH:
            line += f"; fewer than {ENOUGH}: too few to tell how good the advice is"
        lines.append(line)
    return lines
