"""What became of each job of a sweep: state, host, duration, error, and the last log lines of what is not done.

Texts are cut to a bounded size, and what looks like a secret is taken out of them: logs hold whatever a job printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.sources.rows import KINDS
from analysis.sources.scrub import scrubbed
from analysis.sources.table import Results
from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import is_done, read_json

MOST_LOGS = 100  # jobs whose log is shown, of any one page
LOG_LINES, LINE_LENGTH, ERROR_LENGTH = 30, 300, 300
_TAIL_BYTES = 32 * 1024
COLUMNS = ["job", "kind", "cells", "state", "attempt", "attempts", "host", "started", "seconds", "error", "log"]
_AXES = ("objective", "backbone", "domain")
OF_KIND = {"pretrain": ("backbone",), "prior": ("backbone", "domain")}  # the axes that tell its jobs apart; else all
_FIRST = ("failed", "interrupted", "started")


def runs(results: Results) -> pd.DataFrame:
    """One row per job of the sweep's cells, failed ones first: COLUMNS, and `of`, the (objective, backbone, domain) of
    the cells that need it.

    state: done, failed, interrupted (its next attempt goes on), started (it has not said how it ended), not started.
    """
    layout = Layout(results.root)
    known = {str(row["job"]): row for row in results.provenance.to_dict("records")}
    rows: list[dict[str, Any]] = []
    logs = MOST_LOGS
    for kind in KINDS:
        for job, of in _jobs(results.cells, kind).items():
            row = _run(layout.job(job), known.get(job), logs)
            logs -= bool(row["log"])
            names = [" · ".join(one[_AXES.index(axis)] for axis in OF_KIND.get(kind, _AXES)) for one in of]
            rows.append({"job": job, "kind": kind, "cells": _listed(list(dict.fromkeys(names))), **row, "of": of})
    rows.sort(key=lambda row: _FIRST.index(row["state"]) if row["state"] in _FIRST else len(_FIRST))
    return pd.DataFrame(rows, columns=[*COLUMNS, "of"])


def _jobs(cells: pd.DataFrame, kind: str) -> dict[str, list[tuple[str, ...]]]:
    """Job -> (objective, backbone, domain) of the cells that need it."""
    out: dict[str, dict[tuple[str, ...], None]] = {}
    for job, *of in zip(cells[kind], *(cells[axis] for axis in _AXES), strict=True):
        if job:
            out.setdefault(str(job), {})[tuple(map(str, of))] = None
    return {job: list(of) for job, of in out.items()}


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _run(job: JobFiles, finished: Mapping[Any, Any] | None, logs: int) -> dict[str, Any]:
    attempts = job.attempts()
    row: dict[str, Any] = dict.fromkeys(("attempt", "host", "started", "error", "log"), "")
    row |= {"state": "not started", "attempts": len(attempts), "seconds": math.nan}
    if is_done(job):
        last = _finishing(job, attempts)
        row |= {"state": "done", "attempt": last.number if last else ""}
        return row | _told(finished or (_json(last.provenance) if last else {}))
    if not attempts:
        return row
    last = attempts[-1]
    row |= {"attempt": last.number, "state": "started"} | _told(_json(last.provenance))
    if last.failure.exists():
        data = _json(last.failure)
        message = next((str(data[key]) for key in ("message", "error", "reason") if data.get(key)), "no message")
        row |= {"state": "failed", "error": _cut(scrubbed(message), ERROR_LENGTH)}
        return row | {"log": _log(last, str(data.get("traceback") or "")) if logs > 0 else ""}
    if last.interrupted.exists():
        row |= {"state": "interrupted", "error": _cut(scrubbed(str(_json(last.interrupted).get("why", ""))), 200)}
    return row | {"log": _log(last, "") if logs > 0 else ""}


def _finishing(job: JobFiles, attempts: list[Attempt]) -> Attempt | None:
    """The attempt that DONE names; in a copy that followed links, the last one with a record."""
    if job.done.is_symlink():
        return Attempt(job.folder / job.done.readlink().parent)
    return next((attempt for attempt in reversed(attempts) if attempt.record.exists()), None)


def _told(provenance: Mapping[Any, Any]) -> dict[str, Any]:
    seconds = provenance.get("seconds")
    return {
        "host": str(provenance.get("host") or ""),
        "started": str(provenance.get("started_at") or ""),
        "seconds": float(seconds) if isinstance(seconds, int | float) else math.nan,
    }


def _json(path: Path) -> dict[str, Any]:
    """What is damaged or not there tells nothing; the problems list names damaged records."""
    try:
        data = read_json(path)
    except (StoreError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def _log(attempt: Attempt, traceback: str) -> str:
    """The last lines of the attempt's log, or of its traceback where there is no log."""
    path = attempt.log()
    try:
        with path.open("rb") as stream:
            start = max(0, path.stat().st_size - _TAIL_BYTES)
            stream.seek(start)
            text = stream.read(_TAIL_BYTES).decode(errors="replace")
        if start:  # half a line may be half a secret, which nothing would tell
            text = re.split(r"[\r\n]", f"{text}\n", maxsplit=1)[1]
    except OSError:
        text = ""
    return last_lines(text) or last_lines(traceback) or "(it left no log)"


# --- texts ----------------------------------------------------------------------------------------------------------

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def last_lines(text: str, lines: int = LOG_LINES, length: int = LINE_LENGTH) -> str:
    """The end of a log as a terminal would show it: no escape sequences, of a progress bar its last state; scrubbed,
    each line cut to `length` characters.
    """
    text = scrubbed(_ESCAPES.sub("", text.replace("\r\n", "\n")))
    shown = [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    return "\n".join(_cut(line, length) for line in [line for line in shown if line][-lines:])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
