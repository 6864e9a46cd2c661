"""How long it takes to bring a store to W&B and back, and what tracking costs a training.

    python -m bench.tracking [--runs 200] [--rows 300] [--repeats 16] [--write]

The server is the tests' stand-in, a process of its own on this machine, so times are those of the client and of such a
server, without a network. In one run, in this order:
  publish   a store of finished trainings, by `bll publish`
  sync      what users do without it: an offline run of the same rows, record and summary for each job, made one after
            another, which is how jobs make them, then `wandb sync` of all of them
  pull      what was published, into an empty store; the records are compared
  overhead  a training of the lab with tracker=off and tracker=offline in turns: seconds in its own loop
--write: the tables go to bench/results/tracking.md too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from bll_sweeps.grid.cell import TrainJob
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, spec_text, write_spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import publish as make_done
from bll_sweeps.store.records import read_record, write_json, write_jsonl, write_record
from tests.cells import make_cell

TOP = Path(__file__).resolve().parent.parent
PROJECT = "bll-sweeps"


def write_store(root: Path, runs: int, count: int) -> list[str]:
    """Finished trainings that differ in their seed, and the launch that names them."""
    layout, made = Layout(root), []
    train = make_cell().train
    assert train is not None
    for seed in range(runs):
        job = TrainJob(
            objective=train.objective, backbone=train.backbone, domain=train.domain, recipe=train.recipe, seed=seed
        )
        labels = {"objective": "nll", "backbone": train.backbone.name, "domain": train.domain.name, "seed": seed}
        labels |= {"sweep": "bench", "sweeps": ["bench"]}
        files = layout.job(job.id)
        write_spec(files, spec_text(Spec(job, Execution(name="bench"), Tracker(name="offline"), labels)))
        attempt = files.attempt(1)
        attempt.folder.mkdir(parents=True)
        files.claims.mkdir()
        write_jsonl(attempt.output("metrics.jsonl"), [_row(seed, step) for step in range(10, 10 * count + 1, 10)])
        times = [{"step": 10 * i, "tokens_per_s": 9000.5 + i, "elapsed_s": 0.5 * i} for i in range(1, count + 1)]
        write_jsonl(attempt.output("timing.jsonl"), times)
        write_json(attempt.provenance, {"host": "bench", "seconds": 1.0})
        write_record(attempt, job.id, {"steps": 10 * count, "final": _row(seed, 10 * count)}, ["metrics.jsonl"])
        make_done(files, attempt)
        made.append(job.id)
    jobs = [{"id": job, "kind": "train", "parents": [], "shape": 0} for job in made]
    manifest = {"sweep": "bench", "launch": 1, "created_at": "2026-11-29T06:00:00+00:00", "command": ["bll"]}
    write_json(layout.sweep("bench").manifest(1), {**manifest, "launcher": {}, "shapes": [], "cells": [], "jobs": jobs})
    return made


def _row(seed: int, step: int) -> dict[str, float]:
    p = 0.9 - 0.8 / (1 + step / (100 + seed))
    row = {"step": step, "tokens": 512 * step, "nll": 1 - p, "objective": 1 - p, "mean_p": p, "kept_fraction": 1.0}
    row |= {"grad_norm": 1 / (1 + step), "learning_rate": 1e-3 / step}
    return row | {f"p_q{q:02}": p * q / 100 for q in (5, 25, 50, 75, 95)}


# --- measuring --------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bll_sweeps.cli", *arguments]


def timed(arguments: list[str], environment: dict[str, str], cwd: Path = TOP) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(arguments, env=environment, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stdout}{done.stderr}")
    return time.perf_counter() - began, done.stdout


_OFFLINE = """
import sys
from pathlib import Path
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_record
from bll_sweeps.tracking.content import Sweeps, content, identity, rows
from bll_sweeps.tracking.service import environment, teardown
from bll_sweeps.tracking.session import Session
layout, out = Layout(Path(sys.argv[1])), Path(sys.argv[2])
with environment(out):
    for job_id in sys.argv[3:]:
        files = layout.job(job_id)
        spec, record = read_spec(files), read_record(files)
        session = Session("offline", identity(layout, spec), out, project="synced")
        for row in rows(record.attempt):
            session.log(row)
        session.add(content(layout, spec, record, Sweeps()))
        session.finish()
    teardown()
