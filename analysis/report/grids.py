"""The page's tables: those that its script sorts, filters and pages, small plain ones, and heat maps.

Every text is escaped here, or put into the page as text by the script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.figures.style import MARKERS, colours, in_order, natural
from analysis.report.charts import n_text
from analysis.report.reasons import Reasons
from analysis.report.vega import AXES, css_colour, shapes
from analysis.tables.results import number, with_interval

# A place in the filters: what a row is of, by axis; several (objective, backbone, domain) where it is of several cells.
Of = Mapping[Any, Any] | Sequence[tuple[str, ...]]


class Facets:
    """The values of the filters, and the number of each."""

    def __init__(self, cells: pd.DataFrame) -> None:
        self.values = {axis: list(dict.fromkeys(map(str, cells[axis]))) for axis in AXES}
        self.values["objective"] = in_order(self.values["objective"])
        self._index = {axis: {name: i for i, name in enumerate(names)} for axis, names in self.values.items()}

    def places(self, of: Of) -> list[list[int]]:
        """[objective, backbone, domain] numbers; -1 where a row is of all values of that axis."""
        if isinstance(of, Mapping):
            return [[self._index[axis].get(str(of.get(axis)), -1) for axis in AXES]]
        return [[self._index[axis].get(value, -1) for axis, value in zip(AXES, one, strict=True)] for one in of]


_SYMBOLS = dict(zip(MARKERS.values(), "●■▲◆▼✚◀▶✖⬟", strict=True))


def sign(axis: str, name: str, facets: Facets) -> str:
    """The colour of an objective or the mark of a backbone, as the charts have them; '' for a domain."""
    if axis == "objective":
        colour = css_colour(colours(facets.values[axis])[name])
        return f"<i class=swatch style='background:{colour}'></i>"
    return f"<i class=symbol>{_SYMBOLS[shapes(facets.values[axis])[name]]}</i>" if axis == "backbone" else ""


def legend(objectives: Iterable[str], backbones: Iterable[str], formulas: Mapping[str, str], facets: Facets) -> str:
    """What the colours and marks of a chart stand for."""
    entries = [("objective", name, formulas.get(name, "")) for name in in_order(objectives)]
    entries += [("backbone", name, "") for name in sorted(set(backbones), key=natural)]
    spans = [
        f"<span data-{axis}='{escape(name)}'>{sign(axis, name, facets)}{escape(name)}"
        f"{f' <small>{escape(formula)}</small>' if formula else ''}</span>"
        for axis, name, formula in entries
    ]
    return f"<p class=legend>{''.join(spans)}</p>"


def json_script(key: str, value: Any) -> str:
    """Data for the page's script. Inside a script element only "<" can end it or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"<script type='application/json' id='{key}'>{text}</script>"


def data_table(key: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], of: Iterable[Of], facets: Facets) -> str:
    """A table that the page's script draws. A cell is a text or number; (text, key) sorts by its key, and (text, key,
    tip) tells the tip on hover. A column `variant` without any is left out.
    """
    plain = [[_cell(cell) for cell in row] for row in rows]
    if not plain:
        return "<p>None.</p>"
    kept = [i for i, head in enumerate(heads) if head != "variant" or any(row[i] for row in plain)]
    data = {
        "heads": [heads[i] for i in kept],
        "rows": [[row[i] for i in kept] for row in plain],
        "of": [facets.places(one) for one in of],
    }
    return f"<div class=data id='table-{key}' data-key='{key}'></div>" + json_script(f"data-{key}", data)


