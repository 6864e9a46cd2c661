"""The crossover: where gain over NLL changes its sign along prior strength."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.statistics.crossover import crossover, logit


def _line(priors: list[float], slope: float, zero: float) -> pd.DataFrame:
    x = logit(np.array(priors))
    gain = slope * (x - logit(np.array(zero)))
    return pd.DataFrame(
        {
            "objective": "p",
            "decoding": "sampled",
            "n": 100,
            "prior": priors,
            "gain": gain,
            "gain_low": gain - 0.02,
            "gain_high": gain + 0.02,
        }
    )


def test_the_crossover_of_a_line_is_its_root() -> None:
    line = _line([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], 0.2, 0.7)
    assert crossover(line, "p", "sampled").mean == pytest.approx(0.7, abs=1e-6)
    found = crossover(line.assign(gain=line["gain"] + np.array([1, -1, 1, -1, 1, -1]) * 0.03), "p", "sampled")
    assert found.low < found.mean < found.high
    assert found.n == 6


def test_a_crossover_beyond_the_points_is_not_told() -> None:
    for zero in (0.01, 0.9):
        found = crossover(_line([0.05, 0.2, 0.4, 0.6], 0.2, zero), "p", "sampled")
        assert math.isnan(found.mean)
        assert (math.isnan(found.low), math.isnan(found.high), found.n) == (True, True, 4)


def test_an_end_of_the_interval_beyond_the_points_is_open() -> None:
    line = _line([0.05, 0.2, 0.4, 0.6, 0.8, 0.9], 0.2, 0.85)
    found = crossover(line.assign(gain=line["gain"] + np.array([1, -1, 1, -1, 1, -1]) * 0.1), "p", "sampled")
    assert found.low < found.mean
    assert math.isnan(found.high)


def test_the_noise_of_a_gain_is_not_added_to_that_of_the_points() -> None:
    line = _line([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], 0.2, 0.7)
    line = line.assign(gain=line["gain"] + np.array([1, -1, 1, -1, 1, -1]) * 0.03)
    wide = line.assign(gain_low=line["gain"] - 1, gain_high=line["gain"] + 1)
    assert crossover(line, "p", "sampled") == crossover(wide, "p", "sampled")


def test_there_is_no_crossover_where_gain_falls_with_prior_strength_or_points_are_few() -> None:
    assert math.isnan(crossover(_line([0.05, 0.2, 0.4, 0.6], -0.2, 0.5), "p", "sampled").mean)
    assert math.isnan(crossover(_line([0.05, 0.9], 0.2, 0.5), "p", "sampled").mean)
