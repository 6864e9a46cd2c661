"""The README's tables of heads and of padding, made from what the benchmarks recorded as JSON.

python -m bench.readme [--check]      --check: exit with 1 if the README has others
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by python -m bench.readme -->\n", "<!-- end of what it makes -->\n"
HEADS = {
    "own": "ours",
    "own, kept": "ours, 40 % of the tokens kept",
    "naive": "plain",
    "torch": "torch's linear_cross_entropy",
    "liger": "Liger",
    "cut_cross_entropy": "cut-cross-entropy",
    "checkpointed": "chunks under checkpointing, as TRL's chunked_nll",
}
WAYS = {
    "max_length": "padded to max_length",
    "longest": "padded to the longest row of a micro-batch",
    "longest, checkpointed": "the same, chunks under checkpointing, as TRL trains",
    "packed": "packed",
    "packed, naive": "packed, plain head",
    "packed, torch": "packed, torch's linear_cross_entropy",
    "packed, liger": "packed, Liger",
    "packed, cut_cross_entropy": "packed, cut-cross-entropy",
}


def heads(told: dict[str, Any]) -> Iterator[str]:
    """Time and peak memory of a loss and its gradient, as shares of the plain way's."""
    shapes = [f"N={s['N']:,} D={s['D']:,} V={s['V']:,} {s['dtype']}" for s in told["shapes"]]
    found = [{row["head"]: row for row in shape["rows"]} for shape in told["shapes"]]
    yield f"| loss and gradient on {told['device']}: time, peak memory (plain = 1) | {' | '.join(shapes)} |"
    yield f"|{'---|' * (1 + len(shapes))}"
    for head, name in HEADS.items():
        if any(head in rows for rows in found):
            cells = [
                f"{rows[head]['time/naive']:.2f}, {rows[head]['peak/naive']:.2f}"
                if "time/naive" in rows.get(head, {})
                else ""
                for rows in found
            ]
            yield f"| {name} | {' | '.join(cells)} |"


def padding(told: dict[str, Any]) -> Iterator[str]:
    """Tokens per second of each way, as a multiple of the first, and the share of padding."""
    data = told["data"]
    names = [f"{name}: {of['mean_length']:.0f} of {of['padded_to']} tokens" for name, of in data.items()]
    yield f"| training on {told['device']}: times the speed, share of padding | {' | '.join(names)} |"
    yield f"|{'---|' * (1 + len(names))}"
    for way, name in WAYS.items():
        cells = [_speed(of[way]) if way in of else "" for of in data.values()]
        if any(cells):
            yield f"| {name} | {' | '.join(cells)} |"


def _speed(of: dict[str, float]) -> str:
    return f"{of['times_max_length']:.2f}, {of['padding']:.2f}" if "times_max_length" in of else ""


def block() -> str:
    parts = []
    for pattern, lines in (("objectives-*.json", heads), ("training-*.json", padding)):
        parts += ["\n".join(lines(json.loads(path.read_text()))) for path in sorted(RESULTS.glob(pattern))]
    return f"{BEGIN}\n" + "\n\n".join(parts) + f"\n\n{END}"


def rewritten(readme: str) -> str:
    if (readme.count(BEGIN), readme.count(END)) != (1, 1):
        raise SystemExit(f"README.md must have the lines {BEGIN.strip()} and {END.strip()} once each")
    before, _, rest = readme.partition(BEGIN)
    return before + block() + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    now, made = README.read_text(), rewritten(README.read_text())
    if check and now != made:
        raise SystemExit("README.md has other tables than bench/results/*.json: python -m bench.readme")
    if not check:
        README.write_text(made)


if __name__ == "__main__":
    main()
