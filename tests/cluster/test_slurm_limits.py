"""What SLURM refuses, kills or is told too late, on a real one: limits, several jobs in one allocation, memory,
identical failures, and launches that die in the middle.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sweeps
from slurm_cluster import NODES, Slurm, SlurmError
from sweeps import SLURM, SWEEP, Bll, hook

from bll_sweeps.cluster import scheduler
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import is_done, read_json

FOUR = [*SWEEP, "objective=nll,p,p10,p0.1"]
TWO = [*SWEEP, "objective=nll,p"]
NLL = [*SWEEP, "objective=base,nll"]


def asks(folder: Path, kind: str, **resources: object) -> dict[str, str]:
    """The environment in which execution=asks says what jobs of this kind ask of SLURM, in a file of the user's."""
    file = folder / "conf" / "execution" / "asks.yaml"
    file.parent.mkdir(parents=True)
    rules = {"all": {"memory_gib": 3, "time_min": 30}, "own": {"kinds": [kind], **resources}}
    file.write_text(json.dumps({"name": "asks", "resources": rules}))
    return {"BLL_CONF": str(folder / "conf")}


@pytest.fixture(scope="module")
def slurm(slurm_with: Callable[..., Slurm]) -> Slurm:
    """Arrays of at most three elements; what exceeds a partition's limits is refused (by default it waits for ever)."""
    return slurm_with(MaxArraySize=3, EnforcePartLimits="ALL")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, nothing starts on the nodes of `lenient`: their prolog fails."""
    return tmp_path_factory.mktemp("prolog") / "broken"


@pytest.fixture(scope="module")
def lenient(slurm_with: Callable[..., Slurm], broken: Path) -> Slurm:
    """A cluster with room for few jobs, which watches nobody's memory."""
    prolog = broken.parent / "prolog"
    prolog.write_text(f"#!/bin/sh\ntest ! -e {broken}\n")
    prolog.chmod(0o755)
    return slurm_with(accounting=False, MaxJobCount=5, MinJobAge=5, JobAcctGatherParams="NoShared", Prolog=prolog)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweeps.reference(tmp_path_factory, *FOUR)


@pytest.fixture
def root(reference: Path, tmp_path: Path) -> Path:
    """A run root in which the base model is made and measured: only trainings and evaluations are left."""
    return sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior")


def assert_same(root: Path, reference: Path) -> None:
    """Every job of the root is done, with the bytes of the reference."""
    found, expected = sweeps.results(root), sweeps.results(reference)
    assert found == {name: content for name, content in expected.items() if name in found}
    assert {name.partition("/")[0] for name in found} == {path.name for path in (root / "jobs").iterdir()}


def by_objective(root: Path, kind: str) -> dict[str, JobFiles]:
    return {read_spec(job).labels["objective"]: job for job in sweeps.jobs_of(root, kind)}


