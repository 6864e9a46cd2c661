"""The store as tidy tables: a row per cell and decoding, missing ones included; what is damaged is named and left out.

results = load(Path("runs"), sweep="lab")
results.cells[["objective", "backbone", "domain", "decoding", "mean", "low", "high", "questions", "prior_clean"]]
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.intervals import mean_interval, ratio_interval, region
from analysis.reading import PRIORS, Reader
from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.store.layout import Layout, SweepFiles
from bll_sweeps.store.records import read_json

KINDS = ("pretrain", "prior", "train", "evaluate")
AXES = ("objective", "backbone", "domain", "benchmark", "recipe", "seed")
# Overrides that say how and where a cell runs make no other variant of it, nor does the choice of an axis.
_PLACES = {"sweep", "execution", "tracker", "paths", "hydra"}
# Cells that agree on these are one point of the continuum, up to objective and seed.
POINT = ["backbone", "domain", "benchmark", "variant"]


@dataclass(frozen=True)
class Results:
    """All that analysis knows of one sweep.

    cells: one row per cell and decoding (columns: `_COLUMNS`). curves: training curves, a row per logged step and train
    job. sequences: the prior's rows per training sequence. provenance: one row per finished job.
    problems: damaged records and outputs, by name; their cells count as missing.
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


@dataclass(kw_only=True)
class _Row:
    """One row of Results.cells."""

    point: str = ""
    objective: str
    backbone: str
    domain: str
    benchmark: str
    recipe: str
    seed: int
    variant: str
    noise_kind: str = ""
    noise_rate: float = math.nan
    task: str = ""
    exposure: float = math.nan  # pretraining items of the task; nan where that is not known
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
    prior_clean: float = math.nan
    prior_clean_low: float = math.nan
    prior_clean_high: float = math.nan
    prior_as_trained: float = math.nan
    prior_as_trained_low: float = math.nan
    prior_as_trained_high: float = math.nan
    prior_sequences: int = 0
    region: str = ""  # by the clean prior
    pretrain: str = ""
    prior: str = ""
    train: str = ""
    evaluate: str = ""
    launch: int = 0


_COLUMNS = [f.name for f in dataclasses.fields(_Row)]


@dataclass
class _Cell:
    """One cell of a manifest."""

    labels: dict[str, Any]
    overrides: list[str]
    jobs: dict[str, str | None]
    launch: int
    variant: str = ""
    decodings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def job(self, kind: str) -> str:
        return self.jobs.get(kind) or ""


def load(root: Path, sweep: str | None = None, launch: int | None = None, every_launch: bool = False) -> Results:
    """Tables of one launch of a sweep (by default the last launch of the sweep launched last), or of all its launches.

    Raises UsageError for a sweep or launch that is not there, StoreError for a damaged manifest.
    """
    files = _find(Layout(root), sweep)
    reader = Reader(Layout(root))
    manifests = _manifests(files, launch, every_launch)
    cells = _cells(manifests)
    _spread_decodings(cells, reader)
    rows = [row for cell in cells for row in _rows(cell, reader)]
    table = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=_COLUMNS)
    table["point"] = _points(table)
    trains = _distinct(table["train"])
    ids = {kind: _distinct(table[kind]) for kind in KINDS}
    scored = {job: reader.scores(job) for job in ids["evaluate"]}
    return Results(
        root=root,
        sweep=files.name,
        launches=[{k: v for k, v in m.items() if k not in ("cells", "jobs")} for m in manifests],
        cells=table,
        curves=_stack([(job, reader.metrics(job)) for job in trains], "train"),
        sequences=_stack([(job, reader.sequences(job)) for job in ids["prior"]], "prior"),
        provenance=_provenance([job for kind in ids.values() for job in kind], reader),
        formulas=_formulas(cells, reader),
        problems=reader.problems,
        scores={(job, name): t for job, tables in scored.items() if tables for name, t in tables.items()},
    )


# --- manifests ------------------------------------------------------------------------------------------------------


def _find(layout: Layout, sweep: str | None) -> SweepFiles:
    names = layout.sweeps()
    if not names:
        raise UsageError(f"{layout.root} holds no sweep; `bll launch` makes one, --source names another run root")
    if sweep is None:
        sweep = names[-1]
    if sweep not in names:
        raise UsageError(f"sweep={sweep!r} {one_of(names, sweep)}")
    return layout.sweep(sweep)


def _manifests(files: SweepFiles, launch: int | None, every_launch: bool) -> list[dict[str, Any]]:
    numbers = files.launches()
    if not numbers:
        raise UsageError(f"sweep {files.name} has no launch yet")
    if launch is not None and launch not in numbers:
        raise UsageError(f"launch={launch} {one_of(map(str, numbers), launch)}")
    wanted = numbers if every_launch else [numbers[-1] if launch is None else launch]
    manifests = [read_json(files.manifest(number)) for number in wanted]
    for number, manifest in zip(wanted, manifests, strict=True):
        if not isinstance(manifest, dict) or not isinstance(manifest.get("cells"), list):
            raise StoreError(
                f"{files.manifest(number)} is not a manifest; `bll launch sweep={files.name}` writes a new one"
            )
    return manifests


