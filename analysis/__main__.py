"""`python -m analysis --source runs --out DIR`: figures, tables and one self-contained HTML page of a sweep.

`python -m analysis --source paper --out DIR`: the paper's reported numbers as tables and figures, and whether they
agree with each other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bll_sweeps.errors import StoreError, UsageError

PAPER = "paper"


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 written (whatever it says, and where there is nothing yet), 1 a damaged manifest, 2 usage."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _run(options: argparse.Namespace) -> int:
    if options.source == PAPER:
        return _paper(options)
    options.source = Path(options.source)
    from analysis.sources.empty import is_empty, nothing
    from analysis.sources.table import load
    from analysis.statistics.claims import check
    from analysis.tables.claims import claims_text

    if options.numbers is not None:
        raise UsageError(f"--numbers={options.numbers} goes with --source {PAPER}")
    if options.out is None and not options.claims:
        raise UsageError("--out=None is missing: name a folder for the report, or ask for --claims alone")
    if options.sweep is None and options.launch is None and is_empty(options.source):
        results = nothing(options.source)
        print(f"{options.source} holds no sweep yet; `bll launch sweep=lab` runs one", file=sys.stderr)
    else:
        results = load(options.source, options.sweep, options.launch, options.every_launch)
    if options.claims:
        print(claims_text(check(results, options.prior or "clean")), end="")
    if options.out is not None:
        from analysis.report.page import write_report

        report = write_report(results, options.out, options.prior or "clean", overlay=options.overlay is not False)
        print(f"wrote {report.page}")
        print(report.compared, end="")
    for problem in results.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def _paper(options: argparse.Namespace) -> int:
    from analysis.paper.write import write_paper

    given = {"--sweep": options.sweep, "--launch": options.launch, "--claims": options.claims or None}
    given |= {"--every-launch": options.every_launch or None, "--prior": options.prior, "--overlay": options.overlay}
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name}={value} is of sweeps; --source {PAPER} has none (a run root of that name: ./{PAPER})"
            )
    if options.out is None:
        raise UsageError("--out=None is missing: name a folder for the tables and figures")
    print(write_paper(options.out, options.numbers), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    source = f"run root (default: runs), or {PAPER}: the numbers that the paper reports"
    parser.add_argument("--source", default="runs", help=source)
    parser.add_argument("--out", type=Path, help="folder for report.html, figures/ and tables")
    parser.add_argument("--numbers", type=Path, help=f"--source {PAPER}: another CSV in the format of the shipped one")
    overlay = "draw the paper's numbers into the figures, where cells can be compared (default: yes)"
    parser.add_argument("--overlay", action=argparse.BooleanOptionalAction, help=overlay)
    parser.add_argument("--sweep", help="its name (default: the sweep launched last)")
    launches = parser.add_mutually_exclusive_group()
    launches.add_argument("--launch", type=int, help="its launch (default: the last)")
    launches.add_argument("--every-launch", action="store_true", help="the cells of all its launches")
    which = "which answers prior strength is measured on (default: clean)"
    parser.add_argument("--prior", choices=("clean", "as_trained"), help=which)
    parser.add_argument("--claims", action="store_true", help="recompute the lab's claims and print them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
