"""What `bll plan` says a sweep will cost, beside what it then costs, once a sweep like it has been measured.

    python bench/estimate.py [--sweep lab] [--workers 2] [--root FOLDER]

Runs the sweep at one seed (nothing, where the root has it), asks `bll plan` about the same sweep at the next seed that
has not run, runs that, and compares: the job hours of the plan with those in the jobs' own records, and the simulated
makespan with the time from the first job's start to the last one's end. Some ten minutes for the lab on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.status import read_manifest
from bll_sweeps.cluster.words import duration
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="lab")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=None, help="default: a temporary folder")
    args = parser.parse_args()
    if args.root:
        compare(args.sweep, args.workers, args.root.absolute())
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(args.sweep, args.workers, Path(folder))


def compare(sweep: str, workers: int, root: Path) -> None:
    arguments = [f"sweep={sweep}", f"hydra.launcher.workers={workers}"]
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for seed in range(100):
        plan = json.loads(bll(root, "plan", *arguments, f"seed={seed}", "--gpus", str(workers), "--json"))
        if plan["estimate"]["share_measured"] and any(kind["new"] for kind in plan["kinds"].values()):
            break
        bll(root, "launch", *arguments, f"seed={seed}")
    bll(root, "launch", *arguments, f"seed={seed}")
    jobs = ran(Layout(root), sweep)
    hours = sum(job["seconds"] for job in jobs) / 3600
    begun = min(datetime.fromisoformat(job["started_at"]) for job in jobs)
    makespan_h = (max(datetime.fromisoformat(job["finished_at"]) for job in jobs) - begun).total_seconds() / 3600
    estimate = plan["estimate"]
    share = f"{100 * estimate['share_measured']:.0f}% of it from measured jobs"
    print(f"sweep={sweep} seed={seed}: {len(jobs)} jobs on {workers} workers, {share}")
    show("job hours", estimate["job_hours"], hours)
    show("makespan", estimate["makespan_h"], makespan_h)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


def show(name: str, planned_h: float, real_h: float) -> None:
    times = f"planned {duration(3600 * planned_h):>8}   real {duration(3600 * real_h):>8}"
    print(f"  {name:10} {times}   planned / real {planned_h / real_h:.3f}")


def ran(layout: Layout, sweep: str) -> list[dict[str, Any]]:
    """attempt.json of the jobs that the last launch ran itself."""
    manifest = read_manifest(layout, sweep)
    since = datetime.fromisoformat(manifest["created_at"])
    records = [read_record(layout.job(job_id)) for job_id in manifest["jobs"]]
    told = [record.provenance() for record in records if record is not None]
    return [one for one in told if datetime.fromisoformat(one["started_at"]) >= since]


def bll(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "bll_sweeps.cli", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"BLL_RUNS": str(root)}, cwd=root.parent, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