def arrays(root: Path, kind: str) -> list[int]:
    """Sizes of the submissions of this kind, in their order."""
    return [len(intent["elements"]) for intent in sweeps.submissions(root) if intent["kind"] == kind]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_arrays_are_split_where_slurm_takes_no_larger_ones(
    slurm: Slurm, bll: Bll, root: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    assert scheduler.max_array_size() == 3
    out = sweeps.launched(bll, *FOUR)
    assert "submitted 8 jobs (4 train, 4 evaluate) with 4 calls of sbatch" in out
    assert arrays(root, "train") == arrays(root, "evaluate") == [3, 1]
    sweeps.completed(bll, slurm)
    assert_same(root, reference)
    assert set(sweeps.attempts(root).values()) == {1}


def test_what_a_submit_limit_refuses_is_submitted_by_workers_that_finish_but_not_what_was_cancelled(
    slurm: Slurm, bll: Bll, root: Path, reference: Path
) -> None:
    with slurm.submit_limit(3):
        with sweeps.paused(slurm):
            out = sweeps.launched(bll, *FOUR)
            assert "submitted 3 jobs (3 train)" in out
            (left,) = re.findall(r"smoke: (\d+) jobs left unsubmitted: (.*)", out)
            assert left[0] == "5" and "AssocMaxSubmitJobLimit" in left[1]
            assert len(sweeps.in_state(sweeps.status(bll), "unsubmitted")) == 5
            # What is left is not worth a second try while the queue is as full as before.
            assert "submitted 0 jobs (none)" in sweeps.launched(bll, *FOUR)
            assert len(sweeps.queued(slurm, root)) == 3
            cancelled = sweeps.in_state(sweeps.status(bll), "pending")[0]["id"]
            assert bll("cancel", cancelled).stdout.startswith(f"{cancelled}: cancelled; nothing is lost")
        sweeps.idle(slurm, 300)
        assert not list(root.glob("sweeps/*/*.unsubmitted"))
        found = sweeps.status(bll)
        left = {job["id"]: job for job in sweeps.in_state(found, "unsubmitted")}
        assert len(left) == 2 and left[cancelled]["detail"] == "cancelled"  # the other is its evaluation
        assert len(sweeps.in_state(found, "done")) == len(found["jobs"]) - 2
        assert "submitted 2 jobs (1 train, 1 evaluate)" in sweeps.launched(bll, *FOUR)
        sweeps.completed(bll, slurm)
    assert_same(root, reference)
    assert len(sweeps.jobs_of(root, "evaluate")) == 4
    assert set(sweeps.attempts(root).values()) == {1}


def test_a_limit_of_two_lets_a_sweep_through_two_by_two(slurm: Slurm, bll: Bll, root: Path) -> None:
    with slurm.submit_limit(2, of="qos"):
        sweeps.launched(bll, *NLL)
        sweeps.idle(slurm, 300)
    assert all(is_done(job) for kind in ("train", "evaluate") for job in sweeps.jobs_of(root, kind))


LIMITS: dict[str, tuple[str, list[str]]] = {
    "MaxSubmitJobs": ("user root", ["--array=0-2"]),
    "GrpSubmitJobs": ("account root", ["--array=0-2"]),
    "MaxSubmitJobsPerUser": ("qos normal", ["--array=0-2"]),
}
POLICIES = {"MaxWall=1": "-1", "MaxTRESPerJob=cpu=2": "cpu=-1"}
MISTAKES = {
    "no such partition": ["--partition=nope"],
    "no such account": ["--account=nope"],
    "no such qos": ["--qos=nope"],
    "no such feature": ["--constraint=nope"],
    "no such gres": ["--gres=nope:1"],
    "too much memory": ["--mem=900G"],
    "too many GPUs": ["--partition=gpu", "--gpus-per-node=9"],
    "too long": ["--time=30-0"],
    "too many nodes": ["--nodes=3", "--partition=gpu"],
    "too large an array": ["--array=0-4"],
    "no such node": ["--nodelist=nope"],
    "no such option": ["--nonsense=1"],
}


def refused(slurm: Slurm, *options: str) -> str:
    """What sbatch says to it."""
    with pytest.raises(SlurmError) as caught:
        slurm.submit("true", *options)
    return str(caught.value)


@pytest.mark.parametrize("options", MISTAKES.values(), ids=MISTAKES)
def test_what_slurm_will_never_take_is_a_mistake(slurm: Slurm, options: list[str]) -> None:
    assert scheduler.refusal(refused(slurm, *options)) == "mistake"


def test_what_no_node_could_run_is_objected_to_and_what_only_has_to_wait_is_not(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch --hold takes the first without a word, and --test-only objects to the second."""
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    script = "#!/bin/sh\n#SBATCH --mem={}G\ntrue\n"
    assert scheduler.objection(script.format(1)) == ""
    assert "Requested node configuration is not available" in scheduler.objection(script.format(900))
    for node in NODES:
        slurm.down(node)
    try:
        assert scheduler.objection(script.format(1)) == ""
    finally:
        for node in NODES:
            slurm.resume(node)
    assert not slurm.active()


@pytest.mark.parametrize("key", LIMITS)
def test_too_many_jobs_for_now_are_no_mistake(slurm: Slurm, key: str) -> None:
    target, options = LIMITS[key]
    slurm.sacctmgr("modify", *target.split(), "set", f"{key}=2")
    try:
        assert scheduler.refusal(refused(slurm, *options)) == "full"
    finally:
        slurm.sacctmgr("modify", *target.split(), "set", f"{key}=-1")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_that_no_waiting_will_satisfy_is_a_mistake(slurm: Slurm, policy: str) -> None:
    """sbatch's sentence is that of a submit limit; only the name before it differs."""
    slurm.sacctmgr("modify", "qos", "normal", "set", policy, "flags=DenyOnLimit")
    try:
        message = refused(slurm, "--time=60", "--cpus-per-task=4")
    finally:
        key = policy.partition("=")[0]
        slurm.sacctmgr("modify", "qos", "normal", "set", f"{key}={POLICIES[policy]}", "flags=-1")
    assert "job submit limit" in message
    assert scheduler.refusal(message) == "mistake"


def test_a_controller_that_is_away_is_an_outage(slurm: Slurm) -> None:
    with slurm.without("slurmctld"):
        message = refused(slurm)
    assert scheduler.refusal(message) == "outage"
    assert scheduler.refusal("Batch job submission failed: Socket timed out on send/recv operation") == "outage"


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        # The first arrays are fine, the last is not.
        ({"partition": "nope"}, "Invalid partition name"),
        ({"time_min": 50000}, "Requested time limit is invalid"),
        ({"memory_gib": 900}, "Requested node configuration is not available"),
    ],
    ids=["partition", "time", "memory"],
)
def test_after_a_mistake_nothing_of_the_launch_stays_in_the_queue(
    slurm: Slurm, bll: Bll, root: Path, tmp_path: Path, resources: dict[str, object], named: str
) -> None:
    env = asks(tmp_path, "evaluate", **resources)
    done = bll("launch", *SLURM, *NLL, "execution=asks", env=env)
    assert done.returncode == 2, done.stdout
    assert named in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert [intent["kind"] for intent in sweeps.submissions(root)] == ["train"]
    assert not slurm.active()
    assert set(sweeps.attempts(root).values()) == {0, 1}


