"""A sweep's progress for a person: a live table on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from bll_sweeps.cluster.status import SHOWN, JobStatus, SweepStatus
from bll_sweeps.cluster.words import duration, plural

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType

PLAIN_EVERY_S = 10.0
_COLOUR = {
    "done": "green",
    "running": "cyan",
    "pending": "default",
    "unsubmitted": "yellow",
    "failed": "red",
    "blocked": "yellow",
    "damaged": "magenta",
}


class Progress:
    """`show(status, workers)` as often as wanted; `close(status, workers)` once at the end."""

    def __init__(self, title: str, name_of: Callable[[str], str]):
        self._title, self._name_of = title, name_of
        self._plain_at = 0.0
        self._plain_last = ""
        self._live = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=4, transient=True)
            self._live.start()

    def show(self, status: SweepStatus, workers: int) -> None:
        if self._live is not None:
            self._live.update(self._table(status, workers))
            return
        text = self._line(status, workers)
        now = time.monotonic()
        if text != self._plain_last and now - self._plain_at >= PLAIN_EVERY_S:
            print(text, flush=True)
            self._plain_at, self._plain_last = now, text

    def close(self, status: SweepStatus, workers: int) -> None:
        if self._live is not None:
            self._live.stop()
        if (text := self._line(status, workers)) != self._plain_last:
            print(text, flush=True)

    def _line(self, status: SweepStatus, workers: int) -> str:
        parts = [f"{self._title}: {headline(status, workers)}"]
        running = [f"{self._name_of(job.id)} {job.detail}" for job in status.jobs if job.state == "running"]
        return " | ".join(parts + running[:4])

    def _table(self, status: SweepStatus, workers: int) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2))
        table.add_column("")
        for column in ("done", "running", "pending", "failed", "blocked"):
            table.add_column(column, justify="right")
        for kind, counts in status.counts.items():
            table.add_row(
                kind,
                f"{counts['done']}/{counts['total']}",
                *(str(counts[s] or "") for s in ("running", "pending", "failed", "blocked")),
            )
        lines: list[RenderableType] = [Text(f"{self._title}: {headline(status, workers)}", style="bold"), table]
        for job in [job for job in status.jobs if job.state == "running"][:8]:
            lines.append(Text(f"  {self._name_of(job.id)}  {job.detail}", style="cyan"))
        return Group(*lines)


def headline(status: SweepStatus, workers: int) -> str:
    """`63/93 jobs done, 2 failed, about 1 min 20 s to go`."""
    text = f"{status.number('done')}/{len(status.jobs)} jobs done"
    for state in ("failed", "blocked", "damaged", "unsubmitted"):
        if status.number(state):
            text += f", {status.number(state)} {state}"
    if status.refused:
        text += f"; SLURM takes no more for now ({status.refused})"
    if status.problem:
        text += f"; SLURM does not answer ({status.problem})"
    eta = status.eta_s(workers)
    if eta and not status.finished:
        text += f", about {duration(eta)} to go"
    return text


def print_status(status: SweepStatus, name_of: Callable[[str], str], console: Console | None = None) -> None:
    """What `bll status` prints: counts by kind, what waits in the queue for what, then single jobs: what is wrong."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console(highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{escape(status.sweep)}[/] launch {status.launch} of {status.created_at}: "
        f"{plural(status.cells, 'cell')}, {headline(status, 0)}"
    )
    table = Table(box=None, padding=(0, 1))
    table.add_column("kind", no_wrap=True, min_width=8)
    for state in (*SHOWN, "total"):
        table.add_column(state, justify="right", no_wrap=True, min_width=len(state))
    for kind, counts in status.counts.items():
        table.add_row(
            kind,
            *(f"[{_COLOUR[s]}]{counts[s]}[/]" if counts[s] else "-" for s in SHOWN),
            str(counts["total"]),
        )
    console.print(table)
    for (kind, why), number in waiting(status).items():
        console.print(f"pending {number} {kind}: {escape(why)}")
    for state in ("running", "unsubmitted", "failed", "damaged", "blocked"):
        for job in _some([job for job in status.jobs if job.state == state]):
            why = f": {escape(job.detail)}" if job.detail else ""
            console.print(f"[{_COLOUR[state]}]{state}[/] {job.id} ({escape(name_of(job.id))}){why}")


def waiting(status: SweepStatus) -> Counter[tuple[str, str]]:
    """How many jobs of each kind wait in SLURM's queue for what (its reason)."""
    return Counter((job.kind, job.detail) for job in status.jobs if job.state == "pending" and job.detail)


def _some(jobs: list[JobStatus], most: int = 20) -> list[JobStatus]:
    if len(jobs) <= most:
        return jobs
    rest = JobStatus("...", jobs[0].kind, jobs[0].state, f"and {len(jobs) - most} more; --json lists all")
    return [*jobs[:most], rest]
