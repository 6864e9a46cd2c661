"""How long the analysis of a big store takes, and how much memory: records to tables, statistics, figures, report.

    python bench/reading.py [--questions 500] [--samples 8] [--keep FOLDER] [--write]

Makes a run root as a finished sweep leaves it: 10 objectives (base is one) x 10 backbones x 10 domains of 10 benchmarks
each, so 10,000 evaluations, 900 trainings, 100 priors, 10 pretrainings. Every part is then timed in a process of its
own, and done once more to see its memory: the highest sum of the proportional set sizes of it and its children, looked
at every tenth of a second (which slows a process of a gigabyte by a third, so that time is not taken then).
--write: the table goes to bench/results/reading.md too.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from bll_sweeps.grid.axes import (
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

OBJECTIVES = (
    Objective(name="base", family="base"),
    Objective(name="nll", family="nll"),
    *(Objective(name=f"p{a:g}", family="power", alpha=a) for a in (1.0, 10.0, 0.1, 0.5)),
    Objective(name="p_above", family="power", alpha=1.0, keep="above", threshold=0.2),
    Objective(name="logp_above", family="nll", keep="above", threshold=0.2),
    Objective(name="logp_below", family="nll", keep="below", threshold=0.2),
    Objective(name="unlikelihood", family="unlikelihood"),
)
TASK = LabTask(dataset="chain_sum", params={"max_terms": 2})
GRADER = "exact-v1"
LEVELS = 4  # different score files of a benchmark: with what rate answers are right
STEPS, EVERY = 1000, 10  # of a training curve


# --- the store ------------------------------------------------------------------------------------------------------


def cells(sizes: tuple[int, int, int, int], questions: int, samples: int) -> list[Cell]:
    """Real grid cells of (objectives, backbones, domains, benchmarks of each domain)."""
    recipe = Recipe(name="sft", learning_rate=2e-3, batch_size=64, steps=STEPS)
    shape = ModelShape(hidden_size=96, layers=2, intermediate_size=288, heads=4, kv_heads=2)
    names = [f"domain-{i}" for i in range(sizes[2])]
    tasks = {name: replace(TASK, params={"max_terms": 2 + i}) for i, name in enumerate(names)}
    out = []
    for b in range(sizes[1]):
        exposure = {name: 1000 * (1 + (b + i) % 10) for i, name in enumerate(names)}
        pretraining = Pretraining(shape=shape, exposure=exposure, recipe=replace(recipe, name="pretrain"))
        backbone = Backbone(name=f"backbone-{b}", source="lab", tasks=tasks, pretraining=pretraining)
        for name in names:
            noise = Noise(kind="uniform", rate=0.2)
            prompt = "{question}\n"
            domain = Domain(name=name, source="lab", task=name, lab=tasks[name], rows=16000, noise=noise, prompt=prompt)
            for k in range(sizes[3]):
                benchmark = Benchmark(
                    name=f"{name}-{k}",
                    domain=name,
                    task="lab_exact",
                    questions=questions,
                    decodings={"sampled": Decoding(temperature=1.0, samples=samples)},
                    primary="sampled",
                    max_new_tokens=16 + k,
                )
                for objective in OBJECTIVES[: sizes[0]]:
                    grid = {"objective": objective, "backbone": backbone, "domain": domain}
                    out.append(Cell(**grid, benchmark=benchmark, recipe=recipe, seed=0))
    return out


def write_store(root: Path, all_cells: Sequence[Cell], sequences: int) -> None:
    """All jobs done, and the manifest of one launch; plain writes, since nothing here has to survive a power cut."""
    written: set[str] = set()
    entries = []
    for one in all_cells:
        for job in one.jobs():
            if job.id not in written:
                written.add(job.id)
                _write_job(root, job, one, sequences)
        ids = {kind: getattr(one, kind).id if getattr(one, kind) else None for kind in _KINDS}
        overrides = [f"objective={one.objective.name}", f"backbone={one.backbone.name}"]
        overrides.append(f"benchmark={one.benchmark.name}")
        entries.append({"labels": one.labels(), "overrides": overrides, "primary": "sampled", "jobs": ids})
    path = Layout(root).sweep("bench").manifest(1)
    path.parent.mkdir(parents=True)
    manifest = {"sweep": "bench", "launch": 1, "created_at": "2026-11-23T06:00:00+00:00", "command": ["bll", "launch"]}
    path.write_text(json.dumps({**manifest, "cells": entries, "jobs": {}}, sort_keys=True, indent=1))


_KINDS = ("pretrain", "prior", "train", "evaluate")


def _write_job(root: Path, job: Any, one: Cell, sequences: int) -> None:
    result, outputs = {
        "pretrain": lambda: ({"steps": STEPS}, {"metrics.jsonl": _curve(_level(job.id))}),
        "prior": lambda: _prior(one.backbone.name, one.domain.name, sequences),
        "train": lambda: ({"steps": STEPS, "rows_cut": 0}, {"metrics.jsonl": _curve(_level(job.id))}),
        "evaluate": lambda: _evaluation(one, _level(job.id)),
    }[job.kind]()
    files = Layout(root).job(job.id)
    attempt = files.attempt(1)
    attempt.folder.mkdir(parents=True)
    (files.claims).mkdir()
    spec = {"id": job.id, "kind": job.kind, "job": to_plain(job), "execution": {}, "tracker": {}, "labels": {}}
    files.spec.write_bytes(_json(spec))
    digests = {}
    for name, data in outputs.items():
        attempt.output(name).write_bytes(data)
        digests[name] = {"bytes": len(data), "sha256": _sha256(data)}
    times = {"started_at": "2026-11-23T06:00:00+00:00", "finished_at": "2026-11-23T06:00:10+00:00", "seconds": 10.0}
    versions = {"torch": "2.13", "transformers": "5.0", "python": "3.11"}
    attempt.provenance.write_bytes(_json({**times, "host": "node1", "code": "c0de", "versions": versions}))
    attempt.log().write_text("done\n")
    attempt.record.write_bytes(_json({"id": job.id, "result": result, "outputs": digests}))
    files.done.symlink_to("attempt.1/record.json")


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()


@cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _level(job_id: str) -> int:
    return int(job_id.rpartition("-")[2], 16) % LEVELS


@cache
def _curve(level: int) -> bytes:
    rows = []
    for step in range(EVERY, STEPS + 1, EVERY):
        p = 0.05 + 0.9 * (step / STEPS) ** 0.5 * (level + 1) / LEVELS
        quantiles = {f"p_q{q:02d}": p * q / 100 for q in (5, 25, 50, 75, 95)}
        row = {"step": step, "tokens": step * 400, "objective": 1 - p, "nll": 2 - p, "mean_p": p, **quantiles}
        rows.append({**row, "grad_norm": 1.0, "kept_fraction": 1.0, "learning_rate": 1e-3})
    return _lines(rows)


@cache
def _prior(backbone: str, domain: str, sequences: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    rng = random.Random(f"{backbone} {domain}")
    strength, rows = rng.uniform(0.02, 0.98), []
    for i in range(sequences):
        tokens, noisy = rng.randint(4, 9), rng.random() < 0.2
        clean = tokens * min(1.0, rng.betavariate(20 * strength, 20 * (1 - strength)))
        row = {"row": i, "question": f"{i:016x}", "tokens": tokens, "sum_p": 0.1 * clean if noisy else clean}
        rows.append({**row, "clean_tokens": tokens, "clean_sum_p": clean, "noisy": noisy})
    result: dict[str, Any] = {"rows_cut": 0}
    for which, key in (("clean", "clean_"), ("as_trained", "")):
        total = sum(row[f"{key}tokens"] for row in rows)
        mean = sum(row[f"{key}sum_p"] for row in rows) / total
        quantiles = {str(q): min(1.0, mean * 2 * q) for q in (0.1, 0.5, 0.9)}
        result[which] = {"mean_p": mean, "tokens": total, "sequences": sequences, "quantiles": quantiles}
        result[which] |= {"share_above_0.55": mean, "nll": 1.0}
    return result, {"sequences.jsonl": _lines(rows)}


def _evaluation(one: Cell, level: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    benchmark = one.benchmark
    metrics, outputs = _scores(benchmark.name, level, benchmark.questions, benchmark.decodings["sampled"].samples)
    result = {"benchmark": benchmark.name, "grader": GRADER, "primary": "sampled", "metrics": {"sampled": metrics}}
    result |= {"engine": "hf", "seen_in_training": 0}
    return result, outputs


@cache
def _scores(benchmark: str, level: int, questions: int, samples: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metrics and outputs (evaluation/scores.py) of one benchmark at one rate of right answers."""
    rng = random.Random(f"{benchmark} {level}")
    rows, found, means = [], [], []
    for i in range(questions):
        rate = rng.betavariate(1 + level, LEVELS - level)
        right = [int(rng.random() < rate) for _ in range(samples)]
        answers = [str(rng.randint(0, 999)) for _ in right]
        question = _sha256(f"{benchmark} {i}".encode())[:16]
        kinds = ["boxed"] * samples
        rows.append({"question": question, "sampled": right})
        found.append({"question": question, "answers": {"sampled": answers}, "kinds": {"sampled": kinds}})
        means.append(sum(right) / samples)
    mean = sum(means) / questions
    metrics = {"mean": mean, "questions": questions, "samples": samples, "stderr": 0.01}
    metrics |= {"length_limited": 0.0, "no_answer": 0.0, "kinds": {"boxed": 1.0}, "majority": mean}
    outputs = {f"scores.{GRADER}.jsonl": _lines(rows), f"answers.{GRADER}.jsonl.gz": _packed(found)}
    return metrics, outputs | {"generations.jsonl.gz": _packed([{"question": row["question"]} for row in rows])}


