"""A stand-in for a W&B server: what wandb 0.31 asks of one to log runs, media and artifacts, to resume them, to save
views and to read them back. Standard library alone; everything is in memory and open to a test.

    with WandbServer() as server:
        subprocess.run(..., env={**os.environ, **server.environment()})
        server.run("train-0123456789abcdef").rows()

    python -m tests.wandb_server    # prints its address, for a try by hand

It knows no GraphQL: a request is answered by the name of its operation, with all the fields that the client knows of.
A request for an operation that it does not know is an error that names it, and stays in `server.unknown`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

ENTITY = "group"
KEY = "0123456789abcdef" * 2 + "89abcdef"  # the one that it takes
HISTORY, EVENTS, SUMMARY = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json"
_CREATED = "2026-01-01T00:00:00Z"


@dataclass
class ServedRun:
    name: str
    number: int
    project: str
    display: str = ""
    config: dict[str, Any] = field(default_factory=dict)  # {key: {"value": ..}}
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    state: str = "running"
    exit_code: int | None = None
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)  # ids of those it logged

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{ENTITY}".encode()).decode()

    def rows(self) -> list[dict[str, Any]]:
        """Its history, in order."""
        return [json.loads(line) for line in self.streams.get(HISTORY, [])]

    def summary(self) -> dict[str, Any]:
        lines = self.streams.get(SUMMARY, [])
        return json.loads(lines[-1]) if lines else {}

    def values(self) -> dict[str, Any]:
        """Its config as the user gave it."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


@dataclass
class ServedArtifact:
    id: str
    sequence: str
    type: str
    digest: str
    run: str
    version: int
    metadata: str | None = None
    description: str | None = None
    aliases: list[str] = field(default_factory=list)
    state: str = "PENDING"
    manifest: str = ""  # key in storage
    client_id: str = ""


