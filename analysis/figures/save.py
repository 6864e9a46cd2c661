"""A figure as PNG, PDF and SVG, with the same bytes each time."""

from __future__ import annotations

import logging
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
}
_DEFINED = re.compile(rb'id="([a-z][0-9a-f]{10})"')


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Writes `folder`/`name` in all FORMATS, under `rc_context(STYLE)`; the path of the PNG."""
    # Fonts for formulas have no dates, of which each PDF would warn.
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)
    for suffix, metadata in FORMATS.items():
        buffer = BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        data = buffer.getvalue()
        (folder / f"{name}{suffix}").write_bytes(_numbered(data) if suffix == ".svg" else data)
    return folder / f"{name}.png"


def _numbered(svg: bytes) -> bytes:
    """The SVG with its identifiers numbered in order: matplotlib makes them of coordinates to the last bit, which
    differs with where in memory an array lies that numpy sums.
    """
    for number, old in enumerate(dict.fromkeys(_DEFINED.findall(svg))):
        svg = svg.replace(old, b"i%d" % number)
    return svg