def test_a_queue_that_is_full_is_given_up_before_sbatch_does(lenient: Slurm, root: Path) -> None:
    filler = lenient.submit("true", "--hold", "--array=0-3")
    done = sweeps.run(root, "launch", *SLURM, *NLL, slurm=lenient, timeout=100)
    lenient.scancel(filler)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SLURM takes no job at all: Slurm temporarily unable to accept job" in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(sweeps.states(json_status(root, lenient)).values()) == {"done", "unsubmitted"}


def test_what_slurm_holds_after_a_failed_start_is_said_and_released_by_the_next_launch(
    lenient: Slurm, broken: Path, root: Path
) -> None:
    broken.touch()
    assert sweeps.run(root, "launch", *SLURM, *NLL, slurm=lenient).returncode == 0
    done = sweeps.run(root, "wait", "--timeout", "100", slurm=lenient)
    broken.unlink()
    for node in NODES:
        lenient.resume(node)  # SLURM takes those whose prolog failed out of service
    train = sweeps.job_of(root, "train").id
    assert done.returncode == 1
    held = "SLURM holds 3 jobs until smoke is launched again"
    assert f"{held}; {train}: launch failed requeued held" in done.stderr
    found = json_status(root, lenient)["jobs"]
    assert (found[train]["state"], found[train]["stuck"]) == ("pending", True)
    done = sweeps.run(root, "launch", *SLURM, *NLL, slurm=lenient)
    assert "smoke: released 2 jobs that SLURM had held after failed starts" in done.stdout
    assert sweeps.run(root, "wait", "--timeout", "100", slurm=lenient).returncode == 0
    sweeps.idle(lenient)
    assert set(sweeps.attempts(root).values()) == {1}


def json_status(root: Path, slurm: Slurm) -> dict[str, Any]:
    found = json.loads(sweeps.run(root, "status", "--json", slurm=slurm).stdout)
    return found | {"jobs": {job["id"]: job for job in found["jobs"]}}


# --- one allocation for several jobs ----------------------------------------------------------------------------------

SIDE_BY_SIDE = """
def train(whole, job, context):
    here = Path(os.environ["MET"])
    (here / job.id).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while len(list(here.iterdir())) < 4:  # never, were they to run one after another
        time.sleep(0.05)
    if job.objective.name == "p":
        raise ValueError("this one fails")
    return whole(job, context)
"""


