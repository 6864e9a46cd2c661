"""Ranks of objectives per region: ties shared, points that lack an objective left out and told."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.sources.table import load
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import means
from analysis.statistics.ranks import mean_rank_interval, ranks, ranks_of
from bll_sweeps.errors import UsageError
from tests.analysis_store import lab_store


def scored(rows: dict[tuple[str, str], float], region: str = "MS", decoding: str = "sampled") -> pd.DataFrame:
    """Rows of by_place: (backbone, objective) -> mean."""
    return pd.DataFrame(
        {
            "backbone": backbone,
            "domain": "math",
            "variant": "",
            "objective": objective,
            "decoding": decoding,
            "mean": mean,
            "n": 0 if math.isnan(mean) else 100,
            "region": region,
            "region_paper": "MS",
        }
        for (backbone, objective), mean in rows.items()
    )


def grid(**objectives: list[float]) -> dict[tuple[str, str], float]:
    return {(f"b{k}", name): mean for name, column in objectives.items() for k, mean in enumerate(column)}


def test_ranks_start_at_one_for_the_best_and_ties_share_the_mean_of_theirs() -> None:
    assert ranks_of(np.array([[0.1, 0.5, 0.3], [0.2, 0.2, 0.1]])).tolist() == [[3, 1, 2], [1.5, 1.5, 3]]
    assert ranks_of(np.array([[0.1 + 0.2, 0.3]])).tolist() == [[1.5, 1.5]]


def test_mean_rank_and_the_share_of_points_led() -> None:
    table = ranks(scored(grid(base=[0, 0, 0, 0], nll=[0.5, 0.4, 0.3, 0.2], p=[0.5, 0.6, 0.7, 0.1])))
    assert table["objective"].tolist() == ["p", "nll"]
    assert table["mean_rank"].tolist() == [1.375, 1.625]
    assert table["best"].tolist() == [0.625, 0.375]  # the tie counts half
    assert (table["points"] == 4).all() and (table["of"] == 2).all() and (table["left_out"] == 0).all()
    assert ((table["low"] <= table["mean_rank"]) & (table["mean_rank"] <= table["high"])).all()


def test_a_point_that_lacks_an_objective_is_left_out_and_an_objective_never_run_is_told() -> None:
    lacking = scored(grid(nll=[0.5, 0.4, 0.3], p=[0.6, math.nan, 0.2], p10=[math.nan] * 3))
    table = ranks(lacking).set_index("objective")
    assert table.loc[["nll", "p"], "points"].tolist() == [2, 2]
    assert table.loc["nll", "left_out"] == 1
    assert table.loc["nll", "lacking"] == "p (1)"
    assert table.loc["p10", "points"] == 0
    assert table.loc["p10", "lacking"] == "no score in this region"
    assert math.isnan(table.loc["p10", "mean_rank"])


def test_where_no_point_has_all_objectives_there_is_no_rank() -> None:
    table = ranks(scored(grid(nll=[0.5, math.nan], p=[math.nan, 0.5])))
    assert table["mean_rank"].isna().all()
    assert table["left_out"].tolist() == [2, 2]
    assert table["lacking"].tolist() == ["nll (1), p (1)"] * 2


def test_regions_stand_in_the_order_of_the_continuum_by_the_rule_asked_for() -> None:
    weak, strong, nowhere = (scored(grid(nll=[0.5], p=[0.4]), region) for region in ("MW", "MS", ""))
    renamed = [part.assign(backbone=name) for name, part in (("x", weak), ("y", strong), ("z", nowhere))]
    table = pd.concat(renamed, ignore_index=True)
    assert ranks(table)["region"].drop_duplicates().tolist() == ["MS", "MW", ""]
    assert ranks(table, rule="region_paper")["points"].tolist() == [3, 3]


def test_what_cannot_be_ranked_is_refused() -> None:
    table = scored(grid(nll=[0.5], p=[0.4]))
    with pytest.raises(UsageError, match="one decoding"):
        ranks(pd.concat([table, table.assign(decoding="greedy")]))
    with pytest.raises(UsageError, match="several rows"):
        ranks(pd.concat([table, table]))
    with pytest.raises(UsageError, match="rule='paper'"):
        ranks(table, rule="paper")
    assert ranks(table.iloc[:0]).empty


def test_the_interval_of_a_mean_rank_covers_and_few_points_are_no_certainty() -> None:
    same = np.tile([[1.0, 2.0, 3.0]], (4, 1))
    low, high = mean_rank_interval(same)
    assert low[0] == 1 and high[0] > 2 and low[2] < 2 and high[2] == 3
    assert np.isnan(mean_rank_interval(same[:1])).all()
    rng = np.random.default_rng(0)
    for points, least in ((6, 0.9), (20, 0.92)):
        hits = []
        for _ in range(300):
            rank = ranks_of(rng.standard_normal((points, 5)))  # of five alike: the true mean rank is 3
            low, high = mean_rank_interval(rank, resamples=500)
            hits.append((low <= 3) & (high >= 3))
        assert least <= np.mean(hits) <= 0.995


def test_a_store_is_ranked_by_place(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("base", "nll", "p", "p10"), questions=10)
    table = means(load(tmp_path))
    placed = by_place(table[table["decoding"] == "sampled"])
    found = ranks(placed)
    assert found.groupby("region")["points"].first().sum() == placed["point"].nunique() == 9
    assert found.query("region == 'MW' and objective == 'nll'")["best"].item() == 1
    assert ranks(placed, "region_paper")["region"].tolist() == ["", "", ""]  # no domain of the paper's