def _cell(cell: Any) -> Any:
    if isinstance(cell, tuple):
        text, sort, *tip = cell
        return [str(text), None if isinstance(sort, float) and not math.isfinite(sort) else _scalar(sort), *tip]
    return _scalar(cell)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ""
    return value.item() if hasattr(value, "item") else value


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table of texts."""
    head = "".join(f"<th scope=col>{escape(h)}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(_td(str(cell)) for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _td(text: str) -> str:
    return f"<td{' class=long' if len(text) > 60 else ''}>{escape(text)}</td>"


# --- heat maps ------------------------------------------------------------------------------------------------------

_CIVIDIS = ((0, 32, 76), (58, 76, 109), (124, 123, 120), (186, 174, 108), (255, 233, 69))


def heat_maps(means: pd.DataFrame, formulas: Mapping[str, str], reasons: Reasons) -> str:
    """Mean scores, a table per decoding: places by prior strength down, objectives across. A cell tells its interval, n
    and prior on hover; a missing one why.
    """
    decodings = list(dict.fromkeys(means["decoding"])) if len(means) else []
    return "".join(_heat_map(means[means["decoding"] == one], str(one), formulas, reasons) for one in decodings)


def _heat_map(rows: pd.DataFrame, decoding: str, formulas: Mapping[str, str], reasons: Reasons) -> str:
    names = in_order(rows["objective"])
    heads = "".join(
        f"<th scope=col data-objective='{escape(n)}'>{escape(n)}<br><small>{escape(formulas.get(n, ''))}</small></th>"
        for n in names
    )
    lines = []
    for (label, variant), mine in rows.groupby(["label", "variant"], sort=False):
        by_name = {row["objective"]: row for row in mine.to_dict("records")}
        first = next(iter(by_name.values()))
        strength = with_interval(first["prior"], first["prior_low"], first["prior_high"])
        place = f"prior {strength} {first['region']}" if strength != "-" else "prior missing"
        head = escape(f"{label}{', ' + str(variant) if variant else ''}")
        cells = "".join(_heat(by_name.get(name), reasons) for name in names)
        of = f"data-backbone='{escape(str(first['backbone']))}' data-domain='{escape(str(first['domain']))}'"
        lines.append(f"<tr {of}><th scope=row>{head}<br><small>{place}</small></th>{cells}</tr>")
    n = rows.loc[rows["n"] > 0, "n"]
    count = "n = 0" if n.empty else f"n = {n.min()}" + (f" to {n.max()}" if n.max() > n.min() else "") + " questions"
    name = escape(decoding or "decoding not known")
    return (
        f"<div class=heat-map><h3>{name}</h3><p class=note>Mean score [95 %], {count}; rows by prior strength.</p>"
        f"<div class=scroll tabindex=0><table class=heat aria-label='{name}: mean scores'>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def _heat(row: Mapping[Any, Any] | None, reasons: Reasons) -> str:
    if row is None:
        return "<td class=out data-tip='the sweep does not have this cell'>·</td>"
    where = f"{row['label']}{', ' + row['variant'] if row['variant'] else ''}, {row['objective']}"
    if not row["n"]:
        tip = f"{where}\nmissing: {reasons.of_score(row)}"
        return f"<td class=none data-tip='{escape(tip)}'>missing</td>"
    if math.isnan(row["mean"]):
        return f"<td class=none data-tip='{escape(where)}&#10;its mean is not a number'>NaN</td>"
    at = min(max(row["mean"], 0.0), 1.0) * (len(_CIVIDIS) - 1)
    i = min(int(at), len(_CIVIDIS) - 2)
    colour = ",".join(str(round(a + (b - a) * (at - i))) for a, b in zip(_CIVIDIS[i], _CIVIDIS[i + 1], strict=True))
    ink = "#fff" if row["mean"] < 0.47 else "#000"  # where either has the same contrast
    interval = f"[{number(row['low'], 2)}, {number(row['high'], 2)}]"
    tip = f"{where}\nmean {with_interval(row['mean'], row['low'], row['high'])}\nn = {n_text(_whole_columns(row))}"
    return (
        f"<td style='background:rgb({colour});color:{ink}' data-tip='{escape(tip)}'>{number(row['mean'], 2)}"
        f"<br><small>{interval}</small></td>"
    )


def _whole_columns(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """`columns` is nan where averages stand beside plain benchmarks."""
    columns = row.get("columns", 1)
    return {**row, "columns": 1 if pd.isna(columns) else int(columns)}
