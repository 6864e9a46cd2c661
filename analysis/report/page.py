"""One self-contained HTML page per sweep: it works from a file, loads nothing, and escapes what the records say."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.all import write_figures
from analysis.figures.style import PRIOR_NAMES, in_order
from analysis.report.charts import continuum_chart, curves_chart
from analysis.sources.table import CELL, PLACE, Results
from analysis.statistics.benchmarks import averages, by_place
from analysis.statistics.claims import Claim, claim_rows, judge
from analysis.statistics.continuum import REFERENCE, Prior, gains, means
from analysis.statistics.crossover import crossover
from analysis.statistics.intervals import REGION_EDGES
from analysis.tables.results import number, results_csv, with_interval
from bll_sweeps.store.records import write_text


def write_report(results: Results, folder: Path, prior: Prior = "clean") -> Path:
    """report.html, figures/*.png and *.pdf, cells.csv, means.csv, gains.csv in `folder`; the path of the page. Where a
    domain has several benchmarks, average_means.csv and average_gains.csv too.
    """
    mean_table, gain_table = means(results, prior), gains(results, prior)
    write_figures(results, mean_table, gain_table, folder / "figures", prior)
    write_text(folder / "cells.csv", results_csv(results))
    for name, table in (("means", mean_table), ("gains", gain_table)):
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
        if len(whole := averages(table, results.cells)):
            write_text(folder / f"average_{name}.csv", whole.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "report.html", html_page(results, mean_table, gain_table, prior))
    return folder / "report.html"


def html_page(results: Results, mean_table: pd.DataFrame, gain_table: pd.DataFrame, prior: Prior = "clean") -> str:
    """The page's text."""
    placed = by_place(gain_table, results.cells)
    charts = {
        "continuum": continuum_chart(placed, results.formulas, prior),
        "curves": curves_chart(results, prior),
    }
    sections = [
        ("continuum", "Continuum", _chart("continuum", charts) + _averaged(placed) + _crossovers(placed, prior)),
        ("scores", "Scores", _heatmaps(_with_averages(mean_table, results), results.formulas)),
        (
            "curves",
            "Training curves",
            _chart("curves", charts) + "<p class=note>Means over the step's batch; one curve per run.</p>",
        ),
        ("cells", "All cells", _cells(results, prior)),
        ("claims", "Claims", _claims(judge(gain_table))),
        ("problems", "Problems and missing cells", _problems(results)),
        ("provenance", "Provenance", _provenance(results)),
    ]
    body = "".join(f"<section id={key}><h2>{title}</h2>{text}</section>" for key, title, text in sections)
    links = " ".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in sections)
    scripts = "".join(
        f"<script type='application/json' id='spec-{key}'>{_json(spec)}</script>"
        for key, spec in charts.items()
        if spec
    )
    library = f"<script>{_vega()}</script>" if any(charts.values()) else ""
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(results.sweep)} - bll-sweeps</title><style>{_CSS}</style></head><body>"
        f"<header>{_header(results)}<nav>{links}</nav></header><main>{body}</main>"
        f"{scripts}{library}<script>{_JS}</script></body></html>\n"
    )


# The browser itself then refuses whatever would be loaded from elsewhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the copy that vl-convert carries."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return (
        str(vl_convert.javascript_bundle(None, vl_version=version))  # type: ignore[arg-type]
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )


def _json(value: Any) -> str:
    # Inside a script element only "<" can end it or open a comment.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _header(results: Results) -> str:
    done, all_cells = len(results.done.drop_duplicates(CELL)), len(results.cells.drop_duplicates(CELL))
    launch = results.launches[-1]
    numbers = ", ".join(str(m.get("launch")) for m in results.launches)
    text = f"<h1>{escape(results.sweep)}</h1><p>launch {escape(numbers)}, {escape(str(launch.get('created_at', '')))}: "
    text += f"{done} of {all_cells} cells have scores"
    wanting = [f"{all_cells - done} missing"] * (done < all_cells) + [f"{len(results.problems)} problems"] * bool(
        results.problems
    )
    text += f" - <a class=warn href='#problems'>{', '.join(wanting)}</a></p>" if wanting else "</p>"
    return text + "".join(f"<p class=warn>Warning: {escape(warning)}.</p>" for warning in results.warnings)


def _chart(key: str, charts: dict[str, dict[str, Any] | None]) -> str:
    return f"<div class=chart id='chart-{key}'></div>" if charts[key] else "<p>Nothing to show yet.</p>"


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


def _with_averages(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Mean scores, the averages of a place before its benchmarks."""
    whole = averages(table, results.cells)
    if whole.empty:
        return table
    both = pd.concat([whole, table], ignore_index=True)
    first = {key: i for i, key in enumerate(table.groupby(PLACE, sort=False).groups)}
    place = both[PLACE].apply(lambda row: first[tuple(row)], axis=1)
    return both.assign(_place=place).sort_values("_place", kind="stable", ignore_index=True).drop(columns="_place")


def _crossovers(table: pd.DataFrame, prior: Prior) -> str:
    rows = []
    for variant, some in table.groupby("variant", sort=False) if len(table) else []:
        for objective in in_order(some["objective"]):
            for decoding in dict.fromkeys(some["decoding"]):
                found = crossover(some, objective, str(decoding))
                if not math.isnan(found.mean):
                    value = with_interval(found.mean, found.low, found.high)
                    rows.append([objective, str(decoding), str(variant), value, f"{found.n} points"])
    low, high = (number(edge, 1) for edge in REGION_EDGES)
    note = (
        f"<p class=note>Bars: 95 % bootstrap interval of the difference to {REFERENCE.upper()}, paired by question; "
        f"n is the number of questions. Prior strength is measured {PRIOR_NAMES[prior]}. Model-weak: up to {low}; "
        f"model-strong: from {high}.</p>"
    )
    if not rows:
        return note
    heads = ["objective", "decoding", "variant", "prior strength [95 %]", "n"]
    text = (
        "<p class=note>A straight line through gain against logit of prior strength, within the prior strengths of the "
        "points; the interval resamples points, and an end outside of them is open (?).</p>"
    )
    return (
        note
        + f"<details><summary>Where each objective overtakes {REFERENCE.upper()}</summary>{text}"
        + f"{_table(heads, rows)}</details>"
    )


_MOST_NAMED = 8


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(heads: list[str], rows: list[list[Any]], sortable: bool = False) -> str:
    """Cells are escaped; a pair (text, key) sorts by its key."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in rows)
    kind = " class=sortable" if sortable else ""
    return f"<div class=scroll><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _td(cell: Any) -> str:
    if isinstance(cell, tuple):
        key = "" if isinstance(cell[1], float) and math.isnan(cell[1]) else f"{cell[1]}"
        return f"<td data-key='{escape(key)}'>{escape(str(cell[0]))}</td>"
    return f"<td>{escape(str(cell))}</td>"


def _cells(results: Results, prior: Prior) -> str:
    heads = ["point", "benchmark", "variant", "objective", "seed", "decoding", "state",
             "mean [95 %]", "questions", "samples",
             "prior clean [95 %]", "prior as trained [95 %]", "prior questions", "prior sequences", "region",
             "exposure", "evaluate job"]  # fmt: skip
    rows = []
    for r in results.cells.sort_values([f"prior_{prior}", "point"], ascending=[False, True], kind="stable").to_dict(
        "records"
    ):
        priors = [
            (with_interval(r[k], r[f"{k}_low"], r[f"{k}_high"], 4), r[k]) for k in ("prior_clean", "prior_as_trained")
        ]
        exposure = "" if math.isnan(r["exposure"]) else f"{r['exposure']:.0f}"
        score = (with_interval(r["mean"], r["low"], r["high"]), r["mean"])
        names = [r["point"], r["benchmark"], r["variant"], r["objective"], r["seed"], r["decoding"], r["state"]]
        counts = [r["prior_questions"] or "", r["prior_sequences"]]
        place = [*priors, *counts, r[f"region_{prior}"], exposure]
        rows.append([*names, score, r["questions"], r["samples"], *place, r["evaluate"]])
    note = (
        "Click a head to sort. Intervals: of a mean, Wilson at the effective number of trials; of a prior, bootstrap "
        "over the training set's distinct questions (over its sequences where the records do not name these). "
        f"Region: by prior strength {PRIOR_NAMES[prior]}."
    )
    return f"<p class=note>{note}</p>" + _table(heads, rows, sortable=True)


def _heatmaps(table: pd.DataFrame, formulas: dict[str, str]) -> str:
    parts = []
    for decoding in dict.fromkeys(table["decoding"]) if len(table) else []:
        some = table[table["decoding"] == decoding]
        names = in_order(some["objective"])
        heads = "".join(f"<th>{escape(n)}<br><small>{escape(formulas.get(n, ''))}</small></th>" for n in names)
        lines = []
        for (label, variant), rows in some.groupby(["label", "variant"], sort=False):
            by_name = {r["objective"]: r for r in rows.to_dict("records")}
            first = next(iter(by_name.values()))
            where = with_interval(first["prior"], first["prior_low"], first["prior_high"])
            head = escape(f"{label}{', ' + str(variant) if variant else ''}")
            cells = "".join(_heat(by_name.get(name)) for name in names)
            lines.append(f"<tr><th>{head}<br><small>{where} {first['region']}</small></th>{cells}</tr>")
        counts = some.loc[some["n"] > 0, ["n", "samples"]].drop_duplicates().to_dict("records")
        text = "; ".join(f"n = {c['n']} questions x {c['samples']} samples" for c in counts[:4])
        caption = f"{escape(str(decoding))}: mean score [95 %], {text or 'n = 0'}; rows by prior strength"
        parts.append(
            f"<div class=scroll><table class=heat><caption>{caption}</caption><tr><th></th>{heads}</tr>"
            f"{''.join(lines)}</table></div>"
        )
    return "".join(parts)


_CIVIDIS = ((0, 32, 76), (58, 76, 109), (124, 123, 120), (186, 174, 108), (255, 233, 69))


def _heat(row: dict[Any, Any] | None) -> str:
    if row is None:  # the grid does not have it
        return "<td></td>"
    if not row["n"]:
        return "<td class=none>missing</td>"
    at = min(max(row["mean"], 0.0), 1.0) * (len(_CIVIDIS) - 1)
    i = min(int(at), len(_CIVIDIS) - 2)
    colour = ",".join(str(round(a + (b - a) * (at - i))) for a, b in zip(_CIVIDIS[i], _CIVIDIS[i + 1], strict=True))
    ink = "#fff" if row["mean"] < 0.55 else "#000"
    interval = f"[{number(row['low'], 2)}, {number(row['high'], 2)}]"
    return (
        f"<td style='background:rgb({colour});color:{ink}'>{number(row['mean'], 2)}<br><small>{interval}</small></td>"
    )


_VERDICT_CLASS = (("holds", "yes"), ("does not hold", "no"))


def _claims(claims: list[Claim]) -> str:
    parts = []
    for claim in claims:
        heads, rows = claim_rows(claim)
        kind = next((k for start, k in _VERDICT_CLASS if claim.verdict.startswith(start)), "open")
        parts.append(
            f"<h3>{escape(claim.statement)}: <span class={kind}>{escape(claim.verdict)}</span></h3>"
            f"<p>{escape(claim.reading)}</p>"
        )
        parts.append(_table(heads, [list(row) for row in rows]) if rows else "")
    return "".join(parts)


def _problems(results: Results) -> str:
    parts = ["<h3>Problems (damaged records are not used)</h3>"]
    parts.append(
        "<ul>" + "".join(f"<li>{escape(p)}</li>" for p in results.problems) + "</ul>"
        if results.problems
        else "<p>None.</p>"
    )
    missing = results.missing.drop_duplicates(CELL)
    parts.append("<h3>Missing cells</h3>")
    rows = [[r["label"], r["variant"], r["objective"], r["seed"], r["why"]] for r in missing.to_dict("records")]
    parts.append(
        _table(["point", "variant", "objective", "seed", "why"], rows, sortable=True) if rows else "<p>None.</p>"
    )
    return "".join(parts)


def _provenance(results: Results) -> str:
    launches = [
        [
            m.get("sweep", ""),
            m.get("launch", ""),
            m.get("created_at", ""),
            " ".join(map(str, m.get("command") or [])),
        ]
        for m in results.launches
    ]
    parts = [_table(["sweep", "launch", "created_at", "command"], launches)]
    if results.shared:
        parts[0] += f"<p>All cells: {escape(', '.join(results.shared))}.</p>"
    jobs = results.provenance
    if jobs.empty:
        return parts[0]
    groups = []
    for (code, versions), some in jobs.groupby(["code", "versions"], sort=False, dropna=False):
        told = ", ".join(f"{k} {v}" for k, v in json.loads(str(versions)).items())
        kinds = ", ".join(f"{n} {kind}" for kind, n in some["kind"].value_counts(sort=False).items())
        hosts = ", ".join(sorted({str(h) for h in some["host"].dropna()}))
        span = f"{some['started_at'].dropna().min()} to {some['finished_at'].dropna().max()}"
        groups.append([code, kinds, hosts, span, f"{some['seconds'].sum():.0f}", told])
    parts.append("<h3>Who made the records</h3>")
    parts.append(_table(["code digest", "jobs", "hosts", "from, to", "seconds", "versions"], groups))
    rows = [[r["job"], r["code"], r["host"], r["started_at"], r["seconds"]] for r in jobs.to_dict("records")]
    table = _table(["job", "code", "host", "started", "seconds"], rows, sortable=True)
    parts.append(f"<details><summary>All {len(rows)} jobs</summary>{table}</details>")
    return "".join(parts)


_CSS = """
:root{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c}body{margin:0}
main,header{max-width:1120px;margin:0 auto;padding:0 20px}
h1{margin:18px 0 0;font-size:26px}h2{font-size:19px;margin:34px 0 8px;border-bottom:1px solid #ddd}
h3{font-size:15px;margin:16px 0 4px}
nav{display:flex;flex-wrap:wrap;gap:14px;font-size:14px}a{color:#0b5d99}
.note{color:#555;font-size:13px;max-width:920px}
.scroll{overflow:auto;max-height:560px;margin:6px 0}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:3px 9px;text-align:left;border-bottom:1px solid #e4e4e4;white-space:nowrap}
thead th{position:sticky;top:0;background:#fff}
.sortable th{cursor:pointer}.sortable th[data-dir]::after{content:' \\25B2'}
.sortable th[data-dir='-1']::after{content:' \\25BC'}
.heat td,.heat th{text-align:center;border:2px solid #fff;padding:3px 10px;line-height:1.25}
.heat tr>th:first-child{text-align:right;font-weight:normal}
.heat caption{text-align:left;font-size:13px;color:#555;padding:8px 0 4px}.heat small{font-size:11px}
.none{color:#a03030;font-style:italic;background:#f7f0f0}
.yes{color:#0a6b35}.no{color:#a32020}.open{color:#8a6100}.warn{color:#a32020}
.chart form{font-size:13px;margin-top:6px}
.chart .vega-bind{display:inline-block;margin-right:18px}summary{cursor:pointer;font-size:14px}
li{overflow-wrap:anywhere}
"""
_JS = """
for(const spec of document.querySelectorAll("script[type='application/json']")){
  const place=document.getElementById(spec.id.replace('spec-','chart-'));
  vegaEmbed(place,JSON.parse(spec.textContent),{ast:true,renderer:'svg',
    actions:{export:true,source:false,compiled:false,editor:false}})
    .catch(e=>{place.textContent='This chart could not be drawn: '+e.message});
}
for(const table of document.querySelectorAll('table.sortable')){
  const heads=[...table.tHead.rows[0].cells];
  heads.forEach((head,i)=>head.addEventListener('click',()=>{
    const dir=head.dataset.dir==='1'?-1:1;heads.forEach(h=>delete h.dataset.dir);head.dataset.dir=dir;
    const key=row=>row.cells[i].dataset.key??row.cells[i].textContent;
    const rows=[...table.tBodies[0].rows].sort((a,b)=>{
      const x=key(a),y=key(b);if(x===''||y==='')return (x==='')-(y==='');
      const d=Number(x)-Number(y);return dir*(Number.isNaN(d)?x.localeCompare(y):d)});
    table.tBodies[0].append(...rows);
  }));
}
"""
