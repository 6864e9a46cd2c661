"""Numbers as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Two significant digits or so: `4.2 s`, `25 s`, `3.1 min`, `12 min`, `3.4 h`, `120 h`."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 90 * 60)):
        if seconds < until:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 3600)} h"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a number above 1: `1.2 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{_short(count)} {unit}"
        count /= 1024
    return f"{_short(count)} TiB"


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 and number != int(number) else f"{number:.0f}"
