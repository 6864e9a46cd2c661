"""`bll`: the command line. Translates and delegates; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from bll_sweeps.cli import analysing, launching, looking, publishing
from bll_sweeps.cli.options import FAILED, USAGE
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.errors import JobsFailed, StoreError, UsageError


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done (or submitted), 1 jobs failed, 2 usage."""
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        code = _complain(error, USAGE)
    except SchedulerUnavailable as error:
        code = _complain(f"SLURM does not answer ({error}): nothing is lost, try again when it does", FAILED)
    except BrokenPipeError:  # `bll status | head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + signal.SIGPIPE
    except (JobsFailed, StoreError, OSError) as error:
        code = _complain(error, FAILED)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def run(arguments: list[str]) -> int:
    parser = _parser()
    known, overrides = parser.parse_known_args(arguments)
    if known.command in ("launch", "plan", "fetch", "advise"):
        misplaced = [text for text in overrides if text.startswith("-")]
        if misplaced:
            hint = ": the run root is paths.root=FOLDER" if misplaced[0].startswith("--root") else ""
            raise UsageError(
                f"{misplaced[0]} is no option of `bll {known.command}`; overrides are written key=value{hint}"
            )
        known.overrides = known.overrides + overrides
    elif overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    return known.run(known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bll",
        description="Sweeps of fine-tuning objectives f(p) over backbones and benchmarks, "
        "placed on the model-capability continuum.",
        epilog="First steps: `bll plan sweep=lab`, `bll launch sweep=lab`, `bll report lab`. "
        "Exit codes: 0 done, 1 jobs failed, 2 usage.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (launching, looking, analysing, publishing):
        module.add(commands)
    return parser


def _complain(error: Exception | str, code: int) -> int:
    print(f"bll: {error}", file=sys.stderr)
    return code
