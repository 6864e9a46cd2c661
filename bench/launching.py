"""How long a grid takes from the command line to SLURM, and how fast `bll status` is then, beside
hydra-submitit-launcher on the same grid.

    python bench/launching.py [--stock-cells 189]        # 3024: the whole grid the stock way, some ten minutes

The grid is 9 objectives x 7 backbones x 16 benchmarks of 3 domains x 3 seeds: 3,024 cells. Backbones and data are
synthetic but lie on disk as real ones do. SLURM is a stand-in, shell scripts that write down what they are called with,
answer in SLURM's words and keep to MaxArraySize: times are those of the client, without a controller's. Everything is
measured as a subprocess, from its start to its end; the stock launcher until its call of sbatch, since from there on it
waits for results. It is installed by pip into a folder that goes with the bench.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OBJECTIVES = "nll,p,p10,p0.1,p0.5,p_above,logp_above,logp_below,unlikelihood"
BACKBONES = [f"model-{i}" for i in range(7)]
DOMAINS = ("mathematics", "medicine", "figures")
BENCHMARKS = {f"bench-{i:02}": DOMAINS[0] if i < 5 else DOMAINS[1] if i < 15 else DOMAINS[2] for i in range(16)}
SEEDS = 3
PAIRS = 9 * len(BACKBONES)
CELLS = PAIRS * len(BENCHMARKS) * SEEDS
STOCK = "hydra-submitit-launcher==1.2.0"
MAX_ARRAY_SIZE = 1001
RECIPE = "recipe=lab"

# --- the stand-in -----------------------------------------------------------------------------------------------------

_HEAD = """#!/bin/sh
state=${0%/*}/../state
echo "$(date +%s.%N) ${0##*/} $*" >> "$state/calls"
"""

_SCRIPTS = {
    # jobs: number|name|elements|dependency, a line a job
    "sbatch": """
for script; do [ "$script" != --test-only ] || exec cat > /dev/null; done
said() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
array=$(said array); last=${array#0-}; last=${last%%%*}
if [ "${last:-0}" -ge MAX_ARRAY_SIZE ]; then
    echo "$((last + 1))" > "$state/refused"
    echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2
    exit 1
fi
job=$((10000 * ($(wc -l < "$state/jobs") + 1)))
echo "$job|$(said job-name)|${array:+$((last + 1))}|$(said dependency)" >> "$state/jobs"
echo "Submitted batch job $job"
""",
    "squeue": """
names=
for word; do
    case $word in
        --name=*) names=${word#--name=} ;;
        --format="%F|%K|%A|%j|%T|%r" | --noheader | --states=all | --array) ;;
        *) echo "squeue: no stand-in for $word" >&2; exit 1 ;;
    esac
done
awk -F'|' -v names=",$names," '
    FILENAME ~ /released$/ { released[$1] = 1; next }
    FILENAME ~ /cancelled$/ { cancelled[$1] = 1; next }
    ($1 in cancelled) || !index(names, "," $2 ",") { next }
    { reason = !($1 in released) ? "JobHeldUser" : $4 ? "Dependency" : "Priority" }
    $3 == "" { printf "%d|N/A|%d|%s|PENDING|%s\\n", $1, $1, $2, reason; next }
    { for (i = 0; i < $3; i++) printf "%d|%d|%d|%s|PENDING|%s\\n", $1, i, $1 + i, $2, reason }
' "$state/released" "$state/cancelled" "$state/jobs"
""",
    "scontrol": """
case $1 in
    show) echo "MaxArraySize            = MAX_ARRAY_SIZE" ;;
    release) echo "$2" | tr , '\\n' >> "$state/released" ;;
    --quiet) cat >> "$state/updates" ;;
    *) echo "scontrol: no stand-in for $*" >&2; exit 1 ;;
esac
""",
    "scancel": """
