"""The catalogue page, docs/objectives.md: every choice of conf/objective/ with its formula, shape, region and source.

    python -m analysis.theory.catalogue docs

A test holds that the page is what this makes of conf/.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from analysis.sources.table import formula
from analysis.theory.shapes import Proposition, proposition_3_2
from bll_sweeps.grid.axes import Objective

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PLOT = "objectives.md", "objectives.svg"
ENTROPY = 0.5  # at which an objective that depends on it is drawn
_LEANS = {
    "concave": "the prior: model-strong end",
    "convex": "away from the prior: model-weak end",
    "linear": "the prior: model-strong end",
}

_ABOVE = f"""# Objectives

Every choice of `conf/objective/`, made by `python -m analysis.theory.catalogue docs`. f(p) is the loss of a token
whose probability is p, w(p) = -p f'(p) its gradient weight, W_f(p) = w(p) (1 - p) the pull on the target's logit
(paper, Lemma 3.1). Where f is concave, W_f peaks at p >= 1/2, and the objective leans on what the model believes;
where it is convex, at p <= 1/2 (Proposition 3.2). A threshold makes it neither. What has no source here is of the
paper (arXiv 2510.00526, Sections 4 and 5).

![W_f of every objective]({PLOT})

| `objective=` | f(p) | f is | W_f peaks at p = | leans on | what it is |
| --- | --- | --- | --- | --- | --- |
"""
_BELOW = """
## One of your own
A file in `$BLL_CONF/objective/` (or in conf/objective/) is all it takes:

    # $BLL_CONF/objective/focal3.yaml
    name: focal3
    family: formula
    formula: -(1 - p)**gamma * logp
    parameters: {gamma: 3.0}

A formula may use `logp`, `p`, `q` (1 - p), `entropy` (of the `entropy_top` most probable tokens among themselves,
over its highest: 0 to 1, taken as a constant), its parameters, numbers, `+ - * / **`, and `exp log expm1 log1p sqrt
minimum maximum constant` and `where(p < 0.2, a, b)`; `constant(x)` has no gradient. It is parsed, not run as code,
and its weight is derived from it. Where the weight is not the derivative of the value (DFT), say it as `weight`. It
must be finite, with its derivative, from p = 0 to p = 1: write `log(q + 0.001)`, not `log(q)`. That is checked at some
200 p and between them where denominators, bases of powers, and arguments of roots and logarithms come near 0 (at four
entropies, where it names that); what is not finite in training stops it. It goes
into a job's identity as it stands, so that another spacing is the same job and another number another one.

Any objective may have a threshold (`keep`, `threshold` or `threshold_quantile`), `smoothing` (a share of the loss
that all tokens of the vocabulary get instead of the target) and an `anchor` (times KL(base model || model), which
keeps a second copy of the backbone in memory).
"""


@dataclass(frozen=True)
class Entry:
    """A choice of conf/objective/: what its file says of it, and its objective."""

    name: str
    remark: str
    objective: Objective

    @property
    def shape(self) -> Proposition | None:
        """None where W_f is no function of p."""
        return proposition_3_2(self.objective) if self.objective.is_plain else None


def catalogue(folder: Path) -> list[Entry]:
    """All choices but the untrained backbone, by name; the alpha families as they are set."""
    found = []
    for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem):
        text = path.read_text(encoding="utf-8")
        remark = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        told = yaml.safe_load(text) | {"name": path.stem}
        if told["family"] != "base":
            found.append(Entry(path.stem, remark, Objective(**told)))
    return found


def page(entries: list[Entry]) -> str:
    return _ABOVE + "\n".join(_line(entry) for entry in entries) + "\n" + _BELOW


def _line(entry: Entry) -> str:
    shape, text = entry.shape, formula({**vars(entry.objective)})
    if shape is None:
        told = ["of more than p", "", ""]
    else:
        leans = _LEANS.get(shape.curvature, "")
        told = [shape.curvature, f"{shape.peak:.2f}", leans]
    cells = [cell.replace("|", "\\|") for cell in (f"`{entry.name}`", text, *told, entry.remark)]
    return f"| {' | '.join(cells)} |"


def plot(entries: list[Entry]) -> Figure:
    """W_f(p), a panel each; of what needs the entropy, at an entropy of 0.5; smoothing and anchors left out."""
    import numpy as np

    from analysis.figures.panels import finish, grid, title
    from bll_sweeps.objectives import family

    figure, axes = grid(len(entries), columns=5, sharex=True)
    p_G = np.linspace(1e-4, 1, 1000)
    for ax, entry in zip(axes, entries, strict=True):
        entropy = ENTROPY if entry.objective.needs_entropy else None
        ax.plot(p_G, family.weight(entry.objective, np.log(p_G), entropy) * (1 - p_G), color="#0072b2", linewidth=1.3)
        ax.axvline(0.5, color="#bbbbbb", linewidth=0.6, zorder=0)
        title(ax, entry.name, 20)
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
    small = "$W_f(p)=-f'(p)\\,p\\,(1-p)$ against p of the target token, exact; the vertical scales differ. "
    small += f"What depends on the entropy is drawn at {ENTROPY:g}; smoothing and anchors are not."
    finish(figure, 1.25 * -(-len(entries) // 5), [], small)
    return figure


def write(folder: Path, conf: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from analysis.figures.save import numbered
    from analysis.figures.style import STYLE

    entries = catalogue(conf / "objective")
    (folder / PAGE).write_text(page(entries), encoding="utf-8")
    buffer = BytesIO()
    with rc_context(STYLE):
        FigureCanvasSVG(plot(entries)).print_svg(buffer, metadata={"Date": None})
    (folder / PLOT).write_bytes(numbered(buffer.getvalue()))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(__file__).parents[2] / "conf")
