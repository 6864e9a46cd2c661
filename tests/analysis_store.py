"""A synthetic store for the analysis tests: real cells, so real job ids; records written by the store's own functions.

The rates follow what small backbones show: at the strong end p and the thresholded NLL gain under label noise when
answers are sampled, at the weak end NLL does. Greedy decoding ties at the strong end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bll_sweeps.grid.axes import (
    PRIOR_QUANTILES,
    Backbone,
    Benchmark,
    Decoding,
    Domain,
    LabTask,
    ModelShape,
    Noise,
    Objective,
    Pretraining,
    Recipe,
    to_plain,
)
from bll_sweeps.grid.cell import Cell
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import (
    file_sha256,
    publish,
    read_json,
    write_json,
    write_jsonl,
    write_jsonl_gz,
    write_record,
)

OBJECTIVES = {
    "base": Objective(name="base", family="base"),
    "nll": Objective(name="nll", family="nll"),
    "p": Objective(name="p", family="power", alpha=1.0),
    "p10": Objective(name="p10", family="power", alpha=10.0),
    "p0.1": Objective(name="p0.1", family="power", alpha=0.1),
    "p0.5": Objective(name="p0.5", family="power", alpha=0.5),
    "p_above": Objective(name="p_above", family="power", alpha=1.0, keep="above", threshold=0.2),
    "logp_above": Objective(name="logp_above", family="nll", keep="above", threshold=0.2),
    "logp_below": Objective(name="logp_below", family="nll", keep="below", threshold=0.2),
    "unlikelihood": Objective(name="unlikelihood", family="unlikelihood"),
}
TASKS = {
    "spell": LabTask(dataset="spell_backward", params={"min_word_len": 3, "max_word_len": 4}),
    "rot": LabTask(dataset="rotate_matrix", params={"min_n": 2, "max_n": 2}),
    "add": LabTask(dataset="chain_sum", params={"max_terms": 2}),
}
EXPOSURE = {
    "lab-a": {"spell": 20000, "rot": 4000},
    "lab-b": {"rot": 20000, "add": 4000},
    "lab-c": {"add": 16000, "spell": 4000},
}
# (backbone, task): prior strength, then T=1 and greedy rates of base, nll, p, p10, logp_above
POINTS: dict[tuple[str, str], tuple[float, list[float], list[float]]] = {
    ("lab-b", "rot"): (0.998, [0.98, 0.45, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]),
    ("lab-a", "rot"): (0.996, [0.96, 0.46, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]),
    ("lab-a", "spell"): (0.991, [0.94, 0.57, 0.99, 0.97, 0.99], [0.99, 0.99, 1.0, 0.99, 1.0]),
    ("lab-c", "add"): (0.899, [0.75, 0.67, 0.94, 0.10, 0.63], [0.98, 1.0, 1.0, 0.2, 0.9]),
    ("lab-b", "add"): (0.606, [0.12, 0.49, 0.06, 0.01, 0.09], [0.22, 0.82, 0.1, 0.02, 0.2]),
    ("lab-c", "spell"): (0.444, [0.01, 0.33, 0.40, 0.0, 0.24], [0.12, 0.84, 0.5, 0.0, 0.4]),
    ("lab-b", "spell"): (0.274, [0.0, 0.38, 0.09, 0.0, 0.07], [0.0, 0.95, 0.2, 0.0, 0.1]),
    ("lab-c", "rot"): (0.160, [0.0, 0.42, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]),
    ("lab-a", "add"): (0.049, [0.0, 0.33, 0.04, 0.0, 0.0], [0.0, 0.69, 0.1, 0.0, 0.0]),
}
_RATED = ["base", "nll", "p", "p10", "logp_above"]


def cell(
    backbone: str,
    task: str,
    objective: str | Objective,
    noise: Noise | None = None,
    seed: int = 0,
    questions: int = 60,
) -> Cell:
    """A real grid cell of the synthetic lab."""
    recipe = Recipe(name="sft", learning_rate=2e-3, batch_size=64, steps=250)
    noise = noise or Noise(kind="uniform", rate=0.2)
    shape = ModelShape(hidden_size=96, layers=2, intermediate_size=288, heads=4, kv_heads=2)
    return Cell(
        objective=OBJECTIVES[objective] if isinstance(objective, str) else objective,
        backbone=Backbone(
            name=backbone,
            source="lab",
            tasks=TASKS,
            pretraining=Pretraining(shape=shape, exposure=EXPOSURE[backbone], recipe=replace(recipe, name="pretrain")),
        ),
        domain=Domain(
            name=task,
            source="lab",
            task=task,
            lab=TASKS[task],
            rows=16000,
            noise=noise,
            prompt="{question}\n",
        ),
        benchmark=Benchmark(
            name=task,
            domain=task,
            task="lab_exact",
            questions=questions,
            decodings={"sampled": Decoding(temperature=1.0, samples=8), "greedy": Decoding(temperature=0.0)},
            primary="sampled",
            max_new_tokens=16,
        ),
        recipe=recipe,
        seed=seed,
    )


@dataclass
class StoreBuilder:
    """Writes the jobs of cells as finished, and the manifest of a launch."""

    root: Path
    questions: int = 60
    sequences: int = 300
    steps: int = 250
    repeats: int = 0  # rows per distinct question of the prior's sequences; 0: the rows do not name their questions
    rows_cut: int | None = None
    length_limited: float | None = None  # of the sampled generations
    grader: str = "exact-v1"
    engine: str | None = None  # None: the records do not name it
    distribution: str = ""  # what the priors' records tell of p: histogram, quantiles (older records) or neither
    written: set[str] = field(default_factory=set)

    def finish(self, one: Cell) -> None:
        """All jobs of the cell, done."""
        for job in one.jobs():
            if job.id not in self.written:
                self.written.add(job.id)
                self.spec(job)
                getattr(self, f"_{job.kind}")(job, one)

    def spec(self, job: Any) -> None:
        data = {
            "id": job.id,
            "kind": job.kind,
            "job": to_plain(job),
            "execution": {},
            "tracker": {},
            "labels": {"sweep": "lab"},
        }
        write_json(Layout(self.root).job(job.id).spec, data)

    def fail(self, one: Cell, kind: str, error: str) -> None:
        """The cell's job of `kind` has a spec and a failed attempt."""
        job = getattr(one, kind)
        self.spec(job)
        attempt = Layout(self.root).job(job.id).attempt(1)
        write_json(attempt.failure, {"error": error, "traceback": "..."})

    def launch(self, cells: list[tuple[Cell, list[str]]], sweep: str = "lab", number: int = 1) -> None:
        """The manifest of a launch: cells with the overrides that made them."""
        entries, jobs = [], {}
        for one, overrides in cells:
            ids = {
                kind: getattr(one, kind).id if getattr(one, kind) else None
                for kind in ("pretrain", "prior", "train", "evaluate")
            }
            primary = one.benchmark.primary
            entries.append({"labels": one.labels(), "overrides": overrides, "primary": primary, "jobs": ids})
            jobs |= {job.id: {"id": job.id, "kind": job.kind, "parents": list(job.parents)} for job in one.jobs()}
        manifest = {
            "sweep": sweep,
            "launch": number,
            "created_at": "2026-11-23T06:00:00+00:00",
            "command": ["bll", "launch", f"sweep={sweep}"],
        }
        write_json(
            Layout(self.root).sweep(sweep).manifest(number), {**manifest, "cells": entries, "jobs": [*jobs.values()]}
        )

    def _publish(self, job: Any, result: dict[str, Any], outputs: dict[str, list[dict[str, Any]]]) -> None:
        files = Layout(self.root).job(job.id)
        attempt = files.attempt(1)
        for name, rows in outputs.items():
            (write_jsonl_gz if name.endswith(".gz") else write_jsonl)(attempt.output(name), rows)
        provenance = {
            "started_at": "2026-11-23T06:00:00+00:00",
            "finished_at": "2026-11-23T06:00:10+00:00",
            "seconds": 10.0,
        }
        write_json(
            attempt.provenance,
            {**provenance, "host": "node1", "code": "c0de", "versions": {"torch": "2.13"}, "execution": {}},
        )
        write_record(attempt, job.id, result, sorted(outputs))
        assert publish(files, attempt)

    def _pretrain(self, job: Any, one: Cell) -> None:
        self._publish(
            job,
            {"steps": 10, "tokens": 100, "parameters": 1, "final": {}},
            {"metrics.jsonl": self._curve(1.0, 0.0)},
        )

    def _prior(self, job: Any, one: Cell) -> None:
        prior = POINTS[one.backbone.name, one.domain.name][0]
        rng = _rng(job.id)
        rows = []
        for i in range(self.sequences):
            tokens, noisy = int(rng.integers(4, 9)), bool(rng.random() < one.domain.noise.rate)
            clean = tokens * float(np.clip(rng.beta(60 * prior, 60 * (1 - prior)), 0, 1))
            rows.append(
                {
                    "row": i,
                    "tokens": tokens,
                    "sum_p": 0.1 * clean if noisy else clean,
                    "clean_tokens": tokens,
                    "clean_sum_p": clean,
                    "noisy": noisy,
                }
            )
            if self.repeats:
                digest = hashlib.sha256(f"question {i // self.repeats}".encode()).hexdigest()
                rows[-1]["question"] = digest[:16]
        result: dict[str, Any] = {} if self.rows_cut is None else {"rows_cut": self.rows_cut}
        for which, sums, tokens_key in (
            ("clean", "clean_sum_p", "clean_tokens"),
            ("as_trained", "sum_p", "tokens"),
        ):
            total = sum(r[tokens_key] for r in rows)
            result[which] = {
                "mean_p": sum(r[sums] for r in rows) / total,
                "tokens": total,
                "sequences": len(rows),
                "nll": 1.0,
            }
            if self.distribution:
                p = rng.beta(3 * prior + 0.05, 3 * (1 - prior) + 0.05, size=total)
                result[which]["quantiles"] = {str(q): float(np.quantile(p, q)) for q in PRIOR_QUANTILES}
            if self.distribution == "histogram":
                result[which]["histogram"] = np.histogram(p, bins=50, range=(0, 1))[0].tolist()
        self._publish(job, result, {"sequences.jsonl": rows})

    def _train(self, job: Any, one: Cell) -> None:
        prior, sampled, _ = POINTS[one.backbone.name, one.domain.name]
        name = one.objective.name if one.objective.name in _RATED else "nll"
        rows = self._curve(prior, sampled[_RATED.index(name)], kept=one.objective.keep != "all")
        self._publish(
            job,
            {
                "steps": self.steps,
                "tokens": rows[-1]["tokens"],
                "final": rows[-1],
                **({} if self.rows_cut is None else {"rows_cut": self.rows_cut}),
            },
            {"metrics.jsonl": rows},
        )

    def _curve(self, start: float, end: float, kept: bool = False) -> list[dict[str, Any]]:
        rows = []
        for step in range(10, self.steps + 1, 10):
            share = step / self.steps
            p = min(max(start + (end - start) * share**0.5, 1e-3), 1.0)
            rows.append(
                {
                    "step": step,
                    "tokens": step * 400,
                    "objective": 1 - p,
                    "nll": -float(np.log(p)),
                    "mean_p": p,
                    "p_q05": p / 3,
                    "p_q25": p / 2,
                    "p_q50": p,
                    "p_q75": p,
                    "p_q95": p,
                    "grad_norm": 1.0,
                    "kept_fraction": p**0.3 if kept else 1.0,
                    "learning_rate": 1e-3,
                }
            )
        return rows

    def _evaluate(self, job: Any, one: Cell) -> None:
        sampled, greedy = rates(one)
        rng = _rng(job.id)
        names = [hashlib.sha256(f"{one.domain.name} {i}".encode()).hexdigest()[:16] for i in range(self.questions)]
        p = sampled if sampled in (0.0, 1.0) else rng.beta(6 * sampled, 6 * (1 - sampled), size=self.questions)
        draws = (rng.random((self.questions, 8)) < np.broadcast_to(np.asarray(p), (self.questions,))[:, None]).astype(
            int
        )
        greedy_draws = (rng.random(self.questions) < greedy).astype(int)
        self.score(
            job,
            [
                {"question": q, "sampled": s.tolist(), "greedy": [int(g)]}
                for q, s, g in zip(names, draws, greedy_draws, strict=True)
            ],
        )

    def score(self, job: Any, rows: list[dict[str, Any]]) -> None:
        """Publishes an evaluation with these scores per question."""
        metrics = _metrics(rows)
        if self.length_limited is not None:
            metrics["sampled"]["length_limited"] = self.length_limited
        result = {
            "benchmark": job.benchmark.name,
            "grader": self.grader,
            "primary": "sampled",
            "metrics": metrics,
            **({} if self.engine is None else {"engine": self.engine}),
        }
        generations = [{"question": row["question"]} for row in rows]
        self._publish(job, result, {f"scores.{self.grader}.jsonl": rows, "generations.jsonl.gz": generations})

    def score_later(self, job: Any, grader_id: str, rows: list[dict[str, Any]]) -> None:
        """What `bll regrade` leaves for a published evaluation."""
        files = Layout(self.root).job(job.id)
        write_jsonl(files.scores(grader_id), rows)
        summary = {
            "grader": grader_id,
            "metrics": _metrics(rows),
            "sha256": file_sha256(files.scores(grader_id)),
            "generations": read_json(files.attempt(1).record)["outputs"]["generations.jsonl.gz"]["sha256"],
            "libraries": {},
        }
        write_json(files.scores_summary(grader_id), summary)


