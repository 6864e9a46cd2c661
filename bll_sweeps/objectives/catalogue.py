"""The nine objectives of the main catalogue as values, under the names of their files in conf/objective/.

Runs take their objective from conf/; this is for code that has no configuration at hand (figures of f and w,
benchmarks, tests of every objective). A test holds that the two agree.
"""

from __future__ import annotations

from bll_sweeps.grid.axes import Objective

# The paper's threshold: it drops about a tenth of the mathematics tokens.
THRESHOLD = 0.2
NLL = Objective(name="nll", family="nll")


def main_catalogue() -> dict[str, Objective]:
    """Name -> objective, in the order of the tables (paper, Sections 4 and 5)."""
    objectives = (
        NLL,
        Objective(name="p", family="power", alpha=1.0),
        Objective(name="p10", family="power", alpha=10.0),
        Objective(name="p0.1", family="power", alpha=0.1),
        Objective(name="p0.5", family="power", alpha=0.5),
        Objective(name="p_above", family="power", alpha=1.0, keep="above", threshold=THRESHOLD),
        Objective(name="logp_above", family="nll", keep="above", threshold=THRESHOLD),
        Objective(name="logp_below", family="nll", keep="below", threshold=THRESHOLD),
        Objective(name="unlikelihood", family="unlikelihood"),
    )
    return {objective.name: objective for objective in objectives}
