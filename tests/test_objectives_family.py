"""Formulas of the objectives: value, gradient weight and threshold, for numpy and torch alike."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives.catalogue import main_catalogue
from bll_sweeps.objectives.family import has_survivor_count, kept, value, weight

ROOT = Path(__file__).parents[1]
EXTRA = {
    "alpha_tiny": Objective(name="alpha_tiny", family="power", alpha=1e-6),
    "alpha_zero": Objective(name="alpha_zero", family="power", alpha=0.0),
    "convexity": Objective(name="convexity", family="convexity", alpha=3.0),
    "unlikelihood_above": Objective(name="unlikelihood_above", family="unlikelihood", keep="above", threshold=0.3),
    "unlikelihood_below": Objective(name="unlikelihood_below", family="unlikelihood", keep="below", threshold=0.3),
}
OBJECTIVES = {**main_catalogue(), **EXTRA}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
logps = st.floats(min_value=-700.0, max_value=0.0)


def threshold(keep: str, q: float) -> Objective:
    return Objective(name="t", family="nll", keep=keep, threshold=q)


def test_values_are_the_formulas_of_the_paper_at_p_one_half():
    logp = np.log(np.array([0.5]))
    expected = {
        "nll": np.log(2),
        "p": 0.5,
        "p10": (1 - 0.5**10) / 10,
        "p0.1": (1 - 0.5**0.1) / 0.1,
        "p0.5": (1 - 0.5**0.5) / 0.5,
        "p_above": 0.5,
        "logp_above": np.log(2),
        "logp_below": 0.0,
        "unlikelihood": np.log(0.501),
        "convexity": -(0.5**3) / 3,
    }
    found = {name: value(OBJECTIVES[name], logp)[0] for name in expected}
    assert found == pytest.approx(expected, rel=1e-13)


@every_objective
def test_the_weight_is_minus_p_times_the_derivative_of_the_value(objective):
    logp = torch.linspace(-8, -1e-4, 400, dtype=torch.float64, requires_grad=True)
    value(objective, logp).sum().backward()  # df/dlogp = p f'(p)
    torch.testing.assert_close(weight(objective, logp.detach()), -logp.grad, rtol=1e-12, atol=1e-15)


@every_objective
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_torch_agree_and_keep_their_dtype(objective, dtype):
    logp = np.linspace(-30, 0, 301, dtype=dtype)
    tolerance = {"rtol": 2e-6, "atol": 2e-7} if dtype == "float32" else {"rtol": 1e-13, "atol": 1e-15}
    for function in (value, weight, kept):
        array, tensor = function(objective, logp), function(objective, torch.from_numpy(logp))
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        assert str(tensor.dtype) == f"torch.{array.dtype}"
        np.testing.assert_allclose(array, tensor.numpy(), **tolerance)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_weight_are_finite_at_p_one_and_at_a_vanishing_p(objective, dtype):
    logp = torch.tensor([0.0, -1e-30, -1e4], dtype=dtype)
    assert value(objective, logp).isfinite().all()
    assert weight(objective, logp).isfinite().all()
    assert (weight(objective, logp) >= 0).all()


@given(logps.filter(lambda x: -20 <= x < -1e-12))
def test_a_tiny_alpha_is_nll(logp):
    for alpha in (1e-6, 1e-9, 1e-13, 1e-300, 0.0):
        objective = Objective(name="a", family="power", alpha=alpha)
        assert value(objective, np.array(logp)) == pytest.approx(-logp, rel=1e-5)
        assert weight(objective, np.array(logp)) == pytest.approx(1.0, rel=2.1e-5)


def test_power_keeps_its_accuracy_in_float32_where_subtraction_would_lose_it():
    logp = -np.logspace(-6, 2, 50)
    for alpha in (1e-4, 0.01, 1.0, 10.0):
        objective = Objective(name="a", family="power", alpha=alpha)
        exact = value(objective, logp)
        np.testing.assert_allclose(value(objective, logp.astype(np.float32)), exact, rtol=3e-6)


@given(st.floats(min_value=0, max_value=1), logps)
def test_a_threshold_keeps_p_equal_to_q_on_both_sides_and_every_token_on_one(q, logp):
    above, below = threshold("above", q), threshold("below", q)
    at_q = np.array([math.log(q) if q > 0 else -math.inf])
    assert kept(above, at_q).all() and kept(below, at_q).all()
    logp = np.array(logp)
    assert kept(above, logp) or kept(below, logp)
    if not np.isclose(np.exp(logp), q):
        assert kept(above, logp) == (np.exp(logp) >= q)
        assert kept(below, logp) == (np.exp(logp) <= q)


def test_thresholds_at_the_ends_keep_everything_or_only_certain_tokens():
    logp = torch.tensor([-torch.inf, -1e4, -1.0, 0.0])
    assert kept(threshold("above", 0.0), logp).tolist() == [True, True, True, True]
    assert kept(threshold("below", 0.0), logp).tolist() == [True, False, False, False]
    assert kept(threshold("above", 1.0), logp).tolist() == [False, False, False, True]
    assert kept(threshold("below", 1.0), logp).tolist() == [True, True, True, True]


@every_objective
@given(logp=logps)
def test_a_dropped_token_has_neither_value_nor_weight(objective, logp):
    logp = np.array(logp)
    if not kept(objective, logp):
        assert value(objective, logp) == 0 and weight(objective, logp) == 0


@every_objective
@given(logp=logps, delta=st.floats(min_value=0, max_value=5))
def test_every_objective_falls_as_p_grows(objective, logp, delta):
    if objective.keep == "all":
        lower = value(objective, np.array(logp - delta))
        assert lower >= value(objective, np.array(logp)) - 1e-12


def test_convexity_differs_from_power_by_a_constant_and_has_its_weight():
    logp = np.linspace(-10, 0, 50)
    power, convexity = (Objective(name=f, family=f, alpha=2.5) for f in ("power", "convexity"))
    np.testing.assert_allclose(value(power, logp) - value(convexity, logp), 1 / 2.5)
    np.testing.assert_array_equal(weight(power, logp), weight(convexity, logp))


def test_the_base_objective_has_no_formula():
    with pytest.raises(ValueError, match="untrained backbone"):
        value(Objective(name="base", family="base"), np.array([-1.0]))


def test_survivors_are_counted_only_where_a_threshold_drops_tokens():
    plain = Objective(name="x", family="nll", normaliser="survivors")
    cut = Objective(name="x", family="nll", keep="above", threshold=0.2, normaliser="survivors")
    assert not has_survivor_count(plain) and has_survivor_count(cut)
    assert not any(has_survivor_count(o) for o in main_catalogue().values())


def test_the_main_catalogue_has_nine_different_objectives_under_their_names():
    catalogue = main_catalogue()
    assert list(catalogue) == [
        "nll", "p", "p10", "p0.1", "p0.5", "p_above", "logp_above", "logp_below", "unlikelihood",
    ]  # fmt: skip
    assert all(name == objective.name for name, objective in catalogue.items())
    assert len({str(objective.identity()) for objective in catalogue.values()}) == 9


def test_formulas_and_catalogue_load_without_torch():
    code = (
        "import sys, numpy as np, bll_sweeps.objectives.catalogue as c, bll_sweeps.objectives.family as f;"
        "[f.value(o, np.array([-1.0])) for o in c.main_catalogue().values()];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
