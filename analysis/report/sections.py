"""The sections of the page, as HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from analysis.figures.continuum import over_seeds
from analysis.figures.style import PRIOR_NAMES
from analysis.report.grids import Facets, data_table, heat_maps, legend, table
from analysis.report.reasons import Reasons
from analysis.report.runs import MOST_LOGS, runs
from analysis.report.vega import Spec
from analysis.sources.scrub import scrubbed
from analysis.sources.table import CELL, PLACE, Results
from analysis.statistics.claims import Claim
from analysis.statistics.continuum import REFERENCE, Prior
from analysis.statistics.seeds import decisive
from analysis.tables.claims import claim_rows, reading
from analysis.tables.priors import HEADS as PRIOR_HEADS
from analysis.tables.priors import NAMES as PRIOR_NAMED
from analysis.tables.priors import NOTHING, OF_TOKENS, PRIORS_NOTE, n_text, prior_rows, strength_text, token_text
from analysis.tables.results import number, with_interval
from analysis.tables.sweep import CROSSOVER_HEADS, CROSSOVERS_NOTE, crossover_rows, crossover_texts, with_averages
from bll_sweeps.store.regions import REGION_EDGES

_MOST_NAMED = 8


# --- what charts and heat maps show ---------------------------------------------------------------------------------


def continuum_section(results: Results, placed: pd.DataFrame, chart: Spec | None, prior: Prior, facets: Facets) -> str:
    if chart is None:
        return (
            f"<p class=empty>{escape(_nothing_to_place(results, placed))}</p>"
            + _averaged(placed)
            + _crossovers(placed, prior)
        )
    menus = "".join(_select(name, chart["datasets"]["gains"]) for name in ("decoding", "variant"))
    return (
        f"<p class=controls>{menus}</p><div class=chart id=chart-continuum></div>"
        "<p class=empty id=none-continuum hidden>The sweep has no gain to show for this choice.</p>"
        + _legend(chart["datasets"]["gains"], results, facets)
        + _legend_of_crosses(chart)
        + _legend_of_reported(chart)
        + _unplaced(placed)
        + _averaged(placed)
        + _crossovers(placed, prior)
    )


def _nothing_to_place(results: Results, placed: pd.DataFrame) -> str:
    if not len(results.cells):
        return "No continuum: the sweep has no cells."
    known = len(placed) and (placed["n"] > 0).any()
    lacks = REFERENCE not in set(results.cells["objective"])
    if not len(placed) or (lacks and not known):
        what = f"no {REFERENCE.upper()} to compare with" if lacks else "no objective besides it"
        return f"No continuum: it shows gains over {REFERENCE.upper()}, and the sweep has {what}."
    if not known:
        if REFERENCE not in set(results.done["objective"]):
            return f"No continuum yet: it shows gains over {REFERENCE.upper()}, of which no cell has a score."
        return "No continuum yet: no comparison has both of its cells."
    return "No continuum yet: no prior strength is known (the prior jobs are not done)."


def _select(name: str, rows: list[Spec]) -> str:
    """A menu of the decodings or variants; none where there is no choice."""
    first = sorted(rows, key=lambda row: not row["primary"])
    values = list(dict.fromkeys(str(row[name]) for row in first))
    hidden = " hidden" if len(values) < 2 else ""
    options = "".join(f"<option value='{escape(v)}'>{escape(v or 'default')}</option>" for v in values)
    return f"<label{hidden}>{name} <select data-choice={name}>{options}</select></label>"


def _legend(rows: list[Spec], results: Results, facets: Facets, backbones: bool = True) -> str:
    return legend(
        {row["objective"] for row in rows},
        {row["backbone"] for row in rows} if backbones else (),
        results.formulas,
        facets,
    )


def _legend_of_crosses(chart: Spec) -> str:
    lacking = len(chart["datasets"]["lacking"])
    if not lacking:
        return ""
    all_of_them = lacking + len(chart["datasets"]["gains"])
    return (
        f"<p class=note><b class=bad>×</b> missing: {lacking} of {all_of_them} comparisons (all decodings) have no "
        "data; each tells why on hover, and so does the table of gains.</p>"
    )


def _legend_of_reported(chart: Spec) -> str:
    if "reported" not in chart["datasets"]:
        return ""
    return (
        "<p class=note>Open marks: the paper's numbers of the same comparisons, at the prior strengths that it "
        "reports; they have no intervals.</p>"
    )


def _unplaced(placed: pd.DataFrame) -> str:
    """Points without a place on the continuum."""
    names = list(dict.fromkeys(placed.loc[placed["prior"].isna(), "point"]))
    if not names:
        return ""
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    shown = escape(", ".join(names[:_MOST_NAMED]))
    return f"<p class=note>Not drawn, for want of a prior strength (its job is not done): {shown}{more}.</p>"


def _averaged(placed: pd.DataFrame) -> str:
    """What stands for a domain with several benchmarks, and which of them are not drawn."""
    several = placed[placed["columns"] > 1]
    if several.empty:
        return ""
    counts = several.groupby("domain", sort=False)["columns"].max()
    names = ", ".join(f"{domain} ({n})" for domain, n in counts.items())
    text = f"<p class=note>The unweighted mean over its benchmarks stands for {escape(names)}; n counts all questions."
    wanting = several[several["lacking"] != ""].drop_duplicates([*PLACE, "objective"]).to_dict("records")
    where = [f"{r['point']} {r['variant']} {r['objective']} ({r['lacking']})".replace("  ", " ") for r in wanting]
    if where:
        more = f", and {len(where) - _MOST_NAMED} more" if len(where) > _MOST_NAMED else ""
        text += f" Not drawn, for want of benchmarks: {escape('; '.join(where[:_MOST_NAMED]))}{more}."
    return text + "</p>"


def _crossovers(placed: pd.DataFrame, prior: Prior) -> str:
    low, high = (number(edge, 1) for edge in REGION_EDGES)
    thin = len(placed) > 0 and over_seeds(placed).any()
    seeds = " Thin lines: 95 % interval of the mean over seeds, cut where it leaves the chart." if thin else ""
    note = (
        f"<p class=note>Bars: 95 % interval of the difference to {REFERENCE.upper()}, paired by question; n is the "
        f"number of questions.{seeds} Prior strength: mean p of the target tokens under the base model, measured "
        f"{PRIOR_NAMES[prior]}. Model-weak: up to {low}; model-strong: from {high}.</p>"
    )
    found = crossover_rows(placed)
    if found.empty:
        return note
    rows = [[*row[:-1], int(row[-1])] for row in crossover_texts(found)]
    text = f"<p class=note>{CROSSOVERS_NOTE}</p>"
    summary = f"<summary>Where each objective overtakes {REFERENCE.upper()}</summary>"
    return f"{note}<details>{summary}{text}{table(CROSSOVER_HEADS, rows)}</details>"


def scores_section(results: Results, means: pd.DataFrame, why: Reasons) -> str:
    found = heat_maps(decisive(with_averages(means, results, first=True), ""), results.formulas, why)
    note = (
        "<p class=note>95 % intervals, over seeds too where there are several. Hover over a cell for n; a dot stands "
        "where the sweep has no such cell.</p>"
    )
    return found + note if found else "<p class=empty>No scores: the sweep has no cells.</p>"


def priors_section(results: Results, facets: Facets) -> str:
    """Every prior job's answers, clean and as trained; what is missing with its reason."""
    records = prior_rows(results).to_dict("records")
    if not records:
        return f"<p class=empty>{NOTHING}</p>"
    rows: list[list[Any]] = []
    for r in records:
        cells: list[Any] = [r[name] for name in PRIOR_NAMED]
        cells += [(strength_text(r), r["mean"], r["missing"]), (n_text(r), r["n"] or math.nan)]
        cells += [r["region"] or "-", r["region_paper"] or "-"]
        cells += [(token_text(r[name]), r[name]) for name in OF_TOKENS]
        rows.append([*cells, r["tokens"] or "", r["prior"], r["missing"]])
    return f"<p class=note>{PRIORS_NOTE}</p>" + data_table("priors", PRIOR_HEADS, rows, records, facets)