def test_jobs_side_by_side_have_a_gpu_each_and_fail_alone(
    slurm: Slurm, bll: Bll, root: Path, reference: Path, tmp_path: Path
) -> None:
    met = tmp_path / "met"
    met.mkdir()
    setup = hook(tmp_path / "site", SIDE_BY_SIDE).replace("']", f"','export MET={met}']")
    gpus = ["hydra.launcher.jobs_per_allocation=4", "+execution.resources.all.gpus=1"]
    done = bll("launch", *SLURM, *FOUR, setup, *gpus, "+execution.resources.all.partition=gpu")
    assert done.returncode == 0, done.stderr
    assert arrays(root, "train") == arrays(root, "evaluate") == [1]
    assert sweeps.ended(bll, slurm).returncode == 1
    trainings, evaluations = by_objective(root, "train"), by_objective(root, "evaluate")
    assert sorted(path.read_text() for path in met.iterdir()) == ["0", "1", "2", "3"]
    ran = [read_json(job.attempts()[-1].provenance) for name, job in trainings.items() if name != "p"]
    assert len({attempt["slurm_job"] for attempt in ran}) == 1
    assert max(attempt["started_at"] for attempt in ran) < min(attempt["finished_at"] for attempt in ran)
    states = sweeps.states(sweeps.status(bll))
    assert {name: states[job.id] for name, job in trainings.items()} == {
        "nll": "done", "p": "failed", "p10": "done", "p0.1": "done",
    }  # fmt: skip
    assert {name: states[job.id] for name, job in evaluations.items()} == {
        "nll": "done", "p": "blocked", "p10": "done", "p0.1": "done",
    }  # fmt: skip
    expected = sweeps.results(reference)
    for job in (*trainings.values(), *evaluations.values()):
        if states[job.id] == "done":
            assert (job.attempts()[-1].record).read_bytes() == expected[job.id]


# --- memory -----------------------------------------------------------------------------------------------------------

HUNGRY = """
def resident(gib):
    rest = int(gib * 2**30) - 1024 * int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
    return bytearray(b"x") * max(0, rest)

def train(whole, job, context):
    most = resident(float(os.environ["GIB"]))
    time.sleep(4)  # seen by the worker, every second
    if os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
    more = resident(float(os.environ["GIB"]) + 1.5)
    time.sleep(100)
"""


NLL_ALONE = [*SLURM, *SWEEP, "objective=nll"]


def hungry(folder: Path, gib: float, more: str = "") -> list[str]:
    setup = hook(folder, HUNGRY).replace("']", f"','export GIB={gib} {more}']")
    return [*NLL_ALONE, "execution=asks", setup]


def test_a_job_that_slurm_kills_for_its_memory_is_called_so(slurm: Slurm, bll: Bll, root: Path, tmp_path: Path) -> None:
    """SLURM adds the worker's memory to that of its child and kills both: the job can leave no record."""
    env = asks(tmp_path, "train", memory_gib=4.0)
    assert bll("launch", *hungry(tmp_path / "site", 3.4), env=env).returncode == 0
    assert sweeps.ended(bll, slurm).returncode == 1
    (failed,) = sweeps.in_state(sweeps.status(bll), "failed")
    assert failed["kind"] == "train"
    peak = re.search(r"out of memory, at a measured peak of (\d\.\d) of the 4\.0 GiB asked for", failed["detail"])
    assert peak is not None, failed
    assert 3.2 <= float(peak[1]) < 5.5
    assert [job["kind"] for job in sweeps.in_state(sweeps.status(bll), "blocked")] == ["evaluate"]
    # More memory for it, and it runs: the failure is the job's until somebody tries again.
    assert "nothing to submit" not in bll("launch", *NLL_ALONE).stdout
    sweeps.completed(bll, slurm)


def test_a_process_that_the_kernel_kills_at_its_peak_ran_out_of_memory(
    lenient: Slurm, root: Path, tmp_path: Path
) -> None:
    env = asks(tmp_path, "train", memory_gib=1.5)
    launch = hungry(tmp_path / "site", 1.4, "KILLED=yes")
    assert sweeps.run(root, "launch", *launch, slurm=lenient, env=env).returncode == 0
    done = sweeps.run(root, "wait", "--timeout", "200", slurm=lenient)
    sweeps.idle(lenient)
    assert done.returncode == 1
    message = r"out of memory: the job's process was killed at a peak of 1\.[4-6] GiB of the 1\.5 GiB asked for"
    assert re.search(message, done.stderr), done.stderr
    assert read_json(sweeps.job_of(root, "train").attempt(1).failure)["message"].startswith("out of memory: ")


# --- identical failures -----------------------------------------------------------------------------------------------

BROKEN = """
def train(whole, job, context):
    if not os.path.exists(os.environ["MENDED"]):
        raise OSError(f"{job.objective.name}: no space left on device")
    return whole(job, context)
"""