"""


def round_trip(folder: Path, server: dict[str, str], runs: int, count: int) -> list[str]:
    root, offline, back = folder / "runs", folder / "offline", folder / "back"
    jobs = write_store(root, runs, count)
    environment = os.environ | server | {"BLL_RUNS": str(root), "PYTHONPATH": str(TOP)}
    publish_s, said = timed(command("publish"), environment)
    assert said.startswith(f"{runs} jobs published"), said
    again_s, said = timed(command("publish"), environment)
    assert said.startswith(f"0 jobs published, {runs} there already"), said
    create_s, _ = timed([sys.executable, "-c", _OFFLINE, str(root), str(offline), *jobs], environment)
    folders = [str(path) for path in sorted(offline.glob("wandb/offline-run-*"))]
    assert len(folders) == runs
    sync_s, _ = timed([sys.executable, "-m", "wandb", "sync", "-n", "8", *folders], environment, folder)
    pull_s, said = timed(command("pull", PROJECT, "--root", str(back)), environment)
    assert said.startswith(f"{runs} jobs pulled"), said
    for job in jobs:
        mine, theirs = (read_record(Layout(where).job(job)) for where in (root, back))
        assert mine is not None and theirs is not None
        assert mine.attempt.record.read_bytes() == theirs.attempt.record.read_bytes()
        assert mine.output("metrics.jsonl").read_bytes() == theirs.output("metrics.jsonl").read_bytes()
    return [
        f"| what, {runs} runs of {count} rows | seconds | per run (s) |",
        "|---|---|---|",
        f"| `bll publish` | {publish_s:.1f} | {publish_s / runs:.2f} |",
        f"| the same again | {again_s:.1f} | |",
        f"| offline runs made | {create_s:.1f} | {create_s / runs:.2f} |",
        f"| `wandb sync -n 8` of them | {sync_s:.1f} | {sync_s / runs:.2f} |",
        f"| publish / (made + sync) | {publish_s / (create_s + sync_s):.2f} | |",
        f"| `bll pull` | {pull_s:.1f} | {pull_s / runs:.2f} |",
        "",
    ]


_TRAIN = ["objective=nll", "backbone=lab-a", "benchmark=lab-spell"]  # one of sweep=lab
_ATTEMPTS = """
import json, logging, os, shutil, sys
from pathlib import Path
from bll_sweeps.store.claims import acquire, claimed
from bll_sweeps.store.layout import Layout
from jobs.attempt import new_attempt, run_attempt
logging.disable(logging.WARNING)
layout, job_id = Layout(Path(sys.argv[1])), sys.argv[2]
files = layout.job(job_id)
for mode in sys.argv[3:]:
    for attempt in files.attempts():
        shutil.rmtree(attempt.folder)
    shutil.rmtree(files.claims)
    files.done.unlink()
    os.environ["WANDB_MODE"] = mode
    with claimed(acquire(files)) as claim:
        attempt = new_attempt(files)
        run_attempt(layout, job_id, claim, attempt)
    rows = attempt.output("timing.jsonl").read_text().splitlines()
    print(json.dumps([json.loads(row) for row in rows]))
"""


def overhead(folder: Path, repeats: int) -> list[str]:
    """Of a training's step with and without, by the clock of its own loop.

    All attempts are made in turns by one process: the same training takes up to a tenth more or less in another, which
    would hide what is looked for. The median of the times from one logged row to the next is a step's; the mean is that
    of the whole loop of some ten seconds, during whose first wandb starts.
    """
    root = folder / "lab"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"BLL_RUNS": str(root), "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    timed(command("launch", *_TRAIN), environment)
    job = next(path.name for path in sorted(Layout(root).jobs.iterdir()) if path.name.startswith("train"))
    modes = [("disabled", "offline")[(i + i // 2) % 2] for i in range(2 * repeats)]  # AB BA: a drift strikes both
    warm = ["disabled", "offline"]  # what a process does once is not of a step
    _, said = timed([sys.executable, "-c", _ATTEMPTS, str(root), job, *warm, *modes], environment)
    medians: dict[str, list[float]] = {"disabled": [], "offline": []}
    means: dict[str, list[float]] = {"disabled": [], "offline": []}
    for mode, line in zip(modes, said.splitlines()[len(warm) :], strict=True):
        steps = [(b["elapsed_s"] - a["elapsed_s"]) / (b["step"] - a["step"]) for a, b in pairwise(json.loads(line))]
        medians[mode].append(1000 * statistics.median(steps))
        means[mode].append(1000 * statistics.fmean(steps))
    lines = [
        f"| ms per step of a lab training, {repeats} of each in turns | tracker=off | tracker=offline | ratio "
        "| mean ratio of neighbours [95 %] |",
        "|---|---|---|---|---|",
    ]
    for name, found in (("step", medians), ("whole loop, wandb's start included", means)):
        off, on = (statistics.median(found[mode]) for mode in ("disabled", "offline"))
        lines.append(f"| {name} | {off:.2f} | {on:.2f} | {on / off:.3f} | {_mean_ratio(**found)} |")
    return [*lines, ""]


def _mean_ratio(disabled: list[float], offline: list[float]) -> str:
    """Geometric, with the t interval over the pairs."""
    from scipy.stats import t

    logs = [math.log(on / off) for off, on in zip(disabled, offline, strict=True)]
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, mid, high = (math.exp(statistics.fmean(logs) + side * half) for side in (-1, 0, 1))
    return f"{mid:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--parts", nargs="*", default=["round-trip", "overhead"])
    parser.add_argument("--write", action="store_true", help="write bench/results/tracking.md")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats={options.repeats}: an interval needs 2 or more")
    lines = [
        f"# Tracking, {datetime.now(UTC).date()}",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, wandb {version('wandb')}; "
        f"load average {os.getloadavg()[0]:.1f} when it began. `python -m bench.tracking --runs {options.runs} --rows "
        f"{options.rows} --repeats {options.repeats}`, against the tests' stand-in server.",
        "",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "round-trip" in options.parts:
            served = subprocess.Popen(
                [sys.executable, "-m", "tests.wandb_server"], cwd=TOP, stdout=subprocess.PIPE, text=True
            )
            assert served.stdout is not None
            try:
                lines += round_trip(folder, json.loads(served.stdout.readline()), options.runs, options.rows)
            finally:
                served.kill()
            print("\n".join(lines[-9:]))
        if "overhead" in options.parts:
            lines += overhead(folder, options.repeats)
            print("\n".join(lines[-5:]))
    if options.write:
        (Path(__file__).parent / "results" / "tracking.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