def _cells(manifests: list[dict[str, Any]]) -> list[_Cell]:
    """The distinct cells of the manifests. A cell whose jobs changed from one launch to a later one is two variants."""
    found: dict[tuple[str, str], _Cell] = {}
    for manifest in manifests:
        for data in manifest["cells"]:
            cell = _Cell(dict(data["labels"]), list(data.get("overrides") or []), data["jobs"], manifest["launch"])
            suffix = _variant(cell, objective=True)
            if suffix:
                cell.labels["objective"] = f"{cell.labels['objective']}({suffix})"
            cell.variant = _variant(cell, objective=False)
            found[_name(cell), cell.job("evaluate")] = cell
    by_name: dict[str, list[_Cell]] = {}
    for cell in found.values():
        by_name.setdefault(_name(cell), []).append(cell)
    for cells in by_name.values():
        newest = max(cell.launch for cell in cells)
        for cell in cells:
            if cell.launch < newest:
                cell.variant = ", ".join(filter(None, [cell.variant, f"as of launch {cell.launch}"]))
    _name_recipes(list(found.values()))
    return list(found.values())


def _name(cell: _Cell) -> str:
    return json.dumps([cell.labels, cell.variant], sort_keys=True)


def _variant(cell: _Cell, objective: bool) -> str:
    """The cell's overrides other than axis choices; those of the objective belong to the objective's name."""
    kept, noise = [], {}
    for override in cell.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        head = key.replace("/", ".").split(".")[0]
        if key in AXES or head in _PLACES:
            continue
        if key.startswith("domain.noise.") and not objective:
            noise[key] = value
        elif objective and head == "objective":
            kept.append(f"{key.removeprefix('objective.')}={value}")
        elif not objective and head != "objective":
            kept.append(f"{key}={value}")
    noise_text = " ".join(["noise", *(noise[key] for key in sorted(noise))]) if noise else ""
    return ", ".join(filter(None, [noise_text, *sorted(kept)]))


def _name_recipes(cells: list[_Cell]) -> None:
    """Where a point was trained with several recipes, the recipe is part of the variant."""
    recipes: dict[tuple[str, ...], set[str]] = {}
    for cell in cells:
        if cell.job("train"):
            recipes.setdefault(_point_key(cell), set()).add(cell.labels["recipe"])
    for cell, key in [(cell, _point_key(cell)) for cell in cells]:
        if len(recipes.get(key, ())) > 1:
            cell.variant = ", ".join(filter(None, [cell.variant, f"recipe={cell.labels['recipe']}"]))


def _point_key(cell: _Cell) -> tuple[str, ...]:
    return cell.labels["backbone"], cell.labels["domain"], cell.labels["benchmark"], cell.variant


def _spread_decodings(cells: list[_Cell], reader: Reader) -> None:
    """Which decodings each cell has: from its spec, or from another cell of the same benchmark."""
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        spec = reader.spec(cell.job("evaluate"))
        if spec:
            benchmark = spec["job"]["benchmark"]
            names = sorted(benchmark["decodings"], key=lambda name: (name != benchmark["primary"], name))
            cell.decodings = {
                name: {**benchmark["decodings"][name], "primary": name == benchmark["primary"]} for name in names
            }
            known.setdefault(cell.labels["benchmark"], cell.decodings)
    for cell in cells:
        cell.decodings = cell.decodings or known.get(cell.labels["benchmark"], {"": {"primary": True}})


# --- rows -----------------------------------------------------------------------------------------------------------


def _rows(cell: _Cell, reader: Reader) -> list[_Row]:
    scores = reader.scores(cell.job("evaluate"))
    blame = _blame(cell, reader)
    if scores is None and reader.record(cell.job("evaluate")) is not None:
        blame.append(f"{cell.job('evaluate')} has damaged scores")
    shared: dict[str, Any] = {key: cell.labels.get(key, "") for key in AXES}
    shared |= {kind: cell.job(kind) for kind in KINDS}
    shared |= _task_of(cell, reader) | _prior_of(cell, reader)
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
        rows.append(row)
    return rows


def _blame(cell: _Cell, reader: Reader) -> list[str]:
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


def _task_of(cell: _Cell, reader: Reader) -> dict[str, Any]:
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
    if backbone["source"] == "lab" and backbone.get("pretraining"):
        out["exposure"] = float(backbone["pretraining"]["exposure"].get(out["task"], 0))
    return out


def _prior_of(cell: _Cell, reader: Reader) -> dict[str, Any]:
    job = cell.job("prior")
    table = reader.sequences(job) if job else None
    if table is None:
        return {}

    def read() -> dict[str, Any]:
        out: dict[str, Any] = {"prior_sequences": len(table)}
        for which, sums, tokens in PRIORS:
            interval = ratio_interval(table[sums].to_numpy(dtype=float), table[tokens].to_numpy(dtype=float))
            out[f"prior_{which}"] = interval.mean
            out |= {f"prior_{which}_low": interval.low, f"prior_{which}_high": interval.high}
        return out | {"region": region(out["prior_clean"])}

    return reader.once("prior strength", job, read) or {}


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


def _formulas(cells: list[_Cell], reader: Reader) -> dict[str, str]:
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
