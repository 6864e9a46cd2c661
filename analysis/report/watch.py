"""Keeps a sweep's report up to date while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path

from analysis.report.page import RELOAD, Report, write_report
from analysis.sources.cells import find_sweep
from analysis.sources.table import Results, load
from analysis.statistics.continuum import Prior
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import is_done, read_json_if, write_text

EVERY_S = 30.0


def watch_report(
    root: Path,
    sweep: str | None,
    folder: Path,
    finished: Callable[[], bool],
    *,
    every_s: float = EVERY_S,
    prior: Prior = "clean",
    overlay: bool = True,
    wrote: Callable[[Report, Results], None] = lambda report, results: None,
    wait: Callable[[float], None] = time.sleep,
) -> Results:
    """Writes the report of a sweep's last launch into `folder`, and again whenever its records changed, looking every
    `every_s` seconds until finished() is true: nothing is left to run. The results that the last page shows.

    Meanwhile the page loads itself again as often; the last one does not, nor does the one that an interruption leaves.
    Figures are drawn at the end. wrote: called with each report that was written and what it shows.
    """
    seen: Hashable = None
    try:
        while True:
            ended = finished()  # asked before reading, so that the last records are on the last page
            now = store_state(root, sweep)
            if ended or now != seen:
                results = load(root, sweep)
                reload_s = 0 if ended else max(1, round(every_s))
                report = write_report(results, folder, prior, reload_s=reload_s, figures=ended, overlay=overlay)
                wrote(report, results)
                seen = now
            if ended:
                return results
            wait(every_s)
    except BaseException:
        stop_reloading(folder / "report.html")
        raise


def stop_reloading(page: Path) -> None:
    """Takes out of a page, if it is there, what makes the browser load it again."""
    if page.exists():
        text = page.read_text(encoding="utf-8")
        kept = RELOAD.sub("", text)
        if kept != text:
            write_text(page, kept)


def store_state(root: Path, sweep: str | None) -> Hashable:
    """What changes whenever a report of the sweep's last launch would: its launches, and of each job whether it is
    done, its attempts, how the last one ended, and its later scores. It reads no record.
    """
    files = find_sweep(Layout(root), sweep)
    launches = files.launches()
    manifest = read_json_if(files.manifest(launches[-1])) if launches else None
    jobs = sorted(job["id"] for job in manifest.get("jobs", ())) if isinstance(manifest, dict) else []
    return tuple(launches), tuple(_job_state(Layout(root).job(job)) for job in jobs)


def _job_state(job: JobFiles) -> Hashable:
    attempts = job.attempts()
    ends = (attempts[-1].failure, attempts[-1].interrupted, attempts[-1].provenance) if attempts else ()
    later = [(path.name, path.stat().st_mtime_ns) for path in job.later_scores()]
    return is_done(job), len(attempts), tuple(path.exists() for path in ends), tuple(later)