for word; do case $word in -*) ;; *) echo "$word" >> "$state/cancelled" ;; esac; done
""",
    "srun": "exit 1",  # submitit looks whether it is there
}


class StandIn:
    """SLURM as far as launching needs it: everything stays pending. Files in `state/` tell what it was asked."""

    def __init__(self, folder: Path):
        self.programs, self._state = folder / "bin", folder / "state"
        self.programs.mkdir(parents=True)
        self._state.mkdir()
        for name, text in _SCRIPTS.items():
            path = self.programs / name
            path.write_text(_HEAD + text.replace("MAX_ARRAY_SIZE", str(MAX_ARRAY_SIZE)))
            path.chmod(0o755)
        for name in ("calls", "jobs", "released", "cancelled", "updates"):
            (self._state / name).touch()

    def lines(self, name: str) -> list[str]:
        return (self._state / name).read_text().splitlines()

    def calls(self) -> list[tuple[str, float]]:
        """(program, seconds of the wall clock) of each call; asking sbatch with --test-only counts by itself."""
        lines = [line.split() for line in self.lines("calls")]
        return [(name + " --test-only" * ("--test-only" in words), float(at)) for at, name, *words in lines]

    def submitting(self) -> list[float]:
        """When sbatch was called to submit."""
        return [at for name, at in self.calls() if name == "sbatch"]

    @property
    def refused(self) -> int:
        """Elements of an array that was too long, or 0."""
        path = self._state / "refused"
        return int(path.read_text()) if path.exists() else 0

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BLL_", "SLURM", "SBATCH"))}
        return kept | {"PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"} | more


# --- the grid ---------------------------------------------------------------------------------------------------------


def write_choices(folder: Path) -> None:
    """A synthetic $BLL_CONF: backbones of different content, three domains, sixteen benchmarks."""
    for axis in ("backbone", "domain", "benchmark"):
        (folder / axis).mkdir(parents=True)
    data = folder / "data"
    for i, name in enumerate(BACKBONES):
        model = data / name
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 32, "layers": i + 1}))
        save_file({"weight": np.full((32, 32), i, np.float32)}, model / "model.safetensors")
        (folder / "backbone" / f"{name}.yaml").write_text(f"name: {name}\nsource: directory\npath: {model}\n")
    for name in DOMAINS:
        lines = ["source: jsonl", f"path: {_rows(data, name, 200)}", 'prompt: "Q: {question}\\nA:"']
        (folder / "domain" / f"{name}.yaml").write_text("\n".join([f"name: {name}", *lines, 'response: " {answer}"\n']))
    for name, domain in BENCHMARKS.items():
        (folder / "benchmark" / f"{name}.yaml").write_text(
            f"defaults:\n  - override /domain@_global_.domain: {domain}\n  - _self_\n"
            f"name: {name}\ndomain: {domain}\ntask: exact_answer\npath: {_rows(data, name, 50)}\n"
            "decodings:\n  sampled: {temperature: 1.0, samples: 4}\n  greedy: {temperature: 0.0}\n"
            "primary: sampled\nmax_new_tokens: 16\n"
        )


def _rows(folder: Path, name: str, count: int) -> Path:
    path = folder / f"{name}.jsonl"
    rows = ({"question": f"{name} {i}?", "answer": str(i)} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def part(cells: int) -> tuple[int, int]:
    """(benchmarks, seeds) of a part of the grid with about that many cells."""
    benchmarks = max(1, min(len(BENCHMARKS), round(cells / PAIRS)))
    return benchmarks, max(1, min(SEEDS, round(cells / PAIRS / benchmarks)))


def grid(benchmarks: int = len(BENCHMARKS), seeds: int = SEEDS) -> list[str]:
    """Overrides of 63 cells for each benchmark and seed."""
    return [
        f"objective={OBJECTIVES}",
        f"backbone={','.join(BACKBONES)}",
        f"benchmark={','.join(list(BENCHMARKS)[:benchmarks])}",
        f"seed=range({seeds})",
    ]


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_s: float
    output: str
    calls: Counter[str]  # of each of SLURM's commands


def run(slurm: StandIn, command: list[str], environment: dict[str, str], folder: Path) -> Run:
    before = len(slurm.calls())
    cpu_s, started = _children_cpu_s(), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    seconds, cpu_s = time.perf_counter() - started, _children_cpu_s() - cpu_s
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ... failed:\n{done.stdout}{done.stderr}")
    return Run(seconds, cpu_s, done.stdout.strip(), Counter(name for name, _ in slurm.calls()[before:]))


def _children_cpu_s() -> float:
    """Processor time of all subprocesses that have ended: on a shared machine it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(folder: Path, choices: Path) -> float:
    """Launches the grid twice, asks for its status; seconds of the first launch."""
    slurm = StandIn(folder / "slurm")
    environment = slurm.environment(BLL_CONF=str(choices), BLL_RUNS=str(folder / "runs"))
    bll = str(Path(sys.executable).with_name("bll"))
    launch = [bll, "launch", *grid(), RECIPE, "execution=cuda", "hydra/launcher=slurm"]
    first = run(slurm, launch, environment, folder)
    elements = [int(line.split("|")[2] or 1) for line in slurm.lines("jobs")]
    print(f"bll launch          {_times(first)}; {CELLS} cells, {_calls(first)}")
    print(f"                    arrays of {', '.join(map(str, elements))} elements; ", end="")
    print(f"dependencies set one by one: {len(slurm.lines('updates'))}")
    print(_quoted(first.output))
    again = run(slurm, launch, environment, folder)
    print(f"the same again      {_times(again)}; {_calls(again)}")
    print(_quoted(again.output))
    for title, options in (("bll status", []), ("bll status --json", ["--json"])):
        runs = [run(slurm, [bll, "status", *options], environment, folder) for _ in range(3)]
        middle = sorted(runs, key=lambda r: r.seconds)[1]
        print(f"{title:19} {_times(middle)}; {_calls(middle)} (median of three)")
        if not options:
            print(_quoted(runs[0].output))
            continue
        kinds = json.loads(runs[0].output)["kinds"]
        print(_quoted(", ".join(f"{k}: {n['pending']} of {n['total']} pending" for k, n in kinds.items())))
    return first.seconds


