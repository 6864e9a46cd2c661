"""The store as tidy tables: a row per cell and decoding, missing ones included; what is damaged is named and left out.

results = load(Path("runs"), sweep="lab")
results.cells[["objective", "backbone", "domain", "decoding", "mean", "low", "high", "questions", "prior_clean"]]
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.sources.cells import ManifestCell, distinct_cells, find_sweep, read_manifests, spread_decodings
from analysis.sources.limits import limits
from analysis.sources.reading import Reader
from analysis.sources.rows import KINDS, Row, cell_rows
from bll_sweeps.store.layout import Layout

# A place on the continuum: prior strength is of the backbone and the domain's training set (in one variant of it).
PLACE = ["backbone", "domain", "variant"]
# Cells that agree on these are scored on the same questions, up to objective and seed: gains are taken within them.
POINT = ["backbone", "domain", "benchmark", "variant"]
CELL = [*POINT, "objective", "seed"]  # what tells the cells of a sweep apart
Prior = Literal["clean", "as_trained"]  # which answers prior strength is measured on


@dataclass(frozen=True)
class Results:
    """All that analysis knows of one sweep.

    cells: one row per cell and decoding (columns: those of `rows.Row`), scored by the benchmark's first grader.
    `point` names backbone and domain, `label` backbone and benchmark. curves: training curves, a row per logged step
    and train job. sequences: the prior's rows per training sequence. provenance: one row per finished job.
    problems: damaged records and outputs, by name (their cells count as missing), and scores of unlike graders
    or engines.
    """

    root: Path
    sweep: str
    launches: list[dict[str, Any]]  # the manifests that were read, without their cells
    cells: pd.DataFrame
    curves: pd.DataFrame
    sequences: pd.DataFrame
    provenance: pd.DataFrame
    formulas: dict[str, str]  # objective -> how f(p) is written, as a loss: "−log p"
    problems: list[str]
    scores: dict[tuple[str, str, str], pd.DataFrame]  # (evaluate id, decoding, grader) -> question -> score, samples
    other_graders: pd.DataFrame = field(default_factory=pd.DataFrame)  # rows as in `cells`, by a benchmark's others
    shared: list[str] = field(default_factory=list)  # overrides of all cells, which no variant names

    @cached_property
    def questions(self) -> pd.DataFrame:
        """One row per evaluate job, decoding and question: `score` is the mean over `samples` generations."""
        tables = [t.reset_index().assign(evaluate=job, decoding=d) for (job, d, _), t in self.scores.items()]
        columns = ["evaluate", "decoding", "question", "score", "samples"]
        return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)

    @property
    def done(self) -> pd.DataFrame:
        """The rows that have a score."""
        return self.cells[self.cells["state"] == "done"]

    @property
    def missing(self) -> pd.DataFrame:
        """The rows that have none; `why` says which job is to blame."""
        return self.cells[self.cells["state"] != "done"]

    @property
    def warnings(self) -> list[str]:
        """What limits sound results: training rows that were cut, generations that ran into the token limit, benchmark
        questions that were trained on, generations without an answer, graders that disagree.
        """
        return limits(self.cells)


def load(root: Path, sweep: str | None = None, launch: int | None = None, every_launch: bool = False) -> Results:
    """Tables of one launch of a sweep (by default the last launch of the sweep launched last), or of all its launches.

    Raises UsageError for a sweep or launch that is not there, StoreError for a damaged manifest.
    """
    files = find_sweep(Layout(root), sweep)
    reader = Reader(Layout(root))
    manifests = read_manifests(files, launch, every_launch)
    cells, shared = distinct_cells(manifests)
    spread_decodings(cells, reader)
    every = _frame([row for cell in cells for row in cell_rows(cell, reader)])
    primary = every["primary_grader"].astype(bool)
    table = every[primary].reset_index(drop=True)
    trains = _distinct(table["train"])
    ids = {kind: _distinct(table[kind]) for kind in KINDS}
    return Results(
        root=root,
        sweep=files.name,
        launches=[{k: v for k, v in m.items() if k not in ("cells", "jobs")} for m in manifests],
        cells=table,
        curves=_stack([(job, reader.metrics(job)) for job in trains], "train"),
        sequences=_stack([(job, reader.sequences(job)) for job in ids["prior"]], "prior"),
        provenance=_provenance([job for kind in ids.values() for job in kind], reader),
        formulas=_formulas(cells, reader),
        problems=[*reader.problems, *_unlike_graders(table), *_unlike_engines(table)],
        scores=_scores(cells, reader),
        other_graders=every[~primary].reset_index(drop=True),
        shared=shared,
    )


def _unlike_graders(table: pd.DataFrame) -> list[str]:
    """One problem if scores of this sweep are by several versions of a grader, or by several graders of a benchmark."""
    done = table[table["grader"] != ""].drop_duplicates("evaluate")
    if done.empty:
        return []
    versions = done.groupby(done["grader"].str.rpartition("-v")[0])["grader"].nunique()
    if not (versions > 1).any() and not (done.groupby("benchmark")["grader"].nunique() > 1).any():
        return []
    return [
        f"this sweep's scores are by several graders: {_counts(done['grader'])}; gains are taken within a grader only, "
        "and `bll regrade` scores again by a benchmark's present graders"
    ]


def _unlike_engines(table: pd.DataFrame) -> list[str]:
    """One problem if answers of this sweep were generated by several engines, or by several versions of one."""
    engines = table[table["engine"] != ""].drop_duplicates("evaluate")["engine"]
    if engines.nunique() < 2:
        return []
    return [
        f"this sweep's answers are by several engines: {_counts(engines)}; gains are taken within an engine only, and "
        "what is done is not repeated with another one: a launch into a new run root has all answers by one"
    ]


def _counts(names: pd.Series) -> str:
    """`exact-v1 (1 evaluations), exact-v2 (2 evaluations)`."""
    return ", ".join(f"{name} ({n} evaluations)" for name, n in names.value_counts().sort_index().items())


def _frame(rows: list[Row]) -> pd.DataFrame:
    """The rows with their names; what only some graders tell stands in the last columns, as far as any row has it."""
    columns = [f.name for f in dataclasses.fields(Row) if f.name != "told"]
    more = sorted({key for row in rows for key in row.told}, key=lambda key: (key[:4] != "pass", len(key), key))
    table = pd.DataFrame([{**dataclasses.asdict(row), **row.told} for row in rows], columns=[*columns, *more])
    if rows:
        table["point"] = table["backbone"] + " · " + table["domain"]
        table["label"] = table["backbone"] + " · " + table["benchmark"]
    return table


def _distinct(ids: pd.Series) -> list[str]:
    return [str(job) for job in dict.fromkeys(ids) if job]


def _scores(cells: list[ManifestCell], reader: Reader) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The scores that stand in `cells`, by question."""
    by = {(cell.job("evaluate"), cell.grader) for cell in cells}
    found = {(job, reader.grader(job, grader)): reader.scores(job, grader) for job, grader in sorted(by)}
    return {(job, name, grader): t for (job, grader), tables in found.items() if tables for name, t in tables.items()}


