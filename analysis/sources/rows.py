"""A cell's rows: its scores by each grader, the place of its point, what limits them, and why they are missing."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from analysis.sources.cells import AXES, ManifestCell
from analysis.sources.parse import Block
from analysis.sources.reading import PRIORS, Reader, number_of
from analysis.statistics.intervals import mean_intervals, ratio_interval
from bll_sweeps.grid.axes import Objective, canonical_json
from bll_sweeps.store.regions import region

KINDS = ("pretrain", "prior", "train", "evaluate")


@dataclass(kw_only=True)
class Row:
    """One row of Results.cells. `told` becomes further columns: pass_at_<k>, kind_<how answers were found>."""

    point: str = ""
    label: str = ""
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
    engine: str = ""  # what generated the answers, `hf` or `vllm <version>`
    grader: str = ""
    primary_grader: bool = True
    length_limited: float = math.nan  # share of the generations that ran into max_new_tokens
    no_answer: float = math.nan  # share of the generations in which no answer was found
    majority: float = math.nan  # maj@k
    disagreements: float = math.nan  # generations of the evaluation that its graders judged unlike
    generations: int = 0  # of the evaluation, all decodings
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
    told: dict[str, float] = field(default_factory=dict)
    scores: Block | None = None  # no column: `with_means` makes three of it


def cell_rows(cell: ManifestCell, reader: Reader) -> list[Row]:
    """A row per decoding by the cell's grader, and where it is done one by each other grader (not `primary_grader`)."""
    job = cell.job("evaluate")
    scores, blame = reader.scores(job, cell.grader), _blame(cell, reader)
    if scores is None and reader.record(job) is not None:
        lacks = "has damaged scores" if reader.grader(job, cell.grader) else f"has no scores by {cell.grader}"
        blame.append(f"{job} {lacks}")
    shared: dict[str, Any] = {key: cell.labels.get(key, "") for key in AXES}
    shared |= {kind: cell.job(kind) for kind in KINDS} | {"variant": cell.variant, "launch": cell.launch}
    shared |= _task_of(cell, reader) | _prior_of(cell, reader)
    shared |= {"identity": _identity(cell, reader), "rows_cut": _rows_cut(cell, reader), "why": "; ".join(blame)}
    mine = reader.grader(job, cell.grader).rpartition("-v")[0]
    rows = []
    for name, decoding in cell.decodings.items():
        row = Row(**shared, decoding=name, primary=bool(decoding.get("primary")))
        row.temperature = float(decoding.get("temperature", math.nan))
        rows.append(row)
        if scores is None or name not in scores:
            continue
        for grader in reader.graders(job):
            by_other = reader.scores(job, grader) if grader != mine else None
            if by_other is not None and name in by_other:
                rows.append(dataclasses.replace(row, primary_grader=False))
                _fill(rows[-1], by_other[name], grader, reader)
        _fill(row, scores[name], cell.grader, reader)
    return rows


def with_means(rows: list[Row]) -> None:
    """Fills in the means and intervals of rows that have scores, all at once."""
    done = [(row, row.scores) for row in rows if row.scores is not None]
    found = mean_intervals([scores.score for _, scores in done], [row.samples for row, _ in done])
    for (row, _), interval in zip(done, found, strict=True):
        row.mean, row.low, row.high = interval.mean, interval.low, interval.high


def _blame(cell: ManifestCell, reader: Reader) -> list[str]:
    """What the cell lacks, causes first: an evaluation that waits for a failed training is not told of besides."""
    reasons = {kind: reader.not_done(cell.job(kind)) for kind in KINDS if cell.job(kind)}
    wanting = {kind: reason for kind, reason in reasons.items() if reason}
    if {"pretrain", "train"} & wanting.keys():
        wanting.pop("evaluate", None)
    if "pretrain" in wanting:
        wanting = {"pretrain": wanting["pretrain"]}
    return list(wanting.values())


def _fill(row: Row, scores: Block, grader: str, reader: Reader) -> None:
    """The scores of a decoding by one grader, and what else its record tells of it (evaluation/scores.py)."""
    row.state, row.questions, row.samples = "done", len(scores.score), int(scores.samples.min())
    row.scores = scores
    row.engine, row.grader = reader.engine(row.evaluate), reader.grader(row.evaluate, grader)
    row.seen_in_training = reader.seen_in_training(row.evaluate)
    row.disagreements, row.generations = reader.disagreements(row.evaluate)
    metrics = reader.metrics_by(row.evaluate, grader, row.decoding)
    for key in ("length_limited", "no_answer", "majority"):
        setattr(row, key, number_of(metrics, key))
    row.told = {f"pass_at_{k}": number_of(metrics["pass_at"], k) for k in metrics.get("pass_at") or {}}
    row.told |= {f"kind_{kind}": number_of(metrics["kinds"], kind) for kind in metrics.get("kinds") or {}}


def _task_of(cell: ManifestCell, reader: Reader) -> dict[str, Any]:
    """Task, its exposure in pretraining and the label noise, from the specs.

    The prior's spec is asked first: an evaluation of the base model is shared by all noise rates, and its spec has the
    domain of whichever cell was launched first.
    """
    job = next((cell.job(kind) for kind in ("prior", "train", "evaluate") if reader.spec(cell.job(kind))), "")
    return reader.once("task", job, lambda: _task(reader.spec(job))) or {}


def _task(spec: dict[str, Any] | None) -> dict[str, Any]:
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