def curves_section(results: Results, chart: Spec | None, facets: Facets) -> str:
    if chart is None:
        return "<p class=empty>No training has logged a step yet.</p>"
    panels = "".join(f"<div class=chart id=chart-curves-{i}></div>" for i in range(len(chart["panels"])))
    return (
        "<p class=controls><label>point <select data-choice=point></select></label></p>"
        f"<div class=panels>{panels}</div>{_legend(chart['datasets']['curves'], results, facets, backbones=False)}"
        "<p class=empty id=none-curves hidden>No training of this choice has logged a step.</p>"
        "<p class=note>Means over the step's batch; one curve per run, n = 1 run each; long runs are thinned out.</p>"
    )


# --- cells, claims, problems ----------------------------------------------------------------------------------------


def cells_section(results: Results, facets: Facets, prior: Prior) -> str:
    heads = ["point", "benchmark", "variant", "objective", "seed", "decoding", "state", "mean [95 %]", "questions",
             "samples", "prior clean [95 %]", "prior as trained [95 %]", "prior questions", "prior sequences", "region",
             "exposure", "evaluate job"]  # fmt: skip
    by = [f"prior_{prior}", "point"]
    records = results.cells.sort_values(by, ascending=[False, True], kind="stable").to_dict("records")
    rows = []
    for r in records:
        priors = [
            (with_interval(r[k], r[f"{k}_low"], r[f"{k}_high"], 4), r[k]) for k in ("prior_clean", "prior_as_trained")
        ]
        done = r["state"] == "done"
        score: Any = (with_interval(r["mean"], r["low"], r["high"]), r["mean"], _units(r))
        state: Any = r["state"] if done else (r["state"], r["state"], scrubbed(r["why"]))
        names = [r["point"], r["benchmark"], r["variant"], r["objective"], r["seed"], r["decoding"], state]
        counts = [
            r["questions"] or "",
            r["samples"] or "",
            *priors,
            r["prior_questions"] or "",
            r["prior_sequences"] or "",
        ]
        rows.append([*names, score if done else "", *counts, r[f"region_{prior}"], r["exposure"], r["evaluate"]])
    note = (
        "Intervals: of a mean, Wilson at the effective number of trials; of a prior, bootstrap over the training set's "
        "distinct questions (over its sequences where the records do not name these). "
        f"Region: by prior strength {PRIOR_NAMES[prior]}. All columns: cells.csv."
    )
    return f"<p class=note>{note}</p>" + data_table("cells", heads, rows, records, facets)