def _stack(tables: list[tuple[str, pd.DataFrame | None]], column: str) -> pd.DataFrame:
    found = [table.assign(**{column: job}) for job, table in tables if table is not None]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[column])


def _provenance(jobs: list[str], reader: Reader) -> pd.DataFrame:
    rows = []
    for job in jobs:
        data = reader.provenance(job)
        if data is not None:
            versions = data.get("versions") or {}
            row = {key: data.get(key) for key in ("code", "host", "started_at", "finished_at", "seconds")}
            rows.append(
                {
                    "job": job,
                    "kind": job.rpartition("-")[0],
                    **row,
                    "versions": json.dumps(versions, sort_keys=True),
                }
            )
    return pd.DataFrame(
        rows, columns=["job", "kind", "code", "host", "started_at", "finished_at", "seconds", "versions"]
    )


def _formulas(cells: list[ManifestCell], reader: Reader) -> dict[str, str]:
    out: dict[str, str] = {}
    for cell in cells:
        name = cell.labels["objective"]
        spec = reader.spec(cell.job("train")) if cell.job("train") else None
        if name not in out and spec:
            out[name] = formula(spec["job"]["objective"])
        elif not cell.job("train"):
            out[name] = "untrained"
    return out


def formula(objective: dict[str, Any]) -> str:
    """How an objective is written, constants left out: `−p^10`, `−log p · 1[p ≥ 0.2]` (paper, Section 5).

    A threshold that is a quantile of the base model's p is written as such: `−log p · 1[p ≥ Q0.1]`.
    """
    family, alpha = objective["family"], float(objective.get("alpha", 1.0))
    if family == "nll" or (family == "power" and alpha == 0):
        text = "−log p"
    elif family in ("power", "convexity"):
        text = "−p" if alpha == 1 else f"−p^{alpha:g}"
    elif family == "unlikelihood":
        text = "log(1−p)"
    else:
        text = str(family)
    keep = objective.get("keep", "all")
    if keep == "all":
        return text
    quantile = objective.get("threshold_quantile")  # where there is one, `threshold` is not used
    at = f"{float(objective['threshold']):g}" if quantile is None else f"Q{float(quantile):g}"
    return f"{text} · 1[p {'≥' if keep == 'above' else '≤'} {at}]"