class WandbServer(ThreadingHTTPServer):
    """faults: called with (method, path, operation) before each answer; returns None, or an HTTP status to refuse with;
    it may sleep.
    """

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    request_queue_size = 256

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lock = threading.RLock()
        self.runs: dict[tuple[str, str], ServedRun] = {}
        self.artifacts: dict[str, ServedArtifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.storage: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()  # operations and routes
        self.begun: Counter[str] = Counter()  # how often a client began a run, by its name
        self.deleted: set[str] = set()  # ids of runs that somebody deleted: nobody gets them again
        self.entities: set[str] = set()  # in which runs were begun
        self.unknown: list[str] = []
        self.faults: Callable[[str, str, str], int | None] = lambda method, path, operation: None
        self.retry_after_s = 1  # what a client is told that was refused with 429
        self.numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """For a client of this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}

    def run(self, name: str, project: str = "bll-sweeps") -> ServedRun:
        return self.runs[project, name]

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    # --- files --------------------------------------------------------------------------------------------------------

    def uploads_to(self, key: str) -> str:
        return f"{self.url}/storage/{key}"

    def stream(self, project: str, name: str, body: dict[str, Any]) -> None:
        """A post of a run's streams: lines at their offsets, so that one sent twice is there once."""
        with self.lock:
            run = self.runs[project, name]
            for file, chunk in (body.get("files") or {}).items():
                lines = run.streams.setdefault(file, [])
                offset, content = chunk["offset"], chunk["content"]
                if offset > len(lines):
                    self.unknown.append(f"{name}: a gap in {file} before line {offset}")
                had = lines[offset : offset + len(content)]
                if file == HISTORY and had != content[: len(had)]:
                    self.unknown.append(f"{name}: other rows in the place of rows {offset} to {offset + len(had)}")
                lines[offset : offset + len(content)] = content
            if body.get("complete"):
                run.exit_code = body.get("exitcode")
                run.state = "finished" if not run.exit_code else "failed"

    # --- GraphQL ------------------------------------------------------------------------------------------------------

    def answer(self, operation: str, given: dict[str, Any], query: str) -> Any:
        method = getattr(self, f"_{operation}", None)
        if method is None:
            self.unknown.append(f"{operation} {json.dumps(given)[:300]}\n{query}")
            raise LookupError(operation)
        with self.lock:
            return method(given)

    def _Viewer(self, given: dict[str, Any]) -> Any:
        user = {"id": "VXNlcjox", "entity": ENTITY, "username": "tester", "name": "tester", "email": "", "flags": "{}"}
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {**user, "admin": False, "teams": teams, "apiKeys": {"edges": []}, "deletedAt": None,
                           "organizations": [], "defaultEntity": _entity()}}  # fmt: skip

    _viewer = _GetViewer = _Viewer

    def _ServerFeaturesQuery(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _GetDefaultEntity(self, given: dict[str, Any]) -> Any:
        return self._Viewer(given)

    def _UpsertBucket(self, given: dict[str, Any]) -> Any:
        project, name = given.get("project"), given.get("name")
        if name in self.deleted:
            raise PermissionError(f"run {name} was previously created and deleted; try a new run name")
        self.entities.add(str(given.get("entity") or ENTITY))
        run = next((run for run in self.runs.values() if given.get("id") and run.id == given["id"]), None)
        run = run or self.runs.get((str(project), str(name)))
        inserted = run is None
        if run is None:
            run = ServedRun(str(name), next(self.numbers), str(project))
            self.runs[run.project, run.name] = run
        if given.get("config"):
            run.config = json.loads(given["config"])
        for key, own in (("displayName", "display"), ("tags", "tags"), ("groupName", "group"), ("jobType", "job_type")):
            if given.get(key) is not None:
                setattr(run, own, given[key])
        if inserted:
            run.state = "running"
        entity = _entity(given.get("entity") or ENTITY)
        bucket = {**self._node(run), "project": {"id": "UHJvamVjdDox", "name": run.project, "entity": entity}}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> Any:
        self.begun[given["name"]] += 1
        run = self.runs.get((given["project"], given["name"]))
        if run is not None:
            run.state = "running"
        bucket = None
        if run is not None:
            tails = {name: [json.loads(line) for line in run.streams.get(file, [])[-1:]]
                     for name, file in (("historyTail", HISTORY), ("eventsTail", EVENTS))}  # fmt: skip
            ends = {name: json.dumps([json.dumps(line) for line in tail]) for name, tail in tails.items()}
            bucket = {**self._node(run), "wandbConfig": json.dumps({"t": 1}), **ends}
        return {"model": {"id": "UHJvamVjdDox", "name": given["project"], "entity": _entity(), "bucket": bucket}}

    def _node(self, run: ServedRun) -> dict[str, Any]:
        files = {"historyLineCount": HISTORY, "eventsLineCount": EVENTS, "logLineCount": "output.log"}
        count = {name: len(run.streams.get(file, [])) for name, file in files.items()}
        return {
            "id": run.id, "name": run.name, "displayName": run.display, "description": "", "notes": "",
            "sweepName": None, "state": run.state, "config": json.dumps(run.config), "group": run.group,
            "jobType": run.job_type, "commit": None, "readOnly": False, "createdAt": _CREATED, "heartbeatAt": _CREATED,
            "systemMetrics": "{}", "summaryMetrics": json.dumps(run.summary()), "tags": run.tags, "projectId": 1,
            "user": {"name": "tester", "username": "tester"}, "stopped": False, **count,
            "historyKeys": {"lastStep": count["historyLineCount"] - 1, "keys": {}},
        }  # fmt: skip

    def _Runs(self, given: dict[str, Any]) -> Any:
        wanted = _matching(json.loads(given.get("filters") or "{}"))
        runs = [run for (project, _), run in self.runs.items() if project == given["project"] and wanted(run)]
        if not any(project == given["project"] for project, _ in self.runs):
            return {"project": None}
        runs.sort(key=lambda run: run.number)
        start, size = int(given.get("cursor") or 0), int(given.get("perPage") or 50)
        page = runs[start : start + size]
        edges = [{"node": self._node(run), "cursor": str(start + i + 1)} for i, run in enumerate(page)]
        more = start + size < len(runs)
        info = {"endCursor": str(start + len(page)), "hasNextPage": more}
        listed = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": listed}}

    # --- views --------------------------------------------------------------------------------------------------------

    def _GetProjects(self, given: dict[str, Any]) -> Any:
        found = dict.fromkeys(project for project, _ in self.runs)
        edges = [{"node": {"id": name, "name": name, "entityName": ENTITY, "createdAt": _CREATED, "isBenchmark": False,
                           "user": None}, "cursor": name} for name in found]  # fmt: skip
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}

    def _ProjectViews(self, given: dict[str, Any]) -> Any:
        return self._views(given, "runs")

    def _DashboardView(self, given: dict[str, Any]) -> Any:
        return self._views(given, "project-view", given["name"])

    def _views(self, given: dict[str, Any], kind: str, name: str = "") -> Any:
        if not any(project == given["project"] for project, _ in self.runs):
            return {"project": None}
        mine = [
            view for view in self.views.values() if view["type"] == kind and view["project"]["name"] == given["project"]
        ]
        nodes = [view for view in mine if not name or view["name"] == name]
        edges = [{"node": view, "cursor": view["id"]} for view in nodes]
        return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    def _upsertView(self, given: dict[str, Any]) -> Any:
        identity = given.get("id") or base64.b64encode(f"View:{next(self.numbers)}".encode()).decode()
        inserted = identity not in self.views
        project = {"id": "UHJvamVjdDox", "name": given["projectName"], "entityName": given["entityName"]}
        told = {key: given.get(key) for key in ("name", "displayName", "type", "description", "spec")}
        self.views[identity] = {"id": identity, "project": project, "user": None, "updatedAt": _CREATED,
                                "createdAt": _CREATED, **told}  # fmt: skip
        return {"upsertView": {"view": self.views[identity], "inserted": inserted}}

    _UpsertView2 = _upsertView

    # --- media and artifacts ------------------------------------------------------------------------------------------

    def _CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": self.uploads_to(f"run/{given['project']}/{given['run']}/{name}")}
                 for name in given["files"]]  # fmt: skip
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: dict[str, Any]) -> Any:
        asked = given.get("input", given)
        name, digest = asked["artifactCollectionName"], asked["digest"]
        same = [a for a in self.artifacts.values() if a.sequence == name]
        found = next((a for a in same if a.digest == digest and a.state == "COMMITTED"), None)
        if found is None:
            identity = base64.b64encode(f"Artifact:{next(self.numbers)}".encode()).decode()
            found = ServedArtifact(identity, name, asked["artifactTypeName"], digest, asked.get("runName") or "",
                                   len([a for a in same if a.state == "COMMITTED"]))  # fmt: skip
            self.artifacts[identity] = found
        found.metadata, found.client_id = asked.get("metadata"), asked.get("clientID") or ""
        found.description = asked.get("description")
        found.aliases = sorted({"latest", *(a["alias"] for a in asked.get("aliases") or [])})
        for other in same:
            if other is not found:
                other.aliases = [alias for alias in other.aliases if alias not in found.aliases]
        run = self.runs.get((asked["projectName"], asked.get("runName") or ""))
        if run is not None and found.id not in run.artifacts:
            run.artifacts.append(found.id)
        latest = {"id": found.id, "versionIndex": found.version}
        sequence = {"id": name, "name": name, "latestArtifact": latest}
        return {"createArtifact": {"artifact": {**self._artifact(found), "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> Any:
        artifact = self.artifacts[given["artifactID"]]
        artifact.manifest = f"manifest/{artifact.id}"
        return {"createArtifactManifest": {"artifactManifest": self._manifest(artifact)}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> Any:
        artifact = self.artifacts[given["artifactManifestID"].removeprefix("manifest-")]
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(artifact)}}

    def _manifest(self, artifact: ServedArtifact) -> Any:
        url = self.uploads_to(artifact.manifest)
        file = {"id": f"file-{artifact.id}", "uploadUrl": url, "uploadHeaders": [], "directUrl": url,
                "name": "wandb_manifest.json", "display_name": "wandb_manifest.json"}  # fmt: skip
        return {"id": f"manifest-{artifact.id}", "file": file}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> Any:
        nodes = []
        for spec in given["input"]["artifactFiles"] if "input" in given else given["artifactFiles"]:
            key = f"artifact/{spec['artifactID']}/{spec['name']}"
            nodes.append({"node": {"id": key, "name": spec["name"], "displayName": spec["name"], "storagePath": key,
                                   "uploadUrl": self.uploads_to(key), "uploadHeaders": [], "uploadMultipartUrls": None,
                                   "artifact": {"id": spec["artifactID"]}}})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> Any:
        artifact = self.artifacts[given["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _ClientIDMapping(self, given: dict[str, Any]) -> Any:
        found = next((a.id for a in self.artifacts.values() if a.client_id == given["clientID"]), None)
        return {"clientIDMapping": {"serverID": found} if found else None}

    def _XXHashDigestsEnabled(self, given: dict[str, Any]) -> Any:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _FetchArtifactDigestAlgorithm(self, given: dict[str, Any]) -> Any:
        return {"project": {"artifactType": {"artifactCollection": None}}}

    def _ArtifactType(self, given: dict[str, Any]) -> Any:
        sequence = given["name"].partition(":")[0]
        found = next((a for a in self.artifacts.values() if a.sequence == sequence), None)
        return {"project": {"artifact": {"artifactType": {"name": found.type}} if found else None}}

    def _OrganizationCoreWeaveOrganizationID(self, given: dict[str, Any]) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _ArtifactMembershipByName(self, given: dict[str, Any]) -> Any:
        name, _, alias = given["name"].partition(":")
        found = self._named(name, alias or "latest")
        membership = None
        if found is not None:
            own = self._artifact(found, given["project"])
            membership = {
                "__typename": "ArtifactCollectionMembership", "id": f"member-{found.id}", "createdAt": _CREATED,
                "versionIndex": found.version, "aliases": own["aliases"], "artifact": own,
                "artifactCollection": _collection(found.sequence, given["project"]),
            }  # fmt: skip
        return {"project": {"artifactCollectionMembership": membership}}

    def _FetchArtifactManifest(self, given: dict[str, Any]) -> Any:
        return {"artifact": {"currentManifest": self._manifest(self.artifacts[given["id"]])}}

    def _GetArtifactMembershipFileUrls(self, given: dict[str, Any]) -> Any:
        found = self._named(given["collection"], given["alias"])
        assert found is not None
        prefix = f"artifact/{found.id}/"
        edges = [{"node": {"__typename": "File", "name": key.removeprefix(prefix), "directUrl": self.uploads_to(key)}}
                 for key in self.storage if key.startswith(prefix)]  # fmt: skip
        files = {"pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}, "edges": edges}
        own = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": own}}

    def _named(self, sequence: str, alias: str) -> ServedArtifact | None:
        return next((a for a in self.artifacts.values() if a.sequence == sequence and a.state == "COMMITTED"
                     and alias in (*a.aliases, f"v{a.version}")), None)  # fmt: skip

    def _artifact(self, artifact: ServedArtifact, project: str = "") -> dict[str, Any]:
        aliases = [{"__typename": "ArtifactAlias", "id": alias, "alias": alias, "artifactCollection": None}
                   for alias in artifact.aliases]  # fmt: skip
        return {
            "__typename": "Artifact", "id": artifact.id, "digest": artifact.digest, "state": artifact.state,
            "versionIndex": artifact.version, "metadata": artifact.metadata, "description": artifact.description,
            "aliases": aliases, "createdAt": _CREATED, "updatedAt": _CREATED, "size": 1, "fileCount": 1,
            "commitHash": artifact.digest, "artifactType": {"id": artifact.type, "name": artifact.type}, "tags": [],
            "historyStep": None, "currentManifest": self._manifest(artifact), "ttlDurationSeconds": -1,
            "ttlIsInherited": True, "digestAlgorithm": None,
            "artifactSequence": _collection(artifact.sequence, project),
        }  # fmt: skip


def _collection(name: str, project: str) -> dict[str, Any]:
    of = {"id": "UHJvamVjdDox", "internalId": "MQ==", "name": project, "entity": _entity()}
    return {"__typename": "ArtifactSequence", "id": name, "name": name, "project": of}


def _entity(name: str = ENTITY) -> dict[str, Any]:
    return {"id": "RW50aXR5OjE=", "name": name}


def _matching(filters: dict[str, Any]) -> Callable[[ServedRun], bool]:
    """Of W&B's filters those that this project uses; another one is an error."""
    read = {"name": lambda run: run.name, "state": lambda run: run.state, "tags": lambda run: run.tags,
            "jobType": lambda run: run.job_type, "group": lambda run: run.group}  # fmt: skip

    def holds(run: ServedRun, key: str, wanted: Any) -> bool:
        value = read[key](run)
        if isinstance(wanted, dict):
            ((operator, choices),) = wanted.items()
            assert operator == "$in", operator
            return bool(set(value if isinstance(value, list) else [value]) & set(choices))
        return wanted in value if isinstance(value, list) else value == wanted

    def test(run: ServedRun) -> bool:
        return all(all(_matching(part)(run) for part in wanted) if key == "$and" else holds(run, key, wanted)
                   for key, wanted in filters.items())  # fmt: skip

    return test


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        body = self._body()
        path = urlparse(self.path).path
        if path.endswith("/graphql"):
            self._graphql(json.loads(body))
        elif path.endswith("/file_stream"):
            _, _, _, project, run, _ = path.split("/")
            if not self._refused("POST", path, "file_stream"):
                self.server.stream(unquote(project), unquote(run), json.loads(body))
                self._json({"exitcode": None, "limits": {}})
        else:
            self._json({}, 404)

    def do_PUT(self) -> None:
        body = self._body()
        path = unquote(urlparse(self.path).path)
        if not self._refused("PUT", path, "upload"):
            self.server.storage[path.removeprefix("/storage/")] = body
            md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
            self._send(b"", 200, {"ETag": md5})

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if not self._refused("GET", path, "download"):
            data = self.server.storage.get(path.removeprefix("/storage/"))
            self._send(data or b"", 200 if data is not None else 404, {})

    def _graphql(self, request: dict[str, Any]) -> None:
        query, given = request["query"], request.get("variables") or {}
        named = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        operation = request.get("operationName") or (named[1] if named else "anonymous")
        if self._refused("POST", "/graphql", operation):
            return
        try:
            self._json({"data": self.server.answer(operation, given, query)})
        except PermissionError as error:
            self._json({"errors": [{"message": str(error)}]}, 409)
        except LookupError as error:
            self._json({"errors": [{"message": f"the stand-in does not know {error}"}]}, 400)

    def _refused(self, method: str, path: str, operation: str) -> bool:
        self.server.asked[operation] += 1
        status = self.server.faults(method, path, operation)
        if status is None and not self.path.startswith("/storage/"):
            given = self.headers.get("Authorization", "").removeprefix("Basic ").strip()
            known = base64.b64decode(given).decode(errors="replace").rpartition(":")[2]
            status = None if known == KEY else 401
        if status is not None:
            self._json({"errors": [{"message": f"no, says the stand-in ({status})"}]}, status)
        return status is not None

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        return body

    def _json(self, value: Any, status: int = 200) -> None:
        extra = {"Retry-After": str(self.server.retry_after_s)} if status == 429 else {}
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **extra})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # the client was killed
            self.close_connection = True


def main() -> None:
    with WandbServer() as server:
        print(json.dumps(server.environment()), flush=True)
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
