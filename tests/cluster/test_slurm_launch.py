"""`bll launch hydra/launcher=slurm` on a real SLURM: everything is submitted at once and once, and ends as locally."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sweeps
from slurm_cluster import Slurm
from sweeps import SLURM, SWEEP, Bll

from bll_sweeps.cluster import snapshot
from bll_sweeps.code import code_digest
from bll_sweeps.errors import StoreError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import read_record

TOP = Path(__file__).parents[2]
FIXTURES = Path(__file__).parents[1] / "fixtures"
BASE_AND_NLL = [*SWEEP, "objective=base,nll"]


@pytest.fixture(scope="module")
def slurm(slurm_with: Callable[..., Slurm]) -> Slurm:
    """A site that refuses what exceeds a partition's limits (SLURM by default lets it wait for ever) and shows jobs to
    their owner and root only.
    """
    return slurm_with(EnforcePartLimits="ALL", PrivateData="jobs")


@pytest.fixture
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweeps.reference(tmp_path_factory)


def tear_spec(root: Path, job: str) -> None:
    """Its attempt fails, and `bll retry` mends it from the launch record."""
    Layout(root).job(job).spec.write_text('{"id": "torn')


def one(root: Path, kind: str, objective: str) -> str:
    """The id of the job of this kind and objective, by the manifest of the last launch of the sweep `smoke`."""
    files = Layout(root).sweep("smoke")
    manifest = json.loads(files.manifest(files.launches()[-1]).read_text())
    return next(cell["jobs"][kind] for cell in manifest["cells"] if cell["labels"]["objective"] == objective)


def test_everything_is_submitted_at_once_and_ends_as_with_the_local_launcher(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root, began = tmp_path / "runs", time.monotonic()
    process = sweeps.start(root, "launch", *SLURM, *SWEEP, slurm=slurm)
    out, _ = process.communicate(timeout=120)
    took = time.monotonic() - began
    assert process.returncode == 0, out
    assert sweeps.queued(slurm, root)  # it did not wait for them
    assert took < 20
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of ours stays behind
    assert "submitted 7 jobs (1 pretrain, 1 prior, 2 train, 3 evaluate) with 4 calls of sbatch" in out
    # One array for each kind of one backbone, all of the same shape; and nothing else under these names in SLURM.
    assert [intent["kind"] for intent in sweeps.submissions(root)] == ["pretrain", "prior", "train", "evaluate"]
    assert len({job["array"] for job in sweeps.elements(slurm, root)}) == 4
    sweeps.completed(bll, slurm)
    assert sweeps.results(root) == sweeps.results(reference)
    assert set(sweeps.attempts(root).values()) == {1}
    # Launching again has nothing to do, by whichever launcher.
    assert "nothing to submit" in sweeps.launched(bll, *SWEEP)
    assert "nothing to run" in bll("launch", *SWEEP).stdout
    assert set(sweeps.attempts(root).values()) == {1}


def test_launches_at_the_same_time_and_later_ones_submit_nothing_twice(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root = sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior")
    with sweeps.paused(slurm):
        both = [sweeps.start(root, "launch", *SLURM, *BASE_AND_NLL, slurm=slurm) for _ in range(2)]
        printed = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], printed
        assert sum("submitted 3 jobs" in text for text in printed) == 1, printed
        assert sum("nothing to submit" in text for text in printed) == 1, printed
        assert "nothing to submit: 3 jobs in the queue already, and unchanged" in sweeps.launched(bll, *BASE_AND_NLL)
        assert len(sweeps.queued(slurm, root)) == 3
        # A larger grid: only what is new, and it waits for what is queued already, whose specs stay as they are.
        specs = {job: job.spec.read_bytes() for kind in ("train", "evaluate") for job in sweeps.jobs_of(root, kind)}
        larger = [*SWEEP, "execution.checkpoint_every_steps=7"]
        assert "submitted 2 jobs (1 train, 1 evaluate)" in sweeps.launched(bll, *larger)
        assert len(specs) == 3 and {job: job.spec.read_bytes() for job in specs} == specs
        (new,) = [job for job in sweeps.jobs_of(root, "train") if job not in specs]
        assert read_spec(new).execution.checkpoint_every_steps == 7
        jobs = [job for intent in sweeps.submissions(root) for e in intent["elements"] for lane in e for job in lane]
        assert len(jobs) == len(set(jobs)) == len(sweeps.queued(slurm, root)) == 5
    sweeps.completed(bll, slurm)
    assert sweeps.results(root) == sweeps.results(reference)
    assert set(sweeps.attempts(root).values()) == {1}


def test_a_failure_is_slurms_too_blocks_its_evaluation_only_and_is_retried(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root = sweeps.part_of(reference, tmp_path / "runs", "pretrain")
    with sweeps.paused(slurm):
        sweeps.launched(bll, *BASE_AND_NLL)
        train, evaluate = one(root, "train", "nll"), one(root, "evaluate", "nll")
        tear_spec(root, train)
    done = sweeps.ended(bll, slurm)
    assert done.returncode == 1
    assert f"1 of 5 jobs failed, 1 are blocked by them; {train}: " in done.stderr
    assert "bll retry smoke" in done.stderr
    found = sweeps.status(bll)
    assert found["jobs"][train]["state"] == "failed"
    assert "spec" in found["jobs"][train]["detail"]
    assert found["jobs"][evaluate] == {
        "id": evaluate, "kind": "evaluate", "state": "blocked", "detail": f"by {train}"
    }  # fmt: skip
    assert len(sweeps.in_state(found, "done")) == 3
    in_slurm = {job["name"].split("-")[1]: job["state"] for job in sweeps.elements(slurm, root) if job["task"] != "1"}
    assert in_slurm == {"prior": "COMPLETED", "train": "FAILED", "evaluate": "CANCELLED"}
    assert "Traceback" in bll("logs", train).stdout
    done = bll("retry")
    assert done.returncode == 0, done.stderr
    assert "submitted 2 jobs (1 train, 1 evaluate)" in done.stdout
    sweeps.completed(bll, slurm)
    assert sweeps.attempts(root) == dict.fromkeys(found["jobs"], 1) | {train: 2}
    expected = sweeps.results(reference)
    assert all(expected[name] == content for name, content in sweeps.results(root).items())


def test_what_slurm_leaves_waiting_for_a_failure_is_blocked_and_taken_out_by_the_next_launch(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root = sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior")
    forgets = "+hydra.launcher.sbatch.kill-on-invalid-dep=no"  # as SLURM itself does now and then
    with sweeps.paused(slurm):
        sweeps.launched(bll, *SWEEP, "objective=nll", forgets)
        tear_spec(root, train := one(root, "train", "nll"))
    done = bll("wait", "--timeout", "120")
    assert done.returncode == 1
    assert f"1 of 4 jobs failed, 1 are blocked by them; {train}: " in done.stderr
    slurm.wait(lambda: [line.split()[2:] for line in slurm.active()] == [["PENDING", "DependencyNeverSatisfied"]], 90)
    left = slurm.active()[0].split()[0]
    assert "submitted 2 jobs (1 train, 1 evaluate)" in bll("retry").stdout
    sweeps.completed(bll, slurm)
    assert slurm.job(left)["state"] == "CANCELLED"


def test_a_change_of_the_source_after_the_launch_changes_no_queued_job(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root, source = sweeps.part_of(reference, tmp_path / "runs", "pretrain"), tmp_path / "source"
    for name in ("bll_sweeps", "jobs", "hydra_plugins", "conf", "analysis"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "A source of its own"]):
        subprocess.run([*git, *command], check=True)
    evaluate, allocation = source / "jobs" / "evaluate.py", source / "bll_sweeps" / "cluster" / "allocation.py"
    evaluate.write_text(evaluate.read_text() + "\nprint('printed by the changed source')\n")
    with sweeps.paused(slurm):
        site = "+hydra.launcher.sbatch.export=NONE"  # as some sites demand: jobs inherit nothing
        sweeps.launched(bll, *SWEEP, "objective=base", site, env={"PYTHONPATH": str(source)})
        evaluate.write_text("raise RuntimeError('the source is broken')\n")
        allocation.write_text("raise RuntimeError('the source is broken')\n")
    sweeps.completed(bll, slurm)
    assert "printed by the changed source" in bll("logs", one(root, "evaluate", "base")).stdout
    code = json.loads(sweeps.job_of(root, "evaluate").spec.read_text())["code"]
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert (code["commit"], code["dirty"]) == (head, True)
    assert code["digest"] != code_digest()
    assert {"torch", "transformers", "lm-eval"} <= code["versions"].keys()


def test_a_canary_that_fails_keeps_everything_else_from_starting_and_one_that_succeeds_lets_it_run(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path
) -> None:
    root = sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior", "train")
    with sweeps.paused(slurm):
        assert "submitted 3 jobs" in sweeps.launched(bll, *SWEEP, "--canary")
        canary = one(root, "evaluate", "base")
        tear_spec(root, canary)
    assert sweeps.ended(bll, slurm).returncode == 1
    found = sweeps.status(bll)
    assert found["jobs"][canary]["state"] == "failed"
    others = [one(root, "evaluate", objective) for objective in ("nll", "p")]
    assert {job["id"]: job["detail"] for job in sweeps.in_state(found, "blocked")} == dict.fromkeys(
        others, f"by {canary}"
    )
    assert all(not Layout(root).job(job).attempts() for job in others)
    assert bll("retry").returncode == 0
    sweeps.completed(bll, slurm)
    assert sweeps.results(root) == sweeps.results(reference)
    assert_canary_first(root, canary, others)


def test_the_local_launcher_has_canaries_too(bll: Bll, tmp_path: Path, reference: Path) -> None:
    root = sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior", "train")
    model = read_record(sweeps.job_of(root, "pretrain"))
    assert model is not None
    weights = model.output("model") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\1\2\3")  # of the same size: the job that reads it finds out
    done = bll("launch", *SWEEP, "--canary")
    assert done.returncode == 1
    assert "1 of 7 jobs failed, 2 are blocked by them" in done.stderr
    found = sweeps.status(bll)
    canary, others = one(root, "evaluate", "base"), [one(root, "evaluate", objective) for objective in ("nll", "p")]
    assert found["jobs"][canary]["state"] == "failed"
    assert {job["id"] for job in sweeps.in_state(found, "blocked")} == set(others)
    assert all(not Layout(root).job(job).attempts() for job in others)
    weights.write_bytes(whole)
    assert bll("launch", *SWEEP, "--canary").returncode == 0
    assert sweeps.results(root) == sweeps.results(reference)
    assert_canary_first(root, canary, others)


def assert_canary_first(root: Path, canary: str, others: list[str]) -> None:
    def time_of(job: str, key: str) -> str:
        return json.loads(Layout(root).job(job).attempts()[-1].provenance.read_text())[key]

    assert all(time_of(canary, "finished_at") < time_of(other, "started_at") for other in others)


def test_a_launch_that_is_too_dear_is_submitted_only_with_consent(slurm: Slurm, bll: Bll, tmp_path: Path) -> None:
    environment = sweeps.site(tmp_path, "resources: {site: {gpus: 1, partition: gpu}}\nconfirm_above_gpu_hours: 0.001")
    launch = ["launch", "hydra/launcher=mine", *SWEEP, "recipe.steps=100000"]
    done = bll(*launch, env=environment)
    assert done.returncode == 2
    assert "GPU-hours, above hydra.launcher.confirm_above_gpu_hours=0.001: confirm it with --yes" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not slurm.active()
    with sweeps.paused(slurm, ["gpu"]):
        done = bll(*launch, "--yes", env=environment)
        assert done.returncode == 0, done.stderr
        assert len(sweeps.queued(slurm, tmp_path / "runs")) == 7
        bll("cancel")
        sweeps.idle(slurm)


MISTAKES = {
    "unknown partition": ("resources: {site: {partition: nope}}", [], "sbatch refused it: .*partition"),
    "too much time": ("", ["execution.resources.all.time_min=2000"], "sbatch refused it: .*time limit"),
    "misspelt key": ("resources: {site: {partiton: cpu}}", [], r"hydra\.launcher\.resources\.site\.partiton"),
    "misspelt kind": (
        "resources: {site: {kinds: [trian], cpus: 2}}",
        [],
        r"hydra\.launcher\.resources\.site\.kinds.*'trian'.*'train'",
    ),
    "misspelt option": ("array_paralelism: 3", [], r"array_paralelism"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_and_leaves_nothing_in_the_queue(
    slurm: Slurm, bll: Bll, tmp_path: Path, mistake: str
) -> None:
    text, overrides, expected = MISTAKES[mistake]
    done = bll("launch", "hydra/launcher=mine", *SWEEP, *overrides, env=sweeps.site(tmp_path, text))
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(expected, done.stderr, re.IGNORECASE), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not slurm.active()


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(its address, the (path, text) of everything that was posted to it)."""
    posted: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, json.loads(body)["text"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    server.server_close()


def test_one_notice_tells_how_the_sweep_ended_and_no_secret_is_in_any_file(
    slurm: Slurm, bll: Bll, tmp_path: Path, reference: Path, webhook: tuple[str, list[tuple[str, str]]]
) -> None:
    root, (address, posted), secret = tmp_path / "runs", webhook, "5ec7e7" * 6 + "0000"
    sweeps.part_of(reference, root, "pretrain", "prior", "train")
    environment = {
        "WANDB_API_KEY": secret,
        "HF_TOKEN": f"hf_{secret}",
        "BLL_WEBHOOK": f"{address}/services/{secret}",
        "WANDB_MODE": "offline",
    }
    with sweeps.paused(slurm):
        arguments = ["sweep=smoke", "objective=base,nll", "hydra.launcher.notify=webhook"]
        sweeps.launched(bll, *arguments, env=environment)
        failing = one(root, "evaluate", "base")
        tear_spec(root, failing)
    assert sweeps.ended(bll, slurm).returncode == 1
    assert [path for path, _ in posted] == [f"/services/{secret}"]
    assert "smoke: 4 of 5 jobs done" in posted[0][1]
    assert f"; {failing}: " in posted[0][1]
    assert list(root.glob("jobs/evaluate-*/attempt.1/wandb")), "W&B was on"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sh" for path in files)
    assert any(path.name.endswith("_log.out") for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


# --- a run root of several people -------------------------------------------------------------------------------------

GROUP, SECOND_USER = 4242, 65534


@pytest.fixture
def shared_root(reference: Path) -> Iterator[Path]:
    """The run root of a group: a setgid folder that others can reach (pytest's own they cannot)."""
    with tempfile.TemporaryDirectory(prefix="bll-group.") as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = folder / "runs"
        root.mkdir()
        os.chown(root, -1, GROUP)
        root.chmod(0o2775)
        before = os.umask(0o002)
        try:
            shutil.copytree(reference / "jobs", root / "jobs", symlinks=True, copy_function=shutil.copyfile)
        finally:
            os.umask(before)
        for path in [root / "jobs", *(root / "jobs").rglob("*")]:
            os.chown(path, -1, GROUP, follow_symlinks=False)
            if path.is_dir():
                path.chmod(0o2775)
        yield root


def as_second_user(*command: str) -> list[str]:
    """The command as somebody else of the group. Private folders that the interpreter or the sources lie below (root's
    home, say) are covered, in a mount namespace of the command's own, by ones that hold only these.
    """
    user = ["setpriv", f"--reuid={SECOND_USER}", f"--regid={GROUP}", "--clear-groups", "--", *command]
    needed = dict.fromkeys(Path(path).resolve() for path in (sys.base_prefix, TOP, sys.prefix))
    hidden = {path: top for path in needed if (top := _private_folder_above(path))}
    script = ["set -e", "stage=$(mktemp --directory)"]
    for i, path in enumerate(hidden):
        script += [f"mkdir $stage/{i}", f"mount --bind {shlex.quote(str(path))} $stage/{i}"]
    script += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(top))}" for top in dict.fromkeys(hidden.values())]
    for i, path in enumerate(hidden):
        script += [f"mkdir -p {shlex.quote(str(path))}", f"mount --bind $stage/{i} {shlex.quote(str(path))}"]
        script += [f"umount $stage/{i}", f"rmdir $stage/{i}"]
    script += ["rmdir $stage", 'exec "$@"']
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(script), "sh", *user]