def test_identical_failures_stop_the_rest_until_they_are_retried(
    slurm: Slurm, bll: Bll, root: Path, reference: Path, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    setup = hook(tmp_path / "site", BROKEN).replace("']", f"','export MENDED={mended}']")
    careful = ["hydra.launcher.array_parallelism=1", "hydra.launcher.stop_after_failures=2"]
    assert bll("launch", *SLURM, *FOUR, setup, *careful).returncode == 0
    assert sweeps.ended(bll, slurm).returncode == 1
    found = sweeps.status(bll)
    trainings = [job for job in found["jobs"].values() if job["kind"] == "train"]
    started = [job for job in trainings if Layout(root).job(job["id"]).attempts()]
    assert len(started) in (2, 3)
    assert [job["state"] for job in started] == ["failed"] * len(started)
    stopped = [job for job in trainings if job not in started]
    assert stopped
    for job in stopped:
        assert job["state"] == "blocked"
        assert re.match(r"stopped after 2 identical failures: OSError: \S+: no space left on device", job["detail"])
    assert {job["state"] for job in found["jobs"].values() if job["kind"] == "evaluate"} == {"blocked"}
    mended.touch()
    out = bll("retry").stdout
    assert f"{len(started)} failed or damaged jobs to run again" in out
    assert "submitted 8 jobs (4 train, 4 evaluate)" in out
    sweeps.completed(bll, slurm)
    assert_same(root, reference)


# --- launches that die ------------------------------------------------------------------------------------------------

WRAPPER = """#!/bin/sh
# Dies, and the launch with it, at the call that $DIE names: "sbatch before 2", "scontrol after release", ...
me=$(basename "$0"); call=$1
if [ "$me" = sbatch ] && [ "$1" != --parsable ]; then echo >>"$CALLS"; call=$(grep -c '' "$CALLS"); fi
[ "$DIE" = "$me before $call" ] && kill -9 0
if [ "$DIE" = "$me during $call" ]; then {scontrol} "$call" "${2%%,*}"; kill -9 0; fi
PATH={path}
"$me" "$@"
status=$?
[ "$DIE" = "$me after $call" ] && kill -9 0
if [ "$DIE" = "$me lost $call" ]; then
  echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1
fi
exit $status
"""


def dying(folder: Path, where: str) -> Mapping[str, str]:
    """The environment in which sbatch and scontrol are ours."""
    path, calls = sweeps.environment(folder)["PATH"], folder / "calls"
    calls.write_text("")
    for name in ("sbatch", "scontrol"):
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        text = WRAPPER.replace("{path}", f"'{path}'").replace("{scontrol}", str(shutil.which("scontrol")))
        file.write_text(text)
        file.chmod(0o755)
    return {"PATH": f"{folder}/bin:{path}", "DIE": where, "CALLS": str(calls)}


DEATHS = [
    "sbatch before 1",
    "sbatch after 1",
    "sbatch after 2",
    "sbatch lost 2",
    "scontrol before release",
    "scontrol during release",
    "scontrol after release",
]


def test_a_launch_that_dies_at_any_point_is_launched_again_and_nothing_runs_twice(
    slurm: Slurm, bll: Bll, root: Path, reference: Path, tmp_path: Path
) -> None:
    counts = []
    with sweeps.paused(slurm):
        for where in DEATHS:
            process = sweeps.start(root, "launch", *SLURM, *TWO, slurm=slurm, env=dying(tmp_path, where))
            out, _ = process.communicate(timeout=120)
            counts.append(len(sweeps.queued(slurm, root)))
            if "lost" in where:
                assert process.returncode == 1, (where, out)
                assert "Socket timed out" in out and "Traceback" not in out
            else:
                assert process.returncode == -signal.SIGKILL, (where, out)
        # Nothing; trainings; evaluations too, all held; what was lost is cancelled; all; all, some released; all.
        assert counts == [0, 2, 4, 2, 4, 4, 4]
        out = sweeps.launched(bll, *TWO)
        assert "nothing to submit" in out
        assert len(sweeps.queued(slurm, root)) == 4
        pending = [job for job in sweeps.elements(slurm, root) if job["state"] == "PENDING"]
        assert "JobHeldUser" not in {job["reason"] for job in pending}
    sweeps.completed(bll, slurm)
    assert_same(root, reference)
    assert set(sweeps.attempts(root).values()) == {1}
