"""Figures as PNG, PDF and SVG, with the same bytes each time; many of them by several processes."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures.style import STYLE, canvas_of
from analysis.workers import WorkerEndedError, Workers, cores
from bll_sweeps.store.records import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("bll")

INDEX = "figures.md"
FORMATS = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
}
_WORTH = 16  # figures; fewer are drawn sooner than by processes that have to be started
_DEFINED = re.compile(rb'id="([a-z][0-9a-f]{10})"')


@dataclass(frozen=True)
class Drawing:
    """A figure by name and how it is drawn (a partial of a function of this package, which other processes can call),
    or why there is none.
    """

    name: str
    draw: Callable[[], Figure] | None = None
    why: str = ""


@dataclass(frozen=True)
class Written:
    """The PNG files of the figures that were drawn, in order; the kinds of figures that were not -> why."""

    drawn: list[Path]
    absent: dict[str, str]


def write_drawings(found: Iterable[Drawing], folder: Path) -> Written:
    """Draws them into `folder` in all FORMATS; writes `figures.md`, removes what its earlier version lists besides."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _listed(folder / INDEX)
    out, lines = Written([], {}), ["# Figures", ""]
    for drawing in _draw_all(found, folder):
        if drawing.draw is None:
            out.absent[drawing.name] = drawing.why
            lines.append(f"- {drawing.name}: not drawn, {drawing.why}")
        else:
            out.drawn.append(folder / f"{drawing.name}.png")
            lines.append(f"- {drawing.name}: {', '.join(f'{drawing.name}{suffix}' for suffix in FORMATS)}")
    for name in before - {path.stem for path in out.drawn}:  # of an earlier report, when there were other data
        for suffix in FORMATS:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    write_text(folder / INDEX, "\n".join(lines) + "\n")
    return out


def _listed(index: Path) -> set[str]:
    """The figures that an earlier call wrote beside this list."""
    text = index.read_text(encoding="utf-8") if index.exists() else ""
    return set(re.findall(r"^- ([\w.-]+): \1\.png", text, re.MULTILINE))


def _draw_all(found: Iterable[Drawing], folder: Path) -> list[Drawing]:
    """All of them, their files written."""
    drawings = iter(found)
    some = list(islice(drawings, _WORTH))
    if len(some) < _WORTH or cores() < 2:
        some = [*some, *drawings]
        for drawing in some:
            draw(drawing, folder)
        return some
    with Workers(cores()) as workers:
        asked = [(drawing, workers.submit(draw, drawing, folder)) for drawing in chain(some, drawings)]
        for drawing, answer in asked:
            try:
                answer.result()
            except WorkerEndedError as ended:
                log.info("a process that drew %s ended (%s); it is drawn by this one", drawing.name, ended)
                draw(drawing, folder)
    return [drawing for drawing, _ in asked]


def draw(drawing: Drawing, folder: Path) -> None:
    """Writes the figure in all FORMATS; nothing where there is none."""
    import matplotlib

    if drawing.draw is not None:
        matplotlib.use("Agg")
        with matplotlib.rc_context(STYLE), _collected_at_the_end():
            save(drawing.draw(), folder, drawing.name)


@contextmanager
def _collected_at_the_end() -> Iterator[None]:
    """What a figure is made of lives until it is written. To look again and again for what does not takes an eighth of
    the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.collect(0)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Writes `folder`/`name` in all FORMATS, under `rc_context(STYLE)`; the path of the PNG."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Fonts for formulas have no dates, of which each PDF would warn.
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)
    figure.set_dpi(rcParams["savefig.dpi"])
    # Not figure.savefig, which draws each format twice in case a layout is still to be made.
    prints: dict[str, Callable[..., Any]] = {
        ".png": partial(
            canvas_of(figure).print_png, pil_kwargs={"compress_level": 2}
        ),  # a tenth larger, a third of the time
        ".pdf": FigureCanvasPdf(figure).print_pdf,
        ".svg": FigureCanvasSVG(figure).print_svg,
    }
    for suffix, metadata in FORMATS.items():
        buffer = BytesIO()
        figure.set_dpi(rcParams["savefig.dpi"])  # of images within; PDF leaves another behind
        with _glyphs_alone() if suffix == ".pdf" else nullcontext():
            prints[suffix](buffer, metadata=metadata)
        data = buffer.getvalue()
        (folder / f"{name}{suffix}").write_bytes(numbered(data) if suffix == ".svg" else data)
    return folder / f"{name}.png"


@contextmanager
def _glyphs_alone() -> Iterator[None]:
    """Fonts in a PDF without the tables for setting text, which no viewer asks: it is set already. To find out what is
    to be kept of them takes half the time of writing a PDF.
    """
    from fontTools.subset import Options

    before = Options._drop_tables_default
    Options._drop_tables_default = [*before, "GDEF", "GPOS", "GSUB"]
    try:
        yield
    finally:
        Options._drop_tables_default = before


def numbered(svg: bytes) -> bytes:
    """The SVG with its identifiers numbered in order: matplotlib makes them of coordinates to the last bit, which
    differs with where in memory an array lies that numpy sums.
    """
    for number, old in enumerate(dict.fromkeys(_DEFINED.findall(svg))):
        svg = svg.replace(old, b"i%d" % number)
    return svg
