"""Cells of conf/ as a launch composes and resolves them, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bll_sweeps.cli.composing import composed_grid, hydra_on_conf
from bll_sweeps.cluster.launch import resolve_cells
from bll_sweeps.grid.cell import Cell


def cells(*overrides: str) -> list[Cell]:
    """cells("sweep=paper"), or cells("backbone=llama-3.1-8b", "benchmark=math500")."""
    return [resolved.cell for resolved in resolve_cells(_compose(overrides))]


def _compose(overrides: Sequence[str]) -> list[Any]:
    with hydra_on_conf() as hydra:
        _, composed, _ = composed_grid(hydra, list(overrides))
    return composed