def _packed(rows: Sequence[dict[str, Any]]) -> bytes:
    return gzip.compress(_lines(rows), mtime=0)


# --- measuring ------------------------------------------------------------------------------------------------------

# Each part, timed in its own process: (name, what runs before, what is timed). R: the run root, OUT: a folder.
_LOAD = "from analysis.sources.table import load; import pandas, pyarrow.parquet, pyarrow.json"
_LOADED = f"{_LOAD}; r = load(R)"
_TABLES = f"{_LOADED}; from analysis.statistics.continuum import means, gains; m, g = means(r), gains(r)"
PARTS = (
    ("load, no cache", _LOAD, "load(R)"),
    ("load, cached", _LOAD, "load(R)"),
    ("load, one record changed", _LOAD, "load(R)"),
    ("means and gains", _LOADED + "; from analysis.statistics.continuum import means, gains", "means(r), gains(r)"),
    ("figures", _TABLES + "; from analysis.figures.all import write_figures",
     "write_figures(r, m, g, OUT / 'figures')"),
    ("whole report, from the cached load on", _LOAD + "; from analysis.report.page import write_report",
     "write_report(load(R), OUT)"),
)  # fmt: skip
_CHILD = """
import resource, sys, time
from pathlib import Path
R, OUT = Path(sys.argv[1]), Path(sys.argv[2])
{before}
def cpu_s():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
wall, cpu = time.perf_counter(), cpu_s()
{timed}
print(time.perf_counter() - wall, cpu_s() - cpu)
"""
_SAMPLE_S = 0.1


