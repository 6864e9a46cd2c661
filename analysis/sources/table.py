"""The store as tidy tables: a row per cell and decoding, missing ones included; what is damaged is named and left out.

results = load(Path("runs"), sweep="lab")
results.cells[["objective", "backbone", "domain", "decoding", "mean", "low", "high", "questions", "prior_clean"]]
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd

from analysis.sources import cache
from analysis.sources.cells import ManifestCell, distinct_cells, find_sweep, jobs_of, read_manifests, spread_decodings
from analysis.sources.limits import limits
from analysis.sources.parse import Block
from analysis.sources.priors import priors_table
from analysis.sources.reading import Kept, Reader
from analysis.sources.row_files import stacked
from analysis.sources.rows import KINDS, Row, cell_rows, with_means
from analysis.sources.scores import Key, Scores
from analysis.sources.stamps import job_stamp
from analysis.workers import Workers, cores
from bll_sweeps.store.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("bll")

_MANY = 1000  # jobs; of fewer the small files are read sooner than by processes that have to be started
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
    and train job. sequences: the prior's rows per training sequence. priors: prior strength with its interval, its
    quantiles and histogram (priors.py). provenance: one row per finished job. scores: by question, per (evaluate id,
    decoding, grader).
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
    scores: Mapping[Key, pd.DataFrame]
    other_graders: pd.DataFrame = field(default_factory=pd.DataFrame)  # rows as in `cells`, by a benchmark's others
    shared: list[str] = field(default_factory=list)  # overrides of all cells, which no variant names
    priors: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def questions(self) -> pd.DataFrame:
        """One row per evaluate job, decoding and question: `score` is the mean over `samples` generations."""
        return self.columns.table()[["evaluate", "decoding", "question", "score", "samples"]]

    @cached_property
    def columns(self) -> Scores:
        """The scores as columns of numbers."""
        return self.scores if isinstance(self.scores, Scores) else Scores.of_tables(self.scores)

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

    What is read is kept in the run root, so that the next load reads only what changed (analysis/sources/cache.py; it
    says what a later load does not check again).

    Raises UsageError for a sweep or launch that is not there, StoreError for a damaged manifest.
    """
    layout = Layout(root)
    files = find_sweep(layout, sweep)
    manifests, paths = read_manifests(files, launch, every_launch)
    jobs, latest, kept, stamps = jobs_of(manifests), cache.latest(layout, files.name), Kept(), None
    if latest is not None or len(jobs) < _MANY:
        stamps = {job: job_stamp(layout.job(job).folder) for job in jobs}
        found = cache.find(layout, files.name, cache.snapshot_key(layout, paths, stamps, every_launch))
        if found is not None:
            try:
                return _restored(found, root, files.name)
            except cache.DamagedError as error:
                log.info("the analysis reads records again: %s", error)
        kept = _kept(latest, stamps)
    with Workers(cores()) as workers, _no_collection():
        reader = Reader(layout, kept, workers)
        results, kept_too = _read(reader, root, files.name, manifests, fetch=stamps is None)
        stamps = stamps or {job: reader.files.stamp(job) for job in jobs}
        _keep(results, reader, cache.snapshot_key(layout, paths, stamps, every_launch), stamps, kept_too)
    return results


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small objects are made here, and hardly a cycle: looking for cycles takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read(
    reader: Reader, root: Path, sweep: str, manifests: list[dict[str, Any]], fetch: bool
) -> tuple[Results, _KeptToo]:
    """fetch: nothing is kept, all will be read."""
    cells, shared = distinct_cells(manifests)
    reader.read_ahead([cell.job(kind) for kind in reversed(KINDS) for cell in cells], fetch)
    spread_decodings(cells, reader)
    ids = {kind: list(dict.fromkeys(cell.job(kind) for cell in cells if cell.job(kind))) for kind in KINDS}
    # What needs no scores comes first, as these are still being parsed.
    curves, curves_uniform = stacked([(job, reader.metrics(job)) for job in ids["train"]], "train")
    curves = curves.rename(columns={"objective": "loss"})  # `objective` names the objective everywhere else
    sequences, sequences_uniform = stacked([(job, reader.sequences(job)) for job in ids["prior"]], "prior")
    provenance, formulas = _provenance([job for kind in ids.values() for job in kind], reader), _formulas(cells, reader)
    texts = _texts(reader) if fetch else None
    every = _frame([row for cell in cells for row in cell_rows(cell, reader)])
    primary = every["primary_grader"].astype(bool)
    table = every[primary].reset_index(drop=True)
    priors = priors_table(table, reader)
    scores = Scores.of(_blocks({(cell.job("evaluate"), cell.grader) for cell in cells}, reader))
    results = Results(
        root=root,
        sweep=sweep,
        launches=[{k: v for k, v in m.items() if k not in ("cells", "jobs")} for m in manifests],
        cells=table,
        curves=curves,
        sequences=sequences,
        provenance=provenance,
        formulas=formulas,
        problems=[*reader.problems, *_no_cells(cells), *_unlike_graders(table), *_unlike_engines(table)],
        scores=scores,
        other_graders=every[~primary].reset_index(drop=True),
        shared=shared,
        priors=priors,
    )
    return results, _KeptToo({"curves": curves_uniform, "sequences": sequences_uniform}, texts)


