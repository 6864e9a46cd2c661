"""`python -m analysis.advice --source RUNS --sweep lab-continuum --validate`: each setting left out in turn."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bll_sweeps.errors import StoreError, UsageError, one_of


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 printed, 1 a damaged manifest, 2 usage."""
    from analysis.advice.evidence import read_evidence
    from analysis.advice.text import validation_text
    from analysis.advice.validate import validate

    parser = argparse.ArgumentParser(prog="python -m analysis.advice", description=__doc__)
    parser.add_argument("--source", type=Path, default=Path("runs"), help="run root (default: runs)")
    parser.add_argument("--sweep", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--objective", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--validate", action="store_true", help="leave out one setting at a time")
    options = parser.parse_args(argv)
    try:
        evidence = read_evidence(options.source, sweeps=options.sweep)
        for name in options.objective:
            if name not in evidence.objectives:
                raise UsageError(f"objective={name!r} {one_of(evidence.objectives, name)}")
        print(validation_text(evidence, validate(evidence, options.objective)), end="")
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
