"""The store as tidy tables: a row per cell and decoding, missing ones included; what is damaged is named and left out.

results = load(Path("runs"), sweep="lab")
results.cells[["objective", "backbone", "domain", "decoding", "mean", "low", "high", "questions", "prior_clean"]]
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.cells import AXES, ManifestCell, distinct_cells, find_sweep, read_manifests, spread_decodings
from analysis.intervals import mean_interval, ratio_interval, region
from analysis.reading import PRIORS, Reader
from bll_sweeps.grid.axes import Objective, canonical_json
from bll_sweeps.store.layout import Layout

KINDS = ("pretrain", "prior", "train", "evaluate")
# Cells that agree on these are one point of the continuum, up to objective and seed.
POINT = ["backbone", "domain", "benchmark", "variant"]
Prior = Literal["clean", "as_trained"]  # which answers prior strength is measured on


@dataclass(frozen=True)
class Results:
    """All that analysis knows of one sweep.

    cells: one row per cell and decoding (columns: `_COLUMNS`). curves: training curves, a row per logged step and train
    job. sequences: the prior's rows per training sequence. provenance: one row per finished job.
    problems: damaged records and outputs, by name (their cells count as missing), and scores of unlike graders.
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
    scores: dict[tuple[str, str], pd.DataFrame]  # (evaluate id, decoding) -> question -> score, samples

    @cached_property
    def questions(self) -> pd.DataFrame:
        """One row per evaluate job, decoding and question: `score` is the mean over `samples` generations."""
        tables = [t.reset_index().assign(evaluate=job, decoding=d) for (job, d), t in self.scores.items()]
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
        questions that were trained on.
        """
        known = self.cells[self.cells["seen_in_training"] > 0]
        seen = known.groupby("point", sort=False)["seen_in_training"].max()
        cut = self.cells[self.cells["rows_cut"] > 0].groupby("point", sort=False)["rows_cut"].max()
        long = self.cells[self.cells["length_limited"] > 0]
        shares = long.groupby(long["point"] + " " + long["decoding"], sort=False)["length_limited"].max()
        return [
            *_warning("training rows were cut to max_length", [f"{point} ({n:.0f})" for point, n in cut.items()]),
            *_warning(
                "generations ran into max_new_tokens",
                [f"{where} (up to {100 * share:.2g} %)" for where, share in shares.items()],
            ),
            *_warning(
                "benchmark questions are in the training set", [f"{point} ({n:.0f})" for point, n in seen.items()]
            ),
        ]


@dataclass(kw_only=True)
class _Row:
    """One row of Results.cells."""

    point: str = ""
    objective: str
    identity: str = ""  # the objective without its name, as JSON; '' where no spec tells it
    backbone: str
    domain: str
    benchmark: str
    recipe: str
    seed: int
    variant: str
    noise_kind: str = ""
    noise_rate: float = math.nan
    task: str = ""
    exposure: float = math.nan  # pretraining items of a lab task; nan where that is not known
    decoding: str
    temperature: float = math.nan
    primary: bool = False
    state: str = "missing"
    why: str = ""
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    questions: int = 0
    samples: int = 0
    grader: str = ""
    length_limited: float = math.nan  # share of the generations that ran into max_new_tokens
    rows_cut: float = math.nan  # training rows that were cut to max_length
    seen_in_training: float = math.nan  # benchmark questions that are in the training set
    prior_clean: float = math.nan
    prior_clean_low: float = math.nan
    prior_clean_high: float = math.nan
    prior_as_trained: float = math.nan
    prior_as_trained_low: float = math.nan
    prior_as_trained_high: float = math.nan
    prior_questions: int = 0  # distinct ones, the unit of the priors' intervals; 0 where the record does not name them
    prior_sequences: int = 0
    region_clean: str = ""
    region_as_trained: str = ""
    pretrain: str = ""
    prior: str = ""
    train: str = ""
    evaluate: str = ""
    launch: int = 0


_COLUMNS = [f.name for f in dataclasses.fields(_Row)]


def load(root: Path, sweep: str | None = None, launch: int | None = None, every_launch: bool = False) -> Results:
    """Tables of one launch of a sweep (by default the last launch of the sweep launched last), or of all its launches.

    Raises UsageError for a sweep or launch that is not there, StoreError for a damaged manifest.
    """
    files = find_sweep(Layout(root), sweep)
    reader = Reader(Layout(root))
    manifests = read_manifests(files, launch, every_launch)
    cells = distinct_cells(manifests)
    spread_decodings(cells, reader)
    rows = [row for cell in cells for row in _rows(cell, reader)]
    table = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=_COLUMNS)
    table["point"] = _points(table)
    trains = _distinct(table["train"])
    ids = {kind: _distinct(table[kind]) for kind in KINDS}
    scored = {job: reader.scores(job) for job in ids["evaluate"]}
    graders = _unlike_graders(table)
    return Results(
        root=root,
        sweep=files.name,
        launches=[{k: v for k, v in m.items() if k not in ("cells", "jobs")} for m in manifests],
        cells=table,
        curves=_stack([(job, reader.metrics(job)) for job in trains], "train"),
        sequences=_stack([(job, reader.sequences(job)) for job in ids["prior"]], "prior"),
        provenance=_provenance([job for kind in ids.values() for job in kind], reader),
        formulas=_formulas(cells, reader),
        problems=[*reader.problems, *graders],
        scores={(job, name): t for job, tables in scored.items() if tables for name, t in tables.items()},
    )


def _rows(cell: ManifestCell, reader: Reader) -> list[_Row]:
    scores = reader.scores(cell.job("evaluate"))
    blame = _blame(cell, reader)
    if scores is None and reader.record(cell.job("evaluate")) is not None:
        blame.append(f"{cell.job('evaluate')} has damaged scores")
    shared: dict[str, Any] = {key: cell.labels.get(key, "") for key in AXES}
    shared |= {kind: cell.job(kind) for kind in KINDS}
    shared |= _task_of(cell, reader) | _prior_of(cell, reader)
    shared |= {"identity": _identity(cell, reader), "rows_cut": _rows_cut(cell, reader)}
    rows = []
    for name, decoding in cell.decodings.items():
        row = _Row(
            **shared,
            variant=cell.variant,
            decoding=name,
            launch=cell.launch,
            primary=bool(decoding.get("primary")),
        )
        row.temperature = float(decoding.get("temperature", math.nan))
        row.why = "; ".join(blame)
        if scores is not None and name in scores:
            _fill(row, scores[name])
            row.grader, row.length_limited = reader.grader(row.evaluate), reader.length_limited(row.evaluate, name)
            row.seen_in_training = reader.seen_in_training(row.evaluate)
        rows.append(row)
    return rows


def _blame(cell: ManifestCell, reader: Reader) -> list[str]:
    """What the cell lacks, causes first: an evaluation that waits for a failed training is not told of besides."""
    reasons = {kind: reader.not_done(cell.job(kind)) for kind in KINDS if cell.job(kind)}
    wanting = {kind: reason for kind, reason in reasons.items() if reason}
    if {"pretrain", "train"} & wanting.keys():
        wanting.pop("evaluate", None)
    if "pretrain" in wanting:
        wanting = {"pretrain": wanting["pretrain"]}
    return list(wanting.values())


def _fill(row: _Row, table: pd.DataFrame) -> None:
    row.state, row.questions, row.samples = "done", len(table), int(table["samples"].min())
    interval = mean_interval(table["score"].to_numpy(dtype=float), row.samples)
    row.mean, row.low, row.high = interval.mean, interval.low, interval.high


def _task_of(cell: ManifestCell, reader: Reader) -> dict[str, Any]:
    """Task, its exposure in pretraining and the label noise, from the specs.

    The prior's spec is asked first: an evaluation of the base model is shared by all noise rates, and its spec has the
    domain of whichever cell was launched first.
    """
    spec = reader.spec(cell.job("prior")) or reader.spec(cell.job("train")) or reader.spec(cell.job("evaluate"))
    if spec is None:
        return {}
    domain, backbone = spec["job"]["domain"], spec["job"]["backbone"]
    noise = domain.get("noise") or {"kind": "none", "rate": 0.0}
    none = noise["kind"] == "none" or noise["rate"] == 0
    out: dict[str, Any] = {"task": domain.get("task") or domain["name"]}
    out |= {
        "noise_kind": "none" if none else noise["kind"],
        "noise_rate": 0.0 if none else float(noise["rate"]),
    }
    # Only a lab task can be looked up in what a lab backbone has read: of a jsonl domain nothing is known.
    if domain["source"] == "lab" and backbone["source"] == "lab" and backbone.get("pretraining"):
        out["exposure"] = float(backbone["pretraining"]["exposure"].get(out["task"], 0))
    return out


def _prior_of(cell: ManifestCell, reader: Reader) -> dict[str, Any]:
    job = cell.job("prior")
    table = reader.sequences(job) if job else None
    if table is None:
        return {}

    def read() -> dict[str, Any]:
        named = "question" in table and bool(table["question"].notna().all())
        units = table["question"].tolist() if named else None
        out: dict[str, Any] = {"prior_sequences": len(table), "prior_questions": len(set(units or ()))}
        for which, sums, tokens in PRIORS:
            interval = ratio_interval(
                table[sums].to_numpy(dtype=float), table[tokens].to_numpy(dtype=float), units=units
            )
            out |= {f"prior_{which}": interval.mean, f"region_{which}": region(interval.mean)}
            out |= {f"prior_{which}_low": interval.low, f"prior_{which}_high": interval.high}
        return out

    return reader.once("prior strength", job, read) or {}


def _identity(cell: ManifestCell, reader: Reader) -> str:
    """What the objective is whatever its name: power with alpha 0 is NLL."""
    if not cell.job("train"):
        return canonical_json({"family": "base"})

    def read() -> str | None:
        spec = reader.spec(cell.job("train"))
        return None if spec is None else canonical_json(Objective(**spec["job"]["objective"]).identity())

    return reader.once("objective", cell.job("train"), read) or ""


def _rows_cut(cell: ManifestCell, reader: Reader) -> float:
    """nan where neither the training's nor the prior's record tells it."""
    told = [reader.rows_cut(cell.job(kind)) for kind in ("train", "prior") if cell.job(kind)]
    return max((n for n in told if not math.isnan(n)), default=math.nan)


def _unlike_graders(table: pd.DataFrame) -> list[str]:
    """One problem if scores of this sweep are by several versions of a grader, or by several graders of a benchmark."""
    done = table[table["grader"] != ""].drop_duplicates("evaluate")
    if done.empty:
        return []
    versions = done.groupby(done["grader"].str.rpartition("-v")[0])["grader"].nunique()
    if not (versions > 1).any() and not (done.groupby("benchmark")["grader"].nunique() > 1).any():
        return []
    counts = ", ".join(
        f"{grader} ({n} evaluations)" for grader, n in done["grader"].value_counts().sort_index().items()
    )
    return [
        f"this sweep's scores are by several graders: {counts}; gains are taken within a grader only, and "
        "`bll launch ... --rerun-stale` evaluates again what other code made"
    ]


_MOST_NAMED = 8


def _warning(what: str, where: list[str]) -> list[str]:
    if not where:
        return []
    more = [f"and {len(where) - _MOST_NAMED} more"] if len(where) > _MOST_NAMED else []
    return [f"{what}: {', '.join([*where[:_MOST_NAMED], *more])}"]


def _points(table: pd.DataFrame) -> pd.Series:
    """A short name per point: backbone and domain, or the benchmark where the domain has several."""
    if table.empty:
        return pd.Series(dtype=str)
    several = table.groupby("domain")["benchmark"].transform("nunique") > 1
    return table["backbone"] + " · " + table["domain"].where(~several, table["benchmark"])


def _distinct(ids: pd.Series) -> list[str]:
    return [str(job) for job in dict.fromkeys(ids) if job]


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
    """How an objective is written, constants left out: `−p^10`, `−log p · 1[p ≥ 0.2]` (paper, Section 5)."""
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
    return f"{text} · 1[p {'≥' if keep == 'above' else '≤'} {float(objective['threshold']):g}]"
