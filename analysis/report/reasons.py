"""Why the page has no number at a place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.sources.scrub import scrubbed
from analysis.sources.table import Results
from analysis.statistics.continuum import REFERENCE

_OF_PLACE = ("backbone", "domain", "benchmark", "variant")


class Reasons:
    """What the jobs of missing cells lack, by place and objective."""

    def __init__(self, results: Results):
        self._missing: dict[tuple[str, ...], str] = {}
        for row in results.missing.to_dict("records"):
            self._missing.setdefault(_key(row), scrubbed(row["why"]))
        self._done = {_key(row) for row in results.done.to_dict("records")}

    def of_score(self, row: Mapping[Any, Any]) -> str:
        """row: of `continuum.means` or of averages, without a score."""
        return self._lacks(row, row) or self._missing.get(_key(row)) or "no reason is known"

    def of_gain(self, row: Mapping[Any, Any]) -> str:
        """row: of `continuum.gains` or of averages, without a gain."""
        other = {**row, "objective": REFERENCE}
        told = self._lacks(row, row, other) or self._missing.get(_key(row)) or self._missing.get(_key(other))
        if told:
            return told
        if _key(other) in self._done:
            return f"its runs and those of {REFERENCE.upper()} share no seed, engine, grader or question"
        return f"there is no {REFERENCE.upper()} to compare with"

    def _lacks(self, average: Mapping[Any, Any], *sides: Mapping[Any, Any]) -> str:
        """Of an average: the benchmarks without a number, each with what is known of it."""
        lacking = average.get("lacking")
        if not (isinstance(lacking, str) and lacking):
            return ""
        told = []
        for name in lacking.split(", "):
            why = (self._missing.get(_key({**side, "benchmark": name})) for side in sides)
            told.append(" ".join(filter(None, [name, next((f"({text})" for text in why if text), "")])))
        return f"lacks {', '.join(told)}"


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in (*_OF_PLACE, "objective"))
