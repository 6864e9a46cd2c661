"""The results of a run root that holds no sweep yet, so that figures, tables and page can say so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from analysis.sources.rows import Row
from analysis.sources.table import Results
from bll_sweeps.errors import UsageError
from bll_sweeps.store.layout import Layout

NO_SWEEP = "no sweep yet"


def is_empty(root: Path) -> bool:
    """Whether the run root is a folder without any launched sweep. Raises UsageError where there is no such folder."""
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; --source names a run root (default: runs), or the paper by `paper`")
    return not Layout(root).sweeps()


def nothing(root: Path) -> Results:
    """Results without a launch and without a cell."""
    cells = pd.DataFrame(columns=[field.name for field in dataclasses.fields(Row) if field.name != "told"])
    provenance = ["job", "kind", "code", "host", "started_at", "finished_at", "seconds", "versions"]
    return Results(
        root=root,
        sweep=NO_SWEEP,
        launches=[],
        cells=cells,
        curves=pd.DataFrame(columns=["train"]),
        sequences=pd.DataFrame(columns=["prior"]),
        provenance=pd.DataFrame(columns=provenance),
        formulas={},
        problems=[],
        scores={},
    )
