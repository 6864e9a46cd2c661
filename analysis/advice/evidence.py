"""The evidence of a store: gains over NLL of all its sweeps whose label noise, variant and recipe agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.sources.cells import OUTDATED, settings_of
from analysis.sources.reading import PRIORS, Reader
from analysis.sources.table import Results, load
from analysis.statistics.benchmarks import PRIMARY, by_primary
from analysis.statistics.continuum import gains
from analysis.statistics.crossover import SETTING
from analysis.statistics.intervals import Interval, ratio_interval
from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.grid.axes import Recipe, canonical_json, identity
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_json

Noise = tuple[str, float]


@dataclass(frozen=True)
class Conditions:
    """What evidence has to agree on: kind and rate of the label noise, the recipe (its identity as JSON), and what else
    was set that its place does not tell (`domain.rows=50`).
    """

    noise: Noise
    recipe: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Gains over NLL, one row per setting, objective and benchmark average (columns of `continuum.gains`, and
    `sweep`), with decoding PRIMARY. left_out: what was not used and why. sweeps: those that were used. problems:
    damaged records, which count as missing.
    """

    table: pd.DataFrame
    left_out: list[str]
    sweeps: list[str]
    conditions: Conditions | None
    problems: list[str] = field(default_factory=list)

    @property
    def objectives(self) -> list[str]:
        """Those that some setting compares with NLL, in the order of the sweeps."""
        return list(dict.fromkeys(self.table.loc[self.table["n"] > 0, "objective"])) if len(self.table) else []

    def without(self, backbone: str, domain: str) -> pd.DataFrame:
        """The rows of the other settings."""
        return self.table[(self.table["backbone"] != backbone) | (self.table["domain"] != domain)]

    def at(self, backbone: str, domain: str, objective: str) -> dict[str, Any] | None:
        """The row of this very setting, if both objectives have been scored on it."""
        rows = self.table[
            (self.table["backbone"] == backbone)
            & (self.table["domain"] == domain)
            & (self.table["objective"] == objective)
            & (self.table["n"] > 0)
        ]
        return None if rows.empty else {str(key): value for key, value in rows.iloc[0].items()}

    def prior_at(self, backbone: str, domain: str) -> tuple[Interval, int] | None:
        """Prior strength of this setting as its rows have it, the mean over the backbones of its seeds, and how many
        seeds; None where it has none.
        """
        rows = self.table[
            (self.table["backbone"] == backbone) & (self.table["domain"] == domain) & self.table["prior"].notna()
        ]
        if rows.empty:
            return None
        row = rows.sort_values("seeds", ascending=False, kind="stable").iloc[0]
        units = int(row["prior_questions"] or row["prior_sequences"])
        low, high = float(row["prior_low"]), float(row["prior_high"])
        return Interval(float(row["prior"]), low, high, units), max(int(row["seeds"]), 1)


def conditions_of(noise: Noise, recipe: dict[str, Any], overrides: Sequence[str] = ()) -> Conditions:
    """noise: kind and rate. recipe: its fields, as a spec has them; its name does not count. overrides: of the cell."""
    return Conditions(_noise(*noise), _identity(recipe), _more(settings_of([*overrides])[0]))


def _more(settings: Sequence[str]) -> tuple[str, ...]:
    """Those that neither the label noise nor the recipe tells; seeds repeat a setting."""
    parts = {part for text in settings for part in text.split(", ")} - {""}
    told = ("noise ", "recipe=", "recipe.")
    return tuple(sorted(part for part in parts if not (part.startswith(told) or _SEED.match(part))))


def _noise(kind: str, rate: float) -> Noise:
    return ("none", 0.0) if kind == "none" or rate == 0 else (str(kind), float(rate))


def _identity(recipe: dict[str, Any]) -> str:
    return canonical_json(identity(Recipe(**recipe)))


