"""How long planning takes, against Hydra composing every cell, in the same run.

    python bench/planning.py [--stock 40]

Prints one row per grid size: seconds for expanding, composing, resolving and planning all cells against an empty
store; and what the stock path (Hydra's own composition, once per cell; its sweeper does it twice) would take, from a
measured sample. The ratio is what counts: these machines are noisy.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from bll_sweeps.cli.composing import hydra_on_conf
from bll_sweeps.cluster.launch import prepare, resolve_cells
from bll_sweeps.grid.schema.grids import _composer, compose_cells, expand

OBJECTIVES = "nll,p,p10,p0.1,p0.5,p_above,logp_above,logp_below,unlikelihood"


def grid(seeds: int, root: str) -> list[str]:
    """9 objectives x 3 backbones x 2 benchmarks x 8 noise rates x `seeds`: 432 cells per seed, benchmarks choosing
    domains.
    """
    return [
        f"objective={OBJECTIVES}",
        "backbone=lab-a,lab-b,lab-c",
        "benchmark=lab-spell,lab-rotate",
        "domain.noise.rate=0,0.05,0.1,0.15,0.2,0.25,0.3,0.35",
        f"seed=range({seeds})",
        f"paths.root={root}",
    ]


def measure(hydra: Any, seeds: int, stock: int) -> str:
    config = hydra.compose_config("cell", [], with_log_configuration=False, run_mode=_multirun())
    loader = hydra.config_loader
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        _, overrides = expand("bench", [], grid(seeds, root), OverridesParser.create(config_loader=loader))
        composer = _composer(loader, config)
        composed = compose_cells(composer, overrides)
        composed_at = time.perf_counter()
        plan = prepare(resolve_cells(composed)).plan
        ended = time.perf_counter()
    fresh = _composer(loader, config)
    sample = random.Random(0).sample(overrides, min(stock, len(overrides)))
    stock_started = time.perf_counter()
    for row in sample:
        fresh.whole(row)
    stock_s = (time.perf_counter() - stock_started) / len(sample) * len(overrides)
    ours = ended - started
    return (
        f"{len(overrides):6} cells {len(plan.jobs):6} jobs | "
        f"compose {composed_at - started:6.2f} s ({composer.compositions} compositions) "
        f"+ resolve and plan {ended - composed_at:6.2f} s = {ours:6.2f} s, "
        f"{1e3 * ours / len(overrides):5.2f} ms a cell | "
        f"stock compose {stock_s:7.1f} s | ratio {stock_s / ours:5.1f}"
    )


def _multirun() -> Any:
    from hydra.types import RunMode

    return RunMode.MULTIRUN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stock", type=int, default=40, metavar="N", help="cells composed by Hydra to measure the stock path"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 7, 21], help="grid sizes, in seeds of 432 cells")
    args = parser.parse_args()
    with hydra_on_conf() as hydra:
        for seeds in args.seeds:
            print(measure(hydra, seeds, args.stock), flush=True)


if __name__ == "__main__":
    main()