def measure(root: Path, out: Path, parts: Sequence[str]) -> list[str]:
    """A line per part: seconds; processor seconds and highest memory use of its process and that one's
    children, in GiB."""
    lines = ["| part | seconds | processor seconds | peak memory (GiB) |", "|---|---|---|---|"]
    for name, before, timed in PARTS:
        if parts and not any(part in name for part in parts):
            continue
        code = _CHILD.format(before=before, timed=timed)
        command = [sys.executable, "-c", code, str(root), str(out)]
        wall, cpu, _ = _run(name, command, root, look=False)
        *_, memory = _run(name, command, root, look=True)
        lines.append(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |")
        print(lines[-1], flush=True)
    return lines


def _run(name: str, command: list[str], root: Path, look: bool) -> tuple[float, float, float]:
    """Seconds, processor seconds and, if `look`, memory in GiB of one part, its state of the cache made before."""
    if name == "load, no cache":
        shutil.rmtree(root / "cache", ignore_errors=True)
    if name == "load, one record changed":
        _touch_one(root)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory = _peak_gib(child) if look else 0.0
    told, errors = child.communicate()
    if child.returncode:
        raise SystemExit(f"{name}: {errors}")
    wall, cpu = map(float, told.split()[-2:])
    return wall, cpu, memory


def _peak_gib(process: subprocess.Popen[str]) -> float:
    """The highest memory use of a process and its children until it ends: the sum of their proportional set sizes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss_kib, [process.pid, *_children(process.pid)])))
        time.sleep(_SAMPLE_S)
    return peak / 2**20


def _children(pid: int) -> list[int]:
    try:
        found = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    except OSError:
        return []
    return [*found, *(grandchild for child in found for grandchild in _children(child))]


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _touch_one(root: Path) -> None:
    """One evaluation's record is written anew, with the same content."""
    record = sorted((root / "jobs").glob("evaluate-*"))[0] / "attempt.1" / "record.json"
    record.write_bytes(record.read_bytes())


def header(options: argparse.Namespace, made_s: float) -> list[str]:
    versions = ", ".join(f"{name} {_version(name)}" for name in ("pandas", "numpy", "pyarrow", "matplotlib"))
    busy = os.getloadavg()[0]
    return [
        f"# Analysis of a big store, {datetime.now(UTC).date()}",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}; load average "
        f"{busy:.1f} when it began. `python bench/reading.py --questions {options.questions} --samples "
        f"{options.samples}`: {options.objectives * options.backbones * options.domains * options.benchmarks:,} "
        f"evaluations of {options.questions} questions x {options.samples} samples, {options.sequences:,} training "
        f"sequences in each prior (the store was made in {made_s:.0f} s).",
        "",
    ]


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--samples", type=int, default=8, help="answers a question, all of one decoding")
    parser.add_argument("--sequences", type=int, default=2000, help="of each prior")
    for axis, most in (("objectives", len(OBJECTIVES)), ("backbones", 10), ("domains", 10), ("benchmarks", 10)):
        parser.add_argument(f"--{axis}", type=int, default=most, metavar="N")
    parser.add_argument("--keep", type=Path, help="make the store here, or use the one that is here")
    parser.add_argument("--parts", nargs="*", default=[], help="only parts whose names have one of these in them")
    parser.add_argument("--write", action="store_true", help="write bench/results/reading.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder) / "runs"
        started = time.perf_counter()
        if not root.exists():
            sizes = (options.objectives, options.backbones, options.domains, options.benchmarks)
            write_store(root, cells(sizes, options.questions, options.samples), options.sequences)
        head = header(options, time.perf_counter() - started)
        print("\n".join(head))
        lines = measure(root, Path(folder) / "report", options.parts)
    if options.write:
        results = Path(__file__).parent / "results" / "reading.md"
        results.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
