"""What the commands share: their options, exit codes, and the store and sweep that they are about."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.errors import JobsFailed, UsageError

if TYPE_CHECKING:
    from bll_sweeps.store.layout import Layout

DONE, FAILED, USAGE = 0, 1, 2
Run = Callable[[argparse.Namespace], int]


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def command(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(run=run)
    return sub


def on_root(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = command(commands, name, run, text)
    sub.add_argument("--root", type=Path, default=None, help="run root (default: $BLL_RUNS or ./runs)")
    return sub


def on_sweep(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = on_root(commands, name, run, text)
    sub.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    return sub


def on_job(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = on_root(commands, name, run, text)
    sub.add_argument("job", metavar="JOB", help="a job id, or its beginning")
    return sub


def root_of(args: argparse.Namespace) -> Path:
    return Path(args.root or os.environ.get("BLL_RUNS", "runs")).expanduser().absolute()


def layout_of(args: argparse.Namespace) -> Layout:
    from bll_sweeps.store.layout import Layout

    root = root_of(args)
    if not root.is_dir():
        raise UsageError(f"--root={root} is no folder: nothing has been launched there (set --root or $BLL_RUNS)")
    return Layout(root)


def sweep_of(args: argparse.Namespace, layout: Layout) -> str:
    from bll_sweeps.cluster.status import last_sweep

    return args.sweep or last_sweep(layout)


def ended(status: Any) -> int:
    if status.number("failed", "blocked", "damaged", "unsubmitted") or status.stuck:
        raise JobsFailed(status.verdict())
    return DONE


def with_problems(problems: Sequence[str]) -> int:
    """What is damaged, or did not get through, is no part of what was printed: said on stderr, and by the exit code."""
    for problem in problems:
        print(f"bll: {problem}", file=sys.stderr)
    return FAILED if problems else DONE