# --- what is kept of a load -------------------------------------------------------------------------------------------

_FRAMES = ("cells", "curves", "sequences", "provenance", "other_graders", "priors")
_META = ("launches", "formulas", "problems", "shared")


class _KeptToo(NamedTuple):
    """uniform: of which stacked tables each job's part comes out as it went in. texts: of all jobs, if all were read
    before the scores.
    """

    uniform: dict[str, bool]
    texts: pa.Table | None


def _texts(reader: Reader) -> pa.Table:
    """The small files that were read: job, name, text."""
    import pyarrow as pa

    every = reader.files.texts
    columns = {
        "job": [job for job, texts in every.items() for _ in texts],
        "name": [name for texts in every.values() for name in texts],
        "text": [text for texts in every.values() for text in texts.values()],
    }
    return pa.table({name: pa.array(column, pa.large_string()) for name, column in columns.items()})


def _keep(results: Results, reader: Reader, key: str, stamps: dict[str, str], kept_too: _KeptToo) -> None:
    """Writes a snapshot. Of jobs without problems that are done it has all that the next load would read."""
    import pyarrow as pa

    sound = [job for job in stamps if job in reader.files.texts and job not in reader.damaged]
    sound = [job for job in sound if reader.record(job) is not None]
    texts = _texts(reader) if kept_too.texts is None else kept_too.texts
    if len(sound) < len(reader.files.texts):
        known = set(sound)
        texts = texts.filter(pa.array([job in known for job in texts["job"].to_pylist()], pa.bool_()))
    assert isinstance(results.scores, Scores)
    others = {(row["evaluate"], row["grader"]) for row in results.other_graders.to_dict("records")}
    beside = _blocks({(job, grader.rpartition("-v")[0]) for job, grader in others}, reader)
    tables = {name: getattr(results, name) for name in _FRAMES}
    tables |= {"texts": texts}
    tables |= {"stamps": pd.DataFrame([(job, stamps[job]) for job in sound], columns=["job", "stamp"], dtype="str")}
    for stem, scores in (("", results.scores), ("other_", Scores.of(beside))):
        tables |= {f"{stem}{name}": table for name, table in scores.parts().items()}
    meta = {name: getattr(results, name) for name in _META}
    cache.keep(reader.layout, results.sweep, key, {**meta, "uniform": kept_too.uniform}, tables)


def _restored(snapshot: cache.Snapshot, root: Path, sweep: str) -> Results:
    told: dict[str, Any] = {name: snapshot.meta[name] for name in _META}
    told |= {name: snapshot.table(name) for name in _FRAMES}
    return Results(root=root, sweep=sweep, scores=_scores_of(snapshot, ""), **told)


def _scores_of(snapshot: cache.Snapshot, stem: str) -> Scores:
    return Scores.from_parts({name: snapshot.table(f"{stem}{name}") for name in ("blocks", "columns", "names")})