def _times(measured: Run) -> str:
    return f"{measured.seconds:7.2f} s, {measured.cpu_s:5.2f} s of CPU"


def _calls(measured: Run) -> str:
    return "calls of " + (", ".join(f"{name}: {n}" for name, n in measured.calls.items()) or "nothing")


def _quoted(text: str) -> str:
    return "\n".join(f"    | {line}" for line in text.splitlines())


# --- hydra-submitit-launcher ------------------------------------------------------------------------------------------

_APP = """import hydra
from bll_sweeps.grid.schema.config import register

register()


@hydra.main(config_path="conf", config_name="cell", version_base="1.3")
def main(config):
    raise SystemExit("the bench only submits")


main()
"""


def write_stock_app(folder: Path, choices: Path) -> None:
    """The same tree of choices and the same typed schema, with Hydra's own sweeper and the stock launcher."""
    from bll_sweeps.grid.schema.config import conf_dir

    shutil.copytree(conf_dir(), folder / "conf", ignore=shutil.ignore_patterns("launcher", "sweeper"))
    for axis in ("backbone", "domain", "benchmark"):
        shutil.copytree(choices / axis, folder / "conf" / axis, dirs_exist_ok=True)
    root = folder / "conf" / "cell.yaml"
    text = root.read_text()
    for ours_, theirs in (("launcher: local", "launcher: submitit_slurm"), ("sweeper: grid", "sweeper: basic")):
        assert ours_ in text
        text = text.replace(ours_, theirs)
    root.write_text(text)
    (folder / "app.py").write_text(_APP)


def install_stock(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), STOCK]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder


def stock(folder: Path, choices: Path, library: Path, cells: int) -> tuple[int, float]:
    """(cells, seconds until sbatch is called) of hydra-submitit-launcher."""
    folder.mkdir()
    slurm = StandIn(folder / "slurm")
    write_stock_app(folder, choices)
    environment = slurm.environment(BLL_RUNS=str(folder / "runs"), PYTHONPATH=str(library))
    benchmarks, seeds = part(cells)
    cells = PAIRS * benchmarks * seeds
    command = [sys.executable, "app.py", "-m", *grid(benchmarks, seeds), RECIPE, "execution=cuda"]
    cpu_s, started = _children_cpu_s(), time.time()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while not slurm.submitting() and process.poll() is None:
            time.sleep(0.05)
        if not slurm.submitting():
            raise SystemExit(f"hydra-submitit-launcher ended before sbatch:\n{(folder / 'output').read_text()[-3000:]}")
        time.sleep(1.0)  # until sbatch has answered
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds, cpu_s = slurm.submitting()[0] - started, _children_cpu_s() - cpu_s
    asked = slurm.refused or int(slurm.lines("jobs")[0].split("|")[2] or 1)
    print(f"{STOCK.partition('=')[0]} {seconds:7.2f} s, {cpu_s:5.2f} s of CPU, until its call of sbatch; {cells} cells")
    print(f"    one array of {asked} elements, one a cell: {asked} trainings")
    if slurm.refused:
        print(f"    sbatch refuses it: MaxArraySize is {MAX_ARRAY_SIZE}; it would have to be launched in parts")
    return cells, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_ = f"cells that the stock launcher submits, 0 for none, {CELLS} for the whole grid (default: 189)"
    parser.add_argument("--stock-cells", type=int, default=189, metavar="N", help=help_)
    args = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_choices(folder / "choices")
        mine = ours(folder, folder / "choices")
        if not args.stock_cells:
            return
        sys.stdout.flush()
        library = install_stock(folder / "library")
        cells, seconds = stock(folder / "stock", folder / "choices", library, args.stock_cells)
        whole = seconds * CELLS / cells
        how = "measured" if cells == CELLS else f"scaled from {cells}"
        print(f"    for {CELLS} cells: {whole:.0f} s ({how}), {whole / mine:.0f} times ours")


if __name__ == "__main__":
    main()