def _units(row: Mapping[Any, Any]) -> str:
    return f"n = {row['questions']} questions x {row['samples']} samples"


_VERDICT_CLASS = (("holds", "good"), ("does not hold", "bad"))


def claims_section(claims: list[Claim]) -> str:
    parts = []
    for claim in claims:
        heads, rows = claim_rows(claim)
        kind = next((k for start, k in _VERDICT_CLASS if claim.verdict.startswith(start)), "open")
        parts.append(
            f"<h3>{escape(claim.statement)}: <span class={kind}>{escape(claim.verdict)}</span></h3>"
            f"<p>{escape(reading(claim))}</p>"
        )
        parts.append(table(heads, [list(row) for row in rows]) if rows else "")
    return "".join(parts)


def problems_section(results: Results, facets: Facets) -> str:
    listed = "".join(f"<li>{escape(scrubbed(problem))}</li>" for problem in results.problems)
    unsound = results.done[results.done["mean"].isna()].drop_duplicates(CELL)
    for r in unsound.to_dict("records"):
        listed += f"<li>{escape(r['label'])} {escape(r['objective'])} seed={r['seed']}: its mean is not a number</li>"
    missing = results.missing.drop_duplicates(CELL).to_dict("records")
    rows = [[r["label"], r["variant"], r["objective"], r["seed"], scrubbed(r["why"])] for r in missing]
    heads = ["cell", "variant", "objective", "seed", "why"]
    return (
        "<h3>Problems (damaged records are not used)</h3>"
        + (f"<ul>{listed}</ul>" if listed else "<p>None.</p>")
        + f"<h3>Missing cells ({len(missing)})</h3>"
        + data_table("missing", heads, rows, missing, facets)
    )