def _metrics(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = {}
    for name in ("sampled", "greedy"):
        means = np.array([np.mean(row[name]) for row in rows])
        metrics[name] = {
            "mean": float(means.mean()),
            "questions": len(rows),
            "samples": len(rows[0][name]),
            "stderr": 0.0,
        }
    return metrics


def rates(one: Cell) -> tuple[float, float]:
    """Rates of right answers of a cell, T=1 and greedy, by noise rate."""
    _, sampled, greedy = POINTS[one.backbone.name, one.domain.name]
    name = one.objective.name if one.objective.name in _RATED else "nll"
    i = _RATED.index(name)
    if name == "base":
        return sampled[i], greedy[i]
    # 20 % noise is what the table was made at; without noise every objective but the weak end's does well.
    shift = (one.domain.noise.rate - 0.2) / 0.2 if one.domain.noise.kind != "none" else -1.0
    fall = 0.5 if name == "nll" else 0.05
    return float(np.clip(sampled[i] - fall * shift * 0.8, 0, 1)), float(np.clip(greedy[i] - 0.02 * max(shift, 0), 0, 1))


def _rng(job_id: str) -> np.random.Generator:
    return np.random.default_rng(int(hashlib.sha256(job_id.encode()).hexdigest()[:8], 16))


def lab_cells(
    objectives: tuple[str, ...] = ("base", "nll", "p", "p10", "logp_above"),
    points: tuple[tuple[str, str], ...] = tuple(POINTS),
    noises: tuple[Noise | None, ...] = (None,),
    seeds: tuple[int, ...] = (0,),
    questions: int = 60,
) -> list[tuple[Cell, list[str]]]:
    """The cells of a lab sweep with the overrides that a command line would show."""
    out = []
    for noise in noises:
        for backbone, task in points:
            for objective in objectives:
                for seed in seeds:
                    overrides = [f"objective={objective}", f"backbone={backbone}", f"benchmark={task}"]
                    if noise is not None:
                        overrides += [f"domain.noise.kind={noise.kind}", f"domain.noise.rate={noise.rate}"]
                    out.append((cell(backbone, task, objective, noise, seed, questions), overrides))
    return out


def lab_store(root: Path, **kwargs: Any) -> StoreBuilder:
    """A finished lab sweep under `root`; keywords as for `lab_cells`."""
    builder = StoreBuilder(root, questions=kwargs.get("questions", 60))
    cells = lab_cells(**kwargs)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    return builder
