"""The test clusters do what tests rely on, and SLURM words its limits and outages as the product reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import NODES, Slurm, SlurmError, require_slurm

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def small(slurm_with: Callable[..., Slurm]) -> Slurm:
    return slurm_with(MaxArraySize=8, accounting=False)


def states(slurm: Slurm, job: str) -> set[str]:
    return set(slurm.states(job).values())


def test_children_start_with_their_own_element_and_end_with_it(slurm: Slurm) -> None:
    parents = slurm.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    children = slurm.submit("true", "--array=0-1", f"--dependency=aftercorr:{parents}", "--kill-on-invalid-dep=yes")
    slurm.wait(lambda: states(slurm, children) == {"COMPLETED", "CANCELLED"})
    assert slurm.states(parents) == {f"{parents}_0": "COMPLETED", f"{parents}_1": "FAILED"}
    assert slurm.states(children) == {f"{children}_0": "COMPLETED", f"{children}_1": "CANCELLED"}
    assert slurm.job(f"{children}_1")["reason"] == "DependencyNeverSatisfied"


def test_elements_of_a_held_array_take_dependencies_one_by_one(slurm: Slurm) -> None:
    parents = slurm.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1", "--hold")
    children = slurm.submit("true", "--array=0-2", "--hold", "--kill-on-invalid-dep=yes")
    lines = [f"update jobid={children}_{task} dependency=afterok:{parents}_{task}" for task in range(2)]
    slurm.run("scontrol", text="\n".join(lines))
    assert slurm.job(f"{children}_1")["dependency"] == f"afterok:{parents}_1(unfulfilled)"
    slurm.scontrol("release", children, parents)
    slurm.wait(lambda: "PENDING" not in states(slurm, children) | states(slurm, parents))
    slurm.wait(lambda: sorted(slurm.states(children).values()) == ["CANCELLED", "COMPLETED", "COMPLETED"])
    assert slurm.states(children)[f"{children}_1"] == "CANCELLED"


def test_a_requeued_job_waits_and_can_be_started_at_once(slurm: Slurm) -> None:
    job = slurm.submit("sleep 100", "--array=3")
    element = f"{job}_3"
    slurm.wait(lambda: slurm.pids_of(element))
    slurm.requeue(element)
    slurm.wait(lambda: slurm.job(element)["reason"] == "BeginTime")
    assert slurm.pids_of(element) == []
    assert slurm.start_requeued() == [element]
    slurm.wait(lambda: slurm.job(element)["state"] == "RUNNING", seconds=4)
    slurm.cancel_everything()
    assert states(slurm, job) == {"CANCELLED"}


def test_jobs_of_a_node_declared_down_are_requeued(slurm: Slurm) -> None:
    job = slurm.submit("sleep 100", "--nodelist=c1")
    slurm.wait(lambda: states(slurm, job) == {"RUNNING"})
    slurm.down("c1")
    slurm.wait(lambda: states(slurm, job) == {"PENDING"})
    slurm.resume("c1")
    slurm.wait(slurm.start_requeued)
    slurm.wait(lambda: states(slurm, job) == {"RUNNING"})
    slurm.scancel(job)
    slurm.wait(lambda: not slurm.active())


def test_a_killed_node_takes_its_jobs_with_it_and_comes_back(slurm: Slurm) -> None:
    once = slurm.submit("sleep 100", "--nodelist=g2", "--no-requeue")
    again = slurm.submit("sleep 100", "--nodelist=g2")
    elsewhere = slurm.submit("sleep 100", "--nodelist=g1")
    slurm.wait(lambda: all(slurm.pids_of(job) for job in (once, again, elsewhere)))
    slurm.kill_node("g2")
    assert slurm.pids_of(once) == slurm.pids_of(again) == []
    assert slurm.pids_of(elsewhere)
    assert states(slurm, again) == {"RUNNING"}  # as far as SLURM knows yet
    slurm.resume("g2")
    assert states(slurm, once) == {"NODE_FAIL"}
    slurm.wait(slurm.start_requeued)
    slurm.wait(lambda: slurm.pids_of(again))
    slurm.cancel_everything()


def test_preemption_signals_a_job_and_then_requeues_it(slurm: Slurm, tmp_path: Path) -> None:
    trap = f"trap 'touch {tmp_path}/signalled' USR2; touch {tmp_path}/ready; while true; do sleep 0.1; done"
    job = slurm.submit(trap, "--partition=preemptible", "--nodelist=g1", "--signal=B:USR2@5")
    slurm.wait((tmp_path / "ready").exists)
    with slurm.preempt("g1"):
        slurm.wait((tmp_path / "signalled").exists)
        assert states(slurm, job) == {"RUNNING"}
        slurm.wait(lambda: states(slurm, job) == {"PENDING"})
    slurm.scancel(job)
    slurm.wait(lambda: not slurm.active())


def test_jobs_outlive_an_outage_of_the_controller(slurm: Slurm) -> None:
    queued, running = slurm.submit("true", "--hold"), slurm.submit("sleep 100")
    slurm.wait(lambda: slurm.pids_of(running))
    with slurm.without("slurmctld"), pytest.raises(SlurmError, match="is DOWN"):
        slurm.scontrol("ping")
    assert slurm.states(queued, running) == {queued: "PENDING", running: "RUNNING"}
    slurm.kill("slurmctld")
    slurm.start("slurmctld")
    assert slurm.states(queued, running) == {queued: "PENDING", running: "RUNNING"}
    slurm.cancel_everything()


def test_without_slurmdbd_only_accounting_fails(slurm: Slurm) -> None:
    slurm.kill("slurmdbd")
    job = slurm.submit("true")
    with pytest.raises(SlurmError, match="Connection refused"):
        slurm.sacct()
    slurm.wait(lambda: states(slurm, job) == {"COMPLETED"})
    slurm.start("slurmdbd")
    slurm.wait(lambda: "COMPLETED" in slurm.sacct("--jobs", job))


@pytest.mark.parametrize(("of", "named"), [("user", "AssocMaxSubmitJobLimit"), ("qos", "QOSMaxSubmitJobPerUserLimit")])
def test_a_submit_limit_refuses_an_array_that_is_too_large(slurm: Slurm, of: str, named: str) -> None:
    with slurm.submit_limit(3, of=of):
        with pytest.raises(SlurmError, match=rf"{named}\n.*Job violates accounting/QOS policy \(job submit limit"):
            slurm.submit("true", "--array=0-3")
        fits = slurm.submit("true", "--array=0-2", "--hold")
        with pytest.raises(SlurmError, match=named):
            slurm.submit("true")
        slurm.scancel(fits)
    slurm.scancel(slurm.submit("true", "--array=0-3", "--hold"))


def test_max_array_size_refuses_an_index_that_is_too_large(small: Slurm) -> None:
    with pytest.raises(SlurmError, match="Invalid job array specification"):
        small.submit("true", "--array=0-8")
    small.scancel(small.submit("true", "--array=0-7", "--hold"))


def test_a_cluster_without_accounting_has_no_sacct(small: Slurm) -> None:
    with pytest.raises(SlurmError, match="accounting storage is disabled"):
        small.sacct()
    job = small.submit("true")
    small.wait(lambda: states(small, job) == {"COMPLETED"})


def test_clusters_side_by_side_do_not_see_each_other(slurm: Slurm, small: Slurm) -> None:
    ours, theirs = slurm.submit("sleep 100"), small.submit("sleep 100")
    slurm.wait(lambda: slurm.pids_of(ours) and small.pids_of(theirs))
    assert not set(slurm.pids_of(ours)) & set(small.pids_of(theirs))
    small.cancel_everything()
    assert states(slurm, ours) == {"RUNNING"}
    slurm.cancel_everything()


def test_everything_killed_comes_up_again(small: Slurm) -> None:
    job = small.submit("sleep 100", "--nodelist=c1")
    small.wait(lambda: small.pids_of(job))
    for name in ("slurmctld", "munged", *NODES):
        small.kill(name)
    small.up()
    assert not small.pids_of(job)
    small.cancel_everything()
    assert small.squeue("--noheader") == ""


def test_a_test_process_that_dies_leaves_no_cluster_behind() -> None:
    script = """
import os
from slurm_cluster import cluster
with cluster(accounting=False) as slurm:
    print(slurm.folder, flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, stdout=subprocess.PIPE, text=True, timeout=60)
    folder = Path(done.stdout.strip())
    assert folder.name.startswith("bll-slurm.")
    end = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_missing_slurm_is_a_skip_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("BLL_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="SLURM is not installed"):
        require_slurm()
    monkeypatch.setenv("BLL_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="SLURM is not installed"):
        require_slurm()
