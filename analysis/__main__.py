"""`python -m analysis --source runs --out DIR`: figures, tables and one self-contained HTML page of a sweep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bll_sweeps.errors import StoreError, UsageError


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 written (whatever the claims' verdicts), 1 a damaged manifest, 2 usage."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _run(options: argparse.Namespace) -> int:
    from analysis.sources.table import load
    from analysis.statistics.claims import check, claims_text

    if options.out is None and not options.claims:
        raise UsageError("--out=None is missing: name a folder for the report, or ask for --claims alone")
    results = load(options.source, options.sweep, options.launch, options.every_launch)
    if options.claims:
        print(claims_text(check(results, options.prior)), end="")
    if options.out is not None:
        from analysis.report.page import write_report

        print(f"wrote {write_report(results, options.out, options.prior)}")
    for problem in results.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("--source", type=Path, default=Path("runs"), help="run root (default: runs)")
    parser.add_argument("--out", type=Path, help="folder for report.html, figures/ and tables")
    parser.add_argument("--sweep", help="its name (default: the sweep launched last)")
    parser.add_argument("--launch", type=int, help="its launch (default: the last)")
    parser.add_argument("--every-launch", action="store_true", help="the cells of all its launches")
    parser.add_argument(
        "--prior",
        choices=("clean", "as_trained"),
        default="clean",
        help="which answers prior strength is measured on",
    )
    parser.add_argument("--claims", action="store_true", help="recompute the lab's claims and print them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