def _kept(snapshot: cache.Snapshot | None, stamps: dict[str, str]) -> Kept:
    """What a snapshot tells of the jobs whose stamps are those that it was made by."""
    kept = Kept()
    if snapshot is None:
        return kept
    try:
        known = snapshot.table("stamps")
        same = {job for job, stamp in zip(known["job"], known["stamp"], strict=True) if stamps.get(job) == stamp}
        texts = snapshot.table("texts")
        for job, name, text in texts[texts["job"].isin(same)].itertuples(index=False):
            kept.texts.setdefault(job, {})[name] = text
        for scores in (_scores_of(snapshot, ""), _scores_of(snapshot, "other_")):
            kept.blocks |= {key: block for key, block in scores.blocks().items() if key[0] in same}
        for name, column, read in (("curves", "train", {"loss": "objective"}), ("sequences", "prior", {})):
            if snapshot.meta["uniform"][name]:
                table = snapshot.table(name).rename(columns=read)
                for job, rows in table.groupby(column, sort=False):
                    if job in same:
                        kept.tables[str(job)] = rows.drop(columns=column).reset_index(drop=True)
    except cache.DamagedError as error:
        log.info("the analysis reads records again: %s", error)
        return Kept()
    return kept


# --- problems of a whole sweep ----------------------------------------------------------------------------------------


def _no_cells(cells: list[ManifestCell]) -> list[str]:
    return [] if cells else ["the manifest names no cell: this launch was of an empty grid, there is nothing to show"]


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
    columns = [f.name for f in dataclasses.fields(Row) if f.name not in ("told", "scores")]
    if not rows:
        return pd.DataFrame(columns=columns)
    with_means(rows)
    more = sorted({key for row in rows for key in row.told}, key=lambda key: (key[:4] != "pass", len(key), key))
    told = {key: [row.told.get(key, math.nan) for row in rows] for key in more}
    table = pd.DataFrame({name: [getattr(row, name) for row in rows] for name in columns} | told)
    table["point"] = table["backbone"] + " · " + table["domain"]
    table["label"] = table["backbone"] + " · " + table["benchmark"]
    return table


def _blocks(graded: set[tuple[str, str]], reader: Reader) -> dict[Key, Block]:
    """Scores by question of (evaluate id, name of the grader), in order of these."""
    found = {(job, reader.grader(job, grader)): reader.scores(job, grader) for job, grader in sorted(graded)}
    return {(job, name, grader): b for (job, grader), blocks in found.items() if blocks for name, b in blocks.items()}


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
        if not cell.job("train"):
            out[name] = "untrained"
        elif name not in out and (text := _formula_of(cell.job("train"), reader)):
            out[name] = text
    return out


def _formula_of(job: str, reader: Reader) -> str:
    """'' where no spec tells it."""

    def read() -> str | None:
        spec = reader.spec(job)
        return None if spec is None else formula(spec["job"]["objective"])

    return reader.once("formula", job, read) or ""


def formula(objective: dict[str, Any]) -> str:
    """How an objective is written, constants left out: `−p^10`, `−log p · 1[p ≥ 0.2]` (paper, Section 5).

    A threshold that is a quantile of the base model's p is written as such: `−log p · 1[p ≥ Q0.1]`. A formula of one's
    own with the values of its parameters: `−(1 − p)^2 · log p`.
    """
    family, alpha = objective["family"], float(objective.get("alpha", 1.0))
    if family == "nll" or (family == "power" and alpha == 0):
        text = "−log p"
    elif family in ("power", "convexity"):
        text = "−p" if alpha == 1 else f"−p^{alpha:g}"
    elif family == "unlikelihood":
        text = "log(1−p)"
    elif family == "formula":
        text = _own_formula(objective)
    else:
        text = str(family)
    for key in ("smoothing", "anchor"):
        text += f", {key} {objective[key]:g}" if objective.get(key) else ""
    keep = objective.get("keep", "all")
    if keep == "all":
        return text
    quantile = objective.get("threshold_quantile")  # where there is one, `threshold` is not used
    at = f"{float(objective['threshold']):g}" if quantile is None else f"Q{float(quantile):g}"
    return f"{text} · 1[p {'≥' if keep == 'above' else '≤'} {at}]"


def _own_formula(objective: dict[str, Any]) -> str:
    text = str(objective["formula"])
    for name, value in (objective.get("parameters") or {}).items():
        text = re.sub(rf"\b{name}\b", f"{float(value):g}", text)
    text = re.sub(r"\s*\*\*\s*", "^", text)
    for python, written in (("*", "·"), ("-", "−"), ("logp", "log p")):
        text = text.replace(python, written)
    return text
