"""`bll pull`, against a stand-in server that `bll publish` filled."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tracked import SWEEP, assert_complete, call, record_of, records
from wandb_server import ENTITY, ServedArtifact, WandbServer

from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


def test_what_was_published_comes_back_as_the_same_records(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    other = tmp_path / "other"
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "7 jobs pulled, 0 here already, 0 not finished there"
    for record in records(store):
        pulled = read_record(Layout(other).job(record.job.id))
        assert pulled is not None
        assert pulled.attempt.record.read_bytes() == record.attempt.record.read_bytes()
        assert pulled.job.spec.read_text() != "" and json.loads(pulled.job.spec.read_text())["id"] == record.job.id
        for name in record.outputs:
            if not name.startswith("model/"):
                assert pulled.output(name).read_bytes() == record.output(name).read_bytes()
    for command in (["results"], ["results", "--csv"], ["status", "--json"]):
        mine, theirs = call(store, *command), call(other, *command)
        assert theirs.returncode == 0, theirs.stderr
        if command[0] == "results":
            assert theirs.stdout == mine.stdout
        else:
            assert {job["state"] for job in json.loads(theirs.stdout)["jobs"]} == {"done"}
    again = call(other, "pull", "bll-sweeps", env=server.environment())
    assert again.stdout.splitlines()[0] == "0 jobs pulled, 7 here already, 0 not finished there"
    assert Layout(other).sweep("smoke").launches() == [1]


def test_what_comes_to_a_job_later_is_published_and_pulled_later(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    assert call(store, "regrade", "--grader", "jaro_winkler").returncode == 0
    done = call(store, "publish", env=server.environment())
    assert done.stdout == f"3 jobs published, 4 there already, 0 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    evaluation = record_of(store, "evaluate")
    later = json.loads(evaluation.job.later_scores()[0].read_text())
    told = server.run(evaluation.job.id).summary()
    assert told[f"graders/{later['grader']}/sampled/mean"] == later["metrics"]["sampled"]["mean"]
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.stdout.splitlines()[0] == "3 jobs pulled, 4 here already, 0 not finished there"
    mine, theirs = call(store, "results", "--csv").stdout, call(other, "results", "--csv").stdout
    assert later["grader"] in mine and theirs == mine
    assert call(store, "launch", *SWEEP, "hydra.sweeper.name=again").returncode == 0
    assert call(store, "publish", "again", env=server.environment()).returncode == 0
    assert_complete(server, store)
    for expected in ("3 jobs pulled, 4 here already", "0 jobs pulled, 7 here already"):  # cells are with evaluations
        done = call(other, "pull", "bll-sweeps", env=server.environment())
        assert done.stdout.startswith(expected)
        assert set(Layout(other).sweeps()) == {"again", "smoke"}
    assert call(other, "results", "again").stdout == call(store, "results", "again").stdout


def test_scores_that_are_not_of_the_record_are_refused(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "regrade", "--grader", "jaro_winkler").returncode == 0
    record = record_of(store, "evaluate")
    summary = record.job.later_scores()[0]
    assert call(store, "publish", env=server.environment()).returncode == 0
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{record.job.id}")
    key = f"artifact/{artifact.id}/scores/{summary.name}"
    told = json.loads(server.storage[key]) | {"generations": "0" * 64}
    replaced(server, artifact, f"scores/{summary.name}", json.dumps(told).encode())
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{record.job.id}: the scores by {summary.stem} on the server" in done.stderr
    assert not Layout(tmp_path / "other").job(record.job.id).done.exists()


def test_a_damaged_record_on_the_server_is_named_and_the_rest_comes(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    job = record_of(store, "train").job.id
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{job}")
    key = f"artifact/{artifact.id}/metrics.jsonl"
    server.storage[key] = server.storage[key].replace(b"nll", b"nLl", 1)
    other = tmp_path / "other"
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{job}: " in done.stderr and "6 jobs pulled" in done.stdout
    assert not (Layout(other).job(job).done).exists()
    server.storage[key] = server.storage[key].replace(b"nLl", b"nll", 1)
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    assert call(other, "results").stdout == call(store, "results").stdout


def test_a_pull_leaves_a_sweep_of_the_same_name_alone(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    other = tmp_path / "other"
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    manifest = Layout(other).sweep("smoke").manifest(1)
    manifest.write_text(manifest.read_text().replace('"pull"', '"launch"'))  # as if it had been launched here
    for folder in (Layout(other).jobs).glob("evaluate-*"):
        shutil.rmtree(folder)
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 0, done.stderr
    assert Layout(other).sweeps() == ["smoke", "smoke-pulled"]
    assert Layout(other).sweep("smoke").launches() == [1]
    shown = call(other, "results", "smoke-pulled").stdout
    assert shown == call(store, "results").stdout.replace("sweep smoke,", "sweep smoke-pulled,")


def replaced(server: WandbServer, artifact: ServedArtifact, name: str, content: bytes) -> None:
    """A file of an artifact by another one, which the artifact's manifest vouches for."""
    server.storage[f"artifact/{artifact.id}/{name}"] = content
    manifest = json.loads(server.storage[artifact.manifest])
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    manifest["contents"][name] |= {"digest": digest, "size": len(content)}
    server.storage[artifact.manifest] = json.dumps(manifest).encode()


@pytest.mark.parametrize("name", ["checkpoints/step-00000010/state.json", "../../escaped.jsonl", "failure.json"])
def test_a_record_with_files_that_no_job_leaves_is_refused(
    name: str, store: Path, server: WandbServer, tmp_path: Path
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    job = record_of(store, "train").job.id
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{job}")
    key = f"artifact/{artifact.id}/record.json"
    record = json.loads(server.storage[key])
    record["outputs"][name] = record["outputs"]["metrics.jsonl"]
    replaced(server, artifact, "record.json", json.dumps(record).encode())
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{job}: the record names an output {name!r}, which no job leaves" in done.stderr
    assert not list(tmp_path.rglob("escaped.jsonl")) and not list((tmp_path / "other").rglob("checkpoints"))


def test_an_unknown_project_is_named(server: WandbServer, tmp_path: Path) -> None:
    done = call(tmp_path / "other", "pull", "nobodys", env=server.environment())
    assert done.returncode == 2 and "group/nobodys" in done.stderr


def test_a_sweep_that_nobody_published_is_no_empty_success(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    done = call(tmp_path / "other", "pull", "bll-sweeps", "--sweep", "smok", env=server.environment())
    assert done.returncode == 2 and "--sweep='smok'" in done.stderr and "sweep:smok" in done.stderr