def _private_folder_above(path: Path) -> Path | None:
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def test_a_group_shares_a_run_root(slurm: Slurm, shared_root: Path) -> None:
    root = shared_root
    for kind in ("prior", "evaluate"):
        for job in sweeps.jobs_of(root, kind):
            shutil.rmtree(job.folder)
    ours = {"umask": 0o002, "slurm": slurm}
    for launch in (["objective=base", *SLURM], ["objective=nll"]):  # by SLURM, then by local workers
        done = sweeps.run(root, "launch", *SWEEP, *launch, **ours)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sweeps.run(root, "wait", "--timeout", "120", **ours).returncode == 0
        sweeps.idle(slurm)
    private = [*root.glob("submissions/*/private"), *root.glob("workers/*")]
    assert [oct(path.stat().st_mode & 0o777) for path in private] == ["0o700"] * 3
    shared = [p for p in root.rglob("*") if not p.is_symlink() and not {p, *p.parents}.intersection(private)]
    code = [p for p in shared if p.parent.parent == root / "code" or root / "code" in p.parents]
    assert code and [str(path) for path in code if path.stat().st_mode & 0o022] == []  # it runs under our account
    lead_to_code = [root / "code", root / "submissions", *(s.folder for s in Layout(root).submissions())]
    assert all(path.stat().st_mode & stat.S_ISVTX for path in lead_to_code)  # nobody else replaces what is in them
    assert [str(path) for path in shared if path not in code and not path.stat().st_mode & 0o020] == []
    assert [str(path) for path in shared if path.stat().st_gid != GROUP] == []

    def theirs(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = as_second_user(sys.executable, "-m", "bll_sweeps.cli", *arguments)
        environment = sweeps.environment(root, slurm, {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"})
        return subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, umask=0o002
        )

    seen = theirs("status")
    assert seen.returncode == 0, seen.stderr
    assert "4/4 jobs done" in seen.stdout
    assert theirs("results").returncode == 0
    before = sweeps.attempts(root)
    for launch, said in (
        (["objective=base,nll"], "nothing to run"),
        (["objective=base,nll", *SLURM], "nothing to submit"),
    ):
        done = theirs("launch", *SWEEP, *launch)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    # What is new is theirs to run, on top of what we have done.
    done = theirs("launch", *SWEEP, "hydra.launcher.workers=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (new,) = sweeps.attempts(root).keys() - before.keys()
    assert Layout(root).job(new).done.lstat().st_uid == SECOND_USER
    assert theirs("gc").returncode == 0
    # What one of us has queued another neither submits again nor cancels, though SLURM does not show it.
    with sweeps.paused(slurm):
        more = [*SWEEP, "objective=p10"]
        assert sweeps.run(root, "launch", *more, *SLURM, **ours).returncode == 0
        queued = sweeps.queued(slurm, root)
        assert "pending 1 train: unknown: SLURM shows it only to root" in theirs("status").stdout
        done = theirs("launch", *more, *SLURM)
        assert (done.returncode, "nothing to submit" in done.stdout) == (0, True), done.stdout + done.stderr
        done = theirs("cancel")
        assert (done.returncode, "is root's, who alone can cancel it" in done.stderr) == (1, True), done.stderr
        assert sweeps.queued(slurm, root) == queued
    assert sweeps.run(root, "wait", "--timeout", "120", **ours).returncode == 0
    sweeps.idle(slurm)


def test_code_that_somebody_else_put_in_the_place_of_ours_is_not_run(tmp_path: Path) -> None:
    folder = snapshot.take(Layout(tmp_path))
    assert snapshot.take(Layout(tmp_path)) == folder
    os.chown(folder, SECOND_USER, GROUP)
    with pytest.raises(StoreError, match=f"{folder} is in the way and another user's"):
        snapshot.take(Layout(tmp_path))


def test_a_retry_does_not_wait_for_what_still_runs_beside_the_failure(bll: Bll, slurm: Slurm, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    long = [*sweeps.SWEEP, "objective=nll,p", "recipe.steps=200", "execution.checkpoint_every_steps=10"]
    slowly = sweeps.slow(tmp_path / "site", "0.1")
    sweeps.launched(bll, *long, slowly, "hydra.launcher.jobs_per_allocation=2")

    def training() -> list[JobFiles]:
        found = sweeps.jobs_of(root, "train")
        return found if len(found) == 2 and all(sweeps.steps_of(job) for job in found) else []

    killed, other = sweeps.wait_for(training, what=lambda: sweeps.private_logs(root))
    os.kill(json.loads(killed.attempt(1).provenance.read_text())["pid"], signal.SIGKILL)
    sweeps.wait_for(killed.attempt(1).failure.exists)
    done = bll("retry")
    assert done.returncode == 0, done.stderr
    assert "1 failed or damaged job to run again" in done.stdout
    assert "submitted 2 jobs (1 train, 1 evaluate)" in done.stdout
    assert not other.done.exists()  # its allocation, in which the other had failed, was at work all the time
    sweeps.completed(bll, slurm)
    assert (len(killed.attempts()), len(other.attempts())) == (2, 1)