# --- runs and provenance --------------------------------------------------------------------------------------------


def runs_section(results: Results, facets: Facets) -> str:
    jobs = runs(results).to_dict("records")
    heads = ["job", "cells", "state", "attempt", "of", "host", "started", "seconds", "error"]
    rows = [
        [
            r["job"],
            r["cells"],
            r["state"],
            r["attempt"],
            r["attempts"],
            r["host"],
            r["started"],
            r["seconds"],
            r["error"],
        ]
        for r in jobs
    ]
    states = pd.Series([r["state"] for r in jobs], dtype=object).value_counts(sort=False)
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    begun = [r for r in jobs if r["state"] in ("failed", "interrupted", "started")]
    logs = "".join(_log(r, facets) for r in begun if r["log"])
    if len(begun) > MOST_LOGS:
        logs += f"<p class=note>{len(begun) - MOST_LOGS} more are not done; `bll logs JOB` shows their logs.</p>"
    if logs:
        logs = f"<h3>Last lines of the logs of what failed or has not ended</h3>{logs}"
    note = "<p class=note>Texts are cut, and what looks like a secret is removed; `bll logs JOB` shows a whole log.</p>"
    jobs_table = data_table("runs", heads, rows, [r["of"] for r in jobs], facets)
    return f"<p>{len(jobs)} jobs: {escape(told or 'none')}.</p>{jobs_table}{logs}{note}"


def _log(row: Mapping[Any, Any], facets: Facets) -> str:
    of = escape(json.dumps(facets.places(row["of"]), separators=(",", ":")))
    return (
        f"<details class=log data-of='{of}'><summary>{escape(row['job'])} <small>{escape(row['cells'])}</small> "
        f"<span class=bad>{escape(row['error'] or row['state'])}</span></summary>"
        f"<pre tabindex=0>{escape(row['log'])}</pre></details>"
    )


def provenance_section(results: Results) -> str:
    launches = [
        [
            m.get("sweep", ""),
            m.get("launch", ""),
            m.get("created_at", ""),
            f"{m.get('commit', 'not known')}{' (with changes)' if m.get('dirty') else ''}",
            m.get("code", "not known"),
            scrubbed(" ".join(map(str, m.get("command") or []))),
        ]
        for m in results.launches
    ]
    parts = [table(["sweep", "launch", "created_at", "commit", "code digest", "command"], launches)]
    if results.shared:
        parts[0] += f"<p>All cells: {escape(', '.join(results.shared))}.</p>"
    jobs = results.provenance
    if jobs.empty:
        return parts[0] + "<p>No job is done yet.</p>"
    groups = []
    for (code, versions), some in jobs.groupby(["code", "versions"], sort=False, dropna=False):
        told = ", ".join(f"{k} {v}" for k, v in json.loads(str(versions)).items())
        kinds = ", ".join(f"{n} {kind}" for kind, n in some["kind"].value_counts(sort=False).items())
        hosts = ", ".join(sorted({str(h) for h in some["host"].dropna()}))
        span = f"{some['started_at'].dropna().min()} to {some['finished_at'].dropna().max()}"
        groups.append([code, kinds, hosts, span, f"{some['seconds'].sum():.0f}", told])
    parts.append("<h3>Who made the records</h3>")
    parts.append(table(["code digest", "jobs", "hosts", "from, to", "seconds", "versions"], groups))
    return "".join(parts)