def read_evidence(root: Path, conditions: Conditions | None = None, sweeps: Sequence[str] = ()) -> Evidence:
    """Gains of all sweeps of a store (or of those named) by the primary decoding of each benchmark, where label noise,
    variant and recipe agree: with `conditions`, or without them with what most settings have.

    A setting that several sweeps have counts once, with the most seeds. Raises UsageError for a sweep that is unknown.
    """
    layout = Layout(root)
    names = layout.sweeps()
    for name in sweeps:
        if name not in names:
            raise UsageError(f"sweep={name!r} {one_of(names, name)}")
    tables, left, read = [], dict[str, set[str]](), []
    loaded = [load(root, name, every_launch=True) for name in sorted(sweeps or names)]
    described = [_conditions_by_row(results, layout) for results in loaded]
    conditions = conditions or _most_common(described)
    for results, of_rows in zip(loaded, described, strict=True):
        used = _agreeing(results, of_rows, conditions, left)
        found = _primary(replace(results, cells=used)) if len(used) else used
        if len(found) and "gain" in found:
            read.append(results.sweep)
            tables.append(found.assign(sweep=results.sweep))
    table = _once(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame(columns=[*SETTING, *_NEEDED])
    problems = list(dict.fromkeys(text for results in loaded for text in results.problems))
    return Evidence(table, [f"{why}: {_names(at)}" for why, at in sorted(left.items())], read, conditions, problems)


def prior_strength(root: Path, job: str) -> Interval:
    """Of a finished prior job, on clean answers (paper, Eq. 5), resampled by training question. Raises StoreError."""
    reader = Reader(Layout(root))
    rows = reader.sequences(job)
    if rows is None:
        raise StoreError("; ".join(reader.problems) or f"{job} has no result in {root}")
    _, sums, tokens = next(names for names in PRIORS if names[0] == "clean")
    named = "question" in rows and bool(rows["question"].notna().all())
    units = rows["question"].tolist() if named else None
    return ratio_interval(rows[sums].to_numpy(dtype=float), rows[tokens].to_numpy(dtype=float), units=units)


_SEED = re.compile(r"[\w.]*\bseed=")
_NEEDED = ["objective", "decoding", "n", "prior", "gain", "gain_low", "gain_high", "task", "benchmark", "seeds"]


def _conditions_by_row(results: Results, layout: Layout) -> list[Conditions | None]:
    """Of each row of `cells`; None for base models, random weights, and where no spec tells the recipe."""
    cells = results.cells
    recipes = {job: _recipe(layout, str(job)) for job in dict.fromkeys(cells["train"])}
    rows = cells[["train", "noise_kind", "noise_rate", "variant"]].itertuples(index=False, name=None)
    out: list[Conditions | None] = []
    for job, kind, rate, variant in rows:
        recipe, more = recipes[job], _more([str(variant), *results.shared])
        out.append(Conditions(_noise(kind, rate), recipe, more) if recipe and kind else None)
    return out


def _recipe(layout: Layout, job: str) -> str | None:
    """Identity of a training's recipe."""
    if not job:
        return None
    try:
        told = read_json(layout.job(job).spec)["job"]
        return None if told["backbone"]["source"] == "random" else _identity(told["recipe"])
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None  # a damaged one is among `Results.problems`


def _most_common(described: list[list[Conditions | None]]) -> Conditions | None:
    """Of the trained cells, those left out that a later launch has otherwise; among equals what sets least."""
    counts: dict[Conditions, int] = {}
    for one in (one for rows in described for one in rows if one is not None):
        if not any(text.startswith(OUTDATED) for text in one.more):
            counts[one] = counts.get(one, 0) + 1
    return min(counts, key=lambda one: (-counts[one], len(one.more), str(one)), default=None)


def _agreeing(
    results: Results, of_rows: list[Conditions | None], wanted: Conditions | None, left: dict[str, set[str]]
) -> pd.DataFrame:
    """The trained rows that agree with what is wanted; the places of others go into `left`, by reason."""
    keep = []
    for row, own in zip(results.cells.to_dict("records"), of_rows, strict=True):
        why = _why_not(row, own, wanted)
        keep.append(bool(row["train"]) and not why)
        if row["train"] and why:
            left.setdefault(why, set()).add(f"{row['backbone']} x {row['domain']}")
    return results.cells[keep]


def _why_not(row: dict[Any, Any], own: Conditions | None, wanted: Conditions | None) -> str:
    if own is None or wanted is None:
        return "never launched, random weights, or without a readable spec"
    if own.noise != wanted.noise:
        return f"another label noise ({own.noise[0]} {own.noise[1]:g})"
    if own.recipe != wanted.recipe:
        return f"another recipe ({row['recipe']})"
    return "" if own.more == wanted.more else f"another variant ({', '.join(own.more) or 'as configured'})"


def _primary(results: Results) -> pd.DataFrame:
    """Gains by the primary decodings, whatever else was set."""
    return by_primary(gains(results).assign(variant=""), results.cells).assign(decoding=PRIMARY)


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Each setting and objective once: the row with the most seeds, then questions."""
    best = table.sort_values(["seeds", "n"], ascending=False, kind="stable")
    return best.drop_duplicates([*SETTING, "objective"]).sort_index().reset_index(drop=True)


def _names(places: set[str], most: int = 4) -> str:
    some = ", ".join(sorted(places)[:most])
    return some if len(places) <= most else f"{some} and {len(places) - most} more"
